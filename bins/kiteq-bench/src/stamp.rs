//! What every message of a run carries: its number, in its id and in its body, and when it was to be sent.
//!
//! The id's 16 bytes are the run id and the message number, 8 bytes each, big-endian. The number's upper 24 bits are the
//! producer, the lower 40 its own count from 0, so that every producer numbers alone and a set of numbers is a few
//! dense bitsets. A body of at least [`STAMP_LEN`] bytes begins with:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `KQB1` |
//! | 4 | 4 | clock tag ([`crate::clock::clock_tag`]) |
//! | 8 | 8 | intended send time, ns of the monotonic clock |
//! | 16 | 8 | run id |
//! | 24 | 8 | message number |
//!
//! All integers are big-endian. The rest of the body is filler.

use kiteq_protocol::MessageId;

/// Bytes at the start of a body.
pub const STAMP_LEN: usize = 32;
/// Producers that one run can number.
pub const PRODUCERS_MAX: usize = 1 << 24;
const MAGIC: &[u8; 4] = b"KQB1";
const SEQUENCE_BITS: u32 = 40;
/// Where a stamp's time is, from the start of the body.
pub const TIME_OFFSET: usize = 8;
/// Where a stamp's number is, from the start of the body.
pub const NUMBER_OFFSET: usize = 24;

/// Which message of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageNumber(pub u64);

impl MessageNumber {
    /// The `sequence`-th message, from 0, of a producer.
    #[must_use]
    pub fn new(producer: usize, sequence: u64) -> Self {
        debug_assert!(producer < PRODUCERS_MAX && sequence < 1 << SEQUENCE_BITS);
        Self((producer as u64) << SEQUENCE_BITS | sequence)
    }

    /// The producer.
    #[must_use]
    pub fn producer(self) -> usize {
        (self.0 >> SEQUENCE_BITS) as usize
    }

    /// The producer's own count.
    #[must_use]
    pub fn sequence(self) -> u64 {
        self.0 & ((1 << SEQUENCE_BITS) - 1)
    }
}

/// The id of a message of a run.
#[must_use]
pub fn message_id(run_id: u64, number: MessageNumber) -> MessageId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&run_id.to_be_bytes());
    id[8..].copy_from_slice(&number.0.to_be_bytes());
    MessageId(id)
}

/// The start of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Whose clock `sent_at_ns` is.
    pub clock_tag: u32,
    /// When it was to be sent.
    pub sent_at_ns: u64,
    /// Which run.
    pub run_id: u64,
    /// Which message of the run.
    pub number: MessageNumber,
}

impl Stamp {
    /// Reads a body's stamp; `None` when this tool did not write the body, or it was too short for a stamp.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let stamp = body.first_chunk::<STAMP_LEN>()?;
        if !stamp.starts_with(MAGIC) {
            return None;
        }
        let [_, _, _, _, t0, t1, t2, t3, rest @ ..] = stamp;
        let u64_at =
            |offset: usize| rest[offset..].first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Some(Self {
            clock_tag: u32::from_be_bytes([*t0, *t1, *t2, *t3]),
            sent_at_ns: u64_at(0),
            run_id: u64_at(8),
            number: MessageNumber(u64_at(16)),
        })
    }

    /// Writes the stamp over the start of `body`, where it fits.
    pub fn write(self, body: &mut [u8]) {
        let Some(stamp) = body.first_chunk_mut::<STAMP_LEN>() else {
            return;
        };
        stamp[..4].copy_from_slice(MAGIC);
        stamp[4..8].copy_from_slice(&self.clock_tag.to_be_bytes());
        stamp[8..16].copy_from_slice(&self.sent_at_ns.to_be_bytes());
        stamp[16..24].copy_from_slice(&self.run_id.to_be_bytes());
        stamp[24..32].copy_from_slice(&self.number.0.to_be_bytes());
    }
}

/// A body of `len` bytes with room for a stamp, filled with text that no compressor can take for zeros.
#[must_use]
pub fn filler(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0x006b_6974_6571);
    (0..len).map(|_| random.alphanumeric() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp {
            clock_tag: 0xdead_beef,
            sent_at_ns: 1_234_567_890_123,
            run_id: 42,
            number: MessageNumber::new(7, 99),
        };
        let mut body = filler(100);
        stamp.write(&mut body);
        assert_eq!(Stamp::read(&body), Some(stamp));
        assert_eq!(body[TIME_OFFSET..TIME_OFFSET + 8], stamp.sent_at_ns.to_be_bytes());
        assert_eq!(body[NUMBER_OFFSET..NUMBER_OFFSET + 8], stamp.number.0.to_be_bytes());
    }

    #[test]
    fn foreign_and_short_bodies_have_no_stamp() {
        assert_eq!(Stamp::read(&filler(100)), None);
        let mut short = filler(STAMP_LEN - 1);
        let before = short.clone();
        Stamp { clock_tag: 1, sent_at_ns: 2, run_id: 3, number: MessageNumber(4) }.write(&mut short);
        assert_eq!(short, before);
        assert_eq!(Stamp::read(&short), None);
    }

    #[test]
    fn numbers_and_ids_keep_producer_and_sequence_apart() {
        let number = MessageNumber::new(PRODUCERS_MAX - 1, (1 << 40) - 1);
        assert_eq!((number.producer(), number.sequence()), (PRODUCERS_MAX - 1, (1 << 40) - 1));
        let id = message_id(0x0102_0304_0506_0708, MessageNumber::new(1, 2));
        assert_eq!(id.to_string(), "01020304050607080000010000000002");
    }
}
