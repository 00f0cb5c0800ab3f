//! Rebuilds the index from what is on the disk.
//!
//! 1. Every segment is scanned in order, on a thread that reads and checks ahead, and its records are applied. What is no record is damage: it is copied aside and
//!    skipped; at the end of the last segment it is what a crash left of an unfinished write, and normal.
//! 2. Segments that a crash left open are sealed, and everything is made durable: what is believed from now on (a repeated
//!    message is answered "duplicate") must not vanish in a later crash.
//! 3. The live messages are reported in the order in which they were published. The log itself is that order but for
//!    moved messages, which carry the LSN of their publication; so all that must be remembered is a slot for each record
//!    of a message, at the price of walking the segments once more.

mod pipeline;
mod replay;
mod report;
mod scanner;

use std::sync::Arc;

use pipeline::{Job, Piece, Pieces, Records, read_ahead};
pub(crate) use scanner::{Scanned, Scanner, read_damaged};

use super::codec::{
    HeaderFault, RECORD_HEADER_LEN, RawRecord, RecordType, RecordWriter, SEGMENT_HEADER_LEN, SegmentHeader,
};
use super::disk::{Disk, DiskFile};
use super::files::{
    damaged_piece_name, damaged_segment_name, damaged_segment_number, segment_name, segment_number,
    spare_name, spare_number,
};
use super::index::{Index, Place, Segment};
use super::options::MmapOptions;
use super::tasks::SPARES_MAX;
use super::time::Now;
use crate::error::StoreError;
use crate::held::Recovered;
use scanner::End;

/// Stands for a record whose message is not in the index.
const NO_SLOT: u32 = u32::MAX;
/// Ids looked up together before they are used: the processor waits for their memory once and not one by one.
const TOUCHED_AHEAD: usize = 16;
/// Written over itself at once.
const REWRITE_BYTES: usize = 1 << 20;

/// A log as it was found.
pub(crate) struct RecoveredLog {
    pub(crate) index: Index,
    pub(crate) next_lsn: u64,
    pub(crate) next_number: u32,
    pub(crate) spares: Vec<String>,
}

