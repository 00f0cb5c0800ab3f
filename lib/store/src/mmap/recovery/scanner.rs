//! Walks the records of one segment file.

use std::io;
use std::sync::Arc;

use crate::mmap::codec::{
    RECORD_ALIGNMENT, RECORD_HEADER_LEN, RawRecord, RecordType, SEGMENT_HEADER_LEN, SegmentHeader, padded,
};
use crate::mmap::disk::DiskFile;

/// Read from the file at once. Reading into memory of our own, not through a map: a sector that cannot be read is an
/// error then and no signal, and what was read does not stay resident.
const READ_BYTES: usize = 1 << 20;
/// What can be read when a larger read failed.
const PAGE_BYTES: usize = 4096;
/// Looking for the next record after damage gives up after so many times the segment's length in checksums: content
/// that looks like records must not cost more.
const SEARCH_FACTOR: u64 = 16;

/// What the scanner came upon.
pub(crate) enum Scanned<'a> {
    /// A record that is what was written.
    Record { offset: u64, record: RawRecord<'a>, bytes: &'a [u8] },
    /// Bytes between two records that are none.
    Damage { from: u64, to: u64 },
    /// No record follows.
    End(End),
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Where the last record ends.
    pub(crate) offset: u64,
    /// The last record says that it is the last.
    pub(crate) sealed: bool,
    /// Bytes of a record that was begun after it and is not whole.
    pub(crate) torn_bytes: u64,
}

pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// Checksums can be left out when they were all right a moment ago.
    verify: bool,
    position: u64,
    limit: u64,
    next_lsn: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    hands_over: bool,
    /// The buffer that was read before this one, for whoever wants to keep it.
    full: Option<(Vec<u8>, u64)>,
    /// Memory for the next buffer.
    spare: Vec<u8>,
}

impl Scanner {
    pub(crate) fn new(file: Arc<dyn DiskFile>, header: &SegmentHeader) -> Self {
        // A file that was cut after a crash has lost the copy of its header, and ends with its seal.
        let len = file.len();
        let limit = if len < header.file_len { len } else { header.file_len - SEGMENT_HEADER_LEN as u64 };
        Self {
            file,
            seed: header.seed(),
            verify: true,
            position: SEGMENT_HEADER_LEN as u64,
            limit,
            next_lsn: header.first_lsn,
            buffer: Vec::new(),
            buffer_at: 0,
            hands_over: false,
            full: None,
            spare: Vec::new(),
        }
    }

    /// Keeps each buffer for [`Scanner::full_buffer`] when it begins the next.
    pub(super) fn handing_over(mut self) -> Self {
        self.hands_over = true;
        self
    }

    /// The buffer that records were in before the last one, if another was begun for that.
    pub(super) fn full_buffer(&mut self) -> Option<(Vec<u8>, u64)> {
        self.full.take()
    }

    /// The buffer that the last record is in.
    pub(super) fn take_buffer(&mut self) -> (Vec<u8>, u64) {
        (std::mem::take(&mut self.buffer), self.buffer_at)
    }

    /// Lends memory.
    pub(super) fn use_next(&mut self, buffer: Vec<u8>) {
        self.spare = buffer;
    }

    /// Goes on where another scanner stopped.
    pub(crate) fn from(mut self, position: u64, next_lsn: u64) -> Self {
        (self.position, self.next_lsn) = (position, next_lsn);
        self
    }

    pub(crate) fn without_verifying(mut self) -> Self {
        self.verify = false;
        self
    }

