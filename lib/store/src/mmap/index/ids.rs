//! From a message's id to its slot.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use kiteq_protocol::MessageId;

use super::slots::SlotTable;

/// Tables that grow on their own, so that no growth takes long or doubles the whole.
const SHARDS: usize = 256;

/// Slots by id. The ids themselves are in the slot table only.
#[derive(Debug)]
pub(crate) struct IdTable {
    shards: Vec<HashTable<u32>>,
    /// Keyed at random: publishers choose ids, and must not choose collisions.
    hasher: DefaultHashBuilder,
}

impl IdTable {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(crate) fn hash(&self, id: &MessageId) -> u64 {
        self.hasher.hash_one(id.0)
    }

    /// Bits of a hash that the tables themselves hardly use.
    fn shard(hash: u64) -> usize {
        (hash >> 40) as usize % SHARDS
    }

    pub(crate) fn find(&self, hash: u64, id: &MessageId, slots: &SlotTable) -> Option<u32> {
        self.shards[Self::shard(hash)]
            .find(hash, |slot| slots.get(*slot).is_some_and(|entry| entry.id == *id))
            .copied()
    }

    /// Reads the part of the table where a hash belongs, for no other effect than having read it.
    pub(crate) fn touch(&self, hash: u64) {
        std::hint::black_box(self.shards[Self::shard(hash)].find(hash, |_| false));
    }

    /// The id of `slot` must not be in the table yet.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, slots: &SlotTable) {
        let hasher = &self.hasher;
        self.shards[Self::shard(hash)].insert_unique(hash, slot, |slot| {
            slots.get(*slot).map_or(0, |entry| hasher.hash_one(entry.id.0))
        });
    }

    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(found) = self.shards[Self::shard(hash)].find_entry(hash, |known| *known == slot) {
            found.remove();
        }
    }
}
