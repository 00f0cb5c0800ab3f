//! Reads and checks segments on a thread of its own, ahead of whoever uses their records.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::scanner::{End, Scanned, Scanner};
use crate::error::StoreError;
use crate::mmap::codec::{RawRecord, SegmentHeader};
use crate::mmap::disk::DiskFile;

/// Pieces read ahead, of about a mebibyte each.
const PIECES_AHEAD: usize = 4;

/// A segment to read.
pub(super) struct Job {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn DiskFile>,
    /// Whether checksums are computed.
    pub(super) verify: bool,
}

/// What is read, in order. A segment is done with its [`Piece::End`].
pub(super) enum Piece {
    Records(Records),
    Damage {
        from: u64,
        to: u64,
    },
    /// How the segment ends, and the LSN after its last record.
    End(End, u64),
}

/// Records that were checked.
pub(super) struct Records {
    buffer: Vec<u8>,
    /// Where the buffer is from.
    buffer_at: u64,
    offsets: Vec<u64>,
}

impl Records {
    /// The records and their offsets in the file.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, RawRecord<'_>)> {
        self.offsets.iter().filter_map(|offset| {
            let start = usize::try_from(offset - self.buffer_at).ok()?;
            Some((*offset, RawRecord::trusted(self.buffer.get(start..)?)?))
        })
    }
}

/// The reading end.
pub(super) struct Pieces {
    pieces: Receiver<Piece>,
    /// Buffers go back, so that not every mebibyte is allocated.
    used: SyncSender<Vec<u8>>,
}

impl Pieces {
    /// The next piece.
    ///
    /// # Errors
    /// When the reading thread is gone, which it is after a panic only.
    pub(super) fn next(&mut self) -> Result<Piece, StoreError> {
        self.pieces.recv().map_err(|_| StoreError::Unavailable {
            place: "log".to_owned(),
            reason: "the thread that reads it ended".to_owned(),
        })
    }

    pub(super) fn give_back(&mut self, records: Records) {
        // When enough have gone back already this one is not needed.
        let _ = self.used.try_send(records.buffer);
    }
}

/// Reads `jobs` while `body` uses what was read.
pub(super) fn read_ahead<T>(
    jobs: Vec<Job>,
    body: impl FnOnce(Pieces) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    thread::scope(|scope| {
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        let (used, unused) = sync_channel(PIECES_AHEAD);
        let reader = thread::Builder::new()
            .name("kiteq-scan".to_owned())
            .spawn_scoped(scope, move || {
                for job in jobs {
                    // Nobody listens any more when the body failed.
                    if read(job, &sender, &unused).is_none() {
                        return;
                    }
                }
            })
            .map_err(|error| StoreError::Unavailable {
                place: "log".to_owned(),
                reason: format!("no thread could be started: {error}"),
            })?;
        let result = body(Pieces { pieces, used });
        // The body knows of a panic by the missing pieces.
        let _ = reader.join();
        result
    })
}

fn read(job: Job, sender: &SyncSender<Piece>, unused: &Receiver<Vec<u8>>) -> Option<()> {
    let mut scanner = Scanner::new(job.file, &job.header).handing_over();
    if !job.verify {
        scanner = scanner.without_verifying();
    }
    let mut offsets = Vec::new();
    loop {
        if let Ok(buffer) = unused.try_recv() {
            scanner.use_next(buffer);
        }
        let piece = match scanner.next() {
            Scanned::Record { offset, .. } => {
                if let Some((buffer, buffer_at)) = scanner.full_buffer()
                    && !offsets.is_empty()
                {
                    // The offsets so far are in the buffer before this record's.
                    let offsets = std::mem::take(&mut offsets);
                    sender.send(Piece::Records(Records { buffer, buffer_at, offsets })).ok()?;
                }
                offsets.push(offset);
                continue;
            }
            Scanned::Damage { from, to } => Piece::Damage { from, to },
            Scanned::End(end) => Piece::End(end, 0),
        };
        if !offsets.is_empty() {
            let (buffer, buffer_at) = scanner.full_buffer().unwrap_or_else(|| scanner.take_buffer());
            let offsets = std::mem::take(&mut offsets);
            sender.send(Piece::Records(Records { buffer, buffer_at, offsets })).ok()?;
        }
        if let Piece::End(end, _) = piece {
            return sender.send(Piece::End(end, scanner.position().1)).ok();
        }
        sender.send(piece).ok()?;
    }
}
