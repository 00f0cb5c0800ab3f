//! The table of held messages.

use kiteq_protocol::MessageId;

/// Slots in one piece of the table: 1.75 MiB.
const CHUNK_SLOTS: usize = 1 << 16;

const LEN_BITS: u32 = 28;
const LEN_MASK: u32 = (1 << LEN_BITS) - 1;
const COMMITTED: u32 = 1 << 28;
const DEAD: u32 = 1 << 29;
const REVIVED: u32 = 1 << 30;

/// Ends the list of free slots.
const NO_SLOT: u32 = u32::MAX;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    /// In units of 8 bytes, to which records are aligned.
    offset_eighths: u32,
}

impl Place {
    pub(crate) fn new(segment: u32, offset: u64) -> Self {
        debug_assert!(offset.is_multiple_of(8) && offset / 8 <= u64::from(u32::MAX));
        Self { segment, offset_eighths: (offset / 8) as u32 }
    }

    /// Nowhere; no segment has this number.
    pub(crate) const fn lost() -> Self {
        Self { segment: 0, offset_eighths: 0 }
    }

    /// In bytes from the start of the file.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.offset_eighths) * 8
    }
}

/// One held message: 28 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) id: MessageId,
    place: [u32; 2],
    /// Length of the record in the low 28 bits, zero when the slot is free; flags above.
    len_and_flags: u32,
}

const FREE: Entry = Entry { id: MessageId([0; 16]), place: [0, NO_SLOT], len_and_flags: 0 };

impl Entry {
    pub(crate) fn new(id: MessageId, place: Place, record_len: usize, committed: bool) -> Self {
        debug_assert!(record_len > 0 && record_len <= LEN_MASK as usize);
        let flags = if committed { COMMITTED } else { 0 };
        Self {
            id,
            place: [place.segment, place.offset_eighths],
            len_and_flags: record_len as u32 & LEN_MASK | flags,
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place { segment: self.place[0], offset_eighths: self.place[1] }
    }

    pub(crate) fn move_to(&mut self, place: Place, record_len: usize) {
        self.place = [place.segment, place.offset_eighths];
        self.len_and_flags = self.len_and_flags & !LEN_MASK | record_len as u32 & LEN_MASK;
    }

    pub(crate) fn record_len(&self) -> usize {
        (self.len_and_flags & LEN_MASK) as usize
    }

    pub(crate) fn is_committed(&self) -> bool {
        self.len_and_flags & COMMITTED != 0
    }

    pub(crate) fn set_committed(&mut self, committed: bool) {
        self.set(COMMITTED, committed);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.len_and_flags & DEAD != 0
    }

    pub(crate) fn set_dead(&mut self, dead: bool) {
        self.set(DEAD, dead);
    }

    /// Whether it was a dead letter once, which took its expiry away; its record may still say one.
    pub(crate) fn is_revived(&self) -> bool {
        self.len_and_flags & REVIVED != 0
    }

    pub(crate) fn set_revived(&mut self, revived: bool) {
        self.set(REVIVED, revived);
    }

    fn set(&mut self, flag: u32, on: bool) {
        self.len_and_flags = if on { self.len_and_flags | flag } else { self.len_and_flags & !flag };
    }

    fn is_free(&self) -> bool {
        self.len_and_flags == 0
    }
}

/// Entries by slot, in pieces so that growing copies nothing. Free slots form a list through their own entries, the last
/// freed first.
#[derive(Debug)]
pub(crate) struct SlotTable {
    chunks: Vec<Box<[Entry]>>,
    /// Slots that were ever used.
    used: u32,
    free: u32,
}

impl SlotTable {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), used: 0, free: NO_SLOT }
    }

    /// The entry of a slot that is held.
    pub(crate) fn get(&self, slot: u32) -> Option<&Entry> {
        self.chunks
            .get(slot as usize / CHUNK_SLOTS)
            .map(|chunk| &chunk[slot as usize % CHUNK_SLOTS])
            .filter(|entry| !entry.is_free())
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.chunks
            .get_mut(slot as usize / CHUNK_SLOTS)
            .map(|chunk| &mut chunk[slot as usize % CHUNK_SLOTS])
            .filter(|entry| !entry.is_free())
    }

    /// The caller bounds the number of entries below [`u32::MAX`].
    pub(crate) fn insert(&mut self, entry: Entry) -> u32 {
        if self.free != NO_SLOT {
            let slot = self.free;
            let place = &mut self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS];
            self.free = place.place[1];
            *place = entry;
            return slot;
        }
        let slot = self.used;
        if slot as usize == self.chunks.len() * CHUNK_SLOTS {
            self.chunks.push(vec![FREE; CHUNK_SLOTS].into_boxed_slice());
        }
        self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS] = entry;
        self.used += 1;
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let free = self.free;
        let entry = self.get_mut(slot)?;
        let removed = *entry;
        *entry = Entry { place: [0, free], ..FREE };
        self.free = slot;
        Some(removed)
    }

    /// All held entries, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry)> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        (0u32..).zip(entries).filter(|(_, entry)| !entry.is_free())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8) -> Entry {
        Entry::new(MessageId([number; 16]), Place::new(3, 64), 100, true)
    }

    #[test]
    fn an_entry_takes_28_bytes() {
        assert_eq!(std::mem::size_of::<Entry>(), 28);
    }

    #[test]
    fn freed_slots_are_used_again_before_new_ones() {
        let mut slots = SlotTable::new();
        assert_eq!((0..4).map(|number| slots.insert(entry(number))).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(slots.remove(1).unwrap().id, MessageId([1; 16]));
        assert!(slots.remove(1).is_none() && slots.get(1).is_none());
        slots.remove(3).unwrap();
        assert_eq!((slots.insert(entry(5)), slots.insert(entry(6)), slots.insert(entry(7))), (3, 1, 4));
        assert_eq!(slots.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn flags_and_length_do_not_disturb_each_other() {
        let mut entry = entry(1);
        entry.set_dead(true);
        entry.set_committed(false);
        entry.set_revived(true);
        entry.move_to(Place::new(9, 4096), 5000);
        assert!(entry.is_dead() && entry.is_revived() && !entry.is_committed());
        assert_eq!((entry.record_len(), entry.place()), (5000, Place::new(9, 4096)));
        assert_eq!(entry.place().offset(), 4096);
    }
}
