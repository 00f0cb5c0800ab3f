// Package scenarios holds what an existing client relies on, each as a small play against a running broker.
package scenarios

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"kiteq/interop/client"
	"kiteq/interop/wire"
)

// Scenario is one play. It owns its topic and its groups, so that all may run against one broker.
type Scenario struct {
	Name     string
	Expected string
	// Bindings of all its groups; a file registry must hold them before the broker starts.
	Bindings []client.Binding
	// Needs says whether a make of client can play it; every make can where it is nil.
	Needs func(client.Abilities) bool
	// Run returns what it saw and whether that is what was expected.
	Run func(*Stage) (seen string, err error)
}

// Topic of a scenario.
func (s Scenario) Topic() string { return "interop-" + s.Name }

// All of them, in the order in which they run.
func All() []Scenario {
	var all []Scenario
	all = append(all, bodies()...)
	all = append(all, bindings()...)
	all = append(all, failures()...)
	all = append(all, transactions()...)
	all = append(all, answers()...)
	return all
}

const (
	patience = 15 * time.Second
	// How long to watch for something that must not happen, once everything that must happen has.
	quietTime = 500 * time.Millisecond
)

// Setting is the broker that all scenarios play against.
type Setting struct {
	Make     client.Make
	Codec    *wire.Codec
	Registry string
	// RecoverPeriod of the broker: how often it asks for verdicts.
	RecoverPeriod time.Duration
}

// Stage is what one scenario plays on.
type Stage struct {
	Setting
	scenario   Scenario
	lock       sync.Mutex
	complaints []error
	clients    []client.Member
}

// Play runs one scenario.
func Play(scenario Scenario, setting Setting) (seen string, err error) {
	stage := Stage{Setting: setting, scenario: scenario}
	defer func() {
		for _, started := range stage.clients {
			started.Close()
		}
	}()
	seen, err = scenario.Run(&stage)
	stage.lock.Lock()
	defer stage.lock.Unlock()
	return seen, errors.Join(append([]error{err}, stage.complaints...)...)
}

func (s *Stage) complain(err error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.complaints = append(s.complaints, err)
}

func (s *Stage) start(options client.Options) (client.Member, error) {
	options.Codec, options.Registry, options.Complain = s.Codec, s.Registry, s.complain
	options.Secret = "123456"
	started, err := s.Make.Start(options)
	if err == nil {
		s.clients = append(s.clients, started)
	}
	return started, err
}

// producer starts a producer of the scenario's topic.
func (s *Stage) producer(framing wire.Framing, onCheck func(client.Check) client.Verdict) (client.Member, error) {
	return s.start(client.Options{
		Framing: framing,
		Group:   s.scenario.producerGroup(),
		Topics:  []string{s.scenario.Topic()},
		OnCheck: onCheck,
	})
}

func (s Scenario) producerGroup() string { return "p-" + s.Name }

func (s Scenario) group(suffix string) string { return "s-" + s.Name + suffix }

// message of the scenario's topic.
func (s *Stage) message(messageType, body string) client.Message {
	return client.Message{
		ID:          client.NewID(),
		Topic:       s.scenario.Topic(),
		MessageType: messageType,
		Body:        []byte(body),
	}
}

// publish expects the broker to take the message.
func publish(producer client.Member, message client.Message) error {
	ok, feedback, err := producer.Publish(message)
	if err == nil && !ok {
		err = fmt.Errorf("the broker refused message %s: %q", message.ID, feedback)
	}
	return err
}

// consumer starts a member of a group and returns once the broker delivers to it, which it tries with messages that are
// never stored: a binding in a registry takes a moment to reach the broker.
func (s *Stage) consumer(framing wire.Framing, group, probeType string, handler func(client.Message) client.Outcome) (*Inbox, error) {
	inbox := newInbox(handler)
	var own []client.Binding
	for _, binding := range s.scenario.Bindings {
		if binding.GroupID == group {
			own = append(own, binding)
		}
	}
	if _, err := s.start(client.Options{Framing: framing, Group: group, Bindings: own, Handler: inbox.handle}); err != nil {
		return nil, err
	}
	prober, err := s.start(client.Options{Group: "p-probe", Topics: []string{s.scenario.Topic()}})
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		probe := s.message(probeType, probeBody+group)
		probe.Fly = true
		if err := publish(prober, probe); err != nil {
			return nil, err
		}
		if inbox.wait(100*time.Millisecond, func() bool { return inbox.probed[group] }) {
			return inbox, nil
		}
	}
	return nil, fmt.Errorf("group %s got none of the messages that match its binding within %v", group, patience)
}
