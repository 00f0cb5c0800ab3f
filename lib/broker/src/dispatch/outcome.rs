//! What becomes of deliveries, and of messages when all their groups are through with them.

use std::cmp::Reverse;
use std::time::Instant;

use bytes::Bytes;
use kiteq_store::{DeadReason, GroupState, Kill, StoreError};

use super::connections::{Ack, Answered, ConnectionId, InFlight};
use super::lane::{LaneId, Ready};
use super::routes::Member;
use super::table::{Marks, MessageRef, Phase, Ticket};
use super::{Dispatcher, GroupId, Retry};

/// A group with more than this waiting will not have a message soon, so it is noted who has it already.
const LAGGING_BACKLOG: usize = 2048;

impl Dispatcher {
    pub(super) fn on_acks(&mut self, id: ConnectionId, acks: Vec<Ack>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let group = connection.group;
        if let Some(sent_at) = acks.first().and_then(|ack| connection.sent_at(*ack)) {
            self.groups.get_mut(group).run.answered_after(sent_at.elapsed());
        }
        for ack in acks {
            let Some(connection) = self.connections.get_mut(id) else { return };
            match connection.answer(ack) {
                Answered::InTime(flight) => {
                    if ack.is_done {
                        self.around.metrics.deliveries_acked.inc();
                        self.landed(&flight);
                        self.done(flight.ticket, flight.lane);
                    } else {
                        self.around.metrics.deliveries_refused.inc();
                        self.flight_failed(flight);
                    }
                }
                Answered::Late(flight) => {
                    self.around.metrics.deliveries_answered_late.inc();
                    if ack.is_done {
                        self.done(flight.ticket, flight.lane);
                    }
                }
                Answered::Unknown => {
                    self.around.metrics.acks_unknown.inc();
                }
            }
        }
        self.open(id);
        self.unblock(group);
    }

    pub(super) fn time_out_deliveries(&mut self, now: Instant) {
        let Some(sent_before) = now.checked_sub(self.around.config.delivery_timeout) else { return };
        let mut timed_out = Vec::new();
        let mut groups = Vec::new();
        let mut opened = Vec::new();
        for (id, connection) in self.connections.iter_mut() {
            let before = timed_out.len();
            connection.time_out(sent_before, &mut timed_out);
            if timed_out.len() > before {
                groups.push(connection.group);
                opened.push(id);
            }
        }
        for flight in timed_out.into_iter().rev() {
            self.around.metrics.deliveries_timed_out.inc();
            self.flight_failed(flight);
        }
        for id in opened {
            self.open(id);
        }
        for group in groups {
            self.unblock(group);
        }
    }

    /// A delivery is not out any more.
    fn landed(&mut self, flight: &InFlight) {
        let lane = self.lanes.get_mut(flight.lane);
        lane.in_flight = lane.in_flight.saturating_sub(1);
        if let Some(entry) = self.table.find(flight.ticket) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
    }

    pub(super) fn flight_failed(&mut self, flight: InFlight) {
        self.landed(&flight);
        self.attempt_failed(flight.ticket, flight.lane, flight.attempts);
    }

    /// The member of a message's route with this lane, if the message is still owed to it.
    pub(super) fn owed_member(&self, ticket: Ticket, lane: LaneId) -> Option<Member> {
        let entry = self.table.look(ticket)?;
        let route = self.routes.get(entry.route)?;
        let position = route.position_of(lane).filter(|&position| entry.owed.contains(position))?;
        Some(route.members[position])
    }

    /// A group failed a message for the `attempts + 1`-th time.
    pub(super) fn attempt_failed(&mut self, ticket: Ticket, lane: LaneId, attempts: u16) {
        let unix_seconds = self.around.clock.unix_seconds();
        let Some(member) = self.owed_member(ticket, lane) else { return };
        let Some(entry) = self.table.look(ticket) else { return };
        let attempts = attempts.saturating_add(1);
        let is_over = attempts >= u16::from(entry.deliver_limit) || entry.is_expired(unix_seconds);
        let is_online = self.groups.get(self.lanes.get(lane).group).is_online();
        if ticket.message.slot().is_none() {
            self.transient_failed(ticket, lane);
        } else if !member.persistent && !is_online {
            self.done(ticket, lane);
        } else if is_over {
            self.give_up(ticket, lane);
        } else {
            self.retry(ticket, lane, attempts);
        }
    }