/// Reads the log on `disk` and reports its live messages.
///
/// # Errors
/// When the directory or its files cannot be read, or are of another version, or are not a log's.
pub(crate) fn recover(
    disk: &dyn Disk,
    options: &MmapOptions,
    now: Now,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<RecoveredLog, StoreError> {
    let mut recovery = Recovery {
        disk,
        options,
        index: Index::new(options.dedupe),
        next_lsn: 1,
        numbers: Vec::new(),
        next_number: 1,
        spares: Vec::new(),
        remember_after: now.unix_seconds
            - i64::try_from(options.dedupe.window.as_secs()).unwrap_or(i64::MAX / 2),
        walks: Vec::new(),
    };
    recovery.index.dedupe.turn(now.monotonic);
    recovery.list()?;
    recovery.replay()?;
    let Recovery { index, walks, next_lsn, next_number, spares, .. } = recovery;
    report::report(&index, &walks, visit)?;
    Ok(RecoveredLog { index, next_lsn, next_number, spares })
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    options: &'a MmapOptions,
    index: Index,
    next_lsn: u64,
    /// Of the segment files, ascending.
    numbers: Vec<u32>,
    next_number: u32,
    spares: Vec<String>,
    /// Ids settled after this second are remembered.
    remember_after: i64,
    walks: Vec<Walk>,
}

/// What the first walk over a segment leaves for the second.
struct Walk {
    segment: u32,
    /// There was no damage: checksums need not be computed again.
    clean: bool,
    /// The slot of every record that has a message, in order. By now the slot may hold another message, whose place is
    /// another one then.
    slots: Vec<u32>,
}

impl Recovery<'_> {
    fn list(&mut self) -> Result<(), StoreError> {
        let mut highest = 0;
        for name in self.disk.list().map_err(|error| self.unavailable(&self.disk.place(), &error))? {
            if let Some(number) = segment_number(&name) {
                self.numbers.push(number);
                highest = highest.max(number);
            } else if let Some(number) = spare_number(&name) {
                highest = highest.max(number);
                self.keep_or_delete_spare(name);
            } else if let Some(number) = damaged_segment_number(&name) {
                highest = highest.max(number);
            }
        }
        self.numbers.sort_unstable();
        self.next_number = highest + 1;
        Ok(())
    }

    fn keep_or_delete_spare(&mut self, name: String) {
        let fits = self.disk.open(&name).is_ok_and(|file| file.len() == self.options.segment_bytes);
        if fits && self.spares.len() < SPARES_MAX {
            self.spares.push(name);
        } else if let Err(error) = self.disk.delete(&name) {
            tracing::warn!(file = name, %error, "a spare file that is not needed cannot be deleted");
        }
    }

    fn replay(&mut self) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for number in std::mem::take(&mut self.numbers) {
            let name = segment_name(number);
            let file = self.disk.open(&name).map_err(|error| self.unavailable(&name, &error))?;
            if let Some(header) = self.header(number, &file)? {
                found.push((header, file));
            }
        }
        let jobs = found
            .iter()
            .map(|(header, file)| Job { header: *header, file: file.clone(), verify: true })
            .collect();
        let unsealed = read_ahead(jobs, |mut pieces| {
            let mut unsealed = Vec::new();
            for (header, file) in found {
                let (end, lsn) = self.replay_segment(header, &file, &mut pieces)?;
                if !end.sealed {
                    unsealed.push((header.number, end, lsn));
                }
            }
            Ok(unsealed)
        })?;
        // Behind the last segment there may be files that were prepared and never written to.
        let last = self.index.segments.iter().last().map(|segment| segment.number);
        for (number, end, lsn) in unsealed {
            self.report_end(number, end, Some(number) == last);
            self.seal(number, lsn).map_err(|error| self.unavailable(&segment_name(number), &error))?;
        }
        if let Some(last) = self.index.segments.iter().last() {
            write_again(&*last.file, last.end)
                .map_err(|error| self.unavailable(&segment_name(last.number), &error))?;
        }
        for segment in self.index.segments.iter() {
            segment.file.sync().map_err(|error| self.unavailable(&segment_name(segment.number), &error))?;
        }
        self.disk.sync_directory().map_err(|error| self.unavailable(&self.disk.place(), &error))
    }

    /// The header of a segment file; `None` when the file has none and was dealt with.
    fn header(&mut self, number: u32, file: &Arc<dyn DiskFile>) -> Result<Option<SegmentHeader>, StoreError> {
        let name = segment_name(number);
        let read = |offset: u64| {
            let mut bytes = [0; SEGMENT_HEADER_LEN];
            file.read_at(&mut bytes, offset).map(|()| SegmentHeader::decode(&bytes))
        };
        let len = file.len();
        let first = if len < SEGMENT_HEADER_LEN as u64 { Ok(Err(HeaderFault::Unused)) } else { read(0) };
        let first = first.map_err(|error| self.unavailable(&name, &error))?;
        if let Ok(header) = first
            && header.number == number
        {
            return Ok(Some(header));
        }
        let copy = match len.checked_sub(SEGMENT_HEADER_LEN as u64) {
            Some(offset) if offset > 0 => read(offset).unwrap_or(Err(HeaderFault::Checksum)),
            _ => Err(HeaderFault::Unused),
        };
        // Where the first record would be; not all zeros when the header alone is gone.
        let mut start = [0; RECORD_HEADER_LEN];
        let begun =
            file.read_at(&mut start, SEGMENT_HEADER_LEN as u64).is_ok() && start != [0; RECORD_HEADER_LEN];
        match (first, copy) {
            (_, Ok(header)) if header.number == number => {
                tracing::error!(
                    file = name,
                    "the segment's header is damaged; its copy at the end replaces it"
                );
                // The end may be cut off when the segment is sealed.
                file.write_at(&header.encode(), 0).map_err(|error| self.unavailable(&name, &error))?;
                Ok(Some(header))
            }
            (Err(fault @ HeaderFault::Version { .. }), _) => Err(StoreError::Corrupt {
                place: name,
                reason: format!("{fault}; run the version that wrote it, or choose an empty directory"),
            }),
            (Err(fault @ HeaderFault::Magic), _) => Err(StoreError::Corrupt {
                place: name,
                reason: format!("not a segment of a store: {fault}; move the file away"),
            }),
            (Err(fault @ (HeaderFault::Checksum | HeaderFault::Unused)), _)
                if begun || fault == HeaderFault::Checksum =>
            {
                tracing::error!(
                    file = name,
                    kept_as = damaged_segment_name(number),
                    "the segment's header and its copy are damaged: nothing of it can be read"
                );
                self.rename(&name, &damaged_segment_name(number))?;
                Ok(None)
            }
            // Prepared for use, and then never written to before the end.
            (Err(_) | Ok(_), _) => {
                let spare = spare_name(number);
                self.rename(&name, &spare)?;
                self.keep_or_delete_spare(spare);
                Ok(None)
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        self.disk.rename(from, to).map_err(|error| self.unavailable(from, &error))
    }

    /// Applies a segment's records. Returns how it ends, and the LSN after its last.
    fn replay_segment(
        &mut self,
        header: SegmentHeader,
        file: &Arc<dyn DiskFile>,
        pieces: &mut Pieces,
    ) -> Result<(End, u64), StoreError> {
        if self.index.segments.len() > 0 && header.first_lsn != self.next_lsn {
            tracing::error!(
                file = segment_name(header.number),
                found_lsn = header.first_lsn,
                expected_lsn = self.next_lsn,
                "records before this segment are missing"
            );
        }
        self.index.segments.push(Segment::new(header, file.clone()));
        let mut walk = Walk { segment: header.number, clean: true, slots: Vec::new() };
        let (end, lsn) = loop {
            match pieces.next()? {
                Piece::Records(records) => {
                    self.apply(header.number, &records, &mut walk);
                    pieces.give_back(records);
                }
                Piece::Damage { from, to } => {
                    walk.clean = false;
                    keep_piece_aside(self.disk, header.number, &**file, from, to);
                }
                Piece::End(end, lsn) => break (end, lsn),
            }
        };
        walk.slots.shrink_to_fit();
        self.walks.push(walk);
        self.next_lsn = self.next_lsn.max(header.first_lsn).max(lsn);
        if let Some(segment) = self.index.segments.get_mut(header.number) {
            segment.end = end.offset;
        }
        Ok((end, lsn))
    }

    fn apply(&mut self, segment: u32, records: &Records, walk: &mut Walk) {
        let mut ahead = records.iter();
        for (position, (offset, record)) in records.iter().enumerate() {
            if position.is_multiple_of(TOUCHED_AHEAD) {
                let ids = ahead.by_ref().take(TOUCHED_AHEAD).filter(|(_, record)| has_message(record));
                self.index.touch(ids.filter_map(|(_, record)| record.id().ok()));
            }
            match replay::apply(&mut self.index, &record, Place::new(segment, offset), self.remember_after) {
                Ok(slot) => walk.slots.extend(slot),
                Err(fault) => {
                    // The second walk tells messages by counting records.
                    walk.slots.extend(has_message(&record).then_some(NO_SLOT));
                    tracing::error!(
                        file = segment_name(segment),
                        offset,
                        %fault,
                        "a record with a right checksum makes no sense and is skipped"
                    );
                }
            }
        }
    }

    fn report_end(&self, number: u32, end: End, last: bool) {
        let End { offset, torn_bytes, .. } = end;
        let name = segment_name(number);
        if last {
            tracing::info!(
                file = name,
                offset,
                cut_bytes = torn_bytes,
                "the log was not closed; an unfinished write at its end is cut"
            );
            return;
        }
        tracing::error!(
            file = name,
            offset,
            cut_bytes = torn_bytes,
            "the segment has no end: records after this offset are missing"
        );
        if let Some(segment) = self.index.segments.get(number).filter(|_| torn_bytes > 0) {
            keep_piece_aside(self.disk, number, &*segment.file, offset, offset + torn_bytes);
        }
    }

    /// Ends a segment that a crash left open, and gives the room after it back.
    fn seal(&mut self, number: u32, lsn: u64) -> std::io::Result<()> {
        let Some(segment) = self.index.segments.get_mut(number) else { return Ok(()) };
        let records_end = segment.file.len().saturating_sub(SEGMENT_HEADER_LEN as u64);
        if segment.end + RECORD_HEADER_LEN as u64 > records_end {
            return Ok(());
        }
        let mut seal = Vec::new();
        RecordWriter::sealed(&mut seal, segment.header.seed(), lsn);
        self.next_lsn = self.next_lsn.max(lsn + 1);
        segment.file.write_at(&seal, segment.end)?;
        segment.file.sync()?;
        segment.end += seal.len() as u64;
        segment.file.truncate(segment.end)
    }

    fn unavailable(&self, place: &str, error: &std::io::Error) -> StoreError {
        StoreError::Unavailable { place: place.to_owned(), reason: error.to_string() }
    }
}

fn has_message(record: &RawRecord<'_>) -> bool {
    matches!(record.record_type, RecordType::Published | RecordType::Moved)
}

/// Writes what a file holds over itself, so that the next sync writes it to the disk.
///
/// When a sync fails, the system may keep the pages in memory and believe that they are on the disk: a restarted broker
/// reads them, a sync of them succeeds, and the next power failure takes them. Only the last segment can have such pages,
/// because no segment is begun after a failure.
fn write_again(file: &dyn DiskFile, len: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; REWRITE_BYTES];
    let mut offset = 0;
    while offset < len {
        let part = REWRITE_BYTES.min(usize::try_from(len - offset).unwrap_or(usize::MAX));
        // What cannot be read was reported as damage already.
        if file.read_at(&mut buffer[..part], offset).is_ok() {
            file.write_at(&buffer[..part], offset)?;
        }
        offset += part as u64;
    }
    Ok(())
}

/// Copies damaged bytes to where a person can look at them, and says so.
pub(crate) fn keep_piece_aside(disk: &dyn Disk, number: u32, file: &dyn DiskFile, from: u64, to: u64) {
    let kept = read_damaged(file, from, to)
        .and_then(|bytes| disk.keep_aside(&damaged_piece_name(number, from), &bytes));
    let (kept_as, error) = match kept {
        Ok(kept_as) => (kept_as, None),
        Err(error) => ("nowhere".to_owned(), Some(error.to_string())),
    };
    tracing::error!(
        file = segment_name(number),
        offset = from,
        damaged_bytes = to - from,
        kept_as,
        error,
        "damaged bytes in the log are skipped; records that were there are lost"
    );
}
