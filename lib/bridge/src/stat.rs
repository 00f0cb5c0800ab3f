//! What a bridge tells people about itself.

use serde::Serialize;

use crate::sinks::SinkStat;

/// A look at a running bridge, for `/stat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// The mark of this bridge in ZooKeeper, `{host}_{instance}:{pid}`.
    pub mark: String,
    /// Each queue on each server.
    pub queues: Vec<QueueStat>,
    /// Each business.
    pub businesses: Vec<BusinessStat>,
    /// Each sink.
    pub sinks: Vec<SinkStat>,
    /// Bytes of batches that are being filled or sent.
    pub pipeline_bytes: u64,
}

/// One queue on one Redis server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStat {
    /// The server, without credentials.
    pub host: String,
    /// The list's key.
    pub queue: String,
    /// What it is doing, or why it is not: `draining`, or a sentence.
    pub state: String,
    /// Elements that wait to be read, in the list and in this bridge's claims, when last seen.
    pub waiting: u64,
    /// Elements read since the start.
    pub popped: u64,
    /// Elements that a sink has.
    pub sent: u64,
    /// Elements in the dead letters since the start.
    pub dead_letters: u64,
    /// Elements parked since the start.
    pub parked: u64,
    /// Claims that are not settled.
    pub claims: u64,
    /// Elements read whose fate is open.
    pub in_flight: u64,
    /// Claims that were put back since the start: those of instances that are gone, and this bridge's own at its stop.
    pub put_back: u64,
}

/// One business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BusinessStat {
    /// Its name.
    pub name: String,
    /// Whether a sink may take its batches now.
    pub available: bool,
}

/// How a bridge stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StopReport {
    /// Claims that were settled between the stop and the end.
    pub claims_settled: u64,
    /// Claims that were put back into their queues.
    pub claims_put_back: u64,
    /// Claims that are still in Redis; this bridge's next start, or a peer, puts them back.
    pub claims_left: u64,
    /// Elements lost. Always nought unless they were popped without a claim.
    pub elements_lost: u64,
}
