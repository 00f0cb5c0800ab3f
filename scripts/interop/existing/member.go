package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kiteq "github.com/blackbeans/kiteq-client-go"
	"github.com/blackbeans/kiteq-common/protocol"
	"github.com/blackbeans/kiteq-common/registry"

	"kiteq/interop/client"
)

// member is one existing client, and the listener that it calls.
type member struct {
	options client.Options
	client  *kiteq.KiteQClient
	ctx     context.Context
	cancel  context.CancelFunc
	lock    sync.Mutex
	// Local transactions that have not ended, by message id.
	undecided map[string]chan client.Verdict
}

// start starts an existing client. It reports no failure to connect; the first publish then does.
func start(options client.Options) (started client.Member, err error) {
	// The client panics where it cannot open its registry.
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("the existing client panicked at start: %v", reason)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{options: options, ctx: ctx, cancel: cancel, undecided: map[string]chan client.Verdict{}}
	m.client = kiteq.NewKiteQClient(ctx, options.Registry, options.Group, options.Secret)
	m.client.SetListener(m)
	m.client.SetTopics(options.Topics)
	bindings := make([]*registry.Binding, 0, len(options.Bindings))
	for _, binding := range options.Bindings {
		bindings = append(bindings, convert(binding))
	}
	m.client.SetBindings(bindings)
	m.client.Start()
	return m, nil
}

func convert(binding client.Binding) *registry.Binding {
	group, topic, messageType := binding.GroupID, binding.Topic, binding.MessageType
	watermark, persistent := int32(binding.Watermark), binding.Persistent
	switch binding.BindType {
	case client.Regx:
		return registry.Bind_Regx(group, topic, messageType, watermark, persistent)
	case client.Fanout:
		return registry.Bind_Fanout(group, topic, watermark, persistent)
	default:
		return registry.Bind_Direct(group, topic, messageType, watermark, persistent)
	}
}

// Publish sends a message. The client's error holds the broker's word when the broker refuses it.
func (m *member) Publish(message client.Message) (ok bool, feedback string, err error) {
	if message.Prepared && !message.Fly {
		err = m.prepare(message)
	} else if message.Text {
		err = m.client.SendStringMessage(stringMessage(message))
	} else {
		err = m.client.SendBytesMessage(bytesMessage(message))
	}
	if err != nil {
		return false, err.Error(), nil
	}
	return true, "", nil
}

// prepare sends a message whose local transaction lasts until Decide; returns once the broker has taken it.
func (m *member) prepare(message client.Message) error {
	decided, isTaken, ended := make(chan client.Verdict, 1), make(chan struct{}), make(chan error, 1)
	m.lock.Lock()
	m.undecided[message.ID] = decided
	m.lock.Unlock()
	transaction := func(*protocol.QMessage) (bool, error) {
		close(isTaken)
		select {
		case verdict := <-decided:
			return verdict == client.Commit, nil
		case <-m.ctx.Done():
			return false, errors.New("the client was closed")
		}
	}
	go func() {
		if message.Text {
			ended <- m.client.SendTxStringMessage(stringMessage(message), transaction)
		} else {
			ended <- m.client.SendTxBytesMessage(bytesMessage(message), transaction)
		}
	}()
	select {
	case <-isTaken:
		return nil
	case err := <-ended:
		return err
	}
}

// Decide ends the local transaction of a prepared message.
func (m *member) Decide(message client.Message, verdict client.Verdict) error {
	m.lock.Lock()
	decided := m.undecided[message.ID]
	delete(m.undecided, message.ID)
	m.lock.Unlock()
	if decided == nil {
		return fmt.Errorf("message %s has no open transaction", message.ID)
	}
	decided <- verdict
	return nil
}

// Heartbeat is nothing that an application of this client can ask for.
func (m *member) Heartbeat(int64) error {
	return errors.New("the existing client sends its heartbeats by itself")
}

