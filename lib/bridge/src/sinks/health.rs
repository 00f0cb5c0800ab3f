//! Whether a sink is given batches: what it answered decides, and time.
//!
//! ```text
//!        ┌──────────── OK ─────────────┐
//!        ▼                             │
//!       Up ── FAILED, ERROR ─► Full ── pause over ─► Trial ── any failure ─► Full or Aside, for longer
//!        │                                             ▲
//!        └─ no answer, no connection ─► Aside ── probe answered
//! ```
//!
//! A sink that is aside gets no batch: it is probed with an empty one, so that no element waits for a sink that is
//! suspected to be dead. On trial it gets a single batch. Only a batch that is taken makes the next pause short again.

use std::time::Duration;

use kiteq_zookeeper::Backoff;
use tokio::time::Instant;

/// What is known of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It takes batches.
    Up,
    /// It answered that it cannot take a batch now.
    Full { until: Instant },
    /// It failed. At `until` it is probed.
    Aside { until: Instant },
    /// It may work again: one batch will tell.
    Trial,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Full { .. } => "full",
            Self::Aside { .. } => "aside",
            Self::Trial => "trial",
        }
    }
}

/// How a request ended that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The sink works, its channel does not take the batch.
    Full,
    /// It cannot be reached, does not answer, or answers nonsense.
    Dead,
}

/// What was known when a request began. What happens to a request is news only while that is still what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u64);

#[derive(Debug)]
pub(super) struct Health {
    state: State,
    epoch: u64,
    /// Requests in flight that began in this epoch.
    begun: usize,
    is_probed: bool,
    backoff: Backoff,
}

impl Health {
    pub(super) fn new(backoff_min: Duration, backoff_max: Duration) -> Self {
        let backoff = Backoff::between(backoff_min, backoff_max);
        Self { state: State::Up, epoch: 0, begun: 0, is_probed: false, backoff }
    }

    /// The state at this time.
    pub(super) fn state(&self, now: Instant) -> State {
        match self.state {
            State::Full { until } if until <= now => State::Trial,
            state => state,
        }
    }

