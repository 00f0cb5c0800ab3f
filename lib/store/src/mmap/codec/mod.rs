//! The log's format on disk, version 1.
//!
//! All integers are little-endian. A log is a sequence of segment files `log-NNNNNNNNNN.kiteq` (the segment's number in
//! ten decimal digits), each preallocated to its full length:
//!
//! | offset | content |
//! |---|---|
//! | 0 | segment header, [`SEGMENT_HEADER_LEN`] bytes |
//! | 64 | records, one after the other, each starting at a multiple of [`RECORD_ALIGNMENT`]; the last is a *sealed* record |
//! | after them | zeros, or what an earlier use of the file left: never valid, see the seed |
//! | length - 64 | a second copy of the segment header |
//!
//! # Segment header
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `KITEQLOG` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | segment number; equals the one in the file's name |
//! | 16 | 8 | unique id, random for every use of a file |
//! | 24 | 8 | log sequence number (LSN) of the first record |
//! | 32 | 8 | length of the file when it was written |
//! | 40 | 8 | Unix seconds when it was written |
//! | 48 | 12 | zero |
//! | 60 | 4 | CRC32C of bytes 0 to 59 |
//!
//! # Record
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC32C of the segment's unique id (8 bytes) followed by bytes 4 to length - 1 of the record |
//! | 4 | 4 | length of the record without padding, at most [`RECORD_LEN_MAX`] |
//! | 8 | 8 | LSN, one more than that of the record before |
//! | 16 | 1 | type, see below |
//! | 17 | 1 | flags: 1 committed, 2 dead |
//! | 18 | 1 | command byte of the message (0x11 bytes, 0x12 string), else 0 |
//! | 19 | 1 | reason of a dead letter, see [`crate::DeadReason`], else 0 |
//! | 20 | 4 | count of ids or of group states in the record |
//! | 24 | | body |
//!
//! The unique id in the checksum is what keeps records of a file's earlier use from being believed in its next one.
//!
//! | type | record | body |
//! |---|---|---|
//! | 1 | published | message: id 16, expires at (Unix seconds) i64, deliver limit i32, topic length u32, type length u32, topic, type, canonical payload |
//! | 2 | moved | id 16, expires at i64, deliver limit i32, topic length u32, type length u32, LSN of publication u64, died at i64, group states length u32, topic, type, group states, canonical payload |
//! | 3 | committed | at i64, ids 16 each |
//! | 4 | rolled back | at i64, ids |
//! | 5 | settled | at i64, ids |
//! | 6 | revived | at i64, ids |
//! | 7 | purged | at i64, ids |
//! | 8 | noted | id 16, group states |
//! | 9 | dead | id 16, died at i64, group states of those that did not get it |
//! | 10 | sealed | nothing; no record of this segment follows |
//!
//! A group state is: attempts u32, done u8, group length u32, group.

#[cfg(test)]
mod golden;
mod groups;
mod record;
mod segment_header;

pub(crate) use groups::{decode_groups, encode_group_names};
pub(crate) use record::{
    MOVED_EXTRA_LEN_MAX, MessageRecord, MovedState, RawRecord, RecordFault, RecordType, RecordWriter,
    ids_record_len, message_record_len,
};
pub(crate) use segment_header::{HeaderFault, SegmentHeader};

/// Length of a segment header, and of its copy at the end of the file.
pub(crate) const SEGMENT_HEADER_LEN: usize = 64;
/// Records start at multiples of this.
pub(crate) const RECORD_ALIGNMENT: usize = 8;
/// Length of what every record begins with.
pub(crate) const RECORD_HEADER_LEN: usize = 24;
/// Longest record; the index keeps lengths in 28 bits.
pub(crate) const RECORD_LEN_MAX: usize = (1 << 28) - 1;
/// The format that this code writes and reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// `len` rounded up to where the next record starts.
pub(crate) const fn padded(len: usize) -> usize {
    len.next_multiple_of(RECORD_ALIGNMENT)
}

/// What the checksums of a segment's records start from.
pub(crate) fn seed_of(unique_id: u64) -> u32 {
    crc32c::crc32c(&unique_id.to_le_bytes())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}
