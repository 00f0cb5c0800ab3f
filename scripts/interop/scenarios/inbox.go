package scenarios

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"kiteq/interop/client"
)

// Bodies that start so are not part of a scenario, see Stage.consumer.
const probeBody = "probe "

// Inbox records what a group's handler was called with.
type Inbox struct {
	handler func(client.Message) client.Outcome
	lock    sync.Mutex
	changed chan struct{}
	got     []client.Message
	probed  map[string]bool
}

func newInbox(handler func(client.Message) client.Outcome) *Inbox {
	return &Inbox{handler: handler, changed: make(chan struct{}), probed: map[string]bool{}}
}

func (i *Inbox) handle(message client.Message) client.Outcome {
	i.lock.Lock()
	defer i.lock.Unlock()
	defer func() {
		close(i.changed)
		i.changed = make(chan struct{})
	}()
	if group, isProbe := strings.CutPrefix(string(message.Body), probeBody); isProbe {
		i.probed[group] = true
		return client.Ack
	}
	i.got = append(i.got, message)
	if i.handler == nil {
		return client.Ack
	}
	return i.handler(message)
}

// wait until condition, which is called with the lock held, is true.
func (i *Inbox) wait(patience time.Duration, condition func() bool) bool {
	timeout := time.After(patience)
	for {
		i.lock.Lock()
		done, changed := condition(), i.changed
		i.lock.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

// exactly waits for count deliveries, and for no further one.
func (i *Inbox) exactly(count int) ([]client.Message, error) {
	arrived := i.wait(patience, func() bool { return len(i.got) >= count })
	if arrived {
		arrived = !i.wait(quietTime, func() bool { return len(i.got) > count })
	}
	i.lock.Lock()
	defer i.lock.Unlock()
	if !arrived {
		return i.got, fmt.Errorf("%d deliveries instead of %d: %s", len(i.got), count, describe(i.got))
	}
	return i.got, nil
}

func describe(messages []client.Message) string {
	var parts []string
	for _, message := range messages {
		body := string(message.Body)
		if len(body) > 40 {
			body = fmt.Sprintf("%.20q... (%d bytes)", body, len(body))
		}
		parts = append(parts, fmt.Sprintf("%s %s", message.MessageType, body))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// ids of what was delivered, in order.
func (i *Inbox) ids() []string {
	i.lock.Lock()
	defer i.lock.Unlock()
	var ids []string
	for _, message := range i.got {
		ids = append(ids, message.ID)
	}
	return ids
}

// eventually polls until condition is true or the time is up.
func eventually(patience time.Duration, condition func() bool) bool {
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}
