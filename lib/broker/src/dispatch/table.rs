//! What the dispatcher knows of each message that is held: forty bytes, in an array beside the store's.

use super::group_set::GroupSet;
use super::routes::RouteId;
use kiteq_protocol::MessageKind;
use kiteq_store::Slot;

/// Messages that are held by the store have its slot; those that are only passed through have this bit set.
const TRANSIENT: u32 = 1 << 31;

/// A message in one of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MessageRef(u32);

impl MessageRef {
    pub(crate) fn stored(slot: Slot) -> Self {
        debug_assert!(slot.0 & TRANSIENT == 0, "a store holds at most 2^31 messages");
        Self(slot.0)
    }

    fn transient(index: u32) -> Self {
        Self(index | TRANSIENT)
    }

    pub(crate) fn slot(self) -> Option<Slot> {
        (self.0 & TRANSIENT == 0).then_some(Slot(self.0))
    }

    fn index(self) -> usize {
        (self.0 & !TRANSIENT) as usize
    }
}

/// A reference that notices when its message is gone and the place is taken by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    pub(crate) message: MessageRef,
    pub(crate) generation: u32,
}

/// Where in its life a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No message is here.
    Free,
    /// Waits for its producer's verdict.
    Prepared,
    /// Committed, but its topic's bindings are not known yet.
    Unrouted,
    /// Owed to the groups in `owed`.
    Owed,
}

/// No body in the cache.
pub(crate) const NOT_CACHED: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) owed: GroupSet,
    pub(crate) route: RouteId,
    /// Unix seconds; `u32::MAX` for never.
    pub(crate) expires_at: u32,
    /// Index in the body cache.
    pub(crate) cached: u32,
    pub(crate) generation: u32,
    /// Deliveries that are out.
    pub(crate) in_flight: u16,
    /// Length of the payload in KiB, rounded up; 0 when it is not known.
    pub(crate) size_kib: u16,
    pub(crate) phase: Phase,
    pub(crate) deliver_limit: u8,
    pub(crate) kind: MessageKind,
    pub(crate) marks: Marks,
}

/// One bit each of what is true of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    /// Its stored header says commit=false; what is delivered must say true.
    pub(crate) const COMMITTED_BY_VERDICT: Self = Self(1);
    /// Some group has failed it for good.
    pub(crate) const HAS_DEAD_GROUPS: Self = Self(1 << 1);
    /// Its body is being read back.
    pub(crate) const LOADING: Self = Self(1 << 2);
    /// Some group failed it and will get it again.
    pub(crate) const RETRIED: Self = Self(1 << 3);
    /// The store knows which groups have it.
    pub(crate) const NOTED: Self = Self(1 << 4);

    pub(crate) fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(crate) fn set(&mut self, mark: Self) {
        self.0 |= mark.0;
    }

    pub(crate) fn clear(&mut self, mark: Self) {
        self.0 &= !mark.0;
    }
}

impl Entry {
    fn free(generation: u32) -> Self {
        Self {
            owed: GroupSet::EMPTY,
            route: RouteId::NONE,
            expires_at: u32::MAX,
            cached: NOT_CACHED,
            generation,
            in_flight: 0,
            size_kib: 0,
            phase: Phase::Free,
            deliver_limit: 0,
            kind: MessageKind::Bytes,
            marks: Marks::default(),
        }
    }

    pub(crate) fn is_expired(&self, unix_seconds: i64) -> bool {
        self.expires_at != u32::MAX && i64::from(self.expires_at) <= unix_seconds
    }
}

/// Unix seconds as [`Entry::expires_at`] keeps them.
pub(crate) fn pack_expiry(unix_seconds: i64) -> u32 {
    if unix_seconds <= 0 { u32::MAX } else { u32::try_from(unix_seconds).unwrap_or(u32::MAX) }
}

/// Entries a chunk; the table grows by whole chunks, so growing never copies it.
const CHUNK: usize = 4096;

/// All entries, stored and transient.
#[derive(Debug, Default)]
pub(crate) struct Table {
    stored: Chunks,
    transient: Chunks,
    free_transient: Vec<u32>,
    live_transient: usize,
    live_stored: usize,
}

#[derive(Debug, Default)]
struct Chunks(Vec<Box<[Entry]>>);

impl Chunks {
    fn len(&self) -> usize {
        self.0.len() * CHUNK
    }

    fn grow_to(&mut self, index: usize) {
        while self.len() <= index {
            self.0.push(vec![Entry::free(0); CHUNK].into_boxed_slice());
        }
    }

