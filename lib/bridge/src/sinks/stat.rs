//! What is told of each sink.

use std::collections::BTreeMap;

use serde::Serialize;

/// One sink, for `/stat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SinkStat {
    /// Its `host:port`.
    pub sink: String,
    /// The businesses that name it; none when it has gone and finishes what is in flight.
    pub businesses: Vec<String>,
    /// Whether it is on this host.
    pub local: bool,
    /// `up`: it takes batches. `full`: it answered that it cannot, and is left alone for a while. `aside`: it failed, and is
    /// probed. `trial`: it may work again; one batch will tell.
    pub state: &'static str,
    /// Batches on their way to it.
    pub in_flight: usize,
    /// Open connections, and those that are being opened.
    pub connections: usize,
    /// Batches that it has taken.
    pub batches: u64,
    /// Events of these.
    pub events: u64,
    /// Batches and probes that it did not take, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// Why it did not take the last one that it did not take, while it takes none.
    pub last_error: Option<String>,
}
