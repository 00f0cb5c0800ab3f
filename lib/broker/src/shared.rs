//! What every session shares.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use kiteq_registry::ANY_TOPIC;
use kiteq_store::SharedStore;
use tokio::sync::Semaphore;

use crate::BrokerConfig;
use crate::clock::WallClock;
use crate::dispatch::Event;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::token_bucket::TokenBucket;

pub(crate) struct Shared {
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) store: SharedStore,
    pub(crate) inbox: Arc<Mailbox<Event>>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<WallClock>,
    pub(crate) topics: TopicGate,
    /// Bytes of publishes that may be on their way into the store.
    pub(crate) publish_budget: Arc<Semaphore>,
    pub(crate) transient_budget: Arc<TransientBudget>,
    pub(crate) receive_limit: Option<Mutex<TokenBucket>>,
    /// The address that refusals name.
    pub(crate) address: String,
    /// Publishes are refused: the broker is about to stop.
    pub(crate) is_leaving: AtomicBool,
}

impl Shared {
    /// How many of `wanted` publishes the receive limit allows now.
    pub(crate) fn take_receive_permits(&self, wanted: usize) -> usize {
        match &self.receive_limit {
            None => wanted,
            Some(limit) => limit.lock().unwrap_or_else(PoisonError::into_inner).take(wanted, Instant::now()),
        }
    }
}

/// The longest topic, message type or group that is taken, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Where every topic is served: so many at most, since each costs memory for good.
const TOPICS_MAX: usize = 10_000;

/// Which topics are served here.
pub(crate) struct TopicGate {
    any: bool,
    known: RwLock<HashSet<Bytes>>,
}

impl TopicGate {
    pub(crate) fn new(topics: &[String]) -> Self {
        let known = topics.iter().map(|topic| Bytes::copy_from_slice(topic.as_bytes())).collect();
        Self { any: topics.iter().any(|topic| topic == ANY_TOPIC), known: RwLock::new(known) }
    }

    /// Whether messages of `topic` are served.
    pub(crate) fn serves(&self, topic: &[u8]) -> bool {
        if self.known.read().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return true;
        }
        if !self.any
            || topic.is_empty()
            || topic.len() > NAME_BYTES_MAX
            || std::str::from_utf8(topic).is_err()
        {
            return false;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let has_room = known.len() < TOPICS_MAX || known.contains(topic);
        if has_room {
            known.insert(Bytes::copy_from_slice(topic));
        }
        has_room
    }
}

/// Bytes of messages that are delivered without being stored.
#[derive(Debug)]
pub(crate) struct TransientBudget {
    used: AtomicUsize,
    limit: usize,
}

impl TransientBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Takes `bytes` if there is room.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Takes `bytes` for work that has been let in already.
    pub(crate) fn take_unchecked(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
