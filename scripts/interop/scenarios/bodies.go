package scenarios

import (
	"bytes"
	"fmt"
	"maps"
	"strings"

	"kiteq/interop/client"
	"kiteq/interop/wire"
)

// bodies: every kind of body, in both framings, arrives as it was sent.
func bodies() []Scenario {
	binary := []byte{0, 1, 2, 0xff, 0xfe, '\r', '\n', 0}
	long := []byte(strings.Repeat("The same words again and again. ", 3000))
	return []Scenario{
		body("bytes", wire.HeaderOnly, client.Message{Body: binary}),
		body("bytes-snappy", wire.HeaderOnly, client.Message{Body: long, Snappy: true}),
		body("string", wire.HeaderOnly, client.Message{Body: []byte("echo, with ümläuts and 汉字"), Text: true}),
		body("string-snappy", wire.HeaderOnly, client.Message{Body: long, Text: true, Snappy: true}),
		body("bytes-empty", wire.HeaderOnly, client.Message{Body: []byte{}}),
		body("bytes-largest", wire.HeaderOnly, client.Message{Body: bytes.Repeat([]byte{7}, 2<<20-1024)}),
		body("length-prefixed", wire.LengthPrefixed, client.Message{Body: binary}),
		body("length-prefixed-string", wire.LengthPrefixed, client.Message{Body: long[:20_000], Text: true, Snappy: true}),
	}
}

func body(name string, framing wire.Framing, template client.Message) Scenario {
	scenario := Scenario{
		Name:     name,
		Expected: fmt.Sprintf("a body of %d bytes, its properties and its id arrive once and unchanged", len(template.Body)),
	}
	if framing.LengthPrefixed {
		scenario.Needs = func(can client.Abilities) bool { return can.PrefixLengths }
	}
	group := scenario.group("")
	scenario.Bindings = []client.Binding{binding(scenario, group, client.Direct, "pay-succ")}
	scenario.Run = func(stage *Stage) (string, error) {
		inbox, err := stage.consumer(framing, group, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		producer, err := stage.producer(framing, nil)
		if err != nil {
			return "", err
		}
		sent := template
		sent.ID, sent.Topic, sent.MessageType = client.NewID(), scenario.Topic(), "pay-succ"
		sent.Properties = map[string]string{"tradeno": "20260101", "": "empty key", "empty value": ""}
		if err := publish(producer, sent); err != nil {
			return "", err
		}
		got, err := inbox.exactly(1)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d bytes", len(got[0].Body)), same(sent, got[0], scenario.producerGroup())
	}
	return scenario
}

func same(sent, got client.Message, publisher string) error {
	switch {
	case got.ID != sent.ID || got.Topic != sent.Topic || got.MessageType != sent.MessageType:
		return fmt.Errorf("delivered as %s %s %s", got.ID, got.Topic, got.MessageType)
	case got.Group != publisher:
		return fmt.Errorf("the header names group %q instead of the publisher's %q", got.Group, publisher)
	case got.Text != sent.Text || got.Snappy != sent.Snappy:
		return fmt.Errorf("delivered with text=%v snappy=%v", got.Text, got.Snappy)
	case !bytes.Equal(got.Body, sent.Body):
		return fmt.Errorf("the body is another one: %.40q of %d bytes", got.Body, len(got.Body))
	case !maps.Equal(got.Properties, sent.Properties):
		return fmt.Errorf("the properties are others: %v", got.Properties)
	case got.Prepared:
		return fmt.Errorf("delivered with commit=false")
	case got.ExpiredTime <= 0:
		return fmt.Errorf("delivered without an expiry: %d", got.ExpiredTime)
	}
	return nil
}

func binding(scenario Scenario, group string, bindType int, messageType string) client.Binding {
	return client.Binding{
		GroupID:     group,
		Topic:       scenario.Topic(),
		MessageType: messageType,
		BindType:    bindType,
		Version:     "1.0.0",
		Watermark:   1000,
		Persistent:  true,
	}
}
