//! What everybody in a run shares, whichever engine drives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;
use crate::latency::Latencies;
use crate::ledger::Ledger;

/// What all connections of a run share.
#[derive(Debug)]
pub struct Run {
    /// Names the run's messages.
    pub run_id: u64,
    /// Progress.
    pub counters: Counters,
    /// Latencies count for messages that were to be sent at or after this, ns of the monotonic clock.
    pub measure_from_ns: AtomicU64,
    /// Producers stop publishing and wait for the acks that are outstanding.
    pub stop_publishing: CancellationToken,
    /// Everybody leaves at once; what is outstanding is in doubt.
    pub leave: CancellationToken,
    /// Which message reached whom, when that is to be verified.
    pub ledger: Option<Arc<Ledger>>,
    /// Connections that are established.
    pub connected: watch::Sender<usize>,
    /// Nobody sends before this: connecting is not part of a measurement.
    pub go: CancellationToken,
    /// Producers that have published all they were to and have every ack.
    pub producers_done: watch::Sender<usize>,
}

impl Run {
    /// A run with a fresh id, or the ledger's, that measures from the start.
    #[must_use]
    pub fn new(ledger: Option<Arc<Ledger>>) -> Arc<Self> {
        Self::of(None, ledger)
    }

    /// Another run for messages of an earlier one, where `run_id` is given.
    #[must_use]
    pub fn of(run_id: Option<u64>, ledger: Option<Arc<Ledger>>) -> Arc<Self> {
        let of_ledger = || ledger.as_ref().map(|ledger| ledger.run_id());
        let run_id = run_id.or_else(of_ledger).unwrap_or_else(|| fastrand::u64(1..));
        Arc::new(Self {
            run_id,
            counters: Counters::default(),
            measure_from_ns: AtomicU64::new(0),
            stop_publishing: CancellationToken::new(),
            leave: CancellationToken::new(),
            ledger,
            connected: watch::Sender::new(0),
            go: CancellationToken::new(),
            producers_done: watch::Sender::new(0),
        })
    }

    /// Reports a connection as established and waits for the start.
    pub async fn line_up(&self) {
        self.connected.send_modify(|connected| *connected += 1);
        tokio::select! {
            () = self.go.cancelled() => {}
            () = self.leave.cancelled() => {}
        }
    }

    /// Whether a message that was to be sent then counts.
    #[must_use]
    pub fn measures(&self, sent_at_ns: u64) -> bool {
        sent_at_ns >= self.measure_from_ns.load(Relaxed)
    }
}

/// Latencies of one thread, merged at the end of a run.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// From the intended send to the ack.
    pub publish: Latencies,
    /// From the intended send to the receipt by a consumer.
    pub end_to_end: Latencies,
}

impl Measured {
    /// Adds what another thread measured.
    pub fn merge(&mut self, other: &Self) {
        self.publish.merge(&other.publish);
        self.end_to_end.merge(&other.end_to_end);
    }
}
