package client

import (
	"fmt"
	"strings"
)

// How a binding matches.
const (
	Direct = 0
	Regx   = 1
	Fanout = 2
)

// Binding is what a consumer group subscribes to, in the JSON form of the registry.
type Binding struct {
	GroupID     string `json:"groupId"`
	Topic       string `json:"topic"`
	MessageType string `json:"messageType"`
	BindType    int    `json:"bindType"`
	Version     string `json:"version"`
	Watermark   int    `json:"watermark"`
	Persistent  bool   `json:"persistent"`
}

// Registry is where clients find brokers and leave their bindings.
type Registry interface {
	// Brokers of a topic, now.
	Brokers(topic string) ([]string, error)
	// PublishTopics notes that a group publishes to topics.
	PublishTopics(group string, topics []string) error
	// PublishBindings leaves a group's bindings for the brokers to read.
	PublishBindings(group string, bindings []Binding) error
	Close()
}

// OpenRegistry opens file:// and zk:// registries. asJava publishes in the way of the Java client.
func OpenRegistry(uri string, asJava bool) (Registry, error) {
	switch {
	case strings.HasPrefix(uri, "file://"):
		return &fileRegistry{path: strings.TrimPrefix(uri, "file://")}, nil
	case strings.HasPrefix(uri, "zk://"):
		return openZookeeper(strings.Split(strings.TrimPrefix(uri, "zk://"), ","), asJava)
	default:
		return nil, fmt.Errorf("registry %q is neither file:// nor zk://", uri)
	}
}
