//! Slow rounds over everything that waits: expiry, and bindings that do not come back.

use std::collections::VecDeque;
use std::time::Instant;

use kiteq_store::DeadReason;

use super::Dispatcher;
use super::lane::Ready;
use super::table::{Marks, Phase};

/// Notes handed to the store at once when everything is noted.
const NOTE_BATCH: usize = 4096;
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
            ready.retain(|ready| self.owed_member(ready.ticket(), lane).is_some());
            ready.shrink_to_fit();
            self.lanes.get_mut(lane).ready = ready;
        }
    }

    /// Gives up what waits for bindings that have been gone for longer than their grace.
    pub(super) fn drop_unbound(&mut self, now: Instant) {
        let grace = self.around.config.binding_grace;
        for lane in self.lanes.ids() {
            if self.lanes.get(lane).unbound_until.is_none_or(|until| until > now) {
                continue;
            }
            let is_unbound = self.routes.unbound_lanes(self.lanes.get(lane).topic).contains(&lane);
            let entry = self.lanes.get_mut(lane);
            entry.unbound_until = is_unbound.then_some(now + grace);
            let parked = std::mem::take(&mut entry.parked);
            let ready = std::mem::take(&mut entry.ready);
            let is_over = |ready: &Ready| {
                // A ticket of a message that is gone goes too.
                let Some(member) = self.owed_member(ready.ticket(), lane) else { return true };
                member.unbound_since.is_some_and(|since| now.saturating_duration_since(since) >= grace)
            };
            let (kept_parked, dropped_parked): (Vec<Ready>, Vec<Ready>) =
                parked.into_iter().partition(|ready| !is_over(ready));
            let (kept_ready, dropped_ready): (VecDeque<Ready>, VecDeque<Ready>) =
                ready.into_iter().partition(|ready| !is_over(ready));
            let entry = self.lanes.get_mut(lane);
            entry.parked = kept_parked;
            entry.ready = kept_ready;
            let owed_before = self.lanes.get(lane).owed;
            for ready in dropped_parked.into_iter().chain(dropped_ready) {
                self.drop_for_group(ready.ticket(), lane);
            }
            let lane = self.lanes.get(lane);
            let dropped = owed_before - lane.owed;
            if dropped > 0 {
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
            let is_noted = entry.marks.has(Marks::NOTED);
            if entry.phase == Phase::Owed && !is_noted && entry.owed.iter().count() < members {
                self.note(message, None);
            }
            if self.for_store.note.len() >= NOTE_BATCH {
                self.hand_over();
            }
        }
    }
}
