//! How messages, connections and bindings come in.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kiteq_protocol::{Message, MessageKind, Payload};
use kiteq_registry::Binding;
use kiteq_store::{DeadLetter, GroupState, Kill, Recovered, Slot, VerdictOutcome};

use super::connections::{ConnectionId, NewConnection};
use super::lane::Ready;
use super::routes::{RouteId, TopicId};
use super::table::{Marks, MessageRef, NOT_CACHED, Phase, Ticket, pack_expiry};
use super::{Dispatcher, Event};

/// A body that is not near the front of any lane is copied out of the read buffer that it came in, so as not to hold that.
const COPY_BACKLOG: usize = 1024;
/// A lane with fewer waiting messages than this will want a new message's body soon.
const HOT_BACKLOG: usize = 8192;

/// What the table needs to know of a message.
pub(super) struct Intake<'a> {
    pub(super) topic: &'a [u8],
    pub(super) message_type: &'a [u8],
    pub(super) kind: MessageKind,
    pub(super) expires_at: i64,
    pub(super) deliver_limit: u32,
    pub(super) committed: bool,
    /// Length of the payload; 0 when it is not known.
    pub(super) payload_bytes: usize,
}

impl<'a> Intake<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        Self {
            topic: &message.topic,
            message_type: &message.message_type,
            kind: message.kind,
            expires_at: message.expires_at,
            deliver_limit: message.deliver_limit.max(1) as u32,
            committed: message.committed,
            payload_bytes: message.payload.len(),
        }
    }
}

/// Where in its lanes a message is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneEnd {
    Front,
    Back,
}

impl Dispatcher {
    pub(super) fn on_stored(&mut self, slot: Slot, message: Message) {
        let ticket = self.enter(Some(slot), &Intake::of(&message));
        if message.committed {
            self.route(ticket, Some(message.payload));
            return;
        }
        self.expect_verdict(ticket);
        if self.bodies.is_roomy()
            && let Some(entry) = self.table.get_mut(ticket.message)
        {
            // The verdict usually follows at once.
            entry.cached = self.bodies.insert(message.payload.compacted());
        }
    }

    /// Asks a prepared message's producer if its verdict does not come in time.
    fn expect_verdict(&mut self, ticket: Ticket) {
        self.checks.push_back((Instant::now() + self.around.config.recover_period, ticket));
    }

    /// Enters a message that was held before the restart. Call it before [`Dispatcher::run`].
    pub(crate) fn on_recovered(&mut self, recovered: &Recovered<'_>) {
        let intake = Intake {
            topic: recovered.topic,
            message_type: recovered.message_type,
            kind: recovered.kind,
            expires_at: recovered.expires_at,
            deliver_limit: recovered.deliver_limit,
            committed: recovered.committed,
            payload_bytes: 0,
        };
        let ticket = self.enter(Some(recovered.slot), &intake);
        if let Some(entry) = self.table.get_mut(ticket.message)
            && recovered.committed
        {
            // A commit by verdict does not rewrite the stored header, so the mark is set to be safe; it costs one copy
            // of the header at delivery.
            entry.marks.set(Marks::COMMITTED_BY_VERDICT);
        }
        if !recovered.groups.is_empty() {
            let states = self.intern_states(recovered.groups);
            self.recovered.insert(ticket.message, states);
        }
        if recovered.committed {
            self.route(ticket, None);
        } else {
            self.expect_verdict(ticket);
        }
    }

    /// Makes an entry for a message; `slot` is `None` for one that the store does not hold.
    pub(super) fn enter(&mut self, slot: Option<Slot>, intake: &Intake<'_>) -> Ticket {
        let (route, new_topic) = self.routes.route(intake.topic, intake.message_type);
        if let Some(topic) = new_topic {
            self.follow_bindings(topic);
        }
        if let Some(route) = self.routes.get_mut(route) {
            route.live += 1;
        }
        let fill = |entry: &mut super::table::Entry| {
            entry.phase = if intake.committed { Phase::Unrouted } else { Phase::Prepared };
            entry.route = route;
            entry.kind = intake.kind;
            entry.size_kib = u16::try_from(intake.payload_bytes.div_ceil(1024)).unwrap_or(u16::MAX);
            entry.expires_at = pack_expiry(intake.expires_at);
            entry.deliver_limit = u8::try_from(intake.deliver_limit).unwrap_or(u8::MAX);
        };
        match slot {
            Some(slot) => self.table.enter(slot, fill),
            None => self.table.enter_transient(fill),
        }
    }

