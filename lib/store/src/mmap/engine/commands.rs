//! What each command does to the index and to the log.

use std::sync::Arc;

use kiteq_protocol::{Message, MessageId};

use super::{Completion, Engine, Held, Purpose};
use crate::command::Command;
use crate::error::StoreError;
use crate::held::{AppendOutcome, GroupState, Kill, Slot, Verdict, VerdictOutcome};
use crate::mailbox::lock;
use crate::mmap::codec::{MOVED_EXTRA_LEN_MAX, RecordType, RecordWriter, ids_record_len, message_record_len};
use crate::mmap::index::{Aside, Death, Entry};

/// Ids in one record.
const IDS_MAX: usize = 4096;

impl Engine {
    pub(super) fn command(&mut self, held: &mut Held<'_>, command: Command) {
        match command {
            Command::Append { messages, done } => {
                let mut results = Vec::with_capacity(messages.len());
                for message in messages {
                    let outcome = self.append(held, &message);
                    results.push((message, outcome));
                }
                self.completions.push(Completion::Append { results, done });
            }
            Command::Decide { verdicts, done } => {
                let outcomes = self.decide(held, &verdicts);
                let ids = verdicts.into_iter().map(|(id, _)| id).collect();
                self.completions.push(Completion::Decide { ids, outcomes, done });
            }
            Command::Settle { slots } => self.settle(held, &slots),
            Command::Note { states } => self.note(held, &states),
            Command::Kill { dead } => {
                for kill in dead {
                    self.kill(held, kill);
                }
            }
            Command::Revive { ids, done } => {
                let revived = self.revive(held, &ids);
                self.completions.push(Completion::Revive { revived, done });
            }
            Command::Purge { ids, done } => {
                let count = self.purge(held, &ids);
                self.completions.push(Completion::Purge { count, done });
            }
            Command::Barrier { done } => self.completions.push(Completion::Barrier { done }),
            Command::Close { done } => {
                self.closing = true;
                self.completions.push(Completion::Close { done });
            }
            // Loads are done by the reader; nobody brings them here.
            command @ Command::Load { .. } => command.refuse(&StoreError::Closed),
        }
    }

    /// Makes room for a record; the index is free meanwhile when files are involved.
    pub(super) fn make_room(
        &mut self,
        held: &mut Held<'_>,
        record_len: usize,
        purpose: Purpose,
    ) -> Result<(), StoreError> {
        if self.log.fits(record_len, purpose) {
            return Ok(());
        }
        held.release();
        let rolled_from = self.log.active_number();
        let opened = self.log.make_room(record_len, purpose, &mut *self.helper)?;
        if let Some(segment) = opened {
            let index = held.index();
            if let Some(sealed) = rolled_from.and_then(|number| index.segments.get_mut(number)) {
                sealed.end = sealed.file.len();
            }
            index.segments.push(segment);
            self.housekeeping.check_soon(self.now.monotonic);
        }
        Ok(())
    }

    fn append(&mut self, held: &mut Held<'_>, message: &Message) -> AppendOutcome {
        if let Some(failure) = self.log.failure() {
            return AppendOutcome::Refused(failure.clone());
        }
        let record_len = message_record_len(message);
        // A copy of it says a little more.
        let len_max = self.log.record_len_max() - MOVED_EXTRA_LEN_MAX;
        if record_len > len_max {
            return AppendOutcome::Refused(StoreError::TooLarge {
                bytes: message.payload.len() as u64,
                limit_bytes: len_max as u64,
            });
        }
        let limit = self.shared.options.messages_max;
        let index = held.index();
        if index.knows(&message.id) {
            return AppendOutcome::Duplicate;
        }
        if index.held() >= limit {
            return AppendOutcome::Refused(StoreError::Full { held: index.held(), limit });
        }
        if let Err(error) = self.make_room(held, record_len, Purpose::Publish) {
            if matches!(error, StoreError::DiskFull { .. }) {
                lock(&self.shared.health).disk_full = Some(error.clone());
                self.refused_record_len = record_len;
            }
            return AppendOutcome::Refused(error);
        }
        let (place, len) =
            self.log.put(|buffer, seed, lsn| RecordWriter::published(buffer, seed, lsn, message));
        self.promised = true;
        let slot = held.index().insert(Entry::new(message.id, place, len, message.committed));
        AppendOutcome::Stored(Slot(slot))
    }

