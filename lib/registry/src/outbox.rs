//! What a client has published: the registry is to have it, now or when it can be reached.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::binding::Binding;
use crate::error::RegistryError;
use crate::http_api::{ProducerRequest, PublishRequest};
use crate::publication::TOPICS_NAMED_MAX;

/// Groups that one client may publish for.
const GROUPS_MAX: usize = 1_000;

/// Names one item: a newer one of the same key replaces it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Bindings(String),
    Producer(String),
}

/// What is sent for a key.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Bindings(PublishRequest),
    Producer(ProducerRequest),
}

#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    items: BTreeMap<Key, (u64, Item)>,
    /// Why the last item of a key was refused, until there is another one.
    refused: BTreeMap<Key, (u64, RegistryError)>,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), changes: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when an item is put.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All items, each with a number that grows when it is replaced.
    pub(crate) fn items(&self) -> Vec<(Key, u64, Item)> {
        self.lock()
            .items
            .iter()
            .map(|(key, (generation, item))| (key.clone(), *generation, item.clone()))
            .collect()
    }

    /// Sets aside an item that was refused, unless it has been replaced.
    pub(crate) fn refuse(&self, key: Key, generation: u64, error: RegistryError) {
        let mut state = self.lock();
        if state.items.get(&key).is_some_and(|(current, _)| *current == generation) {
            state.items.remove(&key);
            state.refused.insert(key, (generation, error));
        }
    }

    /// Whether an item was refused, by whoever has sent it.
    pub(crate) fn check(&self, sent: &(Key, u64)) -> Result<(), RegistryError> {
        let (key, generation) = sent;
        match self.lock().refused.get(key) {
            Some((refused, error)) if refused == generation => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Replaces what `group` has in these topics; what it has in others stays.
    pub(crate) fn put_bindings(
        &self,
        group: &str,
        topics: BTreeMap<String, Vec<Binding>>,
    ) -> Result<(Key, u64), RegistryError> {
        self.put(Key::Bindings(group.to_owned()), |known| {
            let mut bindings = match known {
                Some(Item::Bindings(request)) => request.bindings,
                _ => Vec::new(),
            };
            bindings.retain(|binding| !topics.contains_key(&binding.topic));
            bindings.extend(topics.into_values().flatten());
            Item::Bindings(PublishRequest { group: group.to_owned(), bindings })
        })
    }

    /// Adds topics to those that `group` publishes to.
    pub(crate) fn put_producer(
        &self,
        group: &str,
        host: &str,
        topics: &[String],
    ) -> Result<(Key, u64), RegistryError> {
        self.put(Key::Producer(group.to_owned()), |known| {
            let mut all = match known {
                Some(Item::Producer(request)) => request.topics,
                _ => Vec::new(),
            };
            let news: Vec<_> = topics.iter().filter(|topic| !all.contains(*topic)).cloned().collect();
            all.extend(news);
            all.truncate(TOPICS_NAMED_MAX);
            Item::Producer(ProducerRequest { group: group.to_owned(), host: host.to_owned(), topics: all })
        })
    }

    fn put(&self, key: Key, make: impl FnOnce(Option<Item>) -> Item) -> Result<(Key, u64), RegistryError> {
        let mut state = self.lock();
        state.refused.remove(&key);
        if state.items.len() + state.refused.len() >= GROUPS_MAX && !state.items.contains_key(&key) {
            return Err(RegistryError::Refused {
                place: "this client".to_owned(),
                reason: format!("it publishes for {GROUPS_MAX} groups already"),
            });
        }
        state.generation += 1;
        let generation = state.generation;
        let known = state.items.remove(&key).map(|(_, item)| item);
        state.items.insert(key.clone(), (generation, make(known)));
        drop(state);
        self.changes.send_replace(generation);
        Ok((key, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_publication_replaces_the_same_topics_only() {
        let outbox = Outbox::new();
        let topics = |topic: &str, message_type| {
            BTreeMap::from([(topic.to_owned(), vec![Binding::direct("g", topic, message_type, 0, true)])])
        };
        outbox.put_bindings("g", topics("trade", "old")).unwrap();
        outbox.put_bindings("g", topics("feed", "kept")).unwrap();
        outbox.put_bindings("g", topics("trade", "new")).unwrap();
        let items = outbox.items();
        let [(key, 3, Item::Bindings(request))] = items.as_slice() else { panic!("{items:?}") };
        let mut types: Vec<_> =
            request.bindings.iter().map(|binding| binding.message_type.as_str()).collect();
        types.sort_unstable();
        assert_eq!(types, ["kept", "new"]);
        let refusal = RegistryError::Refused { place: "there".to_owned(), reason: "no".to_owned() };
        outbox.refuse(key.clone(), 2, refusal.clone());
        assert_eq!(outbox.items().len(), 1, "an older one was refused, not this one");
        let sent = (key.clone(), 3);
        assert!(outbox.check(&sent).is_ok());
        outbox.refuse(key.clone(), 3, refusal);
        assert!(outbox.items().is_empty());
        assert!(outbox.check(&sent).is_err());
        let again = outbox.put_bindings("g", topics("trade", "newer")).unwrap();
        assert!(outbox.check(&again).is_ok());
    }
}
