//! The load that a run puts on a server, and how it is dealt out to connections.

use std::sync::Arc;

use crate::clock::clock_tag;
use crate::wire::producer::ProducerPlan;
use crate::wire::template::MessageShape;

/// Bytes of a mebibyte.
pub const MIB: f64 = 1024.0 * 1024.0;
/// Memory for ready-made frames over all connections.
const BLOCKS_BYTES: usize = 128 << 20;
/// Of one connection: more leaves the caches.
const BLOCK_BYTES_MAX: usize = 384 << 10;
const BLOCK_BYTES_MIN: usize = 16 << 10;

/// What producers do.
#[derive(Debug, Clone)]
pub struct Load {
    /// Producer connections.
    pub connections: usize,
    /// Unacked publishes of each.
    pub window: usize,
    /// Length of a body.
    pub body_bytes: usize,
    /// Messages a second over all; `None`: as fast as acks come.
    pub rate: Option<f64>,
    /// Messages over all; `None`: until told to stop.
    pub count: Option<u64>,
    /// Share of transactions, 0 to 1.
    pub transactions: f64,
    /// Never stored, delivered to whoever is connected.
    pub fly: bool,
    /// Topics, in turn.
    pub topics: Vec<String>,
    /// Message types, in turn within a topic.
    pub message_types: Vec<String>,
    /// The producers' group.
    pub group: String,
    /// The group's secret.
    pub secret: String,
    /// Threads of the engine.
    pub threads: usize,
}

impl Load {
    /// Every topic with every type.
    #[must_use]
    pub fn shapes(&self, run_id: u64) -> Vec<MessageShape> {
        let shape = |topic: &String, message_type: &String| MessageShape {
            topic: topic.clone(),
            message_type: message_type.clone(),
            group: self.group.clone(),
            body_bytes: self.body_bytes,
            fly: self.fly,
            run_id,
            clock_tag: clock_tag(),
        };
        let types = &self.message_types;
        self.topics.iter().flat_map(|topic| types.iter().map(move |name| shape(topic, name))).collect()
    }

    /// Messages that the `index`-th producer publishes.
    #[must_use]
    pub fn share(&self, index: usize) -> Option<u64> {
        let connections = self.connections as u64;
        self.count.map(|count| count / connections + u64::from((index as u64) < count % connections))
    }

    /// One plan for each producer connection; the brokers at `addresses` take turns.
    #[must_use]
    pub fn producer_plans(&self, addresses: &[String], run_id: u64) -> Vec<ProducerPlan> {
        let shapes = Arc::new(self.shapes(run_id));
        let block_bytes = (BLOCKS_BYTES / self.connections.max(1)).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX);
        let plan = |(index, address): (usize, &String)| ProducerPlan {
            address: address.clone(),
            secret: self.secret.clone(),
            index,
            shapes: Arc::clone(&shapes),
            window: self.window,
            count: self.share(index),
            rate: self.rate.map(|rate| (rate, self.connections)),
            transactions: self.transactions,
            block_bytes,
        };
        addresses.iter().cycle().take(self.connections).enumerate().map(plan).collect()
    }
}

/// Whether a producer's message is a transaction, when such a `share` of them are: evenly spread.
#[must_use]
pub fn is_transaction(share: f64, sequence: u64) -> bool {
    // The little more makes up for shares that have no exact binary form.
    let so_far = |messages: u64| (messages as f64 * share + 1e-6).floor();
    so_far(sequence + 1) > so_far(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_spread_evenly() {
        let among = |share: f64, messages: u64| (0..messages).filter(|&n| is_transaction(share, n)).count();
        assert_eq!([0.0, 0.1, 0.25, 1.0].map(|share| among(share, 1000)), [0, 100, 250, 1000]);
        assert_eq!([5, 10, 15].map(|messages| among(0.2, messages)), [1, 2, 3]);
    }

    fn load() -> Load {
        Load {
            connections: 3,
            window: 10,
            body_bytes: 100,
            rate: None,
            count: Some(100),
            transactions: 0.0,
            fly: false,
            topics: vec!["a".to_owned(), "b".to_owned()],
            message_types: vec!["x".to_owned(), "y".to_owned()],
            group: "p".to_owned(),
            secret: String::new(),
            threads: 1,
        }
    }

    #[test]
    fn the_shares_add_up_to_the_count() {
        let shares: Vec<_> = (0..3).filter_map(|index| load().share(index)).collect();
        assert_eq!(shares, [34, 33, 33]);
    }

    #[test]
    fn brokers_take_turns_and_every_topic_has_every_type() {
        let plans = load().producer_plans(&["one:1".to_owned(), "two:2".to_owned()], 1);
        let addresses: Vec<_> = plans.iter().map(|plan| plan.address.as_str()).collect();
        assert_eq!(addresses, ["one:1", "two:2", "one:1"]);
        let shapes: Vec<_> =
            plans[0].shapes.iter().map(|shape| (shape.topic.as_str(), shape.message_type.as_str())).collect();
        assert_eq!(shapes, [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]);
    }
}
