//! Residency: a store may hold more messages than fit in memory. The dispatcher knows as many as the store allows, asks for
//! the others in pages when it has room, and gives back ("shelves") what cannot be delivered soon. So a group that is away
//! or slow fills the store and not the memory, and is in nobody's way.
//!
//! A message on a shelf waits until one of the groups that it is owed to wants it ([`super::shelves`]). Pages from shelves
//! go to the front of lanes, since they are older than what came meanwhile; what is given back is taken from lanes' ends
//! ([`super::shelving`]). A lane asks for more when it has less than half of its share, and is taken from only above its
//! share, so no message goes back and forth.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kiteq_store::{Page, PageSource, Paged, Shelf, ShelfId, Slot, StoreError};

use super::intake::{Intake, LaneEnd};
use super::lane::LaneId;
use super::shelves::Shelves;
use super::table::{Marks, MessageRef};
use super::{Dispatcher, Event};

/// Messages of one page at most.
const PAGE_MAX: usize = 4096;
/// How often the store is asked for what has become due, when nothing says that something has.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A page that could not be had is asked for again after this.
const PAGE_RETRY: Duration = Duration::from_secs(1);
/// How long what the store suspects is collected before it is asked what is lost.
const SUSPECT_FOR: Duration = Duration::from_millis(200);
/// How often the list of shelves is read: other brokers' shelves come with their messages.
const SHELVES_EVERY: Duration = Duration::from_secs(60);
/// A list that could not be had is asked for again after this.
const SHELVES_RETRY: Duration = Duration::from_secs(2);

/// How many messages may be resident for what to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Levels {
    pub(super) resident_max: usize,
    /// With more, messages are given back whether or not others want their place: what is published next must find room.
    pub(super) shelve_above: usize,
    /// Pages fill up to this.
    pub(super) page_to: usize,
    /// A page is asked for with fewer.
    pub(super) page_below: usize,
    /// With so many, messages are given back when others want their place.
    pub(super) shelve_at_want: usize,
    /// Messages are given back until so many are left. The lanes divide it into shares.
    pub(super) shelve_to: usize,
}

impl Levels {
    fn of(resident_max: usize) -> Self {
        let sixteenths = |count: usize| resident_max * count / 16;
        let page_to = sixteenths(14).max(1);
        Self {
            resident_max,
            shelve_above: page_to,
            page_to,
            page_below: sixteenths(13).max(1),
            shelve_at_want: sixteenths(12),
            shelve_to: sixteenths(10),
        }
    }
}

/// What the dispatcher keeps for a store whose messages are not all resident.
#[derive(Debug)]
pub(super) struct Paging {
    pub(super) levels: Levels,
    pub(super) shelves: Shelves,
    /// Failed deliveries of messages that are retried, for the store to know when they are given back.
    attempts: HashMap<MessageRef, Vec<(LaneId, u16)>>,
    /// When delayed messages were last looked through for some to give back.
    pub(super) delayed_looked_at: Option<Instant>,
    /// Page requests so far; the last one's number.
    requests: u64,
    is_asking: bool,
    /// Whether messages are known to wait for nothing but room.
    may_wait: bool,
    look_at: Instant,
    page_retry_at: Instant,
    shelves_at: Instant,
    is_asking_shelves: bool,
    /// Shelves had the last page, so others have the next.
    shelves_had_it: bool,
    is_finding_lost: bool,
    find_lost_at: Option<Instant>,
    /// The last request failed, which has been said.
    is_failing: bool,
    pub(super) counts: Counts,
}

/// For people: what has happened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) pages: u64,
    pub(super) paged: u64,
    pub(super) shelved: u64,
    pub(super) gone: u64,
}

impl Paging {
    pub(super) fn new(resident_max: usize) -> Self {
        let now = Instant::now();
        Self {
            levels: Levels::of(resident_max),
            shelves: Shelves::default(),
            attempts: HashMap::new(),
            delayed_looked_at: None,
            requests: 0,
            is_asking: false,
            // Of an earlier run.
            may_wait: true,
            look_at: now,
            page_retry_at: now,
            shelves_at: now,
            is_asking_shelves: false,
            shelves_had_it: false,
            is_finding_lost: false,
            find_lost_at: None,
            is_failing: false,
            counts: Counts::default(),
        }
    }

