package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"kiteq/interop/wire"
)

// connection is one authenticated connection to one broker. Opaques of the two directions are separate number spaces.
type connection struct {
	options *Options
	socket  net.Conn
	opaque  atomic.Uint32
	writing sync.Mutex
	lock    sync.Mutex
	replies map[uint32]chan wire.Frame
	ended   chan struct{}
	once    sync.Once
}

// dial connects and presents the group.
func dial(options *Options, address string) (*connection, error) {
	socket, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return nil, err
	}
	c := &connection{options: options, socket: socket, replies: map[uint32]chan wire.Frame{}, ended: make(chan struct{})}
	go c.receive()
	if err := c.present(); err != nil {
		c.close()
		return nil, fmt.Errorf("broker %s: %w", address, err)
	}
	return c, nil
}

func (c *connection) present() error {
	meta := wire.Fields{"groupId": c.options.Group, "secretKey": c.options.Secret, "warmingupSec": int32(0)}
	body, err := c.options.Codec.Encode("ConnMeta", meta)
	if err != nil {
		return err
	}
	reply, err := c.request(wire.CmdConnMeta, body)
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

func (c *connection) nextOpaque() uint32 { return c.opaque.Add(1) }

func (c *connection) send(frame wire.Frame) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.socket.Write(c.options.Framing.Append(nil, frame))
	return err
}

func (c *connection) request(cmd byte, body []byte) (wire.Frame, error) {
	opaque, answered := c.nextOpaque(), make(chan wire.Frame, 1)
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
		return wire.Frame{}, fmt.Errorf("no reply to command %#x within %v", cmd, timeout)
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
			go c.deliver(frame)
		case wire.CmdTxAck:
			go c.check(frame)
		case wire.CmdStoreAck, wire.CmdConnAuth, wire.CmdHeartbeat:
			c.answer(frame)
		default:
			c.complain(fmt.Errorf("the broker sent command %#x", frame.Cmd))
		}
	}
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
	}
	// groupId is the publisher's: that is what the clients in the field send.
	ack := wire.Fields{
		"messageId":   message.ID,
		"topic":       message.Topic,
		"messageType": message.MessageType,
		"groupId":     header.Text("groupId"),
		"status":      outcome == Ack,
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
	c.reply(frame, wire.CmdTxAck, "TxACKPacket", wire.Fields{"header": header, "status": int32(verdict), "feedback": ""})
}

func (c *connection) reply(request wire.Frame, cmd byte, message string, fields wire.Fields) {
	body, err := c.options.Codec.Encode(message, fields)
	if err != nil {
		c.complain(err)
		return
	}
	// A lost connection shows in the reader; the broker then sends the request again elsewhere.
	_ = c.send(wire.Frame{Opaque: request.Opaque, Cmd: cmd, Body: body})
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