    /// Finds out to whom a committed message is owed, as soon as that is known, and queues it for them.
    pub(super) fn route(&mut self, ticket: Ticket, payload: Option<Payload>) {
        let noted = if self.recovered.is_empty() { None } else { self.recovered.remove(&ticket.message) };
        self.route_with(ticket, payload, noted.as_deref().unwrap_or_default(), LaneEnd::Back);
        if noted.is_some() && self.recovered.is_empty() {
            self.recovered.shrink_to_fit();
            self.last_states = None;
        }
    }

    /// As [`Dispatcher::route`], for a message whose groups are as far as `noted` says.
    pub(super) fn route_with(
        &mut self,
        ticket: Ticket,
        payload: Option<Payload>,
        noted: &[GroupState],
        end: LaneEnd,
    ) {
        let Some(entry) = self.table.get_mut(ticket.message) else { return };
        let route_id = entry.route;
        let Some(route) = self.routes.get(route_id) else { return };
        if !self.routes.is_known(route.topic) {
            entry.phase = Phase::Unrouted;
            let topic = route.topic;
            self.routes.topic_mut(topic).unrouted.push(ticket);
            if !noted.is_empty() {
                let states = self.intern_states(noted);
                self.recovered.insert(ticket.message, states);
            }
            return;
        }
        entry.phase = Phase::Owed;
        let nearness = self.owe(ticket, route_id, noted, end);
        if !noted.is_empty() {
            self.recall_failures(ticket, noted);
        }
        let Some(entry) = self.table.get_mut(ticket.message) else { return };
        if entry.owed.is_empty() {
            self.finish(ticket.message);
            return;
        }
        if let Some(payload) = payload
            && entry.cached == NOT_CACHED
            && let Some(waiting) = nearness
            && self.bodies.has_room(payload.len())
        {
            let payload = if waiting > COPY_BACKLOG { payload.compacted() } else { payload };
            entry.cached = self.bodies.insert(payload);
        }
    }

    /// Restores what is known of groups that failed a message before.
    fn recall_failures(&mut self, ticket: Ticket, noted: &[GroupState]) {
        let given_up = noted.iter().filter(|state| state.done && state.attempts > 0);
        let given_up: Vec<Bytes> = given_up.map(|state| state.group.clone()).collect();
        let Some(entry) = self.table.get_mut(ticket.message) else { return };
        if !given_up.is_empty() {
            entry.marks.set(Marks::HAS_DEAD_GROUPS);
            self.dead_groups.insert(ticket.message, given_up);
        }
        let Some(paging) = &mut self.paging else { return };
        let Some(route) = self.routes.get(entry.route) else { return };
        for position in entry.owed.iter() {
            let lane = route.members[position].lane;
            let name = self.groups.name(self.lanes.get(lane).group);
            let state = noted.iter().find(|state| state.group == *name);
            if let Some(attempts) = state.map(|state| state.attempts).filter(|&attempts| attempts > 0) {
                paging.remember_attempts(ticket.message, lane, u16::try_from(attempts).unwrap_or(u16::MAX));
            }
        }
    }

