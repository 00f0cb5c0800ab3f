//! What is known of each watched topic.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Topics that one registry follows at a time, for bindings and for brokers each. At the bound, topics that nobody
/// watches any more make room; when there are none, a further watch stays `None` and a line is logged.
pub const TOPICS_WATCHED_MAX: usize = 10_000;

type Value<T> = Option<Arc<[T]>>;

/// The watched topics, each with its last known value.
#[derive(Debug)]
pub(crate) struct TopicTable<T> {
    state: Mutex<State<T>>,
    /// Counts added topics, so that whoever reads the registry learns what else to read.
    additions: watch::Sender<u64>,
}

#[derive(Debug)]
struct State<T> {
    topics: HashMap<String, watch::Sender<Value<T>>>,
    /// What watchers beyond the bound hold: it never changes while the table is open. `None` once it is closed.
    overflow: Option<watch::Sender<Value<T>>>,
}

impl<T: PartialEq> TopicTable<T> {
    pub(crate) fn new() -> Self {
        let state = State { topics: HashMap::new(), overflow: Some(watch::Sender::new(None)) };
        Self { state: Mutex::new(state), additions: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows `topic`; `initial` gives what is known of it when nobody has watched it before.
    pub(crate) fn watch(&self, topic: &str, initial: impl FnOnce() -> Value<T>) -> watch::Receiver<Value<T>> {
        let mut state = self.lock();
        let Some(overflow) = &state.overflow else {
            return watch::Sender::new(None).subscribe();
        };
        if let Some(sender) = state.topics.get(topic) {
            return sender.subscribe();
        }
        let beyond = overflow.subscribe();
        if state.topics.len() >= TOPICS_WATCHED_MAX {
            state.topics.retain(|_, sender| sender.receiver_count() > 0);
        }
        if state.topics.len() >= TOPICS_WATCHED_MAX {
            tracing::warn!(
                topic,
                limit = TOPICS_WATCHED_MAX,
                "too many topics are watched; this one is not read"
            );
            return beyond;
        }
        let sender = watch::Sender::new(initial());
        let receiver = sender.subscribe();
        state.topics.insert(topic.to_owned(), sender);
        drop(state);
        self.additions.send_modify(|count| *count += 1);
        receiver
    }

    /// Tells the watchers of `topic`, if there are any and the value is another one.
    pub(crate) fn set(&self, topic: &str, value: Vec<T>) {
        if let Some(sender) = self.lock().topics.get(topic) {
            replace(sender, value);
        }
    }

    /// Gives every watched topic the value that `read` has for it.
    pub(crate) fn refresh(&self, mut read: impl FnMut(&str) -> Vec<T>) {
        for (topic, sender) in &self.lock().topics {
            replace(sender, read(topic));
        }
    }

    /// Whether `topic` is in the table still.
    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.lock().topics.contains_key(topic)
    }

    /// The watched topics.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().topics.keys().cloned().collect()
    }

    /// The watched topics whose value is not known.
    pub(crate) fn unread(&self) -> Vec<String> {
        let state = self.lock();
        state
            .topics
            .iter()
            .filter(|(_, sender)| sender.borrow().is_none())
            .map(|(topic, _)| topic.clone())
            .collect()
    }

    /// Changes when a topic is added to the table.
    pub(crate) fn additions(&self) -> watch::Receiver<u64> {
        self.additions.subscribe()
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.topics.clear();
        state.overflow = None;
    }
}

fn replace<T: PartialEq>(sender: &watch::Sender<Value<T>>, value: Vec<T>) {
    sender.send_if_modified(|known| {
        if known.as_deref() == Some(value.as_slice()) {
            return false;
        }
        *known = Some(value.into());
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_see_changes_and_only_changes() {
        let table = TopicTable::new();
        let mut watch = table.watch("trade", || None);
        assert_eq!(*watch.borrow_and_update(), None);
        assert_eq!(table.unread(), ["trade"]);
        table.set("trade", vec!["a"]);
        assert!(table.unread().is_empty());
        assert!(watch.has_changed().unwrap());
        assert_eq!(watch.borrow_and_update().as_deref(), Some(["a"].as_slice()));
        table.set("trade", vec!["a"]);
        table.set("other", vec!["b"]);
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn the_number_of_topics_is_bounded_and_abandoned_ones_make_room() {
        let table: TopicTable<u8> = TopicTable::new();
        let watches: Vec<_> = (0..TOPICS_WATCHED_MAX)
            .map(|number| table.watch(&number.to_string(), || Some(Arc::new([1]))))
            .collect();
        let mut beyond = table.watch("beyond", || Some(Arc::new([1])));
        assert_eq!(*beyond.borrow_and_update(), None);
        assert!(beyond.has_changed().is_ok(), "the watch stays open");
        drop(watches);
        assert!(table.watch("beyond", || Some(Arc::new([1]))).borrow().is_some());
        assert_eq!(table.names(), ["beyond"]);
    }

    #[test]
    fn closing_ends_all_watches() {
        let table: TopicTable<u8> = TopicTable::new();
        let watch = table.watch("trade", || None);
        table.close();
        assert!(watch.has_changed().is_err());
        assert!(table.watch("trade", || None).has_changed().is_err());
    }
}
