//! Reports the live messages of an index in the order of their publication.

use bytes::Bytes;

use super::scanner::{Scanned, Scanner};
use crate::error::StoreError;
use crate::held::{GroupState, Recovered, Slot};
use crate::mmap::codec::{MessageRecord, RawRecord, RecordType};
use crate::mmap::index::{Aside, Index, Place, Segment};
use crate::mmap::read::read_noted;

/// A live message that is not where its order in the log would put it.
struct Moved {
    published_lsn: u64,
    place: Place,
    record_len: usize,
}

pub(super) fn report(
    index: &Index,
    clean: &[u32],
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), StoreError> {
    let mut moved = find_moved(index, clean);
    moved.sort_unstable_by_key(|moved| moved.published_lsn);
    let mut moved = moved.into_iter().peekable();
    for segment in index.segments.iter().filter(|segment| segment.live_count > 0) {
        let mut scanner = scanner_of(segment, clean);
        loop {
            let (offset, record) = match scanner.next() {
                Scanned::Record { offset, record, .. } => (offset, record),
                Scanned::Damage { .. } => continue,
                Scanned::End(_) => break,
            };
            if record.record_type != RecordType::Published {
                continue;
            }
            while let Some(earlier) = moved.next_if(|moved| moved.published_lsn < record.lsn) {
                report_moved(index, &earlier, visit)?;
            }
            if let Some((slot, message)) = live(index, &record, Place::new(segment.number, offset)) {
                visit_one(index, slot, &message, visit);
            }
        }
    }
    for moved in moved {
        report_moved(index, &moved, visit)?;
    }
    Ok(())
}

fn scanner_of(segment: &Segment, clean: &[u32]) -> Scanner {
    let scanner = Scanner::new(segment.file.clone(), &segment.header);
    if clean.binary_search(&segment.number).is_ok() { scanner.without_verifying() } else { scanner }
}

fn find_moved(index: &Index, clean: &[u32]) -> Vec<Moved> {
    let mut found = Vec::new();
    for segment in index.segments.iter().filter(|segment| segment.has_moved && segment.live_count > 0) {
        let mut scanner = scanner_of(segment, clean);
        loop {
            match scanner.next() {
                Scanned::Record { offset, record, .. } if record.record_type == RecordType::Moved => {
                    let place = Place::new(segment.number, offset);
                    if let Some((_, message)) = live(index, &record, place)
                        && let Some(moved) = message.moved
                    {
                        let (published_lsn, record_len) = (moved.published_lsn, record.len);
                        found.push(Moved { published_lsn, place, record_len });
                    }
                }
                Scanned::End(_) => break,
                _ => {}
            }
        }
    }
    found
}

/// The message of a record that is alive there and no dead letter.
fn live<'a>(index: &Index, record: &RawRecord<'a>, place: Place) -> Option<(u32, MessageRecord<'a>)> {
    let slot = index.find(&record.id().ok()?)?;
    let entry = index.get(slot)?;
    (entry.place() == place && !entry.is_dead()).then_some(())?;
    Some((slot, record.message().ok()?))
}

fn report_moved(
    index: &Index,
    moved: &Moved,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), StoreError> {
    let source = index.source(moved.place)?;
    let bytes: Bytes = source.read(moved.place.offset(), moved.record_len)?;
    let record = source.parse(moved.place.offset(), &bytes)?;
    if let Some((slot, message)) = live(index, &record, moved.place) {
        visit_one(index, slot, &message, visit);
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
