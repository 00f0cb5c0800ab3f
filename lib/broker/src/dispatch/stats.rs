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
    /// Messages that the group has not acked, those in flight included. Where not every message is resident, see
    /// [`Residency`], only those that are.
    pub backlog: usize,
    /// Deliveries that are out.
    pub in_flight: usize,
    /// Failed deliveries that wait for their next attempt.
    pub delayed: usize,
    /// Connections of the group.
    pub connections: usize,
}

/// How a broker stands with a store that holds more messages than it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Residency {
    /// Messages that the broker knows.
    pub resident: usize,
    /// How many they may be.
    pub resident_max: usize,
    /// Sets of groups for which messages wait in the store alone.
    pub shelves: usize,
    /// Pages taken from the store since the start.
    pub pages: u64,
    /// Messages in them.
    pub paged: u64,
    /// Messages given back to the store since the start.
    pub shelved: u64,
    /// Messages that turned out to be another broker's since the start.
    pub gone: u64,
}

/// The dispatcher's figures, at most half a second old.
#[derive(Debug, Default)]
pub struct BrokerStats {
    lanes: Mutex<Vec<LaneStats>>,
    residency: Mutex<Option<Residency>>,
}

impl BrokerStats {
    /// One row for each (topic, group) that has been bound.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneStats> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is resident of a store that pages; `None` for one whose messages are all known.
    #[must_use]
    pub fn residency(&self) -> Option<Residency> {
        *self.residency.lock().unwrap_or_else(PoisonError::into_inner)
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
        let held = self.around.store.stats();
        let resident = self.table.live_stored();
        let waiting = if self.paging.is_some() { resident.max(held.messages as usize) } else { resident };
        metrics.waiting.set(waiting as i64);
        metrics.resident.set(resident as i64);
        metrics.unrouted.set(unrouted as i64);
        metrics.cached_bytes.set(self.bodies.bytes() as i64);
        metrics.dispatch_queue.set(self.around.inbox.len() as i64);
        metrics.consumers.set(self.connections.len() as i64);
        metrics.store_disk_bytes.set(held.disk_bytes as i64);
        metrics.store_dead_letters.set(held.dead_letters as i64);
        if let Some(paging) = &self.paging {
            metrics.shelves.set(paging.shelves.len() as i64);
            let residency = Residency {
                resident,
                resident_max: paging.levels.resident_max,
                shelves: paging.shelves.len(),
                pages: paging.counts.pages,
                paged: paging.counts.paged,
                shelved: paging.counts.shelved,
                gone: paging.counts.gone,
            };
            *self.around.stats.residency.lock().unwrap_or_else(PoisonError::into_inner) = Some(residency);
        }
        *self.around.stats.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }
}