    fn decide(&mut self, held: &mut Held<'_>, verdicts: &[(MessageId, Verdict)]) -> Vec<VerdictOutcome> {
        let mut outcomes = vec![VerdictOutcome::Ignored; verdicts.len()];
        for (part, outcomes) in verdicts.chunks(IDS_MAX).zip(outcomes.chunks_mut(IDS_MAX)) {
            // Room first: a commit that cannot be written down must not show.
            let room = self.make_room(held, ids_record_len(part.len()) * 2, Purpose::Progress);
            let index = held.index();
            let mut committed = std::mem::take(&mut self.ids);
            let mut rolled_back = Vec::new();
            for ((id, verdict), outcome) in part.iter().zip(outcomes) {
                let undecided = index.find(id).filter(|slot| {
                    index.get(*slot).is_some_and(|entry| !entry.is_committed() && !entry.is_dead())
                });
                let Some(slot) = undecided else { continue };
                *outcome = match (verdict, &room) {
                    (Verdict::Commit, Ok(())) => {
                        index.set_committed(slot, true);
                        committed.push(*id);
                        VerdictOutcome::Committed(Slot(slot))
                    }
                    (Verdict::Commit, Err(error)) => VerdictOutcome::Failed(error.clone()),
                    (Verdict::Rollback, _) => {
                        index.remove(slot);
                        rolled_back.push(*id);
                        VerdictOutcome::RolledBack(Slot(slot))
                    }
                };
            }
            if room.is_ok() {
                self.promised |= !committed.is_empty();
                self.put_ids(RecordType::Committed, &committed);
                self.put_ids(RecordType::RolledBack, &rolled_back);
            }
            committed.clear();
            self.ids = committed;
        }
        outcomes
    }

    fn settle(&mut self, held: &mut Held<'_>, slots: &[Slot]) {
        for part in slots.chunks(IDS_MAX) {
            // Without room they are settled until the next start, which is all that settling promises.
            let room = self.make_room(held, ids_record_len(part.len()), Purpose::Progress);
            let index = held.index();
            let mut ids = std::mem::take(&mut self.ids);
            for slot in part {
                if index.get(slot.0).is_some_and(|entry| !entry.is_dead())
                    && let Some(entry) = index.remove(slot.0)
                {
                    index.dedupe.insert(entry.id);
                    ids.push(entry.id);
                }
            }
            if room.is_ok() {
                self.put_ids(RecordType::Settled, &ids);
            }
            ids.clear();
            self.ids = ids;
        }
    }

    /// Writes one record of ids, for which there is room.
    pub(super) fn put_ids(&mut self, record_type: RecordType, ids: &[MessageId]) {
        if !ids.is_empty() {
            let at = self.now.unix_seconds;
            self.log.put(|buffer, seed, lsn| RecordWriter::ids(buffer, seed, lsn, record_type, at, ids));
        }
    }

    fn note(&mut self, held: &mut Held<'_>, states: &[(Slot, Vec<GroupState>)]) {
        for (slot, states) in states {
            let record_len = RecordWriter::noted_len(states);
            if record_len > self.log.record_len_max()
                || self.make_room(held, record_len, Purpose::Progress).is_err()
            {
                continue;
            }
            let index = held.index();
            let Some(entry) = index.get(slot.0).filter(|entry| !entry.is_dead()) else { continue };
            let id = entry.id;
            if states.is_empty() && index.aside(slot.0).is_none() {
                continue;
            }
            let (place, _) =
                self.log.put(|buffer, seed, lsn| RecordWriter::noted(buffer, seed, lsn, id, states));
            index.set_aside(slot.0, (!states.is_empty()).then_some(Aside::At(place)));
        }
    }

    fn kill(&mut self, held: &mut Held<'_>, kill: Kill) {
        let record_len = RecordWriter::dead_len(&kill);
        let room = if record_len > self.log.record_len_max() {
            Err(StoreError::Closed)
        } else {
            self.make_room(held, record_len, Purpose::Progress)
        };
        let slot = kill.slot.0;
        let index = held.index();
        let Some(entry) = index.get(slot).filter(|entry| !entry.is_dead()) else { return };
        let (id, died_at) = (entry.id, self.now.unix_seconds);
        let aside = room.is_ok().then(|| {
            let (place, _) =
                self.log.put(|buffer, seed, lsn| RecordWriter::dead(buffer, seed, lsn, id, died_at, &kill));
            Aside::At(place)
        });
        let death = Death { reason: kill.reason, died_at, groups: kill.groups };
        let aside = match aside {
            Some(aside) => {
                index.unwritten_dead.insert(slot, death);
                aside
            }
            None => Aside::Unlogged(Arc::new(death)),
        };
        index.set_dead(slot, true);
        index.set_aside(slot, Some(aside));
    }
}