    /// Whether it is worth waiting for.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        matches!(self.state(now), State::Up | State::Trial)
    }

    /// Whether a request may begin, as far as its health goes.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match self.state(now) {
            State::Up => true,
            State::Trial => self.begun == 0,
            State::Full { .. } | State::Aside { .. } => false,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) -> Epoch {
        let state = self.state(now);
        if state != self.state {
            self.change(state);
        }
        self.begun += 1;
        Epoch(self.epoch)
    }

    /// However a request ended, or when it was given up.
    pub(super) fn end(&mut self, epoch: Epoch) {
        if epoch.0 == self.epoch {
            self.begun = self.begun.saturating_sub(1);
        }
    }

    /// A batch was taken. True when that changes the state.
    pub(super) fn taken(&mut self) -> bool {
        self.backoff.reset();
        let is_news = self.state != State::Up;
        if is_news {
            self.change(State::Up);
        }
        is_news
    }

    /// A batch was not taken. Gives the pause when that changes the state.
    pub(super) fn troubled(&mut self, epoch: Epoch, trouble: Trouble, now: Instant) -> Option<Duration> {
        if epoch.0 != self.epoch {
            return None;
        }
        let pause = self.backoff.delay();
        let until = now + pause;
        self.change(match trouble {
            Trouble::Full => State::Full { until },
            Trouble::Dead => State::Aside { until },
        });
        Some(pause)
    }

    /// When something is due by itself: the end of a pause, or a probe.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Full { until } => Some(until),
            State::Aside { until } if !self.is_probed => Some(until),
            State::Up | State::Trial | State::Aside { .. } => None,
        }
    }

    /// Ends a pause that is over. True when there was one.
    pub(super) fn pass_time(&mut self, now: Instant) -> bool {
        let state = self.state(now);
        let is_over = state != self.state;
        if is_over {
            self.change(state);
        }
        is_over
    }

    /// A probe, when one is due. It ends with [`Health::probed`] or [`Health::unprobed`].
    pub(super) fn begin_probe(&mut self, now: Instant) -> Option<Epoch> {
        let is_due = matches!(self.state, State::Aside { until } if until <= now) && !self.is_probed;
        self.is_probed |= is_due;
        is_due.then_some(Epoch(self.epoch))
    }

    /// What a probe found. True when that changes the state.
    pub(super) fn probed(&mut self, epoch: Epoch, answered: bool, now: Instant) -> bool {
        if epoch.0 != self.epoch {
            return false;
        }
        let state = if answered { State::Trial } else { State::Aside { until: now + self.backoff.delay() } };
        self.change(state);
        answered
    }

    /// A probe was given up.
    pub(super) fn unprobed(&mut self, epoch: Epoch) {
        if epoch.0 == self.epoch {
            self.is_probed = false;
        }
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
        self.begun = 0;
        self.is_probed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LAST: Duration = Duration::from_secs(10);

    fn health() -> (Health, Instant) {
        (Health::new(FIRST, LAST), Instant::now())
    }

    #[test]
    fn a_dead_sink_is_aside_until_a_probe_is_answered_and_up_when_a_batch_is_taken() {
        let (mut health, now) = health();
        let request = health.begin(now);
        let pause = health.troubled(request, Trouble::Dead, now).unwrap();
        assert!(pause <= FIRST && !health.admits(now) && !health.is_usable(now + LAST));
        assert_eq!(health.begin_probe(now), None, "not yet");
        let due = health.due().unwrap();
        let probe = health.begin_probe(due).unwrap();
        assert_eq!((health.begin_probe(due), health.due()), (None, None), "one at a time");
        assert!(!health.probed(probe, false, due));
        let due = health.due().unwrap();
        let probe = health.begin_probe(due).unwrap();
        assert!(health.probed(probe, true, due));
        assert_eq!(health.state(due), State::Trial);

        let request = health.begin(due);
        assert!(!health.admits(due), "a single batch on trial");
        health.end(request);
        assert!(health.admits(due), "a batch that was given up leaves room for another");
        health.begin(due);
        assert!(health.taken() && !health.taken());
        assert!(health.admits(due));
    }

    #[test]
    fn pauses_grow_until_a_batch_is_taken() {
        let (mut health, mut now) = health();
        let mut fail = |health: &mut Health| {
            now += LAST;
            let request = health.begin(now);
            health.troubled(request, Trouble::Full, now).unwrap()
        };
        let pauses: Vec<_> = (0..12).map(|_| fail(&mut health)).collect();
        assert!(pauses[0] <= FIRST && pauses[11] >= LAST / 2 && pauses[11] <= LAST, "{pauses:?}");
        assert!(health.taken());
        assert!(fail(&mut health) <= FIRST);
    }

    #[test]
    fn a_full_sink_is_tried_again_after_its_pause_without_a_probe() {
        let (mut health, now) = health();
        let request = health.begin(now);
        health.troubled(request, Trouble::Full, now).unwrap();
        let due = health.due().unwrap();
        assert!(!health.is_usable(now) && health.is_usable(due) && health.begin_probe(due).is_none());
        assert!(health.pass_time(due) && !health.pass_time(due));
        assert_eq!(health.state(due), State::Trial);
    }

    #[test]
    fn requests_that_fail_together_count_once_and_old_news_changes_nothing() {
        let (mut health, now) = health();
        let requests = [health.begin(now), health.begin(now), health.begin(now)];
        assert!(health.troubled(requests[0], Trouble::Dead, now).is_some());
        let due = health.due().unwrap();
        assert!(health.troubled(requests[1], Trouble::Dead, now).is_none());
        assert_eq!(health.due(), Some(due));
        let probe = health.begin_probe(due).unwrap();
        assert!(health.probed(probe, true, due));
        assert!(health.troubled(requests[2], Trouble::Dead, due).is_none());
        health.end(requests[2]);
        assert!(health.admits(due));
        health.begin(due);
        assert!(!health.probed(probe, false, due), "a probe of earlier times");
    }

    #[test]
    fn a_batch_that_is_taken_late_is_good_news_all_the_same() {
        let (mut health, now) = health();
        let (first, _second) = (health.begin(now), health.begin(now));
        health.troubled(first, Trouble::Dead, now).unwrap();
        assert!(health.taken());
        assert_eq!(health.state(now), State::Up);
    }

    #[test]
    fn a_probe_that_is_given_up_is_due_again() {
        let (mut health, now) = health();
        let request = health.begin(now);
        health.troubled(request, Trouble::Dead, now).unwrap();
        let due = health.due().unwrap();
        let probe = health.begin_probe(due).unwrap();
        health.unprobed(probe);
        assert_eq!(health.due(), Some(due));
    }
}