    /// Queues a message in the lanes of its groups. If one of them will want it soon, says how many are before it there.
    fn owe(
        &mut self,
        ticket: Ticket,
        route_id: RouteId,
        noted: &[GroupState],
        end: LaneEnd,
    ) -> Option<usize> {
        let mut nearness: Option<usize> = None;
        let grace = self.around.config.binding_grace;
        let member_count = self.routes.get(route_id).map_or(0, |route| route.members.len());
        for position in 0..member_count {
            let Some(member) = self.routes.get(route_id).map(|route| route.members[position]) else { break };
            let group = self.lanes.get(member.lane).group;
            let is_online = self.groups.get(group).is_online();
            let can_wait = member.persistent && ticket.message.slot().is_some();
            // A binding that is gone for a moment costs no message: it is queued, and parked until the binding is back.
            let is_gone = member.unbound_since.is_some_and(|since| !can_wait || since.elapsed() >= grace);
            if is_gone || !(is_online || can_wait) {
                continue;
            }
            let name = self.groups.name(group);
            let state = noted.iter().find(|state| state.group == *name);
            if state.is_some_and(|state| state.done) {
                continue;
            }
            let attempts = state.map_or(0, |state| state.attempts.min(u32::from(u16::MAX)) as u16);
            if let Some(entry) = self.table.get_mut(ticket.message) {
                entry.owed.insert(position);
            }
            let lane = self.lanes.get_mut(member.lane);
            let waiting = if end == LaneEnd::Back { lane.ready.len() } else { 0 };
            if is_online && waiting < HOT_BACKLOG {
                nearness = Some(nearness.map_or(waiting, |known| known.min(waiting)));
            }
            lane.has_impatient |= !can_wait;
            lane.owed += 1;
            match end {
                LaneEnd::Back => lane.ready.push_back(Ready::new(ticket, attempts)),
                LaneEnd::Front => lane.ready.push_front(Ready::new(ticket, attempts)),
            }
            if is_online && !lane.is_active {
                self.activate(member.lane);
            }
        }
        nearness
    }

    pub(super) fn on_decided(&mut self, outcome: VerdictOutcome) {
        match outcome {
            VerdictOutcome::Committed(slot) => {
                let message = MessageRef::stored(slot);
                let Some(entry) = self.table.get_mut(message).filter(|entry| entry.phase == Phase::Prepared)
                else {
                    return;
                };
                entry.marks.set(Marks::COMMITTED_BY_VERDICT);
                let ticket = Ticket { message, generation: entry.generation };
                self.around.metrics.transactions_committed.inc();
                self.route(ticket, None);
            }
            VerdictOutcome::RolledBack(slot) => {
                self.around.metrics.transactions_rolled_back.inc();
                let message = MessageRef::stored(slot);
                if self.table.get(message).is_some_and(|entry| entry.phase == Phase::Prepared) {
                    self.forget(message);
                    if self.paging.is_some() {
                        // There a slot is freed by settling it.
                        self.for_store.settle.push(slot);
                    }
                }
            }
            VerdictOutcome::Deferred => self.on_deferred(),
            VerdictOutcome::Ignored => {}
            VerdictOutcome::Failed(error) => {
                tracing::warn!(%error, "a producer's verdict could not be stored; the producer will be asked again");
            }
        }
    }

    /// A dead letter is live again: it is owed to the groups that did not get it, or to all where none is named.
    pub(super) fn on_revived(&mut self, slot: Slot, letter: &DeadLetter) {
        let payload = letter.payload.clone();
        let Ok(message) = Message::from_payload(letter.kind, payload) else {
            tracing::error!(id = %letter.id, "a dead letter that is not a message cannot be replayed");
            return;
        };
        let intake = Intake { committed: true, expires_at: 0, ..Intake::of(&message) };
        let ticket = self.enter(Some(slot), &intake);
        if !letter.groups.is_empty() && !self.is_bound_to_any(ticket, &letter.groups) {
            tracing::warn!(id = %letter.id, "a dead letter stays one: none of the groups that it names has a binding that matches it now");
            self.for_store.kill.push(Kill { slot, reason: letter.reason, groups: letter.groups.clone() });
            self.forget(ticket.message);
            return;
        }
        if let Some(entry) = self.table.get_mut(ticket.message) {
            entry.marks.set(Marks::COMMITTED_BY_VERDICT);
        }
        if !letter.groups.is_empty() {
            self.recovered.insert(ticket.message, self.done_by_others(ticket, &letter.groups).into());
        }
        self.route(ticket, Some(message.payload));
        self.note(ticket.message, None);
    }

    /// Whether one of `groups` has a binding that matches a message and makes it wait, or is connected.
    fn is_bound_to_any(&self, ticket: Ticket, groups: &[Bytes]) -> bool {
        let route = self.table.get(ticket.message).and_then(|entry| self.routes.get(entry.route));
        let members = route.map(|route| route.members.as_slice()).unwrap_or_default();
        members.iter().filter(|member| member.unbound_since.is_none()).any(|member| {
            let group = self.lanes.get(member.lane).group;
            groups.contains(self.groups.name(group))
                && (member.persistent || self.groups.get(group).is_online())
        })
    }

