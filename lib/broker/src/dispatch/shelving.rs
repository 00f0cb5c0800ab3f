//! Giving messages back to a paged store that cannot be delivered soon, so that others find room.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiteq_store::{Shelf, ShelfPlace, Shelving};

use super::Dispatcher;
use super::group_set::GroupSet;
use super::lane::LaneId;
use super::routes::RouteId;
use super::table::{Marks, MessageRef, Phase, Ticket};

/// Messages given back in one tick.
const BATCH: usize = 4096;
/// Tickets looked at in one tick.
const LOOKS: usize = 32_768;
/// A retry that is due sooner is not worth a place in the store.
const SOON: Duration = Duration::from_secs(2);
/// How often all delayed messages are looked through.
const DELAYED_EVERY: Duration = Duration::from_secs(1);
/// What waits for something that nobody tells the store of comes back after this, in seconds.
const LOOK_AGAIN: i64 = 30;

/// Why a message cannot be delivered soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cold {
    /// Its groups are away, or have enough before it.
    Waits,
    /// A group is there, but its binding is not.
    Unbound,
}

/// What is given back in one tick.
#[derive(Debug)]
struct Round {
    share: usize,
    unix_seconds: i64,
    /// Messages that are to go.
    wanted: usize,
    looks: usize,
    /// Messages of one kind mostly come in runs.
    shelves: HashMap<(RouteId, GroupSet), Option<Arc<Shelf>>>,
}

impl Dispatcher {
    /// Gives back messages that cannot be delivered soon, those that wait longest in the deepest lanes first.
    pub(super) fn give_back(&mut self, share: usize, now: Instant) {
        let Some(paging) = &self.paging else { return };
        let wanted = self.table.live_stored().saturating_sub(paging.levels.shelve_to).min(BATCH);
        let mut round = Round {
            share,
            unix_seconds: self.around.clock.unix_seconds(),
            wanted,
            looks: LOOKS,
            shelves: HashMap::new(),
        };
        self.give_back_lanes(&mut round);
        if round.wanted > 0 {
            self.give_back_prepared(&mut round, now);
        }
        if round.wanted > 0 {
            self.give_back_delayed(&mut round, now);
        }
        if round.wanted > 0 {
            self.give_back_unrouted(&mut round);
        }
    }

    fn give_back_lanes(&mut self, round: &mut Round) {
        let mut deep: Vec<(usize, LaneId)> = Vec::new();
        for (id, lane) in self.lanes.iter() {
            let kept = self.kept(lane.group, round.share);
            let waiting = lane.waiting();
            if waiting > kept || !lane.parked.is_empty() {
                deep.push((waiting, id));
            }
        }
        deep.sort_unstable_by_key(|&(waiting, _)| Reverse(waiting));
        for (_, lane) in deep {
            if round.wanted == 0 || round.looks == 0 {
                return;
            }
            self.give_back_lane(lane, round);
        }
    }

    /// How many messages at the front of a lane stay.
    fn kept(&self, group: super::GroupId, share: usize) -> usize {
        if self.groups.get(group).is_online() { share } else { 0 }
    }

    /// Looks through a lane from its end; where the last round stopped this one goes on.
    fn give_back_lane(&mut self, id: LaneId, round: &mut Round) {
        self.drop_stale_end(id);
        let lane = self.lanes.get(id);
        let kept = self.kept(lane.group, round.share);
        let mut index = lane.ready.len().saturating_sub(lane.looked_through);
        while index > kept && round.wanted > 0 && round.looks > 0 {
            index -= 1;
            round.looks -= 1;
            let ticket = self.lanes.get(id).ready[index].ticket();
            self.give_back_if_cold(ticket, round);
        }
        let lane = self.lanes.get_mut(id);
        lane.looked_through = if index > kept { lane.ready.len() - index } else { 0 };
        let mut parked = lane.parked.len();
        while parked > 0 && round.wanted > 0 && round.looks > 0 {
            parked -= 1;
            round.looks -= 1;
            let ticket = self.lanes.get(id).parked[parked].ticket();
            self.give_back_if_cold(ticket, round);
        }
        if parked == 0 {
            let mut parked = std::mem::take(&mut self.lanes.get_mut(id).parked);
            parked.retain(|ready| self.table.look(ready.ticket()).is_some());
            self.lanes.get_mut(id).parked = parked;
        }
    }

    fn drop_stale_end(&mut self, id: LaneId) {
        while let Some(ready) = self.lanes.get(id).ready.back().copied()
            && self.owed_member(ready.ticket(), id).is_none()
        {
            self.lanes.get_mut(id).ready.pop_back();
        }
    }

    fn give_back_if_cold(&mut self, ticket: Ticket, round: &mut Round) {
        let Some(cold) = self.coldness(ticket, round.share, &[]) else { return };
        let place = match cold {
            Cold::Unbound => None,
            Cold::Waits => self.shelf_of(ticket.message, round),
        };
        let place = place.map_or(ShelfPlace::Until(round.unix_seconds + LOOK_AGAIN), ShelfPlace::On);
        self.shelve(ticket.message, place, round);
    }

