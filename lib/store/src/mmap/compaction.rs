//! Frees disk that a few messages hold on to.
//!
//! Segments go strictly from the oldest, so that what settles a message always outlives the message. When little of the
//! log is alive, the messages of the oldest segment are copied to its head; then it is empty and goes. Copying is done
//! in pieces, one for each batch of the writer at most.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::codec::{RawRecord, RecordType, SegmentHeader};
use super::disk::{Disk, DiskFile};
use super::index::{Aside, Index, Place, Segment};
use super::read::Source;
use super::recovery::{Scanned, Scanner, keep_piece_aside};
use crate::mailbox::lock;

/// Bytes of messages found before a piece is handed over.
const PIECE_BYTES: usize = 512 << 10;
/// Segments that a log may have without anything being copied.
const SEGMENTS_MIN: usize = 4;

/// Whether the oldest segment's messages should move on.
pub(crate) fn is_due(index: &Index, disk_is_full: bool, free_bytes: u64) -> bool {
    let Some(oldest) = index.segments.oldest() else { return false };
    if index.segments.len() < 2 || oldest.live_count == 0 {
        return false;
    }
    let (live, total) = index.segments.live_and_total_bytes();
    let dominated = index.segments.len() >= SEGMENTS_MIN && live < total / 2;
    if disk_is_full {
        // The last room is for telling what becomes of messages; copying must give back more than it takes.
        return oldest.live_bytes < free_bytes / 2 && (dominated || oldest.live_bytes < oldest.end / 4 * 3);
    }
    dominated
}

/// Looks for messages that are alive in one segment.
pub(crate) struct CollectJob {
    segment: u32,
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    /// Where to go on, and the LSN there.
    from: Option<(u64, u64)>,
    /// Take messages along whose state cannot be read, without it.
    without_state: bool,
}

/// What was found.
pub(crate) struct Collected {
    pub(crate) segment: u32,
    pub(crate) survivors: Vec<Survivor>,
    /// Where to go on; `None` at the end of the segment.
    pub(crate) next: Option<(u64, u64)>,
    /// Something could not be taken along just now.
    pub(crate) skipped: bool,
}

/// A message that must move.
pub(crate) struct Survivor {
    pub(crate) slot: u32,
    pub(crate) place: Place,
    pub(crate) record: Bytes,
    /// What was known aside when its state was read, and that state's record.
    pub(crate) aside: Option<(Aside, Option<Bytes>)>,
}

impl CollectJob {
    pub(crate) fn new(segment: &Segment, from: Option<(u64, u64)>, without_state: bool) -> Self {
        Self {
            segment: segment.number,
            header: segment.header,
            file: segment.file.clone(),
            from,
            without_state,
        }
    }

    pub(crate) fn run(self, disk: &dyn Disk, index: &Mutex<Index>) -> Collected {
        let mut scanner = Scanner::new(self.file.clone(), &self.header);
        if let Some((position, lsn)) = self.from {
            scanner = scanner.from(position, lsn);
        }
        let mut collected =
            Collected { segment: self.segment, survivors: Vec::new(), next: None, skipped: false };
        let mut found_bytes = 0;
        while found_bytes < PIECE_BYTES {
            match scanner.next() {
                Scanned::Record { offset, record, bytes } => {
                    let place = Place::new(self.segment, offset);
                    let Some((slot, aside)) = find_live(index, &record, place) else { continue };
                    match read_aside(aside, self.without_state) {
                        Ok(aside) => {
                            found_bytes += bytes.len();
                            let record = Bytes::copy_from_slice(bytes);
                            collected.survivors.push(Survivor { slot, place, record, aside });
                        }
                        Err(()) => collected.skipped = true,
                    }
                }
                Scanned::Damage { from, to } => {
                    keep_piece_aside(disk, self.segment, &*self.file, from, to);
                }
                Scanned::End(_) => return collected,
            }
        }
        collected.next = Some(scanner.position());
        collected
    }
}

type LockedAside = Option<(Aside, Option<(Source, Place)>)>;

fn find_live(index: &Mutex<Index>, record: &RawRecord<'_>, place: Place) -> Option<(u32, LockedAside)> {
    if !matches!(record.record_type, RecordType::Published | RecordType::Moved) {
        return None;
    }
    let id = record.id().ok()?;
    let index = lock(index);
    let slot = index.find(&id)?;
    index.get(slot).filter(|entry| entry.place() == place)?;
    let aside = index.aside(slot).cloned().map(|aside| {
        let at = match &aside {
            Aside::At(place) => index.source(*place).ok().map(|source| (source, *place)),
            Aside::Unlogged(_) => None,
        };
        (aside, at)
    });
    Some((slot, aside))
}

/// Reads the record that holds a message's state. It may be on its way to the disk just now: then the message has to
/// wait for the next round.
fn read_aside(aside: LockedAside, without_state: bool) -> Result<Option<(Aside, Option<Bytes>)>, ()> {
    let Some((aside, at)) = aside else { return Ok(None) };
    let Some((source, place)) = at else { return Ok(Some((aside, None))) };
    let read = source
        .read_whole(place.offset())
        .and_then(|bytes| source.parse(place.offset(), &bytes).map(drop).map(|()| bytes));
    match read {
        Ok(bytes) => Ok(Some((aside, Some(bytes)))),
        Err(error) if without_state => {
            tracing::error!(%error, "the state of a message's groups is damaged and is forgotten");
            Ok(Some((aside, None)))
        }
        Err(_) => Err(()),
    }
}
