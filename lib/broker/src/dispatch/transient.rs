//! Messages that the store does not hold: fly messages, and trials of the delivery-first mode.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiteq_protocol::{Dialect, Message, Payload};
use kiteq_store::AppendOutcome;

use super::intake::Intake;
use super::lane::LaneId;
use super::table::{MessageRef, Ticket};
use super::{Dispatcher, Event};
use crate::session::outbound::Outbound;
use crate::session::publish::put_outcome;

/// A message that is not acked by all its groups within this time is stored; well below the 3 s after which a client
/// sends it again.
const TRIAL_MAX: Duration = Duration::from_secs(1);

/// A publish in delivery-first mode: its ack waits for the groups, or for the store.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) message: Message,
    pub(crate) opaque: u32,
    pub(crate) dialect: Dialect,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) received: Instant,
}

impl Trial {
    fn answer(&self, outcome: &AppendOutcome) {
        let mut ack = bytes::BytesMut::new();
        let feedback = crate::session::publish::stored_feedback(self.received);
        put_outcome(&mut ack, self.dialect, self.opaque, self.message.id, outcome, &feedback);
        self.outbound.push_frames(&mut ack);
    }
}

impl Dispatcher {
    pub(super) fn on_fly(&mut self, message: Message) {
        let ticket = self.enter(None, &Intake::of(&message));
        self.keep_body(ticket, message.payload);
        let route = self.table.get(ticket.message).and_then(|entry| self.routes.get(entry.route));
        if route.is_some_and(|route| self.routes.is_known(route.topic)) {
            self.route(ticket, None);
        } else {
            // Nobody is known to want it, and it waits for nobody.
            self.transient_finished(ticket.message);
        }
    }

    /// What the store does not hold has its body in the cache for as long as it lives.
    fn keep_body(&mut self, ticket: Ticket, payload: Payload) {
        if let Some(entry) = self.table.get_mut(ticket.message) {
            entry.cached = self.bodies.insert(payload);
        }
    }

    /// Delivers a message before it is stored, if every group that it is owed to is there to take it.
    pub(super) fn on_trial(&mut self, trial: Trial) {
        if self.tried.contains(&trial.message.id) {
            self.around.metrics.publishes_duplicate.inc();
            self.around.transient_budget.give_back(trial.message.payload.len());
            trial.answer(&AppendOutcome::Duplicate);
            return;
        }
        let ticket = self.enter(None, &Intake::of(&trial.message));
        let route = self.table.get(ticket.message).and_then(|entry| self.routes.get(entry.route));
        let is_worth_it = route.is_some_and(|route| {
            let mut bound = route.members.iter().filter(|member| member.unbound_since.is_none()).peekable();
            bound.peek().is_some()
                && bound.all(|member| self.groups.get(self.lanes.get(member.lane).group).is_online())
        });
        self.keep_body(ticket, trial.message.payload.clone());
        self.trials.insert(ticket.message, trial);
        if is_worth_it {
            self.route(ticket, None);
        } else {
            self.store_trial(ticket.message);
        }
    }

    /// A group failed a message that the store does not hold.
    pub(super) fn transient_failed(&mut self, ticket: Ticket, lane: LaneId) {
        if self.trials.contains_key(&ticket.message) {
            self.store_trial(ticket.message);
        } else {
            self.done(ticket, lane);
        }
    }

    /// All groups have a message that the store does not hold.
    pub(super) fn transient_finished(&mut self, message: MessageRef) {
        if let Some(trial) = self.trials.remove(&message) {
            self.around.metrics.publishes_delivered_first.inc();
            self.tried.insert(trial.message.id, Instant::now());
            trial.answer(&AppendOutcome::Stored(kiteq_store::Slot(0)));
        }
        self.forget_transient(message);
    }

    pub(super) fn time_out_trials(&mut self, now: Instant) {
        let is_over = |trial: &Trial| now.saturating_duration_since(trial.received) >= TRIAL_MAX;
        let over: Vec<MessageRef> =
            self.trials.iter().filter(|(_, trial)| is_over(trial)).map(|(&message, _)| message).collect();
        for message in over {
            self.store_trial(message);
        }
    }

    /// Ends a trial: the message goes the ordinary way, but for the groups that have it already.
    fn store_trial(&mut self, message: MessageRef) {
        let Some(trial) = self.trials.remove(&message) else { return };
        let done: Vec<Bytes> = {
            let entry = self.table.get(message);
            let route = entry.and_then(|entry| self.routes.get(entry.route).map(|route| (entry, route)));
            // Before it was routed, nobody was owed it and nobody has it.
            route.filter(|(entry, _)| entry.phase == super::table::Phase::Owed).map_or_else(
                Vec::new,
                |(entry, route)| {
                    let has_it = |position: &usize| !entry.owed.contains(*position);
                    let lanes =
                        (0..route.members.len()).filter(has_it).map(|position| route.members[position].lane);
                    lanes.map(|lane| self.groups.name(self.lanes.get(lane).group).clone()).collect()
                },
            )
        };
        self.forget_transient(message);
        let inbox = self.around.inbox.clone();
        let budget = self.around.transient_budget.clone();
        let messages = vec![trial.message.clone()];
        budget.take_unchecked(trial.message.payload.len());
        self.around.store.append(
            messages,
            Box::new(move |outcomes| {
                for (message, outcome) in outcomes {
                    trial.answer(&outcome);
                    budget.give_back(message.payload.len());
                    match outcome {
                        AppendOutcome::Stored(slot) => inbox.push(Event::StoredAfterTrial {
                            slot,
                            message: Box::new(message),
                            done: done.clone(),
                        }),
                        AppendOutcome::Deferred => inbox.push(Event::Deferred),
                        AppendOutcome::Duplicate | AppendOutcome::Refused(_) => {}
                    }
                }
            }),
        );
    }

    pub(super) fn on_stored_after_trial(
        &mut self,
        slot: kiteq_store::Slot,
        message: Message,
        done: &[Bytes],
    ) {
        let ticket = self.enter(Some(slot), &Intake::of(&message));
        if !done.is_empty() {
            let states = done.iter().map(|group| kiteq_store::GroupState {
                group: group.clone(),
                attempts: 0,
                done: true,
            });
            self.recovered.insert(ticket.message, states.collect());
        }
        self.route(ticket, Some(message.payload));
    }

    fn forget_transient(&mut self, message: MessageRef) {
        if let Some(payload) = self.table.get(message).and_then(|entry| self.bodies.get(entry.cached)) {
            self.around.transient_budget.give_back(payload.len());
        }
        self.forget(message);
    }
}
