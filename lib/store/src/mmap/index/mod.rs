//! What the log holds, in memory: about 37 bytes a message.

mod ids;
mod segments;
mod slots;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use kiteq_protocol::MessageId;

use ids::IdTable;
pub(crate) use segments::{Segment, Segments};
use slots::SlotTable;
pub(crate) use slots::{Entry, Place};

use super::codec::RECORD_HEADER_LEN;
use super::read::Source;
use crate::dedupe::{DedupeLimits, DedupeWindow};
use crate::error::StoreError;
use crate::held::{DeadReason, StoreStats};

/// Where more is known about a message than its own record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Its groups' state, or its death, is in this record: noted, dead or moved.
    At(Place),
    /// Its death could not be logged, and is forgotten with the process.
    Unlogged(Arc<Death>),
}

/// How a message died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: DeadReason,
    pub(crate) died_at: i64,
    pub(crate) groups: Vec<bytes::Bytes>,
}

/// Where a message was left that could not be read any more.
pub(crate) const LOST: Place = Place::lost();

/// All tables of a log. One thread changes them, others read them, all under one lock that is never held while the disk
/// works.
pub(crate) struct Index {
    slots: SlotTable,
    ids: IdTable,
    asides: HashMap<u32, Aside>,
    /// Dead letters by id, so that pages come in a stable order.
    dead: BTreeMap<MessageId, u32>,
    pub(crate) segments: Segments,
    pub(crate) dedupe: DedupeWindow,
    /// Dead letters whose death is not written yet, so that it cannot be read.
    pub(crate) unwritten_dead: HashMap<u32, Death>,
    held: u64,
    record_bytes: u64,
}

impl Index {
    pub(crate) fn new(dedupe: DedupeLimits) -> Self {
        Self {
            slots: SlotTable::new(),
            ids: IdTable::new(),
            asides: HashMap::new(),
            dead: BTreeMap::new(),
            segments: Segments::default(),
            dedupe: DedupeWindow::new(dedupe),
            unwritten_dead: HashMap::new(),
            held: 0,
            record_bytes: 0,
        }
    }

    /// Messages and dead letters.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot)
    }

    pub(crate) fn find(&self, id: &MessageId) -> Option<u32> {
        self.ids.find(self.ids.hash(id), id, &self.slots)
    }

    /// Brings what [`Index::find`] looks at into the processor's cache.
    pub(crate) fn touch(&self, ids: impl Iterator<Item = MessageId>) {
        for id in ids {
            self.ids.touch(self.ids.hash(&id));
        }
    }

    /// Whether an append of `id` is a repetition.
    pub(crate) fn knows(&self, id: &MessageId) -> bool {
        self.find(id).is_some() || self.dedupe.contains(id)
    }

    /// The id must not be held.
    pub(crate) fn insert(&mut self, entry: Entry) -> u32 {
        self.segments.add(entry.place(), entry.record_len());
        self.record_bytes += entry.record_len() as u64;
        self.held += 1;
        let hash = self.ids.hash(&entry.id);
        let slot = self.slots.insert(entry);
        self.ids.insert(hash, slot, &self.slots);
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.slots.remove(slot)?;
        self.ids.remove(self.ids.hash(&entry.id), slot);
        if !self.asides.is_empty() {
            self.asides.remove(&slot);
        }
        if entry.is_dead() {
            self.dead.remove(&entry.id);
        }
        self.segments.subtract(entry.place(), entry.record_len());
        self.record_bytes -= entry.record_len() as u64;
        self.held -= 1;
        Some(entry)
    }

    /// Follows a message to where it was copied.
    pub(crate) fn relocate(&mut self, slot: u32, place: Place, record_len: usize) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let (old_place, old_len) = (entry.place(), entry.record_len());
        entry.move_to(place, record_len);
        self.segments.subtract(old_place, old_len);
        self.segments.add(place, record_len);
        self.record_bytes = self.record_bytes - old_len as u64 + record_len as u64;
    }

    pub(crate) fn set_committed(&mut self, slot: u32, committed: bool) {
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.set_committed(committed);
        }
    }

    pub(crate) fn set_revived(&mut self, slot: u32, revived: bool) {
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.set_revived(revived);
        }
    }

    pub(crate) fn set_dead(&mut self, slot: u32, dead: bool) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.set_dead(dead);
        let id = entry.id;
        if dead {
            self.dead.insert(id, slot);
        } else {
            self.dead.remove(&id);
        }
    }

    pub(crate) fn aside(&self, slot: u32) -> Option<&Aside> {
        self.asides.get(&slot)
    }

    pub(crate) fn set_aside(&mut self, slot: u32, aside: Option<Aside>) {
        match aside {
            Some(aside) => {
                self.asides.insert(slot, aside);
            }
            None => {
                self.asides.remove(&slot);
            }
        }
    }

    /// The slot of a dead letter.
    pub(crate) fn find_dead(&self, id: &MessageId) -> Option<u32> {
        self.dead.get(id).copied()
    }

    /// Up to `limit` slots of dead letters in the order of their ids.
    pub(crate) fn dead_after(&self, after: Option<MessageId>, limit: usize) -> Vec<u32> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.dead
            .range((from, Bound::Unbounded))
            .map(|(_, slot)| *slot)
            .filter(|slot| !self.unwritten_dead.contains_key(slot))
            .take(limit)
            .collect()
    }

    /// Slots whose message is in `segment`. Looks at every message there is.
    pub(crate) fn slots_in(&self, segment: u32) -> Vec<u32> {
        self.slots
            .iter()
            .filter(|(_, entry)| entry.place().segment == segment)
            .map(|(slot, _)| slot)
            .collect()
    }

    /// What the record at `place` is read from.
    ///
    /// # Errors
    /// When the message was lost to damage of the file.
    pub(crate) fn source(&self, place: Place) -> Result<Source, StoreError> {
        match self.segments.get(place.segment) {
            Some(segment) => Ok(segment.source()),
            None => Err(StoreError::Corrupt {
                place: "log".to_owned(),
                reason: "the message was damaged on the disk; what was left of it is below damaged/"
                    .to_owned(),
            }),
        }
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let dead_letters = self.dead.len() as u64;
        StoreStats {
            messages: self.held - dead_letters,
            dead_letters,
            // Topic and type are counted too: the index does not know how long they are.
            payload_bytes: self.record_bytes - self.held * RECORD_HEADER_LEN as u64,
            disk_bytes: self.segments.disk_bytes(),
        }
    }
}