    /// Where the next record starts, and its LSN.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.position, self.next_lsn)
    }

    pub(crate) fn next(&mut self) -> Scanned<'_> {
        let offset = self.position;
        let Some(len) = self.record_at(offset, |lsn, next| lsn == next, self.verify) else {
            return self.after_damage(offset);
        };
        let bytes = self.read(offset, len);
        let Some(record) = RawRecord::trusted(bytes) else {
            return Scanned::End(End { offset, sealed: false, torn_bytes: 0 });
        };
        let (lsn, sealed) = (record.lsn, record.record_type == RecordType::Sealed);
        self.next_lsn = lsn + 1;
        self.position = offset + padded(len) as u64;
        if sealed {
            self.limit = self.position;
            return Scanned::End(End { offset: self.position, sealed: true, torn_bytes: 0 });
        }
        let bytes = self.read(offset, len);
        match RawRecord::trusted(bytes) {
            Some(record) => Scanned::Record { offset, record, bytes },
            None => Scanned::End(End { offset, sealed: false, torn_bytes: 0 }),
        }
    }

    /// The length of the record at `offset`, if there is one whose LSN is acceptable.
    fn record_at(&mut self, offset: u64, accept: impl Fn(u64, u64) -> bool, verify: bool) -> Option<usize> {
        let (seed, next_lsn, limit) = (self.seed, self.next_lsn, self.limit);
        let (len, lsn) = RawRecord::peek(self.read(offset, RECORD_HEADER_LEN)).ok()?;
        if !accept(lsn, next_lsn) || offset + len as u64 > limit {
            return None;
        }
        let bytes = self.read(offset, len);
        (!verify || RawRecord::parse(bytes, seed).is_ok()).then_some(len)
    }

    fn after_damage(&mut self, from: u64) -> Scanned<'_> {
        let next_lsn = self.next_lsn;
        let begun = match RawRecord::peek(self.read(from, RECORD_HEADER_LEN)) {
            Ok((len, lsn)) if lsn == next_lsn => len as u64,
            _ => 0,
        };
        match self.search(from) {
            Some((to, lsn)) => {
                (self.position, self.next_lsn) = (to, lsn);
                Scanned::Damage { from, to }
            }
            None => {
                let torn_bytes = begun.min(self.limit - from);
                self.limit = from;
                Scanned::End(End { offset: from, sealed: false, torn_bytes })
            }
        }
    }

    /// The next record after `from` whose LSN could have been reached by then, and its LSN.
    fn search(&mut self, from: u64) -> Option<(u64, u64)> {
        let mut budget = SEARCH_FACTOR * self.limit;
        let records_max = (self.limit - from) / RECORD_HEADER_LEN as u64;
        let later = |lsn: u64, next: u64| lsn > next && lsn - next <= records_max;
        let mut offset = from + RECORD_ALIGNMENT as u64;
        while offset + RECORD_HEADER_LEN as u64 <= self.limit {
            if let Some(len) = self.record_at(offset, later, false) {
                budget = budget.checked_sub(len as u64)?;
                if self.record_at(offset, later, true).is_some() {
                    let (_, lsn) = RawRecord::peek(self.read(offset, RECORD_HEADER_LEN)).ok()?;
                    return Some((offset, lsn));
                }
            }
            offset += RECORD_ALIGNMENT as u64;
        }
        None
    }

    /// Up to `len` bytes at `offset`, fewer where the records must end.
    fn read(&mut self, offset: u64, len: usize) -> &[u8] {
        let len = len.min(usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX));
        let buffered = self.buffer_at..self.buffer_at + self.buffer.len() as u64;
        if offset < buffered.start || offset + len as u64 > buffered.end {
            self.fill(offset, len);
        }
        let start = (offset - self.buffer_at) as usize;
        &self.buffer[start..start + len]
    }

    fn fill(&mut self, offset: u64, len: usize) {
        let rest = usize::try_from(self.limit - offset).unwrap_or(usize::MAX);
        if self.hands_over && self.full.is_none() {
            let full = std::mem::replace(&mut self.buffer, std::mem::take(&mut self.spare));
            self.full = Some((full, self.buffer_at));
        }
        self.buffer.resize(len.max(READ_BYTES).min(rest), 0);
        self.buffer_at = offset;
        if self.file.read_at(&mut self.buffer, offset).is_ok() {
            return;
        }
        // What cannot be read becomes zeros, which is no record: it is damage like any other.
        let mut at = offset;
        for page in self.buffer.chunks_mut(PAGE_BYTES) {
            if self.file.read_at(page, at).is_err() {
                page.fill(0);
            }
            at += page.len() as u64;
        }
    }
}

/// Reads `range` as well as it can be read.
pub(crate) fn read_damaged(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(to - from).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut bytes = vec![0; len];
    if file.read_at(&mut bytes, from).is_err() {
        let mut at = from;
        for page in bytes.chunks_mut(PAGE_BYTES) {
            if file.read_at(page, at).is_err() {
                page.fill(0);
            }
            at += page.len() as u64;
        }
    }
    Ok(bytes)
}
