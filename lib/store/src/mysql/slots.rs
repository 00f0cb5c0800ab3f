//! Which messages are resident, in memory.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::{HashMap, HashTable};
use kiteq_protocol::MessageId;

use crate::held::Slot;

/// What a slot says about its message. 28 bytes, and about 6 in the table of ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    /// Length of the header as it was published: what stands behind it in the row is not the publisher's.
    pub(super) header_len: u32,
    /// Header and body.
    pub(super) payload_len: u32,
    pub(super) state: State,
    /// Whether its row may say more of its groups than nothing.
    pub(super) is_noted: bool,
}

/// How far the message of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody's.
    Free,
    /// On its way into the store, or out of it: the caller does not know of it.
    Reserved,
    /// Waits for its producer's verdict.
    Prepared,
    /// To be delivered.
    Committed,
    /// Gone; the slot waits until its caller gives it up.
    Ended,
}

/// How an append begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The id is held here already.
    Held,
    /// There is a slot for it.
    Reserved(Slot),
    /// As many are resident as may be.
    Full,
}

/// Calls that may be about to tell somebody of a slot.
#[derive(Debug, Default)]
struct Calls {
    next: u64,
    running: BTreeSet<u64>,
}

/// The slots.
pub(super) struct Slots {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Slots that were given up, each with the first call that had not begun then: it is free when those before have ended.
    given_up: VecDeque<(u64, u32)>,
    calls: Calls,
    by_id: HashTable<u32>,
    hasher: std::hash::RandomState,
    /// Ids whose slot was given up and whose row says so only later. Counted, as an id may come and go meanwhile.
    leaving: HashMap<MessageId, u32>,
    in_use: usize,
    resident_max: usize,
    payload_bytes: u64,
}

