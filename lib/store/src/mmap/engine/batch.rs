//! The end of a batch: writing it, or taking it back.

use std::sync::Arc;

use super::{Completion, Engine, Purpose, Relocation};
use crate::command::Command;
use crate::error::StoreError;
use crate::held::{AppendOutcome, VerdictOutcome};
use crate::mailbox::lock;
use crate::mmap::index::{Aside, Death, Entry, Index};

impl Engine {
    /// Writes what the batch encoded, and runs its closures.
    pub(super) fn finish(&mut self, failed_before: bool) {
        let written = if self.promised && self.syncs_batches() { self.log.sync() } else { self.log.flush() };
        self.promised = false;
        let mut completions = std::mem::take(&mut self.completions);
        {
            let mut index = lock(&self.shared.index);
            if let (Err(error), false) = (&written, failed_before) {
                take_back(&mut index, &mut completions, error);
                self.relocations.clear();
                keep_deaths(&mut index);
            }
            for relocation in self.relocations.drain(..) {
                relocate(&mut index, relocation, self.log.last_lsn());
            }
            index.unwritten_dead.clear();
            if let Some(active) = self.log.active_number()
                && let Some(segment) = index.segments.get_mut(active)
            {
                segment.end = self.log.position();
            }
        }
        self.update_health();
        let closing = completions.iter().any(|completion| matches!(completion, Completion::Close { .. }));
        let closed = if closing { self.close() } else { Ok(()) };
        for completion in completions.drain(..) {
            match completion {
                Completion::Append { results, done } => done(results),
                Completion::Decide { outcomes, done, .. } => done(outcomes),
                Completion::Revive { revived, done } => done(revived),
                Completion::Purge { count, done } => done(count),
                Completion::Barrier { done } => done(Ok(())),
                Completion::Close { done } => done(closed.clone()),
                Completion::Refused(Command::Close { done }) => done(Ok(())),
                Completion::Refused(command) => command.refuse(&StoreError::Closed),
            }
        }
        self.completions = completions;
    }

    fn update_health(&mut self) {
        let mut health = lock(&self.shared.health);
        if health.failure.is_none() {
            health.failure = self.log.failure().cloned();
        }
        if health.disk_full.is_some()
            && (self.log.has_next() || self.log.fits(self.refused_record_len, Purpose::Publish))
        {
            health.disk_full = None;
        }
    }
}

/// Undoes what a batch changed, the last command first, and turns its outcomes into refusals. What was settled, rolled
/// back or killed stays so: nobody waits for a promise about it.
fn take_back(index: &mut Index, completions: &mut [Completion], error: &StoreError) {
    for completion in completions.iter_mut().rev() {
        match completion {
            Completion::Append { results, .. } => {
                for (message, outcome) in results.iter_mut().rev() {
                    if let AppendOutcome::Stored(slot) = *outcome {
                        // The slot may have gone to another message of the same batch since.
                        if index.get(slot.0).is_some_and(|entry| entry.id == message.id) {
                            index.remove(slot.0);
                        }
                        *outcome = AppendOutcome::Refused(error.clone());
                    }
                }
            }
            Completion::Decide { ids, outcomes, .. } => {
                for (id, outcome) in ids.iter().zip(outcomes.iter_mut()).rev() {
                    if let VerdictOutcome::Committed(slot) = *outcome {
                        if index.get(slot.0).is_some_and(|entry| entry.id == *id) {
                            index.set_committed(slot.0, false);
                        }
                        *outcome = VerdictOutcome::Failed(error.clone());
                    }
                }
            }
            Completion::Revive { revived, .. } => {
                for revived in revived.iter_mut().rev() {
                    if let Ok(Some((slot, letter))) = revived {
                        if index.get(slot.0).is_some_and(|entry| entry.id == letter.id) {
                            index.set_dead(slot.0, true);
                            let groups = std::mem::take(&mut letter.groups);
                            let death = Death { reason: letter.reason, died_at: letter.died_at, groups };
                            index.set_aside(slot.0, Some(Aside::Unlogged(Arc::new(death))));
                        }
                        *revived = Err(error.clone());
                    }
                }
            }
            Completion::Purge { .. }
            | Completion::Barrier { .. }
            | Completion::Close { .. }
            | Completion::Refused(_) => {}
        }
    }
    refuse_repetitions(index, completions, error);
}

/// What repeated something of the same batch must not be told that it is done.
fn refuse_repetitions(index: &Index, completions: &mut [Completion], error: &StoreError) {
    for completion in completions {
        match completion {
            Completion::Append { results, .. } => {
                for (message, outcome) in results {
                    if *outcome == AppendOutcome::Duplicate && !index.knows(&message.id) {
                        *outcome = AppendOutcome::Refused(error.clone());
                    }
                }
            }
            Completion::Decide { ids, outcomes, .. } => {
                for (id, outcome) in ids.iter().zip(outcomes) {
                    let undecided = index
                        .find(id)
                        .and_then(|slot| index.get(slot))
                        .is_some_and(|entry| !entry.is_committed() && !entry.is_dead());
                    if *outcome == VerdictOutcome::Ignored && undecided {
                        *outcome = VerdictOutcome::Failed(error.clone());
                    }
                }
            }
            _ => {}
        }
    }
}

/// Deaths that did not reach the disk are kept in memory, so that they can be read.
fn keep_deaths(index: &mut Index) {
    for (slot, death) in std::mem::take(&mut index.unwritten_dead) {
        if index.get(slot).is_some_and(Entry::is_dead) {
            index.set_aside(slot, Some(Aside::Unlogged(Arc::new(death))));
        }
    }
}

fn relocate(index: &mut Index, relocation: Relocation, lsn: u64) {
    let Relocation { slot, from, to, record_len, aside, with_state } = relocation;
    // It may have been settled in the same batch, and its slot used again: places are used once.
    if index.get(slot).is_none_or(|entry| entry.place() != from) {
        return;
    }
    index.relocate(slot, to, record_len);
    if index.aside(slot) == aside.as_ref() {
        index.set_revived(slot, false);
        index.set_aside(slot, with_state.then_some(Aside::At(to)));
    }
    if let Some(segment) = index.segments.get_mut(from.segment) {
        segment.moved_lsn = lsn;
    }
    if let Some(segment) = index.segments.get_mut(to.segment) {
        segment.has_moved = true;
    }
}
