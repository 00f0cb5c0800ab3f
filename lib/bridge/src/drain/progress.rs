//! How a drain is doing, for whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::stat::QueueStat;

/// Written by a drain and its watcher, read by others.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Elements in the queue.
    pub(crate) waiting: AtomicU64,
    /// Elements that are claimed and not read yet.
    pub(crate) claimed_waiting: AtomicU64,
    pub(crate) popped: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
    pub(crate) parked: AtomicU64,
    pub(crate) claims: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) settled: AtomicU64,
    pub(crate) put_back: AtomicU64,
    /// Popped without a claim, and neither sent nor kept when the drain ended or its connection broke.
    pub(crate) lost: AtomicU64,
    /// Why the queue is not being drained; nothing while it is.
    trouble: Mutex<Option<String>>,
    /// Businesses for which Redis holds parked elements, as the watcher found; taken by the drain.
    parked_for: Mutex<Vec<String>>,
}

impl Progress {
    /// Notes why the queue is not being drained. True when that is new.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) -> bool {
        let mut current = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let new = *current != trouble;
        *current = trouble;
        new
    }

    /// Notes for whom elements are parked in Redis, by whichever bridge.
    pub(crate) fn found_parked(&self, businesses: Vec<String>) {
        *self.parked_for.lock().unwrap_or_else(PoisonError::into_inner) = businesses;
    }

    /// For whom elements were parked, once.
    pub(crate) fn take_parked(&self) -> Vec<String> {
        std::mem::take(&mut *self.parked_for.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// So many elements are not in the queue any more, which is looked at now and then only.
    pub(crate) fn left_the_queue(&self, elements: u64) {
        let fewer = |waiting: u64| Some(waiting.saturating_sub(elements));
        let _ = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }

    /// Elements that nobody has read yet, as far as this bridge knows: those that another bridge has claimed are not among them.
    pub(crate) fn all_waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed) + self.claimed_waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn stat(&self, host: &str, queue: &str) -> QueueStat {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        QueueStat {
            host: host.to_owned(),
            queue: queue.to_owned(),
            state: self.trouble().unwrap_or_else(|| "draining".to_owned()),
            waiting: self.all_waiting(),
            popped: read(&self.popped),
            sent: read(&self.sent),
            dead_letters: read(&self.dead_letters),
            parked: read(&self.parked),
            claims: read(&self.claims),
            in_flight: read(&self.in_flight),
            put_back: read(&self.put_back),
        }
    }
}
