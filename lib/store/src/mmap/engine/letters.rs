//! Dead letters: revived or gone for good.

use hashbrown::HashSet;
use kiteq_protocol::MessageId;

use super::{Engine, Held, Purpose};
use crate::held::{Revived, Slot};
use crate::mmap::codec::{RecordType, ids_record_len};
use crate::mmap::read::DeadLetterPlan;

impl Engine {
    pub(super) fn revive(&mut self, held: &mut Held<'_>, ids: &[MessageId]) -> Vec<Revived> {
        // The letters may have died in this very batch: their records must be where they can be read.
        held.release();
        if let Err(error) = self.log.flush() {
            return ids.iter().map(|_| Err(error.clone())).collect();
        }
        let plans: Vec<Option<(u32, DeadLetterPlan)>> = {
            let index = held.index();
            let mut seen = HashSet::new();
            ids.iter()
                .map(|id| {
                    let slot = index.find_dead(id).filter(|_| seen.insert(*id))?;
                    Some((slot, DeadLetterPlan::new(index, slot)?))
                })
                .collect()
        };
        held.release();
        let mut revived = Vec::with_capacity(ids.len());
        for plan in &plans {
            revived.push(match plan {
                Some((slot, plan)) => plan.read().map(|letter| Some((Slot(*slot), letter))),
                None => Ok(None),
            });
        }
        for part in revived.chunks_mut(4096) {
            self.revive_read(held, part);
        }
        revived
    }

    fn revive_read(&mut self, held: &mut Held<'_>, revived: &mut [Revived]) {
        if let Err(error) = self.make_room(held, ids_record_len(revived.len()), Purpose::Progress) {
            for revived in revived.iter_mut().filter(|revived| matches!(revived, Ok(Some(_)))) {
                *revived = Err(error.clone());
            }
            return;
        }
        let index = held.index();
        let mut ids = std::mem::take(&mut self.ids);
        for (slot, letter) in revived.iter().flatten().flatten() {
            index.set_dead(slot.0, false);
            index.set_revived(slot.0, true);
            // A person decided that it is to be delivered, so no verdict is waited for any more.
            index.set_committed(slot.0, true);
            index.set_aside(slot.0, None);
            ids.push(letter.id);
        }
        self.promised |= !ids.is_empty();
        self.put_ids(RecordType::Revived, &ids);
        ids.clear();
        self.ids = ids;
    }

    pub(super) fn purge(&mut self, held: &mut Held<'_>, ids: &[MessageId]) -> usize {
        let mut count = 0;
        for part in ids.chunks(4096) {
            // What cannot be written down would be back after a restart.
            if let Err(error) = self.make_room(held, ids_record_len(part.len()), Purpose::Progress) {
                tracing::warn!(%error, "dead letters cannot be deleted now");
                break;
            }
            let index = held.index();
            let mut purged = std::mem::take(&mut self.ids);
            for id in part {
                if let Some(slot) = index.find_dead(id) {
                    index.remove(slot);
                    purged.push(*id);
                }
            }
            count += purged.len();
            self.promised |= !purged.is_empty();
            self.put_ids(RecordType::Purged, &purged);
            purged.clear();
            self.ids = purged;
        }
        count
    }
}
