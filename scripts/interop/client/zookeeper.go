package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

const (
	zkServers      = "/kiteq/server"
	zkAliveServers = "/kiteq/alive_servers"
	zkAllServers   = "/kiteq/all_servers"
	zkProducers    = "/kiteq/pub"
	zkBindings     = "/kiteq/sub"
)

type quiet struct{}

func (quiet) Printf(string, ...any) {}

type zookeeperRegistry struct {
	connection *zk.Conn
	asJava     bool
}

// What the Java client's ZooKeeper library puts into a node that is made without data: the host's address.
var javaDefaultData = []byte("127.0.0.1")

func openZookeeper(hosts []string, asJava bool) (*zookeeperRegistry, error) {
	connection, _, err := zk.Connect(hosts, 10*time.Second, zk.WithLogger(quiet{}))
	if err != nil {
		return nil, err
	}
	return &zookeeperRegistry{connection: connection, asJava: asJava}, nil
}

func (r *zookeeperRegistry) Brokers(topic string) ([]string, error) {
	children, _, err := r.connection.Children(zkServers + "/" + topic)
	if errors.Is(err, zk.ErrNoNode) {
		return nil, nil
	}
	return children, err
}

func (r *zookeeperRegistry) PublishTopics(group string, topics []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for _, topic := range topics {
		parent := strings.Join([]string{zkProducers, topic, group}, "/")
		if _, err := r.create(parent, nil); err != nil {
			return err
		}
		path, data, flags := parent+"/"+host, []byte(nil), int32(0)
		if r.asJava {
			if err := r.connection.Delete(path, -1); err != nil && !errors.Is(err, zk.ErrNoNode) {
				return fmt.Errorf("delete %s: %w", path, err)
			}
			data, flags = javaDefaultData, zk.FlagEphemeral
		}
		_, err := r.connection.Create(path, data, flags, zk.WorldACL(zk.PermAll))
		if err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return fmt.Errorf("create %s: %w", path, err)
		}
	}
	return nil
}

// PublishBindings writes one persistent node for each topic, with the JSON of the bindings of that topic.
func (r *zookeeperRegistry) PublishBindings(group string, bindings []Binding) error {
	topics := map[string][]Binding{}
	for _, binding := range bindings {
		topics[binding.Topic] = append(topics[binding.Topic], binding)
	}
	for topic, ofTopic := range topics {
		data, err := json.Marshal(ofTopic)
		if err != nil {
			return err
		}
		path := zkBindings + "/" + topic + "/" + group + "-bind"
		initial := data
		if r.asJava {
			initial = javaDefaultData
		}
		created, err := r.create(path, initial)
		if err != nil {
			return err
		}
		if created && !r.asJava {
			continue
		}
		if _, err := r.connection.Set(path, data, -1); err != nil {
			return err
		}
	}
	return nil
}

// create makes a persistent node and what is missing above it; says whether the node is new.
func (r *zookeeperRegistry) create(path string, data []byte) (created bool, err error) {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for index := range parts {
		node, content := "/"+strings.Join(parts[:index+1], "/"), []byte(nil)
		if index == len(parts)-1 {
			content = data
		}
		_, err := r.connection.Create(node, content, 0, zk.WorldACL(zk.PermAll))
		if err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return false, fmt.Errorf("create %s: %w", node, err)
		}
		created = err == nil
	}
	return created, nil
}

func (r *zookeeperRegistry) Close() { r.connection.Close() }

// BrokerNodes reports which of a broker's nodes exist, "path (ephemeral)" or "path (persistent)" each.
func BrokerNodes(registry Registry, address string, topics []string) ([]string, error) {
	r, ok := registry.(*zookeeperRegistry)
	if !ok {
		return nil, errors.New("only ZooKeeper has nodes")
	}
	paths := []string{zkAliveServers + "/" + address, zkAllServers + "/" + address}
	for _, topic := range topics {
		paths = append(paths, zkServers+"/"+topic+"/"+address)
	}
	var found []string
	for _, path := range paths {
		exists, stat, err := r.connection.Exists(path)
		if err != nil {
			return nil, err
		}
		if !exists {
			continue
		}
		kind := "persistent"
		if stat.EphemeralOwner != 0 {
			kind = "ephemeral"
		}
		found = append(found, path+" ("+kind+")")
	}
	return found, nil
}

// ExpectedNodes is what BrokerNodes reports for a broker that serves these topics.
func ExpectedNodes(address string, topics []string) []string {
	expected := []string{
		zkAliveServers + "/" + address + " (ephemeral)",
		zkAllServers + "/" + address + " (persistent)",
	}
	for _, topic := range topics {
		expected = append(expected, zkServers+"/"+topic+"/"+address+" (ephemeral)")
	}
	return expected
}
