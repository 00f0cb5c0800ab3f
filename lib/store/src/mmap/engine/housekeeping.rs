//! What the log needs between batches: the next segment, the oldest one's end, syncs.

use std::time::Duration;

use super::{Engine, Held, Purpose, Relocation};
use crate::held::DeadReason;
use crate::mailbox::lock;
use crate::mmap::codec::{MOVED_EXTRA_LEN_MAX, MovedState, RawRecord, RecordWriter, encode_group_names};
use crate::mmap::compaction::{self, CollectJob, Collected, Survivor};
use crate::mmap::index::{Aside, LOST, Segment};
use crate::mmap::options::SyncMode;
use crate::mmap::tasks::{Outcome, Retiring, SPARES_MAX, Task};

/// How often the log is looked at for something to copy or to free.
const CHECK_PERIOD: Duration = Duration::from_millis(50);

/// What is under way.
#[derive(Default)]
pub(super) struct Housekeeping {
    /// When to look whether messages should be copied out of the oldest segment.
    pub(super) check_at: Option<Duration>,
    copying: Option<Copying>,
    retiring: bool,
    syncing: bool,
    synced_at: Duration,
}

/// Messages of one segment are being copied.
struct Copying {
    segment: u32,
    /// This pass over the segment found something.
    found: bool,
    /// This pass left something behind that may be possible later.
    skipped: bool,
    /// The pass before left something behind.
    skipped_before: bool,
}

impl Housekeeping {
    pub(super) fn check_soon(&mut self, now: Duration) {
        if self.check_at.is_none() {
            self.check_at = Some(now + CHECK_PERIOD);
        }
    }
}

impl Engine {
    pub(super) fn outcome(&mut self, held: &mut Held<'_>, outcome: Outcome) {
        match outcome {
            // Fetched from the helper where it is needed.
            Outcome::Prepared(_) => {}
            Outcome::Retired(result) => {
                self.housekeeping.retiring = false;
                match result {
                    Ok(spares) => self.log.add_spares(spares),
                    Err(error) => {
                        // A later segment must not go before an older one.
                        self.housekeeping.retiring = true;
                        let _ = self.log.believe(Err(error), "removing of the oldest segments");
                    }
                }
                self.housekeeping.check_soon(self.now.monotonic);
            }
            Outcome::Synced { lsn, result } => {
                self.housekeeping.syncing = false;
                self.housekeeping.synced_at = self.now.monotonic;
                self.log.note_synced(lsn, result);
            }
            Outcome::Collected(collected) => self.collected(held, &collected),
        }
    }

    /// Starts what has to be done next. Called between batches.
    pub(super) fn housekeep(&mut self) {
        if self.closed || self.log.failure().is_some() {
            return;
        }
        self.log.prepare_next(&mut *self.helper);
        self.retire_oldest();
        self.start_sync();
        if self.housekeeping.check_at.is_some_and(|at| at <= self.now.monotonic) {
            self.housekeeping.check_at = None;
            self.start_copying();
        }
    }

    fn retire_oldest(&mut self) {
        if self.housekeeping.retiring {
            return;
        }
        let mut segments = Vec::new();
        let mut index = lock(&self.shared.index);
        index.segments.idle_bytes = self.log.idle_bytes();
        while let Some(oldest) = index.segments.oldest()
            && oldest.live_count == 0
            && Some(oldest.number) != self.log.active_number()
            && oldest.moved_lsn <= self.log.synced_lsn()
        {
            let Some(Segment { number, file, .. }) = index.segments.pop_oldest() else { break };
            self.housekeeping.copying.take_if(|copying| copying.segment == number);
            self.log.forget(&file);
            let keep = self.log.spare_count() + segments.len() < SPARES_MAX;
            let keep_len = keep.then_some(self.shared.options.segment_bytes);
            segments.push(Retiring { number, file, keep_len });
        }
        drop(index);
        if !segments.is_empty() {
            self.housekeeping.retiring = true;
            self.helper.start(Task::Retire { segments });
        }
    }

    /// When the next sync that nobody waits for is due.
    pub(super) fn sync_due_at(&self) -> Option<Duration> {
        match self.shared.options.sync {
            SyncMode::Interval(interval) if self.log.has_unsynced() && !self.housekeeping.syncing => {
                Some(self.housekeeping.synced_at + interval)
            }
            _ => None,
        }
    }

    fn start_sync(&mut self) {
        if self.housekeeping.syncing {
            return;
        }
        let due = self.sync_due_at().is_some_and(|at| at <= self.now.monotonic);
        // Copies must be durable before what they were copied from may go.
        let needed = || {
            let index = lock(&self.shared.index);
            index
                .segments
                .oldest()
                .is_some_and(|oldest| oldest.live_count == 0 && oldest.moved_lsn > self.log.synced_lsn())
        };
        if due || needed() {
            self.housekeeping.syncing = true;
            let task = self.log.sync_task();
            self.helper.start(task);
        }
    }

    fn start_copying(&mut self) {
        if self.housekeeping.copying.is_some() {
            return;
        }
        let index = lock(&self.shared.index);
        if !compaction::is_due(&index, self.log.disk_is_full(), self.log.free_bytes()) {
            return;
        }
        let Some(oldest) = index.segments.oldest() else { return };
        if Some(oldest.number) == self.log.active_number() {
            return;
        }
        let job = CollectJob::new(oldest, None, false);
        self.housekeeping.copying =
            Some(Copying { segment: oldest.number, found: false, skipped: false, skipped_before: false });
        drop(index);
        self.helper.start(Task::Collect(job));
    }