impl Slots {
    pub(super) fn new(resident_max: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            given_up: VecDeque::new(),
            calls: Calls::default(),
            by_id: HashTable::new(),
            hasher: std::hash::RandomState::new(),
            leaving: HashMap::new(),
            in_use: 0,
            resident_max,
            payload_bytes: 0,
        }
    }

    fn hash(&self, id: &MessageId) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, id)
    }

    /// The slot of an id, in whatever state.
    pub(super) fn find(&self, id: &MessageId) -> Option<Slot> {
        let found = self.by_id.find(self.hash(id), |&slot| self.entries[slot as usize].id == *id);
        found.map(|&slot| Slot(slot))
    }

    /// Whether appending this id stores nothing.
    pub(super) fn is_held(&self, id: &MessageId) -> bool {
        self.leaving.contains_key(id) || self.find(id).is_some()
    }

    /// Whether its row is on its way out.
    pub(super) fn is_leaving(&self, id: &MessageId) -> bool {
        self.leaving.contains_key(id)
    }

    /// How many more may become resident.
    pub(super) fn room(&self) -> usize {
        self.resident_max.saturating_sub(self.in_use)
    }

    /// Messages that have a slot.
    pub(super) fn messages(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes of payload of resident messages.
    pub(super) fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// Begins to append an id.
    pub(super) fn admit(&mut self, id: MessageId) -> Admission {
        if self.is_held(&id) {
            Admission::Held
        } else if self.in_use >= self.resident_max {
            Admission::Full
        } else {
            Admission::Reserved(self.reserve(id))
        }
    }

    /// Takes a slot for an id that has none, whatever the limit.
    pub(super) fn reserve(&mut self, id: MessageId) -> Slot {
        let entry = Entry { id, header_len: 0, payload_len: 0, state: State::Reserved, is_noted: false };
        self.free_given_up();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                // Bounded by resident_max, which is below the largest slot, and a few revived dead letters.
                (self.entries.len() - 1) as u32
            }
        };
        self.in_use += 1;
        let hash = self.hash(&id);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_id.insert_unique(hash, slot, |&slot| {
            std::hash::BuildHasher::hash_one(hasher, entries[slot as usize].id)
        });
        Slot(slot)
    }

    /// The message of a reserved slot is in the store.
    pub(super) fn fill(&mut self, slot: Slot, header_len: usize, payload_len: usize, is_committed: bool) {
        let entry = &mut self.entries[slot.0 as usize];
        entry.header_len = header_len as u32;
        entry.payload_len = payload_len as u32;
        entry.state = if is_committed { State::Committed } else { State::Prepared };
        self.payload_bytes += u64::from(entry.payload_len);
    }

    /// The message of a slot that the caller knows.
    pub(super) fn get(&self, slot: Slot) -> Option<Entry> {
        self.entries
            .get(slot.0 as usize)
            .copied()
            .filter(|entry| matches!(entry.state, State::Prepared | State::Committed))
    }

    /// The row of a message says something of its groups from now on. The entry is as it was before.
    pub(super) fn note(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.get(slot)?;
        self.entries[slot.0 as usize].is_noted = true;
        Some(entry)
    }

    /// A prepared message has its verdict.
    pub(super) fn commit(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(slot.0 as usize)
            && entry.state == State::Prepared
        {
            entry.state = State::Committed;
        }
    }

    /// Frees a slot that nobody knows of yet.
    pub(super) fn release(&mut self, slot: Slot) {
        self.forget_id(slot);
        self.free_slot(slot);
    }

    /// The message of a slot is gone, and the caller has yet to hear of it: the id is free, the slot is not.
    pub(super) fn end(&mut self, slot: Slot) {
        if self.get(slot).is_some() {
            self.forget_id(slot);
            self.entries[slot.0 as usize].state = State::Ended;
        }
    }

    /// The caller gives a slot up. Its message, unless that is gone already: its id counts as held until
    /// [`Slots::left`].
    pub(super) fn give_up(&mut self, slot: Slot) -> Option<Entry> {
        let entry = *self.entries.get(slot.0 as usize)?;
        match entry.state {
            State::Free | State::Reserved => return None,
            State::Ended => {
                self.keep_back(slot);
                return None;
            }
            State::Prepared | State::Committed => {}
        }
        self.forget_id(slot);
        self.keep_back(slot);
        *self.leaving.entry(entry.id).or_default() += 1;
        Some(entry)
    }

    /// The row of a message that was given up says so.
    pub(super) fn left(&mut self, id: &MessageId) {
        if let Some(count) = self.leaving.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                self.leaving.remove(id);
            }
        }
    }

    /// Up to `limit` slots with a message, from slot `from` on, and where to go on; `None` at the end.
    pub(super) fn some_from(&self, from: usize, limit: usize) -> (Vec<(Slot, MessageId)>, Option<usize>) {
        let mut found = Vec::new();
        for (index, entry) in self.entries.iter().enumerate().skip(from) {
            if found.len() == limit {
                return (found, Some(index));
            }
            if matches!(entry.state, State::Prepared | State::Committed) {
                found.push((Slot(index as u32), entry.id));
            }
        }
        (found, None)
    }

    fn forget_id(&mut self, slot: Slot) {
        let hash = self.hash(&self.entries[slot.0 as usize].id);
        if let Ok(found) = self.by_id.find_entry(hash, |&other| other == slot.0) {
            found.remove();
        }
        let entry = &mut self.entries[slot.0 as usize];
        self.payload_bytes -= u64::from(entry.payload_len);
        entry.payload_len = 0;
    }

    fn free_slot(&mut self, slot: Slot) {
        self.entries[slot.0 as usize].state = State::Free;
        self.free.push(slot.0);
        self.in_use -= 1;
    }

    fn keep_back(&mut self, slot: Slot) {
        self.entries[slot.0 as usize].state = State::Free;
        self.given_up.push_back((self.calls.next, slot.0));
        self.in_use -= 1;
    }

    fn free_given_up(&mut self) {
        let first_running = self.calls.running.first().copied().unwrap_or(u64::MAX);
        while let Some(&(before, slot)) = self.given_up.front()
            && before <= first_running
        {
            self.given_up.pop_front();
            self.free.push(slot);
        }
    }

    /// A call begins that may tell of slots.
    pub(super) fn begin_call(&mut self) -> u64 {
        let call = self.calls.next;
        self.calls.next += 1;
        self.calls.running.insert(call);
        call
    }

    /// It has been answered.
    pub(super) fn end_call(&mut self, call: u64) {
        self.calls.running.remove(&call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> MessageId {
        MessageId([number; 16])
    }

    fn stored(slots: &mut Slots, number: u8) -> Slot {
        let Admission::Reserved(slot) = slots.admit(id(number)) else { panic!("no slot") };
        slots.fill(slot, 10, 100, true);
        slot
    }

    #[test]
    fn an_id_is_held_from_its_reservation_until_its_row_is_gone() {
        let mut slots = Slots::new(10);
        let slot = stored(&mut slots, 1);
        assert_eq!(slots.admit(id(1)), Admission::Held);
        assert_eq!(slots.give_up(slot).unwrap().id, id(1));
        assert_eq!((slots.admit(id(1)), slots.messages(), slots.payload_bytes()), (Admission::Held, 0, 0));
        slots.left(&id(1));
        assert_eq!(slots.admit(id(1)), Admission::Reserved(slot));
        slots.release(slot);
        assert!(!slots.is_held(&id(1)));
    }

    #[test]
    fn a_message_that_is_gone_keeps_its_slot_until_the_caller_gives_it_up() {
        let mut slots = Slots::new(10);
        let slot = stored(&mut slots, 1);
        slots.end(slot);
        assert!(slots.get(slot).is_none() && !slots.is_held(&id(1)));
        assert_ne!(stored(&mut slots, 2), slot);
        assert!(slots.give_up(slot).is_none());
        assert!(slots.give_up(slot).is_none(), "once is enough");
        assert_eq!(stored(&mut slots, 3), slot);
    }

    #[test]
    fn a_slot_waits_for_the_calls_that_may_tell_of_it() {
        let mut slots = Slots::new(10);
        let slot = stored(&mut slots, 1);
        let (early, late) = (slots.begin_call(), slots.begin_call());
        slots.give_up(slot);
        slots.left(&id(1));
        let after = slots.begin_call();
        slots.end_call(late);
        assert_ne!(stored(&mut slots, 2), slot);
        slots.end_call(early);
        assert_eq!(stored(&mut slots, 3), slot, "the call that began later does not matter");
        slots.end_call(after);
    }

    #[test]
    fn at_the_limit_there_is_no_room() {
        let mut slots = Slots::new(2);
        stored(&mut slots, 1);
        stored(&mut slots, 2);
        assert_eq!((slots.admit(id(3)), slots.room()), (Admission::Full, 0));
        // A person's replay is let in.
        slots.reserve(id(4));
        assert_eq!(slots.room(), 0);
    }

    #[test]
    fn all_slots_are_walked_in_chunks() {
        let mut slots = Slots::new(100);
        let all: Vec<Slot> = (0..10).map(|number| stored(&mut slots, number)).collect();
        slots.give_up(all[3]);
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            let (some, next) = slots.some_from(start, 4);
            found.extend(some.into_iter().map(|(slot, _)| slot.0));
            from = next;
        }
        assert_eq!(found, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_slot_takes_few_bytes() {
        assert!(size_of::<Entry>() <= 28, "{}", size_of::<Entry>());
    }
}