    fn get(&self, index: usize) -> Option<&Entry> {
        self.0.get(index / CHUNK).map(|chunk| &chunk[index % CHUNK])
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Entry> {
        self.0.get_mut(index / CHUNK).map(|chunk| &mut chunk[index % CHUNK])
    }
}

impl Table {
    fn chunks(&self, message: MessageRef) -> &Chunks {
        if message.slot().is_some() { &self.stored } else { &self.transient }
    }

    fn chunks_mut(&mut self, message: MessageRef) -> &mut Chunks {
        if message.slot().is_some() { &mut self.stored } else { &mut self.transient }
    }

    /// The entry of a message, if one is there.
    pub(crate) fn get(&self, message: MessageRef) -> Option<&Entry> {
        self.chunks(message).get(message.index()).filter(|entry| entry.phase != Phase::Free)
    }

    /// The entry of a message, if one is there.
    pub(crate) fn get_mut(&mut self, message: MessageRef) -> Option<&mut Entry> {
        self.chunks_mut(message).get_mut(message.index()).filter(|entry| entry.phase != Phase::Free)
    }

    /// The entry that `ticket` was made for, unless its message is gone.
    pub(crate) fn look(&self, ticket: Ticket) -> Option<&Entry> {
        self.get(ticket.message).filter(|entry| entry.generation == ticket.generation)
    }

    /// As [`Table::look`], to change it.
    pub(crate) fn find(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.get_mut(ticket.message).filter(|entry| entry.generation == ticket.generation)
    }

    /// Enters a message that the store holds.
    pub(crate) fn enter(&mut self, slot: Slot, fill: impl FnOnce(&mut Entry)) -> Ticket {
        let message = MessageRef::stored(slot);
        self.live_stored += 1;
        Self::fill(&mut self.stored, message, fill)
    }

    /// Enters a message that the store does not hold.
    pub(crate) fn enter_transient(&mut self, fill: impl FnOnce(&mut Entry)) -> Ticket {
        let index = self.free_transient.pop().unwrap_or(self.live_transient as u32);
        self.live_transient += 1;
        Self::fill(&mut self.transient, MessageRef::transient(index), fill)
    }

    fn fill(chunks: &mut Chunks, message: MessageRef, fill: impl FnOnce(&mut Entry)) -> Ticket {
        let index = message.index();
        chunks.grow_to(index);
        let entry = &mut chunks.0[index / CHUNK][index % CHUNK];
        debug_assert!(entry.phase == Phase::Free, "slot {index} is taken");
        fill(entry);
        Ticket { message, generation: entry.generation }
    }

    /// Removes an entry; tickets for it find nothing from now on.
    pub(crate) fn remove(&mut self, message: MessageRef) {
        let Some(entry) = self.get_mut(message) else { return };
        *entry = Entry::free(entry.generation.wrapping_add(1));
        if message.slot().is_some() {
            self.live_stored -= 1;
        } else {
            self.live_transient -= 1;
            self.free_transient.push(message.index() as u32);
        }
    }

    /// Messages that the store holds.
    pub(crate) fn live_stored(&self) -> usize {
        self.live_stored
    }

    /// Places for stored messages, for a sweep over all of them.
    pub(crate) fn stored_places(&self) -> usize {
        self.stored.len()
    }

    /// The entry of the stored message at `place`, if one is there.
    pub(crate) fn stored_at(&self, place: usize) -> Option<(MessageRef, &Entry)> {
        let message = MessageRef::stored(Slot(place as u32));
        self.get(message).map(|entry| (message, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_forty_bytes() {
        assert!(size_of::<Entry>() <= 40, "{}", size_of::<Entry>());
        assert!(size_of::<Ticket>() <= 8);
    }

    #[test]
    fn a_ticket_does_not_find_its_successor() {
        let mut table = Table::default();
        for enter in [
            |table: &mut Table| table.enter(Slot(7), |entry| entry.phase = Phase::Owed),
            |table: &mut Table| table.enter_transient(|entry| entry.phase = Phase::Owed),
        ] {
            let first = enter(&mut table);
            assert!(table.find(first).is_some());
            table.remove(first.message);
            assert!(table.find(first).is_none());
            let second = enter(&mut table);
            assert_eq!(first.message, second.message);
            assert!(table.find(first).is_none() && table.find(second).is_some());
        }
    }

    #[test]
    fn an_expiry_of_zero_or_less_is_never() {
        let mut entry = Entry::free(0);
        entry.expires_at = pack_expiry(-1);
        assert!(!entry.is_expired(i64::MAX));
        entry.expires_at = pack_expiry(100);
        assert!(!entry.is_expired(99) && entry.is_expired(100));
    }
}
