//! Ids that were settled a moment ago.

use std::time::Duration;

use hashbrown::HashSet;
use kiteq_protocol::MessageId;

/// How long and how many settled ids are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DedupeLimits {
    /// An id is remembered at least so long, and at most twice as long. Zero: not at all.
    pub(crate) window: Duration,
    /// At most so many ids are remembered; beyond it the older half is forgotten early.
    pub(crate) ids_max: usize,
}

impl Default for DedupeLimits {
    fn default() -> Self {
        Self { window: Duration::from_secs(60), ids_max: 1_000_000 }
    }
}

/// Settled ids in two generations: the young one becomes the old one when it is as old as the window or as large as
/// half the limit, and the old one is forgotten whole. So remembering costs no clock and no queue entry per id.
#[derive(Debug)]
pub(crate) struct DedupeWindow {
    limits: DedupeLimits,
    young: HashSet<MessageId>,
    old: HashSet<MessageId>,
    /// When the young generation began, on the caller's monotonic clock.
    young_since: Duration,
}

impl DedupeWindow {
    pub(crate) fn new(limits: DedupeLimits) -> Self {
        Self { limits, young: HashSet::new(), old: HashSet::new(), young_since: Duration::ZERO }
    }

    /// Turns the generations over when their time has come. Call it once before a batch.
    pub(crate) fn turn(&mut self, now: Duration) {
        while now.saturating_sub(self.young_since) >= self.limits.window {
            if self.young.is_empty() && self.old.is_empty() {
                self.young_since = now;
                return;
            }
            self.young_since = if now.saturating_sub(self.young_since) >= self.limits.window * 2 {
                self.young.clear();
                now
            } else {
                self.young_since + self.limits.window
            };
            self.swap();
        }
    }

    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.young.contains(id) || self.old.contains(id)
    }

    pub(crate) fn insert(&mut self, id: MessageId) {
        if self.limits.window.is_zero() || self.limits.ids_max < 2 {
            return;
        }
        if self.young.len() >= self.limits.ids_max / 2 {
            self.swap();
        }
        self.young.insert(id);
    }

    fn swap(&mut self) {
        // The tables keep their memory, so that steady state allocates nothing.
        std::mem::swap(&mut self.young, &mut self.old);
        self.young.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> MessageId {
        MessageId([number; 16])
    }

    #[test]
    fn an_id_is_remembered_for_the_window_and_forgotten_after_two() {
        let window = Duration::from_secs(60);
        let mut dedupe = DedupeWindow::new(DedupeLimits { window, ids_max: 100 });
        dedupe.turn(Duration::from_secs(1000));
        dedupe.turn(Duration::from_secs(1059));
        dedupe.insert(id(1));
        dedupe.turn(Duration::from_secs(1059) + window - Duration::from_secs(1));
        assert!(dedupe.contains(&id(1)));
        dedupe.turn(Duration::from_secs(1060) + window);
        assert!(!dedupe.contains(&id(1)));
    }

    #[test]
    fn a_long_silence_forgets_everything() {
        let mut dedupe = DedupeWindow::new(DedupeLimits { window: Duration::from_secs(1), ids_max: 100 });
        dedupe.turn(Duration::from_secs(5));
        dedupe.insert(id(1));
        dedupe.turn(Duration::from_secs(500_000_000));
        assert!(!dedupe.contains(&id(1)));
    }

    #[test]
    fn at_the_limit_the_older_half_goes() {
        let mut dedupe = DedupeWindow::new(DedupeLimits { window: Duration::from_secs(60), ids_max: 4 });
        for number in 0..4 {
            dedupe.insert(id(number));
        }
        assert!((0..4).all(|number| dedupe.contains(&id(number))));
        dedupe.insert(id(4));
        assert!(!dedupe.contains(&id(0)) && !dedupe.contains(&id(1)));
        assert!((2..5).all(|number| dedupe.contains(&id(number))));
    }

    #[test]
    fn a_window_of_zero_remembers_nothing() {
        let mut dedupe = DedupeWindow::new(DedupeLimits { window: Duration::ZERO, ids_max: 4 });
        dedupe.insert(id(1));
        assert!(!dedupe.contains(&id(1)));
    }
}