// Close stops the client. Its connections stay open until the process ends.
func (m *member) Close() {
	m.client.Destroy()
	m.cancel()
}

// OnMessage is called by the client with each delivery.
func (m *member) OnMessage(message *protocol.QMessage) bool {
	if m.options.Handler == nil {
		return false
	}
	delivered, err := received(message)
	if err != nil {
		m.complain(err)
		return false
	}
	switch outcome := m.options.Handler(delivered); outcome {
	case client.Ack:
		return true
	case client.Nack:
		return false
	case client.Silence:
		<-m.ctx.Done()
		return false
	default:
		m.complain(fmt.Errorf("outcome %d is nothing that this client can do", outcome))
		return false
	}
}

// OnMessageCheck is called by the client when the broker asks for a verdict.
func (m *member) OnMessageCheck(tx *protocol.TxResponse) error {
	verdict := client.Unknown
	if m.options.OnCheck != nil {
		verdict = m.options.OnCheck(client.Check{ID: tx.MessageId, IsHidden: true})
	}
	switch verdict {
	case client.Commit:
		tx.Commit()
	case client.Rollback:
		tx.Rollback("rolled back")
	default:
		tx.Unknown("not decided")
	}
	return nil
}

// RegisteHandler is for handlers in bindings, which are not used here.
func (m *member) RegisteHandler(*registry.Binding) kiteq.IListener { return m }

// AddMiddleWares is for chains of handlers, which are not used here.
func (m *member) AddMiddleWares(...kiteq.MiddleWare) kiteq.IListener { return m }

func (m *member) complain(err error) {
	if m.options.Complain != nil {
		m.options.Complain(fmt.Errorf("group %s: %w", m.options.Group, err))
	}
}

func pointer[T any](value T) *T { return &value }

func header(message client.Message) *protocol.Header {
	expiredTime := message.ExpiredTime
	if expiredTime == 0 {
		expiredTime = -1
	}
	header := &protocol.Header{
		MessageId:    pointer(message.ID),
		Topic:        pointer(message.Topic),
		MessageType:  pointer(message.MessageType),
		ExpiredTime:  pointer(expiredTime),
		DeliverLimit: pointer(int32(100)),
		// The client puts its own group there.
		GroupId:    pointer(""),
		Commit:     pointer(!message.Prepared),
		Fly:        pointer(message.Fly),
		CreateTime: pointer(time.Now().Unix()),
		Snappy:     pointer(message.Snappy),
	}
	for key, value := range message.Properties {
		header.Properties = append(header.Properties, &protocol.Entry{Key: pointer(key), Value: pointer(value)})
	}
	return header
}

func bytesMessage(message client.Message) *protocol.BytesMessage {
	return &protocol.BytesMessage{Header: header(message), Body: message.Body}
}

func stringMessage(message client.Message) *protocol.StringMessage {
	return &protocol.StringMessage{Header: header(message), Body: pointer(string(message.Body))}
}

// received is a delivery as the scenarios see it; the client has undone the compression.
func received(message *protocol.QMessage) (client.Message, error) {
	header := message.GetHeader()
	delivered := client.Message{
		ID:          header.GetMessageId(),
		Topic:       header.GetTopic(),
		MessageType: header.GetMessageType(),
		Group:       header.GetGroupId(),
		Snappy:      header.GetSnappy(),
		Prepared:    !header.GetCommit(),
		Fly:         header.GetFly(),
		ExpiredTime: header.GetExpiredTime(),
		Properties:  map[string]string{},
	}
	for _, entry := range header.GetProperties() {
		delivered.Properties[entry.GetKey()] = entry.GetValue()
	}
	switch body := message.GetBody().(type) {
	case string:
		delivered.Text, delivered.Body = true, []byte(body)
	case []byte:
		delivered.Body = body
	default:
		return delivered, fmt.Errorf("message %s was handed over with a body of type %T", delivered.ID, body)
	}
	return delivered, nil
}
