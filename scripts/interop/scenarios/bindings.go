package scenarios

import (
	"fmt"
	"slices"
	"strings"

	"kiteq/interop/client"
	"kiteq/interop/wire"
)

// bindings: who gets what.
func bindings() []Scenario {
	scenario := Scenario{
		Name: "bindings",
		Expected: "direct gets pay-succ alone; regx ^pay-(succ|fail)-[0-9]+$ the two numbered ones; an unanchored regx every " +
			"type that contains succ; fanout all five",
	}
	types := []string{"pay-succ", "pay-succ-200", "pay-fail-7", "refund", "prefix-pay-succ-2x"}
	expected := map[string]struct {
		bindType    int
		messageType string
		probe       string
		types       []string
	}{
		"-direct":     {client.Direct, "pay-succ", "pay-succ", []string{"pay-succ"}},
		"-regx":       {client.Regx, "^pay-(succ|fail)-[0-9]+$", "pay-succ-1", []string{"pay-succ-200", "pay-fail-7"}},
		"-unanchored": {client.Regx, "succ", "a-succ", []string{"pay-succ", "pay-succ-200", "prefix-pay-succ-2x"}},
		"-fanout":     {client.Fanout, "*", "anything", types},
	}
	suffixes := []string{"-direct", "-regx", "-unanchored", "-fanout"}
	for _, suffix := range suffixes {
		want := expected[suffix]
		scenario.Bindings = append(scenario.Bindings, binding(scenario, scenario.group(suffix), want.bindType, want.messageType))
	}
	scenario.Run = func(stage *Stage) (string, error) {
		inboxes := map[string]*Inbox{}
		for _, suffix := range suffixes {
			inbox, err := stage.consumer(wire.HeaderOnly, scenario.group(suffix), expected[suffix].probe, nil)
			if err != nil {
				return "", err
			}
			inboxes[suffix] = inbox
		}
		producer, err := stage.producer(wire.HeaderOnly, nil)
		if err != nil {
			return "", err
		}
		for _, messageType := range types {
			if err := publish(producer, stage.message(messageType, "for "+messageType)); err != nil {
				return "", err
			}
		}
		var seen []string
		for _, suffix := range suffixes {
			got, err := inboxes[suffix].exactly(len(expected[suffix].types))
			if err != nil {
				return "", fmt.Errorf("group %s: %w", scenario.group(suffix), err)
			}
			var gotTypes []string
			for _, message := range got {
				gotTypes = append(gotTypes, message.MessageType)
			}
			slices.Sort(gotTypes)
			wanted := slices.Sorted(slices.Values(expected[suffix].types))
			if !slices.Equal(gotTypes, wanted) {
				return "", fmt.Errorf("group %s got %v instead of %v", scenario.group(suffix), gotTypes, wanted)
			}
			seen = append(seen, fmt.Sprintf("%s %d", suffix[1:], len(got)))
		}
		return strings.Join(seen, ", "), nil
	}
	return []Scenario{scenario, sharing()}
}

// sharing: the members of one group share its messages.
func sharing() Scenario {
	scenario := Scenario{Name: "group-of-two", Expected: "20 messages reach a group of two members once each"}
	group := scenario.group("")
	scenario.Bindings = []client.Binding{binding(scenario, group, client.Direct, "pay-succ")}
	scenario.Run = func(stage *Stage) (string, error) {
		first, err := stage.consumer(wire.HeaderOnly, group, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		framing := wire.HeaderOnly
		if stage.Make.Can.PrefixLengths {
			framing = wire.LengthPrefixed
		}
		second, err := stage.consumer(framing, group, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		producer, err := stage.producer(wire.HeaderOnly, nil)
		if err != nil {
			return "", err
		}
		const count = 20
		for index := range count {
			if err := publish(producer, stage.message("pay-succ", fmt.Sprint(index))); err != nil {
				return "", err
			}
		}
		ids := func() []string { return append(first.ids(), second.ids()...) }
		eventually(patience, func() bool { return len(ids()) >= count })
		eventually(quietTime, func() bool { return len(ids()) > count })
		distinct := map[string]bool{}
		for _, id := range ids() {
			distinct[id] = true
		}
		if len(ids()) != count || len(distinct) != count {
			return "", fmt.Errorf("%d deliveries of %d messages instead of %d of each", len(ids()), len(distinct), count)
		}
		return fmt.Sprintf("%d and %d", len(first.ids()), len(second.ids())), nil
	}
	return scenario
}
