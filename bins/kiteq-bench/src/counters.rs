//! What a run has done so far: counters that everybody adds to and the progress display reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Monotonic counts over all connections.
#[derive(Debug, Default)]
pub struct Counters {
    /// Publishes handed to the network.
    pub published: AtomicU64,
    /// Publishes acked true.
    pub acked: AtomicU64,
    /// Publishes acked false.
    pub refused: AtomicU64,
    /// Publishes whose fate is not known: no ack came.
    pub in_doubt: AtomicU64,
    /// Messages that consumers received.
    pub delivered: AtomicU64,
    /// Received messages that belong to no run of this process, or whose run is not known.
    pub foreign: AtomicU64,
    /// Body bytes of acked publishes.
    pub acked_bytes: AtomicU64,
    /// Body bytes of received messages.
    pub delivered_bytes: AtomicU64,
    /// When the latest delivery came, ns of the monotonic clock.
    pub last_delivery_ns: AtomicU64,
    /// The first refusal's text, for the report.
    pub first_refusal: std::sync::OnceLock<String>,
}

/// A copy of [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// When, ns of the monotonic clock.
    pub at_ns: u64,
    /// See [`Counters::published`].
    pub published: u64,
    /// See [`Counters::acked`].
    pub acked: u64,
    /// See [`Counters::refused`].
    pub refused: u64,
    /// See [`Counters::in_doubt`].
    pub in_doubt: u64,
    /// See [`Counters::delivered`].
    pub delivered: u64,
    /// See [`Counters::foreign`].
    pub foreign: u64,
    /// See [`Counters::acked_bytes`].
    pub acked_bytes: u64,
    /// See [`Counters::delivered_bytes`].
    pub delivered_bytes: u64,
}

impl Counters {
    /// Adds to one of the counters.
    pub fn add(counter: &AtomicU64, count: u64) {
        if count > 0 {
            counter.fetch_add(count, Relaxed);
        }
    }

    /// Reads all of them.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            at_ns: crate::clock::now_ns(),
            published: self.published.load(Relaxed),
            acked: self.acked.load(Relaxed),
            refused: self.refused.load(Relaxed),
            in_doubt: self.in_doubt.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            foreign: self.foreign.load(Relaxed),
            acked_bytes: self.acked_bytes.load(Relaxed),
            delivered_bytes: self.delivered_bytes.load(Relaxed),
        }
    }
}

impl Snapshot {
    /// Whether anything was acked, refused or received since.
    #[must_use]
    pub fn has_moved_since(&self, before: &Self) -> bool {
        (self.acked, self.refused, self.delivered) != (before.acked, before.refused, before.delivered)
    }
}
