//! Applies the records of a log to its index, as the log's writer once did.

use kiteq_protocol::MessageId;

use crate::mmap::codec::{MessageRecord, RawRecord, RecordFault, RecordType};
use crate::mmap::index::{Aside, Entry, Index, Place};

/// Applies one record. Records before it may be missing where the disk was damaged, so that nothing is taken for granted:
/// every record is a fact about its ids, and what it says of ids that are not held is skipped. Returns the slot of a
/// record that has a message.
///
/// # Errors
/// When the record's content is not what its type says; nothing was applied then.
pub(super) fn apply(
    index: &mut Index,
    record: &RawRecord<'_>,
    place: Place,
    remember_after: i64,
) -> Result<Option<u32>, RecordFault> {
    match record.record_type {
        RecordType::Published => return Ok(Some(publish(index, record, &record.message()?, place))),
        RecordType::Moved => return Ok(Some(relocate(index, record, &record.message()?, place))),
        RecordType::Committed => {
            for_held(index, record, |index, slot, _| {
                if index.get(slot).is_some_and(|entry| !entry.is_dead()) {
                    index.set_committed(slot, true);
                }
            })?;
        }
        RecordType::RolledBack => {
            for_held(index, record, |index, slot, _| {
                if index.get(slot).is_some_and(|entry| !entry.is_committed()) {
                    index.remove(slot);
                }
            })?;
        }
        RecordType::Settled => {
            let ids = record.ids()?;
            for id in ids.iter() {
                if let Some(slot) = index.find(&id) {
                    index.remove(slot);
                }
                if ids.at >= remember_after {
                    index.dedupe.insert(id);
                }
            }
        }
        RecordType::Revived => {
            for_held(index, record, |index, slot, _| {
                index.set_dead(slot, false);
                index.set_revived(slot, true);
                index.set_committed(slot, true);
                index.set_aside(slot, None);
            })?;
        }
        RecordType::Purged => {
            for_held(index, record, |index, slot, _| {
                index.remove(slot);
            })?;
        }
        RecordType::Noted => {
            record.noted()?;
            let live = index
                .find(&record.id()?)
                .filter(|slot| index.get(*slot).is_some_and(|entry| !entry.is_dead()));
            if let Some(slot) = live {
                index.set_aside(slot, (record.count > 0).then_some(Aside::At(place)));
            }
        }
        RecordType::Dead => {
            record.death()?;
            if let Some(slot) = index.find(&record.id()?) {
                index.set_dead(slot, true);
                index.set_aside(slot, Some(Aside::At(place)));
            }
        }
        RecordType::Sealed => {}
    }
    Ok(None)
}

fn publish(index: &mut Index, record: &RawRecord<'_>, message: &MessageRecord<'_>, place: Place) -> u32 {
    if let Some(slot) = index.find(&message.id) {
        // An id is only published again when the message before was gone: the record that said so was damaged.
        index.remove(slot);
    }
    index.insert(Entry::new(message.id, place, record.len, message.committed))
}

fn relocate(index: &mut Index, record: &RawRecord<'_>, message: &MessageRecord<'_>, place: Place) -> u32 {
    let slot = match index.find(&message.id) {
        Some(slot) => {
            index.relocate(slot, place, record.len);
            index.set_committed(slot, message.committed);
            index.set_revived(slot, false);
            slot
        }
        // The segment that it was copied from is gone.
        None => index.insert(Entry::new(message.id, place, record.len, message.committed)),
    };
    let dead = message.moved.is_some_and(|moved| moved.death.is_some());
    index.set_dead(slot, dead);
    index.set_aside(slot, (dead || record.count > 0).then_some(Aside::At(place)));
    if let Some(segment) = index.segments.get_mut(place.segment) {
        segment.has_moved = true;
    }
    slot
}

fn for_held(
    index: &mut Index,
    record: &RawRecord<'_>,
    mut apply: impl FnMut(&mut Index, u32, MessageId),
) -> Result<(), RecordFault> {
    for id in record.ids()?.iter() {
        if let Some(slot) = index.find(&id) {
            apply(index, slot, id);
        }
    }
    Ok(())
}