    /// The number of the last page request, for [`Shelves::forget_empty`].
    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) fn remember_attempts(&mut self, message: MessageRef, lane: LaneId, attempts: u16) {
        let known = self.attempts.entry(message).or_default();
        match known.iter_mut().find(|(of, _)| *of == lane) {
            Some((_, count)) => *count = attempts,
            None => known.push((lane, attempts)),
        }
    }

    pub(super) fn attempts(&self, message: MessageRef, lane: LaneId) -> u32 {
        let known = self.attempts.get(&message).and_then(|known| known.iter().find(|(of, _)| *of == lane));
        known.map_or(0, |&(_, attempts)| u32::from(attempts))
    }

    pub(super) fn forget(&mut self, message: MessageRef) {
        if !self.attempts.is_empty() {
            self.attempts.remove(&message);
        }
    }
}

impl Dispatcher {
    /// Keeps as many messages resident as is good: once a tick.
    pub(super) fn mind_residency(&mut self, now: Instant) {
        if self.paging.is_none() || self.is_draining {
            return;
        }
        self.find_lost(now);
        self.refresh_shelves(now);
        let share = self.share();
        let wanted = self.wanted_shelves(share, now);
        let Some(paging) = &self.paging else { return };
        let waits = paging.may_wait || now >= paging.look_at;
        let levels = paging.levels;
        let live = self.table.live_stored();
        let is_wanted = paging.may_wait || !wanted.is_empty();
        if live > levels.shelve_above || (is_wanted && live >= levels.shelve_at_want) {
            self.give_back(share, now);
        }
        let live = self.table.live_stored();
        let room = levels.page_to.saturating_sub(live).min(PAGE_MAX);
        let Some(paging) = &self.paging else { return };
        if room == 0 || live >= levels.page_below || paging.is_asking || now < paging.page_retry_at {
            return;
        }
        if waits && (wanted.is_empty() || paging.shelves_had_it) {
            self.ask_for_page(room, PageSource::Waiting);
        } else if !wanted.is_empty() {
            self.ask_for_page(room.min(wanted.deficit), PageSource::Shelves(wanted.shelves));
        }
    }

    fn ask_for_page(&mut self, room: usize, from: PageSource) {
        let Some(paging) = &mut self.paging else { return };
        let Some(store) = self.around.store.paged() else { return };
        paging.is_asking = true;
        paging.requests += 1;
        paging.shelves_had_it = matches!(from, PageSource::Shelves(_));
        if from == PageSource::Waiting {
            // What is deferred from now on may be too late for this page.
            paging.may_wait = false;
        }
        let inbox = self.around.inbox.clone();
        let request = paging.requests;
        let asked = from.clone();
        store.page(room, from, Box::new(move |page| inbox.push(Event::Paged { request, from: asked, page })));
    }

