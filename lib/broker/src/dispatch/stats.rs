//! What the dispatcher tells about itself.

use std::sync::{Mutex, PoisonError};

use super::Dispatcher;

/// How one group stands with one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStats {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// Messages that the group has not acked, those in flight included.
    pub backlog: usize,
    /// Deliveries that are out.
    pub in_flight: usize,
    /// Failed deliveries that wait for their next attempt.
    pub delayed: usize,
    /// Connections of the group.
    pub connections: usize,
}

/// The dispatcher's figures, at most half a second old.
#[derive(Debug, Default)]
pub struct BrokerStats {
    lanes: Mutex<Vec<LaneStats>>,
}

impl BrokerStats {
    /// One row for each (topic, group) that has been bound.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneStats> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Dispatcher {
    pub(super) fn publish_stats(&mut self) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let lanes = self.lanes.iter().map(|(_, lane)| {
            let group = self.groups.get(lane.group);
            LaneStats {
                topic: text(&self.routes.topic_ref(lane.topic).name),
                group: text(self.groups.name(lane.group)),
                backlog: lane.owed,
                in_flight: lane.in_flight,
                delayed: lane.delayed,
                connections: group.connections.len(),
            }
        });
        let lanes: Vec<LaneStats> = lanes.collect();
        let unrouted: usize =
            self.routes.topic_ids().map(|topic| self.routes.topic_ref(topic).unrouted.len()).sum();
        let metrics = &self.around.metrics;
        metrics.set_lanes(&lanes);
        metrics.in_flight.set(self.connections.in_flight() as i64);
        metrics.waiting.set(self.table.live_stored() as i64);
        metrics.unrouted.set(unrouted as i64);
        metrics.cached_bytes.set(self.bodies.bytes() as i64);
        metrics.dispatch_queue.set(self.around.inbox.len() as i64);
        metrics.consumers.set(self.connections.len() as i64);
        let held = self.around.store.stats();
        metrics.store_disk_bytes.set(held.disk_bytes as i64);
        metrics.store_dead_letters.set(held.dead_letters as i64);
        *self.around.stats.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }
}
