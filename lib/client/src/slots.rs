//! The unacked messages of one connection, found by opaque without hashing.
//!
//! An opaque is a slot's index in its low bits and the slot's generation, never zero, in the others. Slots are reused
//! oldest first, so an opaque comes back only after about 2^32 messages, and an answer that comes late or twice finds
//! another generation and is ignored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::in_flight::Outgoing;

#[derive(Debug)]
pub(crate) struct Slots {
    entries: Vec<Entry>,
    free: VecDeque<u32>,
    index_bits: u32,
    capacity: usize,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    occupant: Option<Occupant>,
}

/// A message that waits for its ack on this connection.
#[derive(Debug)]
pub(crate) struct Occupant {
    pub(crate) message: Arc<Outgoing>,
    /// When it was first written here.
    pub(crate) first_sent: Instant,
    /// When it, or a copy of it, was last written here or elsewhere.
    pub(crate) last_sent: Instant,
}

impl Slots {
    /// Room for `capacity` messages, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 20);
        let index_bits = capacity.next_power_of_two().trailing_zeros();
        Self { entries: Vec::new(), free: VecDeque::new(), index_bits, capacity }
    }

    /// Takes a slot for `message` and gives its opaque; `None` when all are taken.
    pub(crate) fn insert(&mut self, message: Arc<Outgoing>, now: Instant) -> Option<u32> {
        let index = if self.entries.len() < self.capacity {
            self.entries.push(Entry { generation: 0, occupant: None });
            self.entries.len() as u32 - 1
        } else {
            self.free.pop_front()?
        };
        let generations = u32::MAX >> self.index_bits;
        let entry = &mut self.entries[index as usize];
        entry.generation = if entry.generation >= generations { 1 } else { entry.generation + 1 };
        entry.occupant = Some(Occupant { message, first_sent: now, last_sent: now });
        Some(entry.generation << self.index_bits | index)
    }

    /// Frees the slot of `opaque`; `None` when no message waits under it.
    pub(crate) fn take(&mut self, opaque: u32) -> Option<Arc<Outgoing>> {
        let index = opaque & !(u32::MAX << self.index_bits);
        let entry = self.entries.get_mut(index as usize)?;
        if entry.generation != opaque >> self.index_bits {
            return None;
        }
        let occupant = entry.occupant.take()?;
        self.free.push_back(index);
        Some(occupant.message)
    }

    /// Whether a message waits under `opaque`.
    pub(crate) fn holds(&self, opaque: u32) -> bool {
        let index = opaque & !(u32::MAX << self.index_bits);
        let entry = self.entries.get(index as usize);
        entry.is_some_and(|entry| entry.generation == opaque >> self.index_bits && entry.occupant.is_some())
    }

    /// Frees every slot.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<Outgoing>> {
        let opaques: Vec<u32> = self.iter_mut().map(|(opaque, _)| opaque).collect();
        opaques.into_iter().filter_map(|opaque| self.take(opaque)).collect()
    }

    /// The taken slots, with their opaques.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Occupant)> {
        let index_bits = self.index_bits;
        self.entries.iter_mut().enumerate().filter_map(move |(index, entry)| {
            let opaque = entry.generation << index_bits | index as u32;
            entry.occupant.as_mut().map(|occupant| (opaque, occupant))
        })
    }

    /// Messages that wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kiteq_protocol::MessageId;
    use proptest::prelude::*;

    use super::*;
    use crate::in_flight::Intent;
    use crate::publish::Publish;
    use crate::settings::Settings;

    fn message(number: u8) -> Arc<Outgoing> {
        let intent = Intent { commit: true, awaited: false };
        let publish = Publish::bytes("t", "m", "");
        Outgoing::new(publish, MessageId([number; 16]), intent, &Settings::new("g")).unwrap()
    }

    #[test]
    fn a_freed_opaque_finds_nothing_also_when_its_slot_is_taken_again() {
        let mut slots = Slots::new(1);
        let first = slots.insert(message(1), Instant::now()).unwrap();
        assert!(slots.insert(message(2), Instant::now()).is_none(), "full");
        assert_eq!(slots.take(first).unwrap().id, MessageId([1; 16]));
        let second = slots.insert(message(2), Instant::now()).unwrap();
        assert_ne!(first, second);
        assert!(slots.take(first).is_none());
        assert_eq!(slots.take(second).unwrap().id, MessageId([2; 16]));
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn an_opaque_is_never_zero_and_wraps() {
        let mut slots = Slots::new(1);
        let opaque = slots.insert(message(1), Instant::now()).unwrap();
        assert_eq!(opaque, 1);
        slots.take(opaque);
        slots.entries[0].generation = u32::MAX;
        assert_eq!(slots.insert(message(1), Instant::now()), Some(1));
    }

    proptest! {
        #[test]
        fn every_message_is_found_once(
            capacity in 1usize..20,
            steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 0..300),
        ) {
            let mut slots = Slots::new(capacity);
            let mut waiting: HashMap<u32, u8> = HashMap::new();
            let mut opaques = Vec::new();
            for (insert, number) in steps {
                if insert {
                    let opaque = slots.insert(message(number), Instant::now());
                    prop_assert_eq!(opaque.is_some(), waiting.len() < capacity);
                    if let Some(opaque) = opaque {
                        prop_assert_ne!(opaque, 0);
                        prop_assert!(waiting.insert(opaque, number).is_none());
                        opaques.push(opaque);
                    }
                } else if !opaques.is_empty() {
                    let opaque = opaques[usize::from(number) % opaques.len()];
                    let expected = waiting.remove(&opaque).map(|number| MessageId([number; 16]));
                    prop_assert_eq!(slots.take(opaque).map(|message| message.id), expected);
                }
                prop_assert_eq!(slots.len(), waiting.len());
            }
            prop_assert_eq!(slots.take_all().len(), waiting.len());
            prop_assert_eq!(slots.len(), 0);
        }
    }
}
