package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"kiteq/interop/wire"
)

// connection is one authenticated connection to one broker. Opaques of the two directions are separate number spaces.
type connection struct {
	client  *Client
	options *Options
	address string
	socket  net.Conn
	writing sync.Mutex
	lock    sync.Mutex
	replies map[uint32]chan wire.Frame
	ended   chan struct{}
	once    sync.Once
}

// dial connects and presents the group.
func dial(client *Client, address string) (*connection, error) {
	socket, err := net.DialTimeout("tcp4", address, handshakeTimeout)
	if err != nil {
		return nil, err
	}
	c := &connection{
		client:  client,
		options: &client.options,
		address: address,
		socket:  socket,
		replies: map[uint32]chan wire.Frame{},
		ended:   make(chan struct{}),
	}
	go c.receive()
	for attempt := 1; ; attempt++ {
		err := c.present()
		if err == nil {
			return c, nil
		}
		// The existing client takes a refusal as it is, and asks again on the same connection when nothing comes.
		if !errors.Is(err, errSilence) || attempt == handshakeAttempts {
			c.close()
			return nil, fmt.Errorf("broker %s: %w", address, err)
		}
		time.Sleep(handshakePause)
	}
}

var errSilence = errors.New("no reply")

func (c *connection) present() error {
	meta := wire.Fields{"groupId": c.options.Group, "secretKey": c.options.Secret}
	if !c.options.Framing.LengthPrefixed {
		meta["warmingupSec"] = int32(0)
	}
	body, err := c.options.Codec.Encode("ConnMeta", meta)
	if err != nil {
		return err
	}
	reply, err := c.request(wire.CmdConnMeta, body, handshakeTimeout)
	if err != nil {
		return err
	}
	if reply.Cmd != wire.CmdConnAuth {
		return fmt.Errorf("CONN_META was answered with command %#x", reply.Cmd)
	}
	ack, err := c.options.Codec.Decode("ConnAuthAck", reply.Body)
	if err == nil && !ack.Flag("status") {
		err = errors.New(ack.Text("feedback"))
	}
	return err
}

// heartbeat expects its echo.
func (c *connection) heartbeat(version int64) error {
	body, err := c.options.Codec.Encode("HeartBeat", wire.Fields{"version": version})
	if err != nil {
		return err
	}
	reply, err := c.request(wire.CmdHeartbeat, body, heartbeatTimeout)
	if err != nil {
		return err
	}
	echo, err := c.options.Codec.Decode("HeartBeat", reply.Body)
	if err == nil && (reply.Cmd != wire.CmdHeartbeat || echo["version"] != version) {
		err = fmt.Errorf("heartbeat %d was answered with command %#x, %v", version, reply.Cmd, echo)
	}
	return err
}

// keepAlive gives the connection up when the broker leaves several heartbeats unanswered.
func (c *connection) keepAlive() {
	for range heartbeatAttempts {
		if err := c.heartbeat(time.Now().Unix()); !errors.Is(err, errSilence) {
			return
		}
	}
	c.complain(fmt.Errorf("%d heartbeats without an answer", heartbeatAttempts))
	c.close()
}

func (c *connection) send(frame wire.Frame) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.socket.Write(c.options.Framing.Append(nil, frame))
	return err
}

func (c *connection) request(cmd byte, body []byte, timeout time.Duration) (wire.Frame, error) {
	opaque, answered := c.client.opaque.Add(1), make(chan wire.Frame, 1)
	c.lock.Lock()
	c.replies[opaque] = answered
	c.lock.Unlock()
	defer func() {
		c.lock.Lock()
		delete(c.replies, opaque)
		c.lock.Unlock()
	}()
	if err := c.send(wire.Frame{Opaque: opaque, Cmd: cmd, Body: body}); err != nil {
		return wire.Frame{}, err
	}
	select {
	case reply := <-answered:
		return reply, nil
	case <-c.ended:
		return wire.Frame{}, errors.New("the broker closed the connection")
	case <-time.After(timeout):
		return wire.Frame{}, fmt.Errorf("%w to command %#x within %v", errSilence, cmd, timeout)
	}
}

