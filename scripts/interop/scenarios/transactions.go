package scenarios

import (
	"errors"
	"fmt"
	"sync"

	"kiteq/interop/client"
	"kiteq/interop/wire"
)

// transactions: prepared messages wait for their producer's verdict, and the broker asks when it does not come.
func transactions() []Scenario {
	return []Scenario{
		transaction("tx-commit", "nothing before the commit, then one delivery with commit=true, and no question", commit),
		transaction("tx-rollback", "never delivered, and no question after the rollback", rollback),
		transaction("tx-check-commit", "asked again after \"unknown\", delivered once after \"commit\", then no question", checkCommit),
		transaction("tx-check-rollback", "asked until \"rollback\", then never delivered and no question", checkRollback),
	}
}

type txPlay struct {
	stage    *Stage
	producer client.Member
	inbox    *Inbox
	checks   *checks
	prepared client.Message
}

func transaction(name, expected string, run func(txPlay) (string, error)) Scenario {
	scenario := Scenario{Name: name, Expected: expected}
	group := scenario.group("")
	scenario.Bindings = []client.Binding{binding(scenario, group, client.Direct, "pay-succ")}
	scenario.Run = func(stage *Stage) (string, error) {
		inbox, err := stage.consumer(wire.HeaderOnly, group, "pay-succ", nil)
		if err != nil {
			return "", err
		}
		play := txPlay{stage: stage, inbox: inbox, checks: &checks{}}
		if play.producer, err = stage.producer(wire.HeaderOnly, play.checks.answer); err != nil {
			return "", err
		}
		play.prepared = stage.message("pay-succ", "prepared")
		play.prepared.Prepared = true
		play.checks.id = play.prepared.ID
		return run(play)
	}
	return scenario
}

// checks answers the broker's questions from a list of verdicts, "unknown" when that is used up.
type checks struct {
	lock     sync.Mutex
	id       string
	verdicts []client.Verdict
	asked    int
	wrong    error
}

func (c *checks) answer(check client.Check) client.Verdict {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.asked++
	if check.ID != c.id || (!check.IsHidden && (check.Status != 0 || check.Feedback != "Server Check")) {
		c.wrong = errors.Join(c.wrong, fmt.Errorf("asked with id %s, status %d, feedback %q", check.ID, check.Status, check.Feedback))
	}
	if len(c.verdicts) == 0 {
		return client.Unknown
	}
	verdict := c.verdicts[0]
	c.verdicts = c.verdicts[1:]
	return verdict
}

// after reports how often was asked, and fails when it is not so often.
func (c *checks) after(play txPlay, count int) error {
	eventually(patience, func() bool { return c.count() >= count })
	eventually(2*play.stage.RecoverPeriod, func() bool { return c.count() > count })
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.asked != count {
		return errors.Join(c.wrong, fmt.Errorf("the broker asked for the verdict %d times instead of %d", c.asked, count))
	}
	return c.wrong
}

func (c *checks) count() int {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.asked
}

// deliveries expects the inbox to hold so many once a message that was sent later has come through.
func (p txPlay) deliveries(count int) ([]client.Message, error) {
	if err := publish(p.producer, p.stage.message("pay-succ", "published later")); err != nil {
		return nil, err
	}
	return p.inbox.exactly(count + 1)
}

func commit(play txPlay) (string, error) {
	if err := publish(play.producer, play.prepared); err != nil {
		return "", err
	}
	if _, err := play.inbox.exactly(0); err != nil {
		return "", fmt.Errorf("before the commit: %w", err)
	}
	if err := play.producer.Decide(play.prepared, client.Commit); err != nil {
		return "", err
	}
	return committed(play, 0)
}

func committed(play txPlay, asked int) (string, error) {
	got, err := play.inbox.exactly(1)
	if err != nil {
		return "", err
	}
	if got[0].ID != play.prepared.ID || got[0].Prepared || string(got[0].Body) != "prepared" {
		return "", fmt.Errorf("delivered %s, commit=%v, %q", got[0].ID, !got[0].Prepared, got[0].Body)
	}
	if err := play.checks.after(play, asked); err != nil {
		return "", err
	}
	if _, err := play.deliveries(1); err != nil {
		return "", err
	}
	return fmt.Sprintf("1 delivery with commit=true, asked %d times", asked), nil
}

func rollback(play txPlay) (string, error) {
	if err := publish(play.producer, play.prepared); err != nil {
		return "", err
	}
	if err := play.producer.Decide(play.prepared, client.Rollback); err != nil {
		return "", err
	}
	return rolledBack(play, 0)
}

func rolledBack(play txPlay, asked int) (string, error) {
	if err := play.checks.after(play, asked); err != nil {
		return "", err
	}
	// A commit after the rollback must find nothing.
	if play.stage.Make.Can.DecideAgain {
		if err := play.producer.Decide(play.prepared, client.Commit); err != nil {
			return "", err
		}
	}
	if _, err := play.deliveries(0); err != nil {
		return "", err
	}
	return fmt.Sprintf("no delivery, asked %d times", asked), nil
}

func checkCommit(play txPlay) (string, error) {
	play.checks.verdicts = []client.Verdict{client.Unknown, client.Commit}
	if err := publish(play.producer, play.prepared); err != nil {
		return "", err
	}
	return committed(play, 2)
}

func checkRollback(play txPlay) (string, error) {
	play.checks.verdicts = []client.Verdict{client.Unknown, client.Rollback}
	if err := publish(play.producer, play.prepared); err != nil {
		return "", err
	}
	return rolledBack(play, 2)
}
