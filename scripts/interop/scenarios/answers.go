package scenarios

import (
	"fmt"
	"strings"
	"time"

	"kiteq/interop/client"
	"kiteq/interop/wire"
)

// answers: the broker's exact words, which clients in the field show to people and some of them match on.
func answers() []Scenario {
	return []Scenario{refusals(), duplicate(), offline(), heartbeat()}
}

func refusals() Scenario {
	scenario := Scenario{
		Name:     "refusals",
		Expected: "unknown topic, bad id, expired and uncommitted fly messages are refused in the documented words",
	}
	scenario.Run = func(stage *Stage) (string, error) {
		producer, err := stage.producer(wire.HeaderOnly, nil)
		if err != nil {
			return "", err
		}
		expectations := []struct {
			change   func(*client.Message)
			ok       bool
			feedback string
		}{
			{func(m *client.Message) { m.Topic = "no-such-topic" }, false, "UnSupport Topic Message!"},
			{func(m *client.Message) { m.ID = "not-32-hex-digits" }, false, "Invalid MessageId For UUID!"},
			{func(m *client.Message) { m.ExpiredTime = time.Now().Unix() - 60 }, false, "Expired Message!"},
			{func(m *client.Message) { m.Fly, m.Prepared = true, true }, false, "FLY MUST BE COMMITTED !"},
			{func(m *client.Message) { m.Fly = true }, true, "FLY NO NEED SAVE"},
			{func(*client.Message) {}, true, "Store Result true Cost:"},
		}
		if !stage.Make.Can.ShowAnswers {
			// Such a client finds no broker for an unknown topic, and asks none.
			expectations = expectations[1:]
		}
		for _, expected := range expectations {
			message := stage.message("pay-succ", "echo")
			expected.change(&message)
			ok, feedback, err := producer.Publish(message)
			if err != nil {
				return "", err
			}
			if ok != expected.ok || !stage.says(ok, feedback, expected.feedback) {
				return "", fmt.Errorf("answered %v %q instead of %v %q", ok, feedback, expected.ok, expected.feedback)
			}
		}
		return fmt.Sprintf("%d answers as documented", len(expectations)), nil
	}
	return scenario
}

// says reports whether the broker's word starts as expected. Some clients show it in a refusal only, among other text.
func (s *Stage) says(ok bool, feedback, expected string) bool {
	if s.Make.Can.ShowAnswers {
		return strings.HasPrefix(feedback, expected)
	}
	return ok || strings.Contains(feedback, expected)
}

func duplicate() Scenario {
	scenario := Scenario{Name: "resend", Expected: "a message that is sent again with its id is acked \"Duplicate Message\" and delivered once"}
	group := scenario.group("")
	scenario.Bindings = []client.Binding{binding(scenario, group, client.Direct, "pay-succ")}
	scenario.Run = func(stage *Stage) (string, error) {
		inbox, err := stage.consumer(wire.HeaderOnly, group, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		producer, err := stage.producer(wire.HeaderOnly, nil)
		if err != nil {
			return "", err
		}
		sent := stage.message("pay-succ", "once")
		if err := publish(producer, sent); err != nil {
			return "", err
		}
		if _, err := inbox.exactly(1); err != nil {
			return "", err
		}
		ok, feedback, err := producer.Publish(sent)
		if err != nil || !ok || !stage.says(ok, feedback, "Duplicate Message") {
			return "", fmt.Errorf("the repetition was answered %v %q %w", ok, feedback, err)
		}
		_, err = inbox.exactly(1)
		return "1 delivery, 2 acks", err
	}
	return scenario
}

// offline: messages of a persistent binding wait while no member of the group is connected.
func offline() Scenario {
	scenario := Scenario{
		Name:     "offline-group",
		Expected: "5 messages published while the group is away arrive when it comes back",
		Needs:    func(can client.Abilities) bool { return can.Leave },
	}
	group := scenario.group("")
	scenario.Bindings = []client.Binding{binding(scenario, group, client.Direct, "pay-succ")}
	scenario.Run = func(stage *Stage) (string, error) {
		if _, err := stage.consumer(wire.HeaderOnly, group, "pay-succ", nil); err != nil {
			return "", err
		}
		for _, started := range stage.clients {
			started.Close()
		}
		stage.clients = nil
		producer, err := stage.producer(wire.HeaderOnly, nil)
		if err != nil {
			return "", err
		}
		for index := range 5 {
			if err := publish(producer, stage.message("pay-succ", fmt.Sprint(index))); err != nil {
				return "", err
			}
		}
		inbox, err := stage.consumer(wire.HeaderOnly, group, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		got, err := inbox.exactly(5)
		return fmt.Sprintf("%d deliveries", len(got)), err
	}
	return scenario
}

func heartbeat() Scenario {
	scenario := Scenario{
		Name:     "heartbeat",
		Expected: "a heartbeat comes back with its version, in both framings",
		Needs:    func(can client.Abilities) bool { return can.Heartbeat },
	}
	scenario.Run = func(stage *Stage) (string, error) {
		for _, framing := range []wire.Framing{wire.HeaderOnly, wire.LengthPrefixed} {
			producer, err := stage.producer(framing, nil)
			if err != nil {
				return "", err
			}
			if err := producer.Heartbeat(time.Now().Unix()); err != nil {
				return "", err
			}
		}
		return "2 echoes", nil
	}
	return scenario
}