    /// States as they are kept until the bindings are known; those of messages of one kind are mostly equal.
    fn intern_states(&mut self, states: &[GroupState]) -> Arc<[GroupState]> {
        match &self.last_states {
            Some(last) if **last == *states => last.clone(),
            _ => self.last_states.insert(states.into()).clone(),
        }
    }

    /// Every group of a message's route but `owed`, as done with it.
    fn done_by_others(&self, ticket: Ticket, owed: &[Bytes]) -> Vec<GroupState> {
        let route = self.table.get(ticket.message).and_then(|entry| self.routes.get(entry.route));
        let members = route.map(|route| route.members.as_slice()).unwrap_or_default();
        let names = members.iter().map(|member| self.groups.name(self.lanes.get(member.lane).group));
        names
            .filter(|name| !owed.contains(name))
            .map(|name| GroupState { group: name.clone(), attempts: 0, done: true })
            .collect()
    }

    pub(super) fn on_connected(&mut self, new: NewConnection) {
        let group = self.groups.intern(&new.group);
        let id = new.id;
        self.connections.add(new, group, &self.groups.get(group).connections);
        let entry = self.groups.get_mut(group);
        entry.connections.push(id);
        entry.open.push(id);
        for lane in entry.lanes.clone() {
            self.activate(lane);
        }
        self.unblock(group);
    }

    pub(super) fn on_disconnected(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else { return };
        let group = connection.group;
        let entry = self.groups.get_mut(group);
        entry.connections.retain(|&other| other != id);
        entry.open.retain(|&other| other != id);
        // Newest first: each goes back to the front of its lane, so the oldest ends up in front.
        let flights: Vec<_> = connection.into_flights().collect();
        for flight in flights.into_iter().rev() {
            self.around.metrics.delivery_failed_by_disconnect.inc();
            self.flight_failed(flight);
        }
        if !self.groups.get(group).is_online() {
            self.drop_non_persistent(group);
        }
        self.unblock(group);
        self.groups.forget_if_idle(group);
    }

    /// Starts to follow the registry's bindings of a topic.
    pub(super) fn follow_bindings(&self, topic: TopicId) {
        let name = String::from_utf8_lossy(&self.routes.topic_ref(topic).name).into_owned();
        let mut watch = self.around.registry.watch_bindings(&name);
        let inbox = self.around.inbox.clone();
        let stop = self.around.stop.clone();
        tokio::spawn(async move {
            loop {
                if let Some(bindings) = watch.borrow_and_update().clone() {
                    inbox.push(Event::Bindings { topic, bindings });
                }
                tokio::select! {
                    changed = watch.changed() => if changed.is_err() { break },
                    () = stop.cancelled() => break,
                }
            }
        });
    }

    /// Follows the bindings of a topic before its first message comes.
    pub(crate) fn add_topic(&mut self, name: &str) {
        let (topic, is_new) = self.routes.topic(name.as_bytes());
        if is_new {
            self.follow_bindings(topic);
        }
    }

    pub(super) fn on_bindings(&mut self, topic: TopicId, bindings: &[Binding]) {
        let watermark = self.around.config.default_watermark;
        let waiting = self.routes.set_bindings(topic, bindings, &mut self.groups, &mut self.lanes, watermark);
        let name = String::from_utf8_lossy(&self.routes.topic_ref(topic).name).into_owned();
        tracing::info!(
            topic = name,
            bindings = bindings.len(),
            routed = waiting.len(),
            "bindings of a topic are known"
        );
        for ticket in waiting {
            if self.table.find(ticket).is_some_and(|entry| entry.phase == Phase::Unrouted) {
                self.route(ticket, None);
            }
        }
        let unbound = self.routes.unbound_lanes(topic);
        let give_up_at = Instant::now() + self.around.config.binding_grace;
        for lane in self.lanes.ids() {
            if self.lanes.get(lane).topic == topic {
                if unbound.contains(&lane) {
                    self.lanes.get_mut(lane).unbound_until.get_or_insert(give_up_at);
                }
                // What was parked for a binding that vanished is looked at again; what is still unbound parks again.
                let parked = std::mem::take(&mut self.lanes.get_mut(lane).parked);
                for ready in parked.into_iter().rev() {
                    self.lanes.get_mut(lane).ready.push_front(ready);
                }
                self.activate(lane);
            }
        }
        self.resolve_shelves(topic);
    }
}
