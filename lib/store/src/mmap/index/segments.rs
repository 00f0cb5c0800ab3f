//! The segments of a log, oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use super::slots::Place;
use crate::mmap::codec::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::mmap::disk::DiskFile;
use crate::mmap::read::Source;

/// One segment file and what is alive in it.
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where its records end so far.
    pub(crate) end: u64,
    /// Messages and dead letters whose record is here.
    pub(crate) live_count: u32,
    pub(crate) live_bytes: u64,
    /// The LSN up to which the log must be durable before this file may go: some of its messages were copied.
    pub(crate) moved_lsn: u64,
    /// Whether it has copies of messages of older segments.
    pub(crate) has_moved: bool,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, file: Arc<dyn DiskFile>) -> Self {
        Self {
            number: header.number,
            header,
            file,
            end: SEGMENT_HEADER_LEN as u64,
            live_count: 0,
            live_bytes: 0,
            moved_lsn: 0,
            has_moved: false,
        }
    }

    pub(crate) fn source(&self) -> Source {
        Source { file: self.file.clone(), seed: self.header.seed(), number: self.number }
    }
}

/// Ordered by number, which may leave gaps.
#[derive(Default)]
pub(crate) struct Segments {
    segments: VecDeque<Segment>,
    /// Files that are not in the list: prepared and spare ones.
    pub(crate) idle_bytes: u64,
}

impl Segments {
    /// The number must be above all others.
    pub(crate) fn push(&mut self, segment: Segment) {
        debug_assert!(self.segments.back().is_none_or(|last| last.number < segment.number));
        self.segments.push_back(segment);
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<Segment> {
        self.segments.pop_front()
    }

    pub(crate) fn oldest(&self) -> Option<&Segment> {
        self.segments.front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(crate) fn clear(&mut self) {
        self.segments.clear();
    }

    fn position(&self, number: u32) -> Option<usize> {
        // Without gaps, the usual case, the number says where it is.
        let guess = number.checked_sub(self.segments.front()?.number)? as usize;
        if self.segments.get(guess).is_some_and(|segment| segment.number == number) {
            return Some(guess);
        }
        self.segments.binary_search_by_key(&number, |segment| segment.number).ok()
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Segment> {
        self.segments.get(self.position(number)?)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut Segment> {
        let position = self.position(number)?;
        self.segments.get_mut(position)
    }

    pub(super) fn add(&mut self, place: Place, record_len: usize) {
        if let Some(segment) = self.get_mut(place.segment) {
            segment.live_count += 1;
            segment.live_bytes += record_len as u64;
        }
    }

    pub(super) fn subtract(&mut self, place: Place, record_len: usize) {
        if let Some(segment) = self.get_mut(place.segment) {
            segment.live_count -= 1;
            segment.live_bytes -= record_len as u64;
        }
    }

    /// Bytes of records that are alive, and bytes of all records.
    pub(crate) fn live_and_total_bytes(&self) -> (u64, u64) {
        self.segments
            .iter()
            .fold((0, 0), |(live, total), segment| (live + segment.live_bytes, total + segment.end))
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.idle_bytes + self.segments.iter().map(|segment| segment.file.len()).sum::<u64>()
    }
}