    fn retry(&mut self, ticket: Ticket, lane: LaneId, attempts: u16) {
        if let Some(entry) = self.table.find(ticket) {
            entry.marks.set(Marks::RETRIED);
        }
        if let Some(paging) = &mut self.paging {
            paging.remember_attempts(ticket.message, lane, attempts);
        }
        let ready = Ready::new(ticket, attempts);
        match self.around.config.redelivery.delay_after(u32::from(attempts)) {
            None => {
                self.lanes.get_mut(lane).ready.push_front(ready);
                self.activate(lane);
            }
            Some(delay) => {
                let due_ms = self.millis(Instant::now() + delay);
                self.retries.push(Reverse(Retry { due_ms, lane, ready }));
                self.lanes.get_mut(lane).delayed += 1;
                self.uncache(ticket.message);
                self.note(ticket.message, Some((lane, attempts)));
            }
        }
    }

    /// A group has a message, or needs it no more.
    pub(super) fn done(&mut self, ticket: Ticket, lane: LaneId) {
        let Some(entry) = self.table.find(ticket) else { return };
        let Some(route) = self.routes.get(entry.route) else { return };
        let Some(position) = route.position_of(lane) else { return };
        if !entry.owed.remove(position) {
            return;
        }
        self.lanes.get_mut(lane).owed -= 1;
        if entry.owed.is_empty() {
            self.finish(ticket.message);
            return;
        }
        entry.marks.clear(Marks::NOTED);
        let is_lagging = |position: usize| {
            let lane = self.lanes.get(route.members[position].lane);
            lane.ready.len() > LAGGING_BACKLOG || !self.groups.get(lane.group).is_online()
        };
        let is_far = entry.owed.iter().all(is_lagging);
        if entry.marks.has(Marks::RETRIED) || entry.owed.iter().any(is_lagging) {
            self.note(ticket.message, None);
        }
        if is_far && !self.bodies.is_roomy() {
            self.uncache(ticket.message);
        }
    }

    /// A group will not get a message, and that is nobody's loss: unless the message is on trial, and then it is stored.
    pub(super) fn drop_for_group(&mut self, ticket: Ticket, lane: LaneId) {
        if self.owed_member(ticket, lane).is_none() {
            return;
        }
        if ticket.message.slot().is_none() {
            self.transient_failed(ticket, lane);
        } else {
            self.done(ticket, lane);
        }
    }

    /// A group will not get a message any more: it stays behind as a dead letter that names the group.
    fn give_up(&mut self, ticket: Ticket, lane: LaneId) {
        let name = self.groups.name(self.lanes.get(lane).group).clone();
        if let Some(entry) = self.table.find(ticket) {
            entry.marks.set(Marks::HAS_DEAD_GROUPS);
            self.dead_groups.entry(ticket.message).or_default().push(name);
        }
        self.done(ticket, lane);
    }

    /// A message's time ran out before its turn came.
    pub(super) fn give_up_expired(&mut self, ticket: Ticket, lane: LaneId) {
        if ticket.message.slot().is_some() {
            self.give_up(ticket, lane);
        } else {
            self.drop_for_group(ticket, lane);
        }
    }

    /// The store cannot give a message back: nobody can get it.
    pub(super) fn give_up_unreadable(&mut self, message: MessageRef, error: &StoreError) {
        tracing::error!(%error, "a waiting message cannot be read back; it is kept aside as a dead letter");
        self.kill_whole(message, DeadReason::Unreadable);
    }

    /// Makes a dead letter of a message, for all groups that it is still owed to.
    pub(super) fn kill_whole(&mut self, message: MessageRef, reason: DeadReason) {
        let Some(slot) = message.slot() else { return };
        let mut groups = self.dead_groups.remove(&message).unwrap_or_default();
        groups.extend(self.owed_groups(message));
        self.for_store.kill.push(Kill { slot, reason, groups });
        self.forget(message);
    }

    fn owed_groups(&self, message: MessageRef) -> Vec<Bytes> {
        let Some(entry) = self.table.get(message) else { return Vec::new() };
        let Some(route) = self.routes.get(entry.route) else { return Vec::new() };
        let lanes =
            entry.owed.iter().filter_map(|position| route.members.get(position)).map(|member| member.lane);
        lanes.map(|lane| self.groups.name(self.lanes.get(lane).group).clone()).collect()
    }