func (c *connection) receive() {
	defer c.close()
	reader := bufio.NewReader(c.socket)
	for {
		frame, err := c.options.Framing.Read(reader)
		if err != nil {
			select {
			case <-c.ended:
			default:
				var network net.Error
				if !errors.As(err, &network) && !errors.Is(err, io.EOF) {
					c.complain(err)
				}
			}
			return
		}
		switch frame.Cmd {
		case wire.CmdBytes, wire.CmdString:
			c.handle(frame, c.deliver)
		case wire.CmdTxAck:
			c.handle(frame, c.check)
		case wire.CmdStoreAck, wire.CmdConnAuth, wire.CmdHeartbeat:
			c.answer(frame)
		default:
			c.complain(fmt.Errorf("the broker sent command %#x", frame.Cmd))
		}
	}
}

// handle runs a handler beside the others. It blocks, and with it the reading, while as many as the existing client has
// room for run or wait.
func (c *connection) handle(frame wire.Frame, handler func(wire.Frame)) {
	c.client.dispatching <- struct{}{}
	go func() {
		c.client.handling <- struct{}{}
		<-c.client.dispatching
		defer func() { <-c.client.handling }()
		handler(frame)
	}()
}

func (c *connection) answer(frame wire.Frame) {
	c.lock.Lock()
	answered := c.replies[frame.Opaque]
	delete(c.replies, frame.Opaque)
	c.lock.Unlock()
	if answered == nil {
		c.complain(fmt.Errorf("command %#x answers opaque %d, which nobody asked", frame.Cmd, frame.Opaque))
		return
	}
	answered <- frame
}

func (c *connection) deliver(frame wire.Frame) {
	message, header, err := decodeMessage(c.options.Codec, frame)
	if err != nil {
		c.complain(err)
		return
	}
	if frame.Opaque == 0 {
		c.complain(errors.New("a delivery with opaque 0, which clients take for none"))
	}
	outcome := Nack
	if c.options.Handler != nil {
		outcome = c.options.Handler(message)
	}
	switch outcome {
	case Silence:
		return
	case HangUp:
		c.close()
		return
	case HangUpThenAck:
		c.close()
		c.awaitSuccessor()
	}
	// groupId is the publisher's: that is what the clients in the field send.
	ack := wire.Fields{
		"messageId":   message.ID,
		"topic":       message.Topic,
		"messageType": message.MessageType,
		"groupId":     header.Text("groupId"),
		"status":      outcome == Ack || outcome == HangUpThenAck,
	}
	// The Go client always says something, if only nothing; the Java client stays silent unless its handler threw.
	if !c.options.Framing.LengthPrefixed {
		ack["feedback"] = ""
	}
	c.reply(frame, wire.CmdDeliverAck, "DeliverAck", ack)
}

func (c *connection) check(frame wire.Frame) {
	packet, err := c.options.Codec.Decode("TxACKPacket", frame.Body)
	if err != nil {
		c.complain(err)
		return
	}
	header := packet.Nested("header")
	status, _ := packet["status"].(int32)
	verdict := Unknown
	if c.options.OnCheck != nil {
		verdict = c.options.OnCheck(Check{ID: header.Text("messageId"), Status: status, Feedback: packet.Text("feedback")})
	}
	// The Java client sends back what it was asked with, with its verdict.
	feedback := ""
	if c.options.Framing.LengthPrefixed {
		feedback = packet.Text("feedback")
	}
	c.reply(frame, wire.CmdTxAck, "TxACKPacket", wire.Fields{"header": header, "status": int32(verdict), "feedback": feedback})
}

func (c *connection) reply(request wire.Frame, cmd byte, message string, fields wire.Fields) {
	body, err := c.options.Codec.Encode(message, fields)
	if err != nil {
		c.complain(err)
		return
	}
	// The existing client looks for its connection to the broker by address when it has something to answer: that may be
	// another one than the request came over, or none. A lost connection shows in the reader; the broker then sends the
	// request again elsewhere.
	if present := c.client.connectionTo(c.address); present != nil {
		_ = present.send(wire.Frame{Opaque: request.Opaque, Cmd: cmd, Body: body})
	}
}

// awaitSuccessor waits until the client has connected to this broker again.
func (c *connection) awaitSuccessor() {
	for present := c.client.connectionTo(c.address); present == nil || present == c; present = c.client.connectionTo(c.address) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-c.client.closed:
			return
		}
	}
}

func (c *connection) complain(err error) {
	if c.options.Complain != nil {
		c.options.Complain(fmt.Errorf("group %s: %w", c.options.Group, err))
	}
}

func (c *connection) close() {
	c.once.Do(func() {
		close(c.ended)
		c.socket.Close()
	})
}
