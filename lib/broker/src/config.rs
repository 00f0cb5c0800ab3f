//! What can be set about a broker, with its defaults.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use kiteq_protocol::frame::BODY_BYTES_MAX;
use kiteq_registry::ANY_TOPIC;

/// Everything about a broker but its store and its registry. Every bound says what happens at it.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where to listen for clients. Port 0 takes a free one.
    pub bind: SocketAddr,
    /// `host:port` that clients are told; the bound address when `None`.
    pub advertise: Option<String>,
    /// Topics served; a message of another one is refused. [`kiteq_registry::ANY_TOPIC`] alone serves all.
    pub topics: Vec<String>,
    /// Secret of each group that must present one. Empty: every group is let in. Not empty: a group that is not listed
    /// is refused.
    pub secrets: HashMap<String, String>,
    /// Publishes accepted a second over all connections; more are refused. `None`: no limit.
    pub receive_permits_per_second: Option<u32>,
    /// Deliver before storing: a message that every group acks at once is never written.
    pub delivery_first: bool,
    /// How long a delivery may stay unanswered before it counts as failed.
    pub delivery_timeout: Duration,
    /// How often the producers of undecided prepared messages are asked.
    pub recover_period: Duration,
    /// Attempts that follow at once, and the waits after later ones.
    pub redelivery: RedeliverySchedule,
    /// Unanswered deliveries that one connection may hold; more wait.
    pub delivery_window: usize,
    /// Messages a second for a (topic, group) whose binding's watermark is zero or less. `None`: no limit.
    pub default_watermark: Option<u32>,
    /// Largest message body; a larger frame is answered with an error and its connection closed.
    pub body_bytes_max: usize,
    /// Largest frame that a length-prefixed client is sent. The Java client breaks its connection over a larger one, so
    /// such a delivery counts as failed instead.
    pub length_prefixed_frame_bytes_max: usize,
    /// Connections at once; further ones are closed at once.
    pub connections_max: usize,
    /// A connection that has not presented itself within this time is closed.
    pub handshake_timeout: Duration,
    /// A connection that has sent nothing for so long is closed. Clients send heartbeats.
    pub idle_timeout: Duration,
    /// Bytes of publishes that may be on their way into the store; above it sockets are not read.
    pub publish_budget_bytes: usize,
    /// Bytes of bodies of waiting messages kept in memory; beyond it they are read back from the store.
    pub body_cache_bytes: usize,
    /// Bytes queued towards one connection; above it no more is delivered to it, and its socket is not read.
    pub outbound_bytes_max: usize,
    /// How long a group whose binding vanished keeps what waits for it.
    pub binding_grace: Duration,
    /// Furthest expiry of a message; a later or absent one becomes this.
    pub message_lifetime: Duration,
    /// How long a stopping broker goes on serving after it has withdrawn from the registry, so that clients move away.
    pub leave_grace: Duration,
    /// How long a stopping broker then waits for deliveries that are in flight.
    pub drain_timeout: Duration,
    /// How long a broker that shares the store must have been gone from the registry before its messages are taken over.
    pub takeover_grace: Duration,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 13800)),
            advertise: None,
            topics: vec![ANY_TOPIC.to_owned()],
            secrets: HashMap::new(),
            receive_permits_per_second: None,
            delivery_first: false,
            delivery_timeout: Duration::from_secs(5),
            recover_period: Duration::from_secs(10),
            redelivery: RedeliverySchedule::default(),
            delivery_window: 512,
            default_watermark: None,
            body_bytes_max: BODY_BYTES_MAX,
            length_prefixed_frame_bytes_max: 32 << 10,
            connections_max: 10_000,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(120),
            publish_budget_bytes: 64 << 20,
            body_cache_bytes: 128 << 20,
            outbound_bytes_max: 8 << 20,
            binding_grace: Duration::from_secs(300),
            message_lifetime: Duration::from_secs(7 * 24 * 3600),
            leave_grace: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
            takeover_grace: Duration::from_secs(15),
        }
    }
}

/// When a failed delivery is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedeliverySchedule {
    /// So many attempts follow each other at once.
    pub immediate_attempts: u32,
    /// After an attempt count below the first element, wait the second. In ascending order.
    pub steps: Vec<(u32, Duration)>,
    /// The wait from the last step on.
    pub beyond: Duration,
}

impl Default for RedeliverySchedule {
    fn default() -> Self {
        let step = |attempts, seconds| (attempts, Duration::from_secs(seconds));
        Self {
            immediate_attempts: 3,
            steps: vec![step(10, 5), step(20, 10), step(30, 20), step(40, 40), step(50, 80)],
            beyond: Duration::from_secs(160),
        }
    }
}

impl RedeliverySchedule {
    /// How long to wait after the `attempts`-th failure; `None` means not at all.
    #[must_use]
    pub fn delay_after(&self, attempts: u32) -> Option<Duration> {
        if attempts < self.immediate_attempts {
            return None;
        }
        let step = self.steps.iter().find(|(below, _)| attempts < *below);
        Some(step.map_or(self.beyond, |&(_, delay)| delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_schedule_is_the_documented_one() {
        let schedule = RedeliverySchedule::default();
        let seconds = |attempts| schedule.delay_after(attempts).map(|delay| delay.as_secs());
        assert_eq!([1, 2].map(seconds), [None, None]);
        assert_eq!(
            [3, 9, 10, 19, 20, 29, 30, 39, 40, 49, 50, 99].map(seconds),
            [5, 5, 10, 10, 20, 20, 40, 40, 80, 80, 160, 160].map(Some)
        );
    }
}
