package client

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/golang/snappy"

	"kiteq/interop/wire"
)

// Message is what is published and what is delivered.
type Message struct {
	ID          string
	Topic       string
	MessageType string
	// Group of the publisher; filled in by Publish.
	Group       string
	Body        []byte
	Text        bool // a StringMessage rather than a BytesMessage
	Snappy      bool // compressed by the publishing client, undone by the receiving one
	Prepared    bool // commit=false: held back until the verdict
	Fly         bool
	ExpiredTime int64
	Properties  map[string]string
}

// NewID is a fresh message id: 32 hex digits.
func NewID() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

func (m Message) command() byte {
	if m.Text {
		return wire.CmdString
	}
	return wire.CmdBytes
}

func (m Message) header() wire.Fields {
	header := wire.Fields{
		"messageId":    m.ID,
		"topic":        m.Topic,
		"messageType":  m.MessageType,
		"expiredTime":  m.ExpiredTime,
		"deliverLimit": int32(100),
		"groupId":      m.Group,
		"commit":       !m.Prepared,
		"fly":          m.Fly,
		"snappy":       m.Snappy,
		"createTime":   time.Now().Unix(),
	}
	if m.ExpiredTime == 0 {
		header["expiredTime"] = int64(-1)
	}
	var properties []wire.Fields
	for key, value := range m.Properties {
		properties = append(properties, wire.Fields{"key": key, "value": value})
	}
	if properties != nil {
		header["properties"] = properties
	}
	return header
}

func (m Message) encode(codec *wire.Codec) ([]byte, error) {
	body := m.Body
	if m.Snappy {
		body = snappy.Encode(nil, body)
	}
	if !m.Text {
		return codec.Encode("BytesMessage", wire.Fields{"header": m.header(), "body": body})
	}
	text := string(body)
	if m.Snappy {
		text = base64.StdEncoding.EncodeToString(body)
	}
	return codec.Encode("StringMessage", wire.Fields{"header": m.header(), "body": text})
}

// decodeMessage undoes encode, also the compression.
func decodeMessage(codec *wire.Codec, frame wire.Frame) (message Message, header wire.Fields, err error) {
	name := "BytesMessage"
	if frame.Cmd == wire.CmdString {
		name = "StringMessage"
	}
	fields, err := codec.Decode(name, frame.Body)
	if err != nil {
		return message, nil, err
	}
	header = fields.Nested("header")
	message = fromHeader(header)
	message.Text = frame.Cmd == wire.CmdString
	if message.Text {
		message.Body = []byte(fields.Text("body"))
	} else {
		message.Body, _ = fields["body"].([]byte)
	}
	if message.Snappy {
		if message.Text {
			if message.Body, err = base64.StdEncoding.DecodeString(string(message.Body)); err != nil {
				return message, header, err
			}
		}
		message.Body, err = snappy.Decode(nil, message.Body)
	}
	return message, header, err
}

func fromHeader(header wire.Fields) Message {
	message := Message{
		ID:          header.Text("messageId"),
		Topic:       header.Text("topic"),
		MessageType: header.Text("messageType"),
		Group:       header.Text("groupId"),
		Snappy:      header.Flag("snappy"),
		Prepared:    !header.Flag("commit"),
		Fly:         header.Flag("fly"),
		Properties:  map[string]string{},
	}
	message.ExpiredTime, _ = header["expiredTime"].(int64)
	properties, _ := header["properties"].([]wire.Fields)
	for _, entry := range properties {
		message.Properties[entry.Text("key")] = entry.Text("value")
	}
	return message
}
