//! The head of the log: where records are written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{
    RECORD_HEADER_LEN, RECORD_LEN_MAX, RecordWriter, SEGMENT_HEADER_LEN, SegmentHeader, padded,
};
use super::disk::DiskFile;
use super::index::{Place, Segment};
use super::options::{MmapOptions, SyncMode};
use super::tasks::{Helper, Prepared, Task};
use super::time::Now;
use crate::error::StoreError;

/// Encoded records are written when there are so many bytes of them, or when a batch ends.
const STAGING_BYTES_MAX: usize = 4 << 20;
/// Room for the record that ends a segment.
const SEAL_LEN: u64 = RECORD_HEADER_LEN as u64;
/// How long to wait before asking a full disk for room again.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// What a record is for: it decides who gets the last room on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// New messages. The last quarter of the last segment is not for them.
    Publish,
    /// What is told about messages that are held, so that they can go and make room.
    Progress,
}

struct Active {
    number: u32,
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// Where what was handed to the file ends.
    written: u64,
    /// Where records must end.
    limit: u64,
}

enum Next {
    Missing { retry_at: Duration, reason: Option<String> },
    UnderWay,
    Ready(Prepared),
}

/// Writes records one after the other, in segments.
pub(crate) struct Log {
    place: String,
    segment_bytes: u64,
    syncs_batches: bool,
    active: Option<Active>,
    next: Next,
    next_number: u32,
    spares: Vec<String>,
    staging: Vec<u8>,
    next_lsn: u64,
    synced_lsn: u64,
    /// Files with writes that may not be on the disk.
    unsynced: Vec<Arc<dyn DiskFile>>,
    /// Files that somebody else is syncing.
    syncing: Vec<Arc<dyn DiskFile>>,
    /// Why there was no room when there was none last, to say it once.
    told_reason: Option<String>,
    failure: Option<StoreError>,
    now: Now,
}

