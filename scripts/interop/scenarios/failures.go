package scenarios

import (
	"fmt"
	"slices"

	"kiteq/interop/client"
	"kiteq/interop/wire"
)

// failures: a group that fails a message gets it again, and only that group does.
func failures() []Scenario {
	return []Scenario{
		failure("nack", "a handler that fails twice", client.Nack, client.Nack),
		failure("no-answer", "a handler that never answers the first delivery", client.Silence),
		failure("hang-up", "a consumer that breaks the connection instead of answering", client.HangUp),
		failure("late-answer", "a handler that answers when its client has connected again", client.HangUpThenAck),
	}
}

func failure(name, what string, outcomes ...client.Outcome) Scenario {
	scenario := Scenario{
		Name:     name,
		Expected: fmt.Sprintf("%s gets the same message %d times in all; a group that acked gets it once", what, len(outcomes)+1),
	}
	if slices.Contains(outcomes, client.HangUp) || slices.Contains(outcomes, client.HangUpThenAck) {
		scenario.Needs = func(can client.Abilities) bool { return can.HangUp }
	}
	failing, healthy := scenario.group("-failing"), scenario.group("-healthy")
	scenario.Bindings = []client.Binding{
		binding(scenario, failing, client.Direct, "pay-succ"),
		binding(scenario, healthy, client.Fanout, "*"),
	}
	scenario.Run = func(stage *Stage) (string, error) {
		left := slices.Clone(outcomes)
		failingInbox, err := stage.consumer(wire.HeaderOnly, failing, "pay-succ", func(client.Message) client.Outcome {
			if len(left) == 0 {
				return client.Ack
			}
			outcome := left[0]
			left = left[1:]
			return outcome
		})
		if err != nil {
			return "", err
		}
		healthyInbox, err := stage.consumer(wire.HeaderOnly, healthy, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		producer, err := stage.producer(wire.HeaderOnly, nil)
		if err != nil {
			return "", err
		}
		sent := stage.message("pay-succ", "echo")
		if err := publish(producer, sent); err != nil {
			return "", err
		}
		got, err := failingInbox.exactly(len(outcomes) + 1)
		if err != nil {
			return "", err
		}
		for _, message := range got {
			if message.ID != sent.ID || string(message.Body) != "echo" {
				return "", fmt.Errorf("a redelivery is another message: %s %q", message.ID, message.Body)
			}
		}
		if _, err := healthyInbox.exactly(1); err != nil {
			return "", fmt.Errorf("the healthy group: %w", err)
		}
		return fmt.Sprintf("%d deliveries, and 1 to the healthy group", len(got)), nil
	}
	return scenario
}