    pub(super) fn on_page(&mut self, request: u64, from: &PageSource, page: Result<Page, StoreError>) {
        let now = Instant::now();
        let Some(paging) = &mut self.paging else { return };
        paging.is_asking = false;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                paging.page_retry_at = now + PAGE_RETRY;
                paging.may_wait |= *from == PageSource::Waiting;
                if !std::mem::replace(&mut paging.is_failing, true) {
                    tracing::warn!(%error, "waiting messages cannot be read from the store now; this is tried again until it succeeds");
                }
                return;
            }
        };
        if std::mem::take(&mut paging.is_failing) {
            tracing::info!("waiting messages can be read from the store again");
        }
        paging.counts.pages += 1;
        paging.counts.paged += page.messages.len() as u64;
        self.around.metrics.pages.inc();
        self.around.metrics.messages_paged.inc_by(page.messages.len() as u64);
        match from {
            PageSource::Waiting => {
                paging.may_wait |= page.has_more;
                paging.look_at = now + LOOK_EVERY;
                page.messages.into_iter().for_each(|message| self.on_paged(&message, LaneEnd::Back));
            }
            PageSource::Shelves(shelves) => {
                if !page.has_more {
                    paging.shelves.forget_empty(shelves, request);
                }
                // The oldest ends up in front.
                let messages = page.messages.into_iter().rev();
                messages.for_each(|message| self.on_paged(&message, LaneEnd::Front));
            }
        }
    }

    fn on_paged(&mut self, paged: &Paged, end: LaneEnd) {
        let intake = Intake {
            topic: &paged.topic,
            message_type: &paged.message_type,
            kind: paged.kind,
            expires_at: paged.expires_at,
            deliver_limit: paged.deliver_limit,
            committed: paged.committed,
            payload_bytes: 0,
        };
        let ticket = self.enter(Some(paged.slot), &intake);
        if paged.committed {
            if let Some(entry) = self.table.get_mut(ticket.message) {
                // Its stored header may still say that it is not.
                entry.marks.set(Marks::COMMITTED_BY_VERDICT);
            }
            self.route_with(ticket, None, &paged.groups, end);
        } else {
            let age = self.around.clock.unix_seconds().saturating_sub(paged.published_at);
            let period = self.around.config.recover_period;
            if u64::try_from(age).is_ok_and(|age| age >= period.as_secs()) {
                self.checks.push_front((Instant::now(), ticket));
            } else {
                self.checks.push_back((Instant::now() + period, ticket));
            }
        }
    }

    /// Messages wait for room: some were not resident when they were appended or decided, or were taken over.
    pub(super) fn on_deferred(&mut self) {
        if let Some(paging) = &mut self.paging {
            paging.may_wait = true;
        }
    }

    /// Messages of another broker are this one's now.
    pub(super) fn on_adopted(&mut self) {
        self.on_deferred();
        if let Some(paging) = &mut self.paging {
            paging.shelves_at = Instant::now();
        }
    }

    fn refresh_shelves(&mut self, now: Instant) {
        let Some(paging) = &mut self.paging else { return };
        let Some(store) = self.around.store.paged() else { return };
        if paging.is_asking_shelves || now < paging.shelves_at {
            return;
        }
        paging.is_asking_shelves = true;
        let inbox = self.around.inbox.clone();
        store.shelves(Box::new(move |shelves| inbox.push(Event::Shelves(shelves))));
    }

    pub(super) fn on_shelves(&mut self, shelves: Result<Vec<Shelf>, StoreError>) {
        let Some(paging) = &mut self.paging else { return };
        paging.is_asking_shelves = false;
        match shelves {
            Ok(shelves) => {
                paging.shelves_at = Instant::now() + SHELVES_EVERY;
                shelves.into_iter().for_each(|shelf| self.know_shelf(shelf));
            }
            Err(error) => {
                tracing::warn!(%error, "the shelves of the store cannot be read now; this is tried again");
                paging.shelves_at = Instant::now() + SHELVES_RETRY;
            }
        }
    }

    /// This broker may not own everything any more that it knows.
    pub(super) fn suspect_lost(&mut self) {
        if let Some(paging) = &mut self.paging {
            paging.find_lost_at.get_or_insert_with(Instant::now);
        }
    }

    fn find_lost(&mut self, now: Instant) {
        let Some(paging) = &mut self.paging else { return };
        let Some(store) = self.around.store.owned() else { return };
        if store.suspects_loss() {
            paging.find_lost_at.get_or_insert(now + SUSPECT_FOR);
        }
        if paging.is_finding_lost || paging.find_lost_at.is_none_or(|at| at > now) {
            return;
        }
        paging.find_lost_at = None;
        paging.is_finding_lost = true;
        let inbox = self.around.inbox.clone();
        store.find_lost(Box::new(move |lost| inbox.push(Event::Lost(lost))));
    }

    /// Stops to deliver what belongs to another broker now.
    pub(super) fn on_lost(&mut self, lost: Result<Vec<Slot>, StoreError>) {
        if let Some(paging) = &mut self.paging {
            paging.is_finding_lost = false;
        }
        let mut again = false;
        let mut count = 0u64;
        match lost {
            Ok(slots) => {
                for slot in slots {
                    let message = MessageRef::stored(slot);
                    match self.table.get(message) {
                        // Its slot must not be freed while it is read.
                        Some(entry) if entry.marks.has(Marks::LOADING) => again = true,
                        Some(_) => {
                            count += 1;
                            self.forget_gone(message);
                        }
                        None => {}
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the store cannot say now which messages are other brokers' by now; it is asked again");
                again = true;
            }
        }
        if count > 0 {
            tracing::warn!(
                messages = count,
                "messages of this broker are another one's by now, and it stops delivering them; if it was not cut off, another broker runs under the same name"
            );
        }
        if again && let Some(paging) = &mut self.paging {
            paging.find_lost_at = Some(Instant::now() + PAGE_RETRY);
        }
    }

    /// Forgets a message that this broker does not own any more. Settling only frees its slot.
    pub(super) fn forget_gone(&mut self, message: MessageRef) {
        let Some(slot) = message.slot() else { return };
        if let Some(paging) = &mut self.paging {
            paging.counts.gone += 1;
        }
        self.around.metrics.messages_gone.inc();
        self.dead_groups.remove(&message);
        self.forget(message);
        self.for_store.settle.push(slot);
    }

    /// Shelves that some group wants something from, and how much all of these groups want.
    fn wanted_shelves(&self, share: usize, now: Instant) -> Wanted {
        let Some(paging) = &self.paging else { return Wanted::default() };
        let grace = self.around.config.binding_grace;
        let mut wanted = Wanted::default();
        for known in paging.shelves.iter().filter(|known| self.routes.is_known(known.topic)) {
            let mut deficit = 0;
            for lane in &known.lanes {
                // A group that has no binding at all: routing lets go of it.
                let Some(lane) = lane.map(|lane| self.lanes.get(lane)) else {
                    deficit = deficit.max(share);
                    continue;
                };
                let is_online = self.groups.get(lane.group).is_online();
                let wants = match lane.unbound_since {
                    Some(since) if now.saturating_duration_since(since) >= grace => share,
                    Some(_) => 0,
                    // It does not wait for the group.
                    None if !is_online => {
                        if lane.is_persistent {
                            0
                        } else {
                            share
                        }
                    }
                    None if lane.waiting() < share.div_ceil(2) => share - lane.waiting(),
                    None => 0,
                };
                deficit = deficit.max(wants);
            }
            if deficit > 0 {
                wanted.shelves.push(known.shelf.id);
                wanted.deficit += deficit;
            }
        }
        wanted
    }

    /// How many waiting messages each lane of a connected group may have resident when the room is needed.
    fn share(&self) -> usize {
        let Some(paging) = &self.paging else { return usize::MAX };
        let is_hungry = |lane: &super::lane::Lane| {
            self.groups.get(lane.group).is_online()
                && (lane.owed > 0 || paging.shelves.has_some_for(lane.topic))
        };
        let lanes = self.lanes.iter().filter(|(_, lane)| is_hungry(lane)).count();
        (paging.levels.shelve_to / lanes.max(1)).max(1)
    }
}

#[derive(Debug, Default)]
struct Wanted {
    shelves: Vec<ShelfId>,
    /// Messages.
    deficit: usize,
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.shelves.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_leave_room_for_what_is_published_next() {
        for resident_max in [1, 2, 7, 16, 1000, 1 << 20] {
            let levels = Levels::of(resident_max);
            assert!(levels.shelve_to <= levels.shelve_at_want, "{levels:?}");
            assert!(levels.shelve_at_want <= levels.page_below, "{levels:?}");
            assert!(levels.page_below <= levels.page_to, "{levels:?}");
            assert!(levels.page_to <= resident_max, "{levels:?}");
        }
    }
}