    /// Copies what was found, and looks for more.
    fn collected(&mut self, held: &mut Held<'_>, collected: &Collected) {
        let Some(mut copying) = self.housekeeping.copying.take() else { return };
        if copying.segment != collected.segment {
            self.housekeeping.copying = Some(copying);
            return;
        }
        copying.found |= !collected.survivors.is_empty();
        copying.skipped |= collected.skipped;
        for survivor in &collected.survivors {
            match self.copy(held, survivor) {
                Ok(true) => {}
                Ok(false) => copying.skipped = true,
                Err(()) => {
                    // There is no room; the next check sees whether there is again.
                    self.housekeeping.check_soon(self.now.monotonic);
                    return;
                }
            }
        }
        let index = held.index();
        let Some(segment) = index.segments.get(collected.segment) else { return };
        let mut without_state = copying.skipped_before;
        if collected.next.is_none() {
            let copied = self.relocations.iter().filter(|moved| moved.from.segment == segment.number).count();
            if segment.live_count as usize <= copied {
                self.housekeeping.check_soon(self.now.monotonic);
                return;
            }
            if !copying.found && !copying.skipped {
                self.give_up(held, collected.segment);
                return;
            }
            // What was skipped twice in a row is not on its way to the disk, it is damaged.
            without_state = copying.skipped;
            copying.skipped_before = copying.skipped;
            (copying.found, copying.skipped) = (false, false);
        }
        let job = CollectJob::new(segment, collected.next, without_state);
        self.housekeeping.copying = Some(copying);
        self.helper.start(Task::Collect(job));
    }

    /// Writes a copy of one message. `Ok(false)` when its state changed since it was read; an error without room.
    fn copy(&mut self, held: &mut Held<'_>, survivor: &Survivor) -> Result<bool, ()> {
        let Some(record) = RawRecord::trusted(&survivor.record) else { return Ok(true) };
        let Ok(mut message) = record.message() else { return Ok(true) };
        let state = survivor.aside.as_ref().and_then(|(_, bytes)| RawRecord::trusted(bytes.as_ref()?));
        let before = message.moved;
        let mut moved = MovedState {
            published_lsn: before.map_or(record.lsn, |moved| moved.published_lsn),
            death: None,
            died_at: 0,
            states: &[],
            states_count: state.as_ref().map_or(0, |state| state.count),
        };
        // Room without the states, and for at most so many bytes of them.
        let room = record.len + MOVED_EXTRA_LEN_MAX;
        let states_len_max = match &survivor.aside {
            Some((Aside::Unlogged(death), _)) => encode_group_names(&death.groups).len(),
            Some((_, Some(bytes))) => bytes.len(),
            _ => 0,
        };
        let wanted = (room + states_len_max).min(self.log.record_len_max());
        self.make_room(held, wanted, Purpose::Progress).map_err(drop)?;
        let index = held.index();
        let Some(entry) = index.get(survivor.slot).filter(|entry| entry.place() == survivor.place) else {
            return Ok(true);
        };
        if index.aside(survivor.slot) != survivor.aside.as_ref().map(|(aside, _)| aside) {
            return Ok(false);
        }
        message.committed = entry.is_committed();
        if entry.is_revived() {
            message.expires_at = 0;
        }
        let unlogged = match &survivor.aside {
            Some((Aside::Unlogged(death), _)) => Some((death.clone(), encode_group_names(&death.groups))),
            _ => None,
        };
        if entry.is_dead() {
            let known = match &unlogged {
                Some((death, groups)) => {
                    moved.states_count = death.groups.len() as u32;
                    Some((death.died_at, death.reason, &groups[..]))
                }
                None => state.as_ref().and_then(|state| state.death().ok()),
            };
            let (died_at, reason, groups) = known.unwrap_or((0, DeadReason::Unreadable, &[]));
            (moved.died_at, moved.states, moved.death) = (died_at, groups, Some(reason));
        } else if let Some(state) = &state {
            moved.states = state.states().unwrap_or(&[]);
        }
        if moved.states.is_empty() || room + moved.states.len() > self.log.record_len_max() {
            (moved.states, moved.states_count) = (&[], 0);
        }
        let payload = &survivor.record[message.payload.clone()];
        let (place, record_len) = self
            .log
            .put(|buffer, seed, lsn| RecordWriter::moved(buffer, seed, lsn, &message, payload, &moved));
        self.promised = true;
        self.relocations.push(Relocation {
            slot: survivor.slot,
            from: survivor.place,
            to: place,
            record_len,
            aside: survivor.aside.as_ref().map(|(aside, _)| aside.clone()),
            with_state: moved.death.is_some() || moved.states_count > 0,
        });
        Ok(true)
    }

    /// Parts with the messages of a segment that are damaged, so that they do not hold the disk for ever.
    fn give_up(&mut self, held: &mut Held<'_>, segment: u32) {
        let index = held.index();
        for slot in index.slots_in(segment) {
            if let Some(entry) = index.get(slot) {
                let (id, len) = (entry.id, entry.record_len());
                tracing::error!(
                    %id,
                    file = crate::mmap::files::segment_name(segment),
                    offset = entry.place().offset(),
                    "a message was damaged on the disk and cannot be delivered"
                );
                index.relocate(slot, LOST, len);
            }
        }
        self.housekeeping.check_soon(self.now.monotonic);
    }
}
