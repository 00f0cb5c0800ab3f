// Package client is a KiteQ client for the interoperability scenarios: it does on the wire and in the registry what the
// clients in the field do, and lets a scenario misbehave in the ways in which applications do.
package client

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kiteq/interop/wire"
)

// Outcome is what a handler makes of a delivery.
type Outcome int

const (
	// Ack takes the message.
	Ack Outcome = iota
	// Nack fails it.
	Nack
	// Silence never answers.
	Silence
	// HangUp closes the connection instead of answering; the client then connects again.
	HangUp
)

// Verdict on a prepared message, as it is on the wire.
type Verdict int32

const (
	Unknown  Verdict = 0
	Commit   Verdict = 1
	Rollback Verdict = 2
)

// Check is the broker's question about a prepared message.
type Check struct {
	ID       string
	Status   int32
	Feedback string
}

// Options describe a client. Handler and OnCheck run on goroutines of the client.
type Options struct {
	Codec    *wire.Codec
	Registry string
	Framing  wire.Framing
	Group    string
	Secret   string
	// Topics that it publishes to.
	Topics   []string
	Bindings []Binding
	Handler  func(Message) Outcome
	OnCheck  func(Check) Verdict
	// Complain is told of everything that a client in the field would not have understood.
	Complain func(error)
}

// Client is one member of a group, connected to every broker of its topics.
type Client struct {
	options     Options
	registry    Registry
	lock        sync.Mutex
	connections map[string]*connection
	closed      chan struct{}
	loops       sync.WaitGroup
}

const (
	timeout        = 3 * time.Second
	reconnectAfter = 200 * time.Millisecond
)

// Start registers the client and connects it.
func Start(options Options) (*Client, error) {
	registry, err := OpenRegistry(options.Registry)
	if err != nil {
		return nil, err
	}
	client := &Client{options: options, registry: registry, connections: map[string]*connection{}, closed: make(chan struct{})}
	if err := client.start(); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

func (c *Client) start() error {
	if err := c.registry.PublishTopics(c.options.Group, c.options.Topics); err != nil {
		return err
	}
	topics := slices.Clone(c.options.Topics)
	for _, binding := range c.options.Bindings {
		topics = append(topics, binding.Topic)
	}
	slices.Sort(topics)
	var addresses []string
	for _, topic := range slices.Compact(topics) {
		found, err := c.registry.Brokers(topic)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("the registry names no broker for topic %s", topic)
		}
		addresses = append(addresses, found...)
	}
	slices.Sort(addresses)
	for _, address := range slices.Compact(addresses) {
		connection, err := dial(&c.options, address)
		if err != nil {
			return err
		}
		c.connections[address] = connection
		c.loops.Add(1)
		go c.keepConnected(address, connection)
	}
	return c.registry.PublishBindings(c.options.Group, c.options.Bindings)
}

func (c *Client) keepConnected(address string, connection *connection) {
	defer c.loops.Done()
	for {
		select {
		case <-connection.ended:
		case <-c.closed:
			connection.close()
			return
		}
		c.lock.Lock()
		delete(c.connections, address)
		c.lock.Unlock()
		for {
			select {
			case <-time.After(reconnectAfter):
			case <-c.closed:
				return
			}
			fresh, err := dial(&c.options, address)
			if err == nil {
				connection = fresh
				break
			}
		}
		c.lock.Lock()
		c.connections[address] = connection
		c.lock.Unlock()
	}
}

func (c *Client) anyConnection() (*connection, error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, connection := range c.connections {
		return connection, nil
	}
	return nil, errors.New("no connection to a broker")
}

// Publish sends a message and waits for the broker's word on it.
func (c *Client) Publish(message Message) (ok bool, feedback string, err error) {
	connection, err := c.anyConnection()
	if err != nil {
		return false, "", err
	}
	message.Group = c.options.Group
	body, err := message.encode(c.options.Codec)
	if err != nil {
		return false, "", err
	}
	reply, err := connection.request(message.command(), body)
	if err != nil {
		return false, "", err
	}
	ack, err := c.options.Codec.Decode("MessageStoreAck", reply.Body)
	if err == nil && reply.Cmd != wire.CmdStoreAck {
		err = fmt.Errorf("a publish was answered with command %#x", reply.Cmd)
	}
	if err == nil && ack.Text("messageId") != message.ID {
		err = fmt.Errorf("the ack names message %q instead of %q", ack.Text("messageId"), message.ID)
	}
	return ack.Flag("status"), ack.Text("feedback"), err
}

// Decide sends the verdict on a prepared message; no reply follows.
func (c *Client) Decide(message Message, verdict Verdict) error {
	connection, err := c.anyConnection()
	if err != nil {
		return err
	}
	message.Group = c.options.Group
	fields := wire.Fields{"header": message.header(), "status": int32(verdict), "feedback": ""}
	body, err := c.options.Codec.Encode("TxACKPacket", fields)
	if err != nil {
		return err
	}
	return connection.send(wire.Frame{Opaque: connection.nextOpaque(), Cmd: wire.CmdTxAck, Body: body})
}

// Heartbeat expects its echo.
func (c *Client) Heartbeat(version int64) error {
	connection, err := c.anyConnection()
	if err != nil {
		return err
	}
	body, err := c.options.Codec.Encode("HeartBeat", wire.Fields{"version": version})
	if err != nil {
		return err
	}
	reply, err := connection.request(wire.CmdHeartbeat, body)
	if err != nil {
		return err
	}
	echo, err := c.options.Codec.Decode("HeartBeat", reply.Body)
	if err == nil && (reply.Cmd != wire.CmdHeartbeat || echo["version"] != version) {
		err = fmt.Errorf("heartbeat %d was answered with command %#x, %v", version, reply.Cmd, echo)
	}
	return err
}

// Close disconnects.
func (c *Client) Close() {
	close(c.closed)
	c.loops.Wait()
	c.registry.Close()
}