    /// No group is owed the message any more.
    pub(super) fn finish(&mut self, message: MessageRef) {
        let Some(entry) = self.table.get(message) else { return };
        if entry.marks.has(Marks::LOADING) {
            // The store is reading it; it is finished when that comes back.
            return;
        }
        let Some(slot) = message.slot() else {
            self.transient_finished(message);
            return;
        };
        if entry.marks.has(Marks::HAS_DEAD_GROUPS) {
            let is_expired = entry.is_expired(self.around.clock.unix_seconds());
            let reason = if is_expired { DeadReason::Expired } else { DeadReason::DeliverLimit };
            let groups = self.dead_groups.remove(&message).unwrap_or_default();
            self.for_store.kill.push(Kill { slot, reason, groups });
        } else {
            self.for_store.settle.push(slot);
        }
        self.forget(message);
    }

    /// Removes a message from every table; the store is told by the caller.
    pub(super) fn forget(&mut self, message: MessageRef) {
        let Some(entry) = self.table.get_mut(message) else { return };
        self.bodies.remove(&mut entry.cached);
        if let Some(route) = self.routes.get_mut(entry.route) {
            route.live = route.live.saturating_sub(1);
            for position in entry.owed.iter() {
                self.lanes.get_mut(route.members[position].lane).owed -= 1;
            }
        }
        self.table.remove(message);
        if !self.recovered.is_empty() {
            self.recovered.remove(&message);
        }
        if let Some(paging) = &mut self.paging {
            paging.forget(message);
        }
    }

    /// Notes in the store how far a message is: who has it, and how often `failed` has failed it.
    pub(super) fn note(&mut self, message: MessageRef, failed: Option<(LaneId, u16)>) {
        let Some(slot) = message.slot() else { return };
        let states = self.states(message, failed);
        if !states.is_empty() {
            self.for_store.note.push((slot, states));
            if let Some(entry) = self.table.get_mut(message) {
                entry.marks.set(Marks::NOTED);
            }
        }
    }

    /// How far the groups of a message are that have it or have failed it.
    pub(super) fn states(&self, message: MessageRef, failed: Option<(LaneId, u16)>) -> Vec<GroupState> {
        let Some(entry) = self.table.get(message).filter(|entry| entry.phase == Phase::Owed) else {
            return Vec::new();
        };
        let Some(route) = self.routes.get(entry.route) else { return Vec::new() };
        let given_up: &[Bytes] = match self.dead_groups.get(&message) {
            Some(groups) if entry.marks.has(Marks::HAS_DEAD_GROUPS) => groups,
            _ => &[],
        };
        let as_given_up = |group: &Bytes| GroupState {
            group: group.clone(),
            attempts: u32::from(entry.deliver_limit).max(1),
            done: true,
        };
        let mut states: Vec<GroupState> = given_up.iter().map(as_given_up).collect();
        for (position, member) in route.members.iter().enumerate() {
            let group = self.groups.name(self.lanes.get(member.lane).group);
            if given_up.contains(group) {
                continue;
            }
            let done = !entry.owed.contains(position);
            let attempts = match (failed, &self.paging) {
                (Some((lane, attempts)), _) if lane == member.lane => u32::from(attempts),
                (_, Some(paging)) if !done => paging.attempts(message, member.lane),
                _ => 0,
            };
            if done || attempts > 0 {
                states.push(GroupState { group: group.clone(), attempts, done });
            }
        }
        states
    }

    /// Messages do not wait for a group whose binding is not persistent while none of its members is connected.
    pub(super) fn drop_non_persistent(&mut self, group: GroupId) {
        for lane in self.groups.get(group).lanes.clone() {
            if !std::mem::take(&mut self.lanes.get_mut(lane).has_impatient) {
                continue;
            }
            let waiting = std::mem::take(&mut self.lanes.get_mut(lane).ready);
            let mut kept = std::collections::VecDeque::with_capacity(waiting.len().min(1024));
            for ready in waiting {
                let ticket = ready.ticket();
                let is_persistent = self.owed_member(ticket, lane).is_some_and(|member| member.persistent);
                if is_persistent && ticket.message.slot().is_some() {
                    kept.push_back(ready);
                } else {
                    self.drop_for_group(ticket, lane);
                }
            }
            self.lanes.get_mut(lane).ready = kept;
        }
    }
}
