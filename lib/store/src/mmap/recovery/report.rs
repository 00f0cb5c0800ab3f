//! Reports the live messages of an index in the order of their publication.

use bytes::Bytes;

use super::pipeline::{Job, Piece, read_ahead};
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
    walks: &[Walk],
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<(), StoreError> {
    let mut moved = Vec::new();
    let with_moved = walks.iter().filter(|walk| has_moved(index, walk));
    for_live(index, with_moved, |slot, record, place| {
        if let Some(state) = record.message().ok().and_then(|message| message.moved) {
            let (published_lsn, record_len) = (state.published_lsn, record.len);
            moved.push(Moved { slot, published_lsn, place, record_len });
        }
        Ok(())
    })?;
    moved.sort_unstable_by_key(|moved| moved.published_lsn);
    let mut moved = moved.into_iter().peekable();
    for_live(index, walks.iter(), |slot, record, _| {
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
    moved.try_for_each(|moved| report_moved(index, &moved, visit))
}

fn has_moved(index: &Index, walk: &Walk) -> bool {
    index.segments.get(walk.segment).is_some_and(|segment| segment.has_moved)
}

/// Goes through the records of segments whose message is alive there and no dead letter.
fn for_live<'a>(
    index: &Index,
    walks: impl Iterator<Item = &'a Walk>,
    mut each: impl FnMut(u32, &RawRecord<'_>, Place) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut with_live = Vec::new();
    let mut jobs = Vec::new();
    for walk in walks {
        if let Some(segment) = index.segments.get(walk.segment).filter(|segment| segment.live_count > 0) {
            let (header, file) = (segment.header, segment.file.clone());
            jobs.push(Job { header, file, verify: !walk.clean });
            with_live.push(walk);
        }
    }
    if jobs.is_empty() {
        return Ok(());
    }
    read_ahead(jobs, |mut pieces| {
        for walk in with_live {
            let mut slots = walk.slots.iter().copied();
            loop {
                let records = match pieces.next()? {
                    Piece::Records(records) => records,
                    Piece::Damage { .. } => continue,
                    Piece::End(..) => break,
                };
                for (offset, record) in records.iter().filter(|(_, record)| has_message(record)) {
                    let place = Place::new(walk.segment, offset);
                    let alive = |entry: &Entry| entry.place() == place && !entry.is_dead();
                    if let Some(slot) = slots.next()
                        && index.get(slot).is_some_and(alive)
                    {
                        each(slot, &record, place)?;
                    }
                }
                pieces.give_back(records);
            }
        }
        Ok(())
    })
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
