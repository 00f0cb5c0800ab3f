//! A lane holds what one topic owes to one group: first in, first out, at most as fast as its watermark.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::groups::{GroupId, Groups};
use super::routes::TopicId;
use super::table::{MessageRef, Ticket};
use crate::token_bucket::TokenBucket;

/// A (topic, group) that has been bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LaneId(u32);

/// A message whose turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    message: MessageRef,
    generation: u32,
    /// Deliveries to this group that failed so far.
    pub(crate) attempts: u16,
}

impl Ready {
    pub(crate) fn new(ticket: Ticket, attempts: u16) -> Self {
        Self { message: ticket.message, generation: ticket.generation, attempts }
    }

    pub(crate) fn ticket(self) -> Ticket {
        Ticket { message: self.message, generation: self.generation }
    }
}

/// A queue with no more stale tickets than this is left alone.
const STALE_MIN: usize = 1024;

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) topic: TopicId,
    pub(crate) group: GroupId,
    pub(crate) ready: VecDeque<Ready>,
    /// Messages that the group has not acked. Tickets of other messages may still be in the queues.
    pub(crate) owed: usize,
    /// Messages of a binding that has vanished, until it is back or its grace is over.
    pub(crate) parked: Vec<Ready>,
    /// Failed deliveries that wait for their next attempt.
    pub(crate) delayed: usize,
    /// Deliveries that are out.
    pub(crate) in_flight: usize,
    /// Whether tickets may be queued of messages that do not wait for an absent group.
    pub(crate) has_impatient: bool,
    /// When to give up what waits for bindings that have vanished.
    pub(crate) unbound_until: Option<Instant>,
    /// When the group's last binding to the topic vanished.
    pub(crate) unbound_since: Option<Instant>,
    /// Whether one of the group's bindings to the topic is persistent.
    pub(crate) is_persistent: bool,
    /// Tickets at the end that were looked at in vain for some to give back to the store.
    pub(crate) looked_through: usize,
    /// Whether it stands in its group's list of lanes to serve.
    pub(crate) is_active: bool,
    /// Whether bodies are being read back for it.
    pub(crate) is_loading: bool,
    watermark: Option<TokenBucket>,
    /// No permit before this.
    pub(crate) throttled_until: Option<Instant>,
}

impl Lane {
    /// Sets messages a second; `None` for no limit.
    pub(crate) fn set_watermark(&mut self, per_second: Option<u32>, now: Instant) {
        if self.watermark.as_ref().map(TokenBucket::per_second) != per_second {
            self.watermark = per_second.map(|per_second| TokenBucket::for_watermark(per_second, now));
            self.throttled_until = None;
        }
    }

    /// How many of `wanted` deliveries the watermark allows now.
    pub(crate) fn take_permits(&mut self, wanted: usize, now: Instant) -> usize {
        let Some(bucket) = &mut self.watermark else { return wanted };
        let taken = bucket.take(wanted, now);
        self.throttled_until = (taken == 0).then(|| now + bucket.next_permit_in());
        taken
    }

    pub(crate) fn give_back_permits(&mut self, unused: usize) {
        if let Some(bucket) = &mut self.watermark {
            bucket.give_back(unused);
        }
    }

    /// Messages that wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        self.owed.saturating_sub(self.in_flight + self.delayed)
    }

    /// Whether most of the queue are tickets of messages that are gone.
    pub(crate) fn is_mostly_stale(&self) -> bool {
        self.ready.len() > 2 * self.owed + STALE_MIN
    }
}

/// All lanes. They are as many as distinct (topic, group) pairs were ever bound, so none is removed.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    by_key: HashMap<(TopicId, GroupId), LaneId>,
}

impl Lanes {
    pub(crate) fn intern(&mut self, topic: TopicId, group: GroupId, groups: &mut Groups) -> LaneId {
        *self.by_key.entry((topic, group)).or_insert_with(|| {
            let id = LaneId(self.lanes.len() as u32);
            self.lanes.push(Lane {
                topic,
                group,
                ready: VecDeque::new(),
                owed: 0,
                parked: Vec::new(),
                delayed: 0,
                in_flight: 0,
                has_impatient: false,
                unbound_until: None,
                unbound_since: None,
                is_persistent: false,
                looked_through: 0,
                is_active: false,
                is_loading: false,
                watermark: None,
                throttled_until: None,
            });
            groups.get_mut(group).lanes.push(id);
            id
        })
    }

    pub(crate) fn find(&self, topic: TopicId, group: GroupId) -> Option<LaneId> {
        self.by_key.get(&(topic, group)).copied()
    }

    pub(crate) fn get(&self, lane: LaneId) -> &Lane {
        &self.lanes[lane.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.lanes[lane.0 as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        (0..).map(LaneId).zip(&self.lanes)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lanes.len() as u32).map(LaneId)
    }
}
