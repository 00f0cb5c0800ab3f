//! Slow rounds over everything that waits: expiry, and bindings that do not come back.

use std::time::Instant;

use kiteq_store::DeadReason;

use super::Dispatcher;
use super::lane::Ready;
use super::table::{Marks, Phase};

/// Entries looked at in one round at least.
const SWEEP_MIN: usize = 1 << 16;
/// A whole table is swept in so many rounds at most: a minute at the pace of housekeeping.
const SWEEP_ROUNDS: usize = 120;

impl Dispatcher {
    /// Turns messages whose time ran out into dead letters, also those whose turn never comes. Every message is looked
    /// at at least once a minute.
    pub(super) fn sweep_expired(&mut self) {
        let unix_seconds = self.around.clock.unix_seconds();
        let places = self.table.stored_places();
        let count = (places / SWEEP_ROUNDS).max(SWEEP_MIN).min(places);
        for _ in 0..count {
            self.sweep_place = (self.sweep_place + 1) % places;
            let Some((message, entry)) = self.table.stored_at(self.sweep_place) else { continue };
            if !entry.is_expired(unix_seconds) || entry.in_flight > 0 || entry.marks.has(Marks::LOADING) {
                continue;
            }
            let reason =
                if entry.phase == Phase::Prepared { DeadReason::NoVerdict } else { DeadReason::Expired };
            self.kill_whole(message, reason);
        }
    }

    /// Throws out tickets of messages that are gone. Those at the front go by themselves; behind the backlog of a group
    /// that is away they would pile up.
    pub(super) fn drop_stale_tickets(&mut self) {
        for lane in self.lanes.ids() {
            if !self.lanes.get(lane).is_mostly_stale() {
                continue;
            }
            let mut ready = std::mem::take(&mut self.lanes.get_mut(lane).ready);
            ready.retain(|ready| {
                let entry = self.table.find(ready.ticket());
                entry.is_some_and(|entry| {
                    let route = self.routes.get(entry.route);
                    let position = route.and_then(|route| route.position_of(lane));
                    position.is_some_and(|position| entry.owed.contains(position))
                })
            });
            ready.shrink_to_fit();
            self.lanes.get_mut(lane).ready = ready;
        }
    }

    /// Gives up what is parked for bindings that have been gone for longer than their grace.
    pub(super) fn drop_unbound(&mut self, now: Instant) {
        let grace = self.around.config.binding_grace;
        for lane in self.lanes.ids() {
            if self.lanes.get(lane).parked.is_empty() {
                continue;
            }
            let parked = std::mem::take(&mut self.lanes.get_mut(lane).parked);
            let is_over = |ready: &Ready, this: &mut Self| {
                let Some(entry) = this.table.find(ready.ticket()) else { return true };
                let member = this
                    .routes
                    .get(entry.route)
                    .and_then(|route| route.position_of(lane).map(|position| route.members[position]));
                member
                    .and_then(|member| member.unbound_since)
                    .is_some_and(|since| now.saturating_duration_since(since) >= grace)
            };
            let mut dropped = 0;
            for ready in parked {
                if is_over(&ready, self) {
                    dropped += 1;
                    self.done(ready.ticket(), lane);
                } else {
                    self.lanes.get_mut(lane).parked.push(ready);
                }
            }
            if dropped > 0 {
                let lane = self.lanes.get(lane);
                tracing::warn!(
                    group = %String::from_utf8_lossy(self.groups.name(lane.group)),
                    topic = %String::from_utf8_lossy(&self.routes.topic_ref(lane.topic).name),
                    dropped,
                    grace_seconds = grace.as_secs(),
                    "a group's binding vanished and did not come back: what waited for it is dropped for that group"
                );
            }
        }
    }

    /// Notes how far every partly delivered message is, before the broker stops.
    pub(super) fn note_everything(&mut self) {
        for place in 0..self.table.stored_places() {
            let Some((message, entry)) = self.table.stored_at(place) else { continue };
            let members = self.routes.get(entry.route).map_or(0, |route| route.members.len());
            if entry.phase == Phase::Owed && entry.owed.iter().count() < members {
                self.note(message, None);
            }
        }
    }
}
