// Package client is a KiteQ client for the interoperability scenarios: it does on the wire and in the registry what the
// clients in the field do, and lets a scenario misbehave in the ways in which applications do.
package client

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
	// HangUpThenAck closes the connection, and takes the message once the client has connected again.
	HangUpThenAck
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
	// IsHidden: the client shows neither status nor feedback to its application.
	IsHidden bool
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
	options  Options
	registry Registry
	// The existing client numbers its requests over all its connections.
	opaque atomic.Uint32
	// Frames that are being looked at: so many, then the sockets are not read.
	dispatching chan struct{}
	// Deliveries and checks whose handlers run; further ones keep their place in dispatching.
	handling    chan struct{}
	lock        sync.Mutex
	connections map[string]*connection
	closed      chan struct{}
	loops       sync.WaitGroup
}

const (
	publishTimeout    = 3 * time.Second
	handshakeTimeout  = 5 * time.Second
	handshakeAttempts = 3
	handshakePause    = 2 * time.Second
	heartbeatPeriod   = 10 * time.Second
	heartbeatTimeout  = 5 * time.Second
	heartbeatAttempts = 3
	reconnectAfter    = 200 * time.Millisecond
	dispatchingMax    = 50
	handlingMax       = 50
)

// Start registers the client and connects it.
func Start(options Options) (*Client, error) {
	registry, err := OpenRegistry(options.Registry, options.Framing.LengthPrefixed)
	if err != nil {
		return nil, err
	}
	client := &Client{
		options:     options,
		registry:    registry,
		dispatching: make(chan struct{}, dispatchingMax),
		handling:    make(chan struct{}, handlingMax),
		connections: map[string]*connection{},
		closed:      make(chan struct{}),
	}
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
		connection, err := dial(c, address)
		if err != nil {
			return err
		}
		c.lock.Lock()
		c.connections[address] = connection
		c.lock.Unlock()
		c.loops.Add(1)
		go c.keepConnected(address, connection)
	}
	return c.registry.PublishBindings(c.options.Group, c.options.Bindings)
}

func (c *Client) keepConnected(address string, connection *connection) {
	defer c.loops.Done()
	heartbeat := time.NewTicker(heartbeatPeriod)
	defer heartbeat.Stop()
	for {
		select {
		case <-connection.ended:
		case <-heartbeat.C:
			go connection.keepAlive()
			continue
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
			fresh, err := dial(c, address)
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

// connectionTo is the present connection to a broker; nil while there is none.
func (c *Client) connectionTo(address string) *connection {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.connections[address]
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
	reply, err := connection.request(message.command(), body, publishTimeout)
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
	// Nobody answers it, so the existing client gives it no opaque of its own.
	return connection.send(wire.Frame{Opaque: 0, Cmd: wire.CmdTxAck, Body: body})
}

// Heartbeat expects its echo.
func (c *Client) Heartbeat(version int64) error {
	connection, err := c.anyConnection()
	if err != nil {
		return err
	}
	return connection.heartbeat(version)
}

// Close disconnects.
func (c *Client) Close() {
	close(c.closed)
	c.loops.Wait()
	c.registry.Close()
}
