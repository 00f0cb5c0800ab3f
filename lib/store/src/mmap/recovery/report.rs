//! Reports the live messages of an index in the order of their publication.

use bytes::Bytes;

use super::scanner::{Scanned, Scanner};
use super::{Walk, has_message};
use crate::error::StoreError;
use crate::held::{GroupState, Recovered, Slot};
use crate::mmap::codec::{MessageRecord, RawRecord, RecordType};
use crate::mmap::index::{Aside, Entry, Index, Place};
use crate::mmap::read::read_noted;

/// A live message that is not where its order in the log would put it.
struct Moved {
    slot: u32,
    published_lsn: u64,
    place: Place,
    record_len: usize,
}

pub(super) fn report(
    index: &Index,
    walks: Vec<Walk>,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), StoreError> {
    let mut moved = find_moved(index, &walks);
    moved.sort_unstable_by_key(|moved| moved.published_lsn);
    let mut moved = moved.into_iter().peekable();
    for walk in walks {
        for_live(index, &walk, |slot, record, _| {
            if record.record_type != RecordType::Published {
                return Ok(());
            }
            while let Some(earlier) = moved.next_if(|moved| moved.published_lsn < record.lsn) {
                report_moved(index, &earlier, visit)?;
            }
            if let Ok(message) = record.message() {
                visit_one(index, slot, &message, visit);
            }
            Ok(())
        })?;
    }
    moved.try_for_each(|moved| report_moved(index, &moved, visit))
}

fn find_moved(index: &Index, walks: &[Walk]) -> Vec<Moved> {
    let mut found = Vec::new();
    for walk in walks {
        if !index.segments.get(walk.segment).is_some_and(|segment| segment.has_moved) {
            continue;
        }
        // Nothing in there fails.
        let _ = for_live(index, walk, |slot, record, place| {
            if let Some(moved) = record.message().ok().and_then(|message| message.moved) {
                let (published_lsn, record_len) = (moved.published_lsn, record.len);
                found.push(Moved { slot, published_lsn, place, record_len });
            }
            Ok(())
        });
    }
    found
}

/// Goes through the records of a segment whose message is alive there and no dead letter.
fn for_live(
    index: &Index,
    walk: &Walk,
    mut each: impl FnMut(u32, &RawRecord<'_>, Place) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let Some(segment) = index.segments.get(walk.segment).filter(|segment| segment.live_count > 0) else {
        return Ok(());
    };
    let mut scanner = Scanner::new(segment.file.clone(), &segment.header);
    if walk.clean {
        scanner = scanner.without_verifying();
    }
    let mut slots = walk.slots.iter();
    loop {
        match scanner.next() {
            Scanned::Record { offset, record, .. } if has_message(&record) => {
                let Some(slot) = slots.next().copied() else { return Ok(()) };
                let place = Place::new(walk.segment, offset);
                let alive = |entry: &Entry| entry.place() == place && !entry.is_dead();
                if index.get(slot).is_some_and(alive) {
                    each(slot, &record, place)?;
                }
            }
            Scanned::Record { .. } | Scanned::Damage { .. } => {}
            Scanned::End(_) => return Ok(()),
        }
    }
}

fn report_moved(
    index: &Index,
    moved: &Moved,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), StoreError> {
    let source = index.source(moved.place)?;
    let bytes: Bytes = source.read(moved.place.offset(), moved.record_len)?;
    let record = source.parse(moved.place.offset(), &bytes)?;
    if let Ok(message) = record.message() {
        visit_one(index, moved.slot, &message, visit);
    }
    Ok(())
}

fn visit_one(index: &Index, slot: u32, message: &MessageRecord<'_>, visit: &mut dyn FnMut(Recovered<'_>)) {
    let Some(entry) = index.get(slot) else { return };
    visit(Recovered {
        slot: Slot(slot),
        id: message.id,
        kind: message.kind,
        topic: message.topic,
        message_type: message.message_type,
        expires_at: if entry.is_revived() { 0 } else { message.expires_at },
        deliver_limit: u32::try_from(message.deliver_limit).unwrap_or(0),
        committed: entry.is_committed(),
        groups: &noted(index, slot),
    });
}

/// What was noted about a message; nothing when that cannot be read, which costs deliveries and no message.
fn noted(index: &Index, slot: u32) -> Vec<GroupState> {
    let Some(Aside::At(place)) = index.aside(slot) else { return Vec::new() };
    index.source(*place).and_then(|source| read_noted(&source, *place)).unwrap_or_else(|error| {
        tracing::error!(%error, "the state of a message's groups cannot be read; they get it again");
        Vec::new()
    })
}
