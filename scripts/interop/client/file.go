package client

import (
	"os"
	"slices"

	"gopkg.in/yaml.v3"
)

type fileBroker struct {
	Address string   `yaml:"address"`
	Topics  []string `yaml:"topics"`
	Env     string   `yaml:"env"`
}

type fileBinding struct {
	GroupIDs    []string `yaml:"groupIds"`
	Topic       string   `yaml:"topic"`
	MessageType string   `yaml:"messageType"`
	BindType    string   `yaml:"bindType"`
	Watermark   int      `yaml:"watermark"`
	Persistent  bool     `yaml:"persistent"`
}

type fileContent struct {
	Brokers  []fileBroker  `yaml:"brokers"`
	Bindings []fileBinding `yaml:"bindings"`
}

var bindTypeNames = []string{"direct", "regx", "fanout"}

// FileRegistryYAML is the file of a registry with one broker and these bindings.
func FileRegistryYAML(address string, topics []string, bindings []Binding) ([]byte, error) {
	content := fileContent{Brokers: []fileBroker{{Address: address, Topics: topics, Env: "interop"}}}
	for _, binding := range bindings {
		content.Bindings = append(content.Bindings, fileBinding{
			GroupIDs:    []string{binding.GroupID},
			Topic:       binding.Topic,
			MessageType: binding.MessageType,
			BindType:    bindTypeNames[binding.BindType],
			Watermark:   binding.Watermark,
			Persistent:  binding.Persistent,
		})
	}
	return yaml.Marshal(content)
}

// fileRegistry reads the file that the broker reads. Nothing is published: what the file says is what there is.
type fileRegistry struct {
	path string
}

func (r *fileRegistry) Brokers(topic string) ([]string, error) {
	text, err := os.ReadFile(r.path)
	if err != nil {
		return nil, err
	}
	var content fileContent
	if err := yaml.Unmarshal(text, &content); err != nil {
		return nil, err
	}
	var addresses []string
	for _, broker := range content.Brokers {
		// As the existing Go client does it: in an unsorted list it does not find every topic.
		if _, found := slices.BinarySearch(broker.Topics, topic); found {
			addresses = append(addresses, broker.Address)
		}
	}
	return addresses, nil
}

func (r *fileRegistry) PublishTopics(string, []string) error    { return nil }
func (r *fileRegistry) PublishBindings(string, []Binding) error { return nil }
func (r *fileRegistry) Close()                                  {}