impl Log {
    pub(crate) fn new(
        options: &MmapOptions,
        place: String,
        next_number: u32,
        next_lsn: u64,
        spares: Vec<String>,
        now: Now,
    ) -> Self {
        Self {
            place,
            segment_bytes: options.segment_bytes,
            syncs_batches: options.sync == SyncMode::Group,
            active: None,
            next: Next::Missing { retry_at: Duration::ZERO, reason: None },
            next_number,
            spares,
            staging: Vec::new(),
            next_lsn,
            // Recovery synced what it found.
            synced_lsn: next_lsn - 1,
            unsynced: Vec::new(),
            syncing: Vec::new(),
            told_reason: None,
            failure: None,
            now,
        }
    }

    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.failure.as_ref()
    }

    pub(crate) fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    pub(crate) fn active_number(&self) -> Option<u32> {
        self.active.as_ref().map(|active| active.number)
    }

    /// Where the next record goes in the active segment.
    pub(crate) fn position(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.written + self.staging.len() as u64)
    }

    /// Everything up to this LSN survives a crash of the machine.
    pub(crate) fn synced_lsn(&self) -> u64 {
        self.synced_lsn
    }

    pub(crate) fn last_lsn(&self) -> u64 {
        self.next_lsn - 1
    }

    pub(crate) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Longest record that a segment can take.
    pub(crate) fn record_len_max(&self) -> usize {
        let room = self.segment_bytes - 2 * SEGMENT_HEADER_LEN as u64 - SEAL_LEN;
        usize::try_from(room).unwrap_or(usize::MAX).min(RECORD_LEN_MAX) / 8 * 8
    }

    /// Bytes left for records in the active segment.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.limit.saturating_sub(self.position() + SEAL_LEN))
    }

    fn reserve_bytes(&self, purpose: Purpose) -> u64 {
        match (purpose, &self.next) {
            (Purpose::Publish, Next::Missing { .. } | Next::UnderWay) => self.segment_bytes / 4,
            _ => 0,
        }
    }

    fn fits_segment(&self, record_len: usize, purpose: Purpose) -> bool {
        self.active.is_some() && self.free_bytes() >= padded(record_len) as u64 + self.reserve_bytes(purpose)
    }

    /// Whether a record can be encoded at once, without any work on files.
    pub(crate) fn fits(&self, record_len: usize, purpose: Purpose) -> bool {
        let staged = self.staging.len();
        self.failure.is_none()
            && (staged == 0 || staged + record_len <= STAGING_BYTES_MAX)
            && self.fits_segment(record_len, purpose)
    }

    /// Makes room for a record, so that it fits. Writes, and may start a new segment, which is returned: the caller adds
    /// it to the index.
    ///
    /// # Errors
    /// When the disk is full, or the log has failed.
    pub(crate) fn make_room(
        &mut self,
        record_len: usize,
        purpose: Purpose,
        helper: &mut dyn Helper,
    ) -> Result<Option<Segment>, StoreError> {
        self.check()?;
        if self.staging.len() + record_len > STAGING_BYTES_MAX {
            self.flush()?;
        }
        if self.fits_segment(record_len, purpose) {
            return Ok(None);
        }
        self.ensure_next(helper)?;
        if self.fits_segment(record_len, purpose) {
            return Ok(None);
        }
        self.roll().map(Some)
    }

    /// Asks for the next segment ahead of need, so that rolling does not wait. Call it between batches.
    pub(crate) fn prepare_next(&mut self, helper: &mut dyn Helper) {
        if let Some(result) = helper.prepared() {
            self.note_prepared(result);
        }
        if let Next::Missing { retry_at, .. } = self.next
            && (self.now.monotonic >= retry_at || !self.spares.is_empty())
            && self.failure.is_none()
        {
            let number = self.next_number;
            // A number is used once, whatever becomes of the file.
            self.next_number += 1;
            let spare = self.spares.pop();
            helper.start(Task::Prepare { number, len: self.segment_bytes, spare });
            self.next = Next::UnderWay;
        }
    }

    fn ensure_next(&mut self, helper: &mut dyn Helper) -> Result<(), StoreError> {
        self.prepare_next(helper);
        if matches!(self.next, Next::UnderWay) {
            let result = helper.wait_prepared();
            self.note_prepared(result);
        }
        match &self.next {
            Next::Ready(_) => Ok(()),
            Next::Missing { reason, .. } => Err(StoreError::DiskFull {
                place: self.place.clone(),
                reason: reason.clone().unwrap_or_default(),
            }),
            Next::UnderWay => Err(StoreError::DiskFull { place: self.place.clone(), reason: String::new() }),
        }
    }

    fn note_prepared(&mut self, result: Result<Prepared, String>) {
        self.next = match result {
            Ok(prepared) => {
                if self.told_reason.take().is_some() {
                    tracing::info!(place = self.place, "there is room for another segment again");
                }
                Next::Ready(prepared)
            }
            Err(reason) => {
                if self.told_reason.as_ref() != Some(&reason) {
                    tracing::warn!(
                        place = self.place,
                        reason,
                        "there is no room for another segment; publishers are refused until there is"
                    );
                    self.told_reason = Some(reason.clone());
                }
                Next::Missing { retry_at: self.now.monotonic + RETRY_PERIOD, reason: Some(reason) }
            }
        };
    }

    /// When to ask for room again; `None` when nothing is missing.
    pub(crate) fn retry_at(&self) -> Option<Duration> {
        match self.next {
            Next::Missing { retry_at, .. } => Some(retry_at),
            _ => None,
        }
    }

    /// Whether the last attempt to get a further segment failed.
    pub(crate) fn disk_is_full(&self) -> bool {
        matches!(self.next, Next::Missing { reason: Some(_), .. })
    }

    pub(crate) fn has_next(&self) -> bool {
        matches!(self.next, Next::Ready(_))
    }

    pub(crate) fn add_spares(&mut self, spares: Vec<String>) {
        self.spares.extend(spares);
    }

    pub(crate) fn spare_count(&self) -> usize {
        self.spares.len()
    }

    /// Files that are neither in the log nor gone.
    pub(crate) fn idle_bytes(&self) -> u64 {
        (self.spares.len() as u64 + u64::from(self.has_next())) * self.segment_bytes
    }

    fn roll(&mut self) -> Result<Segment, StoreError> {
        self.seal()?;
        if self.syncs_batches {
            // So that a crash leaves no hole before the end of the log.
            self.sync()?;
        }
        let missing = Next::Missing { retry_at: Duration::ZERO, reason: None };
        let Next::Ready(prepared) = std::mem::replace(&mut self.next, missing) else {
            return Err(StoreError::DiskFull { place: self.place.clone(), reason: String::new() });
        };
        let header = SegmentHeader {
            number: prepared.number,
            unique_id: fastrand::u64(..),
            first_lsn: self.next_lsn,
            file_len: prepared.file.len(),
            written_at: self.now.unix_seconds,
        };
        let encoded = header.encode();
        let copy_at = header.file_len - SEGMENT_HEADER_LEN as u64;
        let written = prepared.file.write_at(&encoded, copy_at);
        self.believe(written, "write")?;
        self.staging.extend_from_slice(&encoded);
        self.active = Some(Active {
            number: prepared.number,
            file: prepared.file.clone(),
            seed: header.seed(),
            written: 0,
            limit: copy_at,
        });
        Ok(Segment::new(header, prepared.file))
    }

    /// Ends the active segment.
    fn seal(&mut self) -> Result<(), StoreError> {
        if let Some(active) = &self.active {
            RecordWriter::sealed(&mut self.staging, active.seed, self.next_lsn);
            self.next_lsn += 1;
            self.flush()?;
            self.active = None;
        }
        Ok(())
    }

    /// Encodes one record, for which there must be room. Returns where it will be.
    pub(crate) fn put(&mut self, encode: impl FnOnce(&mut Vec<u8>, u32, u64) -> usize) -> (Place, usize) {
        let Some(active) = &self.active else {
            debug_assert!(false, "make_room was called before");
            return (super::index::LOST, 1);
        };
        let place = Place::new(active.number, active.written + self.staging.len() as u64);
        let len = encode(&mut self.staging, active.seed, self.next_lsn);
        self.next_lsn += 1;
        (place, len)
    }

    /// Hands what is encoded to the operating system.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        self.check()?;
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.staging.is_empty() {
            return Ok(());
        }
        let written = active.file.write_at(&self.staging, active.written);
        active.written += self.staging.len() as u64;
        if !self.unsynced.last().is_some_and(|file| Arc::ptr_eq(file, &active.file)) {
            self.unsynced.push(active.file.clone());
        }
        self.staging.clear();
        self.staging.shrink_to(STAGING_BYTES_MAX * 2);
        self.believe(written, "write")
    }

    /// Makes everything that was handed over durable.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        let synced = self.syncing.iter().chain(&self.unsynced).try_for_each(|file| file.sync());
        self.believe(synced, "sync")?;
        self.syncing.clear();
        self.unsynced.clear();
        self.synced_lsn = self.last_lsn();
        Ok(())
    }

    /// A file that is on its way out needs no sync, and must be nobody's to be used again.
    pub(crate) fn forget(&mut self, file: &Arc<dyn DiskFile>) {
        self.unsynced.retain(|unsynced| !Arc::ptr_eq(unsynced, file));
    }

    /// The same, to be done by somebody else, who reports to [`Log::note_synced`].
    pub(crate) fn sync_task(&mut self) -> Task {
        self.syncing = std::mem::take(&mut self.unsynced);
        Task::Sync { files: self.syncing.clone(), lsn: self.last_lsn() }
    }

    pub(crate) fn note_synced(&mut self, lsn: u64, result: io::Result<()>) {
        if self.believe(result, "sync").is_ok() {
            self.syncing.clear();
            self.synced_lsn = self.synced_lsn.max(lsn);
        }
    }

    /// Ends the log for good and makes it durable.
    pub(crate) fn close(&mut self) -> Result<(), StoreError> {
        self.seal()?;
        self.sync()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// After a failure nothing that is written later could be believed: the kernel may have dropped what it could not
    /// write, and says so once only.
    pub(crate) fn believe(&mut self, result: io::Result<()>, what: &str) -> Result<(), StoreError> {
        let Err(error) = result else { return Ok(()) };
        let reason = format!("{what} failed: {error}");
        tracing::error!(
            place = self.place,
            reason,
            "the store stops writing; what it holds is still delivered"
        );
        let failure = StoreError::Poisoned { place: self.place.clone(), reason };
        self.staging.clear();
        self.failure = Some(failure.clone());
        Err(failure)
    }
}