    /// Whether no group gets a message soon. Groups of `delayed` lanes do not.
    fn coldness(&self, ticket: Ticket, share: usize, delayed: &[LaneId]) -> Option<Cold> {
        let entry = self.table.look(ticket)?;
        if entry.phase != Phase::Owed || entry.in_flight > 0 || entry.marks.has(Marks::LOADING) {
            return None;
        }
        let route = self.routes.get(entry.route)?;
        let mut cold = Cold::Waits;
        for position in entry.owed.iter() {
            let member = route.members.get(position)?;
            let lane = self.lanes.get(member.lane);
            if !self.groups.get(lane.group).is_online() {
                continue;
            }
            if member.unbound_since.is_some() {
                cold = Cold::Unbound;
            } else if lane.waiting() <= share && !delayed.contains(&member.lane) {
                return None;
            }
        }
        Some(cold)
    }

    fn shelf_of(&mut self, message: MessageRef, round: &mut Round) -> Option<Arc<Shelf>> {
        let entry = self.table.get(message)?;
        let key = (entry.route, entry.owed.clone());
        if let Some(known) = round.shelves.get(&key) {
            return known.clone();
        }
        let route = self.routes.get(entry.route)?;
        let topic = route.topic;
        let members = entry.owed.iter().filter_map(|position| route.members.get(position));
        let lanes: Vec<LaneId> = members.map(|member| member.lane).collect();
        let shelf = self.shelf_for(topic, &lanes);
        round.shelves.insert(key, shelf.clone());
        shelf
    }

    fn shelve(&mut self, message: MessageRef, place: ShelfPlace, round: &mut Round) {
        let Some(slot) = message.slot() else { return };
        let states = match self.recovered.get(&message) {
            Some(noted) => noted.to_vec(),
            None => self.states(message, None),
        };
        self.dead_groups.remove(&message);
        self.forget(message);
        self.for_store.shelve.push(Shelving { slot, states, place });
        round.wanted -= 1;
    }

    /// Prepared messages come back when their producers are asked next.
    fn give_back_prepared(&mut self, round: &mut Round, now: Instant) {
        let mut kept = Vec::new();
        let soon = now + self.around.config.recover_period / 4;
        while round.wanted > 0
            && round.looks > 0
            && let Some((due, ticket)) = self.checks.back().copied().filter(|&(due, _)| due > soon)
        {
            self.checks.pop_back();
            round.looks -= 1;
            let Some(entry) = self.table.look(ticket).filter(|entry| entry.phase == Phase::Prepared) else {
                continue;
            };
            if entry.marks.has(Marks::LOADING) {
                kept.push((due, ticket));
                continue;
            }
            let until = round.unix_seconds + seconds_rounded_up(due.saturating_duration_since(now));
            self.shelve(ticket.message, ShelfPlace::Until(until), round);
        }
        self.checks.extend(kept.into_iter().rev());
    }

    /// Messages that a group has failed come back when it is to get them again.
    fn give_back_delayed(&mut self, round: &mut Round, now: Instant) {
        let Some(paging) = &mut self.paging else { return };
        if paging.delayed_looked_at.is_some_and(|at| now.saturating_duration_since(at) < DELAYED_EVERY) {
            return;
        }
        paging.delayed_looked_at = Some(now);
        let now_ms = self.millis(now);
        let soon_ms = self.millis(now + SOON);
        let mut delayed: HashMap<Ticket, (u64, Vec<LaneId>)> = HashMap::new();
        for Reverse(retry) in &self.retries {
            let (due_ms, lanes) =
                delayed.entry(retry.ready.ticket()).or_insert_with(|| (retry.due_ms, Vec::new()));
            *due_ms = retry.due_ms.min(*due_ms);
            lanes.push(retry.lane);
        }
        let wanted_before = round.wanted;
        for (ticket, (due_ms, lanes)) in delayed {
            if round.wanted == 0 {
                break;
            }
            if due_ms >= soon_ms && self.coldness(ticket, round.share, &lanes).is_some() {
                let wait = Duration::from_millis(due_ms - now_ms);
                let until = ShelfPlace::Until(round.unix_seconds + seconds_rounded_up(wait));
                self.shelve(ticket.message, until, round);
            }
        }
        if round.wanted < wanted_before {
            self.drop_stale_retries();
        }
    }

    fn drop_stale_retries(&mut self) {
        let mut retries = std::mem::take(&mut self.retries).into_vec();
        retries.retain(|Reverse(retry)| {
            let is_owed = self.owed_member(retry.ready.ticket(), retry.lane).is_some();
            if !is_owed {
                self.lanes.get_mut(retry.lane).delayed -= 1;
            }
            is_owed
        });
        self.retries = BinaryHeap::from(retries);
    }

    /// Messages of topics whose bindings have not been read.
    fn give_back_unrouted(&mut self, round: &mut Round) {
        for topic in self.routes.topic_ids() {
            while round.wanted > 0
                && let Some(ticket) = self.routes.topic_mut(topic).unrouted.pop()
            {
                let is_unrouted = self.table.look(ticket).is_some_and(|entry| entry.phase == Phase::Unrouted);
                if is_unrouted {
                    let until = ShelfPlace::Until(round.unix_seconds + LOOK_AGAIN);
                    self.shelve(ticket.message, until, round);
                }
            }
        }
    }
}

fn seconds_rounded_up(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}
