//! Ids of messages that were delivered without ever being stored, so that the store cannot know them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use kiteq_protocol::MessageId;

/// An id is remembered for this time at least, and for twice this at most, unless there are too many.
const WINDOW: Duration = Duration::from_secs(60);
/// Ids in one generation; beyond it the older half is forgotten early.
const GENERATION_MAX: usize = 500_000;

/// Two generations: the young one becomes the old one, and the old one is forgotten whole.
#[derive(Debug, Default)]
pub(crate) struct RecentIds {
    young: HashSet<MessageId>,
    old: HashSet<MessageId>,
    young_since: Option<Instant>,
}

impl RecentIds {
    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.young.contains(id) || self.old.contains(id)
    }

    pub(crate) fn insert(&mut self, id: MessageId, now: Instant) {
        let since = *self.young_since.get_or_insert(now);
        if self.young.len() >= GENERATION_MAX || now.saturating_duration_since(since) >= WINDOW {
            self.old = std::mem::take(&mut self.young);
            self.young_since = Some(now);
        }
        self.young.insert(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_forgotten_after_two_windows() {
        let mut ids = RecentIds::default();
        let start = Instant::now();
        let id = |number: u8| MessageId([number; 16]);
        ids.insert(id(1), start);
        ids.insert(id(2), start + WINDOW);
        assert!(ids.contains(&id(1)) && ids.contains(&id(2)));
        ids.insert(id(3), start + 2 * WINDOW);
        assert!(!ids.contains(&id(1)) && ids.contains(&id(2)));
    }
}
