//! Records: from events to bytes and back.

use std::ops::Range;

use kiteq_protocol::{Message, MessageId, MessageKind};

use super::groups::{groups_len, put_group};
use super::{RECORD_ALIGNMENT, RECORD_HEADER_LEN, RECORD_LEN_MAX, u32_at, u64_at};
use crate::held::{DeadReason, GroupState, Kill};

const FLAG_COMMITTED: u8 = 1;
const FLAG_DEAD: u8 = 2;

/// Offset of topic, type and payload in the body of a published record.
const PUBLISHED_FIXED_LEN: usize = 36;
/// The same in a moved record.
const MOVED_FIXED_LEN: usize = 56;

/// How much longer than a published record its moved one may be, beside the group states.
pub(crate) const MOVED_EXTRA_LEN_MAX: usize =
    (MOVED_FIXED_LEN - PUBLISHED_FIXED_LEN).next_multiple_of(RECORD_ALIGNMENT);

/// The events of a log. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordType {
    Published = 1,
    Moved = 2,
    Committed = 3,
    RolledBack = 4,
    Settled = 5,
    Revived = 6,
    Purged = 7,
    Noted = 8,
    Dead = 9,
    Sealed = 10,
}

impl RecordType {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Published,
            2 => Self::Moved,
            3 => Self::Committed,
            4 => Self::RolledBack,
            5 => Self::Settled,
            6 => Self::Revived,
            7 => Self::Purged,
            8 => Self::Noted,
            9 => Self::Dead,
            10 => Self::Sealed,
            _ => return None,
        })
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordFault {
    #[error("{found} bytes where a record needs {needed}")]
    Short { needed: usize, found: usize },
    #[error("impossible length {0}")]
    Length(u32),
    #[error("unknown record type {0}")]
    Type(u8),
    #[error("wrong checksum")]
    Checksum,
    #[error("malformed content")]
    Content,
}

/// A record whose framing was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRecord<'a> {
    pub(crate) lsn: u64,
    pub(crate) record_type: RecordType,
    /// Length without padding, in bytes.
    pub(crate) len: usize,
    pub(crate) count: u32,
    flags: u8,
    kind: u8,
    reason: u8,
    pub(crate) body: &'a [u8],
}

/// The length that a record's first bytes claim, when it is a possible one.
pub(super) fn claimed_len(header: &[u8]) -> Result<usize, RecordFault> {
    let len = u32_at(header, 4);
    if (RECORD_HEADER_LEN..=RECORD_LEN_MAX).contains(&(len as usize)) {
        Ok(len as usize)
    } else {
        Err(RecordFault::Length(len))
    }
}

impl<'a> RawRecord<'a> {
    /// Looks at the header of the record that `bytes` begin with: its length and LSN, unchecked.
    pub(crate) fn peek(bytes: &[u8]) -> Result<(usize, u64), RecordFault> {
        if bytes.len() < RECORD_HEADER_LEN {
            return Err(RecordFault::Short { needed: RECORD_HEADER_LEN, found: bytes.len() });
        }
        let len = claimed_len(bytes)?;
        RecordType::from_byte(bytes[16]).ok_or(RecordFault::Type(bytes[16]))?;
        Ok((len, u64_at(bytes, 8)))
    }

    /// Checks and takes apart the record that `bytes` begin with.
    pub(crate) fn parse(bytes: &'a [u8], seed: u32) -> Result<Self, RecordFault> {
        let (len, _) = Self::peek(bytes)?;
        let record = bytes.get(..len).ok_or(RecordFault::Short { needed: len, found: bytes.len() })?;
        if crc32c::crc32c_append(seed, &record[4..]) != u32_at(record, 0) {
            return Err(RecordFault::Checksum);
        }
        Self::trusted(record).ok_or(RecordFault::Content)
    }

    /// Takes the record that `bytes` begin with apart without computing its checksum.
    pub(crate) fn trusted(bytes: &'a [u8]) -> Option<Self> {
        let (len, lsn) = Self::peek(bytes).ok()?;
        let record = bytes.get(..len)?;
        Some(Self {
            lsn,
            record_type: RecordType::from_byte(record[16])?,
            len,
            count: u32_at(record, 20),
            flags: record[17],
            kind: record[18],
            reason: record[19],
            body: &record[RECORD_HEADER_LEN..],
        })
    }

    /// The id that a record of one message begins with.
    pub(crate) fn id(&self) -> Result<MessageId, RecordFault> {
        let id: [u8; 16] =
            self.body.get(..16).and_then(|id| id.try_into().ok()).ok_or(RecordFault::Content)?;
        Ok(MessageId(id))
    }

    /// A published or moved message.
    pub(crate) fn message(&self) -> Result<MessageRecord<'a>, RecordFault> {
        let moved = self.record_type == RecordType::Moved;
        let fixed = if moved { MOVED_FIXED_LEN } else { PUBLISHED_FIXED_LEN };
        if self.body.len() < fixed {
            return Err(RecordFault::Content);
        }
        let topic_end = fixed.saturating_add(u32_at(self.body, 28) as usize);
        let type_end = topic_end.saturating_add(u32_at(self.body, 32) as usize);
        let states_len = if moved { u32_at(self.body, 52) as usize } else { 0 };
        let states_end = type_end.saturating_add(states_len);
        if states_end > self.body.len() {
            return Err(RecordFault::Content);
        }
        Ok(MessageRecord {
            id: self.id()?,
            kind: MessageKind::from_byte(self.kind).ok_or(RecordFault::Content)?,
            committed: self.flags & FLAG_COMMITTED != 0,
            expires_at: u64_at(self.body, 16) as i64,
            deliver_limit: u32_at(self.body, 24) as i32,
            topic: &self.body[fixed..topic_end],
            message_type: &self.body[topic_end..type_end],
            payload: RECORD_HEADER_LEN + states_end..self.len,
            moved: if moved {
                let dead = self.flags & FLAG_DEAD != 0;
                Some(MovedState {
                    published_lsn: u64_at(self.body, 36),
                    death: match dead {
                        true => Some(reason_from_byte(self.reason).ok_or(RecordFault::Content)?),
                        false => None,
                    },
                    died_at: u64_at(self.body, 44) as i64,
                    states: &self.body[type_end..states_end],
                    states_count: self.count,
                })
            } else {
                None
            },
        })
    }

    /// The ids of a record of many.
    pub(crate) fn ids(&self) -> Result<IdsRecord<'a>, RecordFault> {
        let ids = self.body.get(8..).ok_or(RecordFault::Content)?;
        if ids.len() != 16 * self.count as usize {
            return Err(RecordFault::Content);
        }
        Ok(IdsRecord { at: u64_at(self.body, 0) as i64, ids })
    }

    /// Encoded group states of a noted record.
    pub(crate) fn noted(&self) -> Result<&'a [u8], RecordFault> {
        self.body.get(16..).ok_or(RecordFault::Content)
    }

    /// Encoded group states of a live message: of a noted record, or of a moved one.
    pub(crate) fn states(&self) -> Result<&'a [u8], RecordFault> {
        match self.record_type {
            RecordType::Noted => self.noted(),
            RecordType::Moved => Ok(self.message()?.moved.ok_or(RecordFault::Content)?.states),
            _ => Err(RecordFault::Content),
        }
    }

    /// When and why a dead letter died, and the encoded groups that did not get it: of a dead record, or of a moved one.
    pub(crate) fn death(&self) -> Result<(i64, DeadReason, &'a [u8]), RecordFault> {
        let reason = reason_from_byte(self.reason).ok_or(RecordFault::Content)?;
        if self.record_type == RecordType::Moved {
            let moved = self.message()?.moved.ok_or(RecordFault::Content)?;
            return Ok((moved.died_at, reason, moved.states));
        }
        if self.body.len() < 24 {
            return Err(RecordFault::Content);
        }
        Ok((u64_at(self.body, 16) as i64, reason, &self.body[24..]))
    }
}

fn reason_from_byte(byte: u8) -> Option<DeadReason> {
    [DeadReason::DeliverLimit, DeadReason::Expired, DeadReason::NoVerdict, DeadReason::Unreadable]
        .into_iter()
        .find(|reason| *reason as u8 == byte)
}

/// A message in a record.
#[derive(Debug, Clone)]
pub(crate) struct MessageRecord<'a> {
    pub(crate) id: MessageId,
    pub(crate) kind: MessageKind,
    pub(crate) committed: bool,
    pub(crate) expires_at: i64,
    pub(crate) deliver_limit: i32,
    pub(crate) topic: &'a [u8],
    pub(crate) message_type: &'a [u8],
    /// Where the canonical payload is within the record.
    pub(crate) payload: Range<usize>,
    pub(crate) moved: Option<MovedState<'a>>,
}

/// What a moved record says beyond what a published one does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MovedState<'a> {
    /// LSN of the published record, which orders messages.
    pub(crate) published_lsn: u64,
    /// Why it is a dead letter; `None` when it is live.
    pub(crate) death: Option<DeadReason>,
    pub(crate) died_at: i64,
    /// Encoded group states.
    pub(crate) states: &'a [u8],
    pub(crate) states_count: u32,
}

/// The ids of a record of many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdsRecord<'a> {
    /// Unix seconds.
    pub(crate) at: i64,
    ids: &'a [u8],
}

impl IdsRecord<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = MessageId> {
        self.ids.as_chunks::<16>().0.iter().map(|id| MessageId(*id))
    }
}

/// Length of the record of a published message, without padding.
pub(crate) fn message_record_len(message: &Message) -> usize {
    RECORD_HEADER_LEN
        + PUBLISHED_FIXED_LEN
        + message.topic.len()
        + message.message_type.len()
        + message.payload.len()
}

/// Length of a record of so many ids.
pub(crate) const fn ids_record_len(count: usize) -> usize {
    RECORD_HEADER_LEN + 8 + 16 * count
}

/// Appends records to a buffer. It begins every record; `finish` completes it.
pub(crate) struct RecordWriter<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
    seed: u32,
}

impl<'a> RecordWriter<'a> {
    /// Every record goes through here once: header first, length and checksum when the rest is there.
    fn begin(buffer: &'a mut Vec<u8>, seed: u32, lsn: u64, record_type: RecordType, count: u32) -> Self {
        let start = buffer.len();
        debug_assert!(start.is_multiple_of(RECORD_ALIGNMENT), "records are aligned");
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&lsn.to_le_bytes());
        buffer.extend_from_slice(&[record_type as u8, 0, 0, 0]);
        buffer.extend_from_slice(&count.to_le_bytes());
        Self { buffer, start, seed }
    }

    fn set(&mut self, flags: u8, kind: u8, reason: u8) {
        self.buffer[self.start + 17..self.start + 20].copy_from_slice(&[flags, kind, reason]);
    }

    /// Returns the record's length without padding.
    fn finish(self) -> usize {
        let len = self.buffer.len() - self.start;
        let record = &mut self.buffer[self.start..];
        record[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(self.seed, &record[4..]);
        record[..4].copy_from_slice(&checksum.to_le_bytes());
        let padding = len.next_multiple_of(RECORD_ALIGNMENT) - len;
        self.buffer.extend_from_slice(&[0; RECORD_ALIGNMENT][..padding]);
        len
    }

    pub(crate) fn published(buffer: &'a mut Vec<u8>, seed: u32, lsn: u64, message: &Message) -> usize {
        let mut record = Self::begin(buffer, seed, lsn, RecordType::Published, 0);
        record.set(if message.committed { FLAG_COMMITTED } else { 0 }, message.kind as u8, 0);
        let buffer = &mut *record.buffer;
        buffer.extend_from_slice(&message.id.0);
        buffer.extend_from_slice(&message.expires_at.to_le_bytes());
        buffer.extend_from_slice(&message.deliver_limit.to_le_bytes());
        buffer.extend_from_slice(&(message.topic.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(message.message_type.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&message.topic);
        buffer.extend_from_slice(&message.message_type);
        buffer.extend_from_slice(&message.payload.head);
        buffer.extend_from_slice(&message.payload.body);
        record.finish()
    }

    /// The message at `payload` of `message`'s record, with the state that it has by now.
    pub(crate) fn moved(
        buffer: &'a mut Vec<u8>,
        seed: u32,
        lsn: u64,
        message: &MessageRecord<'_>,
        payload: &[u8],
        moved: &MovedState<'_>,
    ) -> usize {
        let mut record = Self::begin(buffer, seed, lsn, RecordType::Moved, moved.states_count);
        let committed = if message.committed { FLAG_COMMITTED } else { 0 };
        let dead = if moved.death.is_some() { FLAG_DEAD } else { 0 };
        record.set(committed | dead, message.kind as u8, moved.death.map_or(0, |reason| reason as u8));
        let buffer = &mut *record.buffer;
        buffer.extend_from_slice(&message.id.0);
        buffer.extend_from_slice(&message.expires_at.to_le_bytes());
        buffer.extend_from_slice(&message.deliver_limit.to_le_bytes());
        buffer.extend_from_slice(&(message.topic.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(message.message_type.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&moved.published_lsn.to_le_bytes());
        buffer.extend_from_slice(&moved.died_at.to_le_bytes());
        buffer.extend_from_slice(&(moved.states.len() as u32).to_le_bytes());
        buffer.extend_from_slice(message.topic);
        buffer.extend_from_slice(message.message_type);
        buffer.extend_from_slice(moved.states);
        buffer.extend_from_slice(payload);
        record.finish()
    }

    pub(crate) fn ids(
        buffer: &'a mut Vec<u8>,
        seed: u32,
        lsn: u64,
        record_type: RecordType,
        at: i64,
        ids: &[MessageId],
    ) -> usize {
        let record = Self::begin(buffer, seed, lsn, record_type, ids.len() as u32);
        record.buffer.extend_from_slice(&at.to_le_bytes());
        for id in ids {
            record.buffer.extend_from_slice(&id.0);
        }
        record.finish()
    }

    pub(crate) fn noted_len(states: &[GroupState]) -> usize {
        RECORD_HEADER_LEN + 16 + groups_len(states.iter().map(|state| &state.group[..]))
    }

    pub(crate) fn noted(
        buffer: &'a mut Vec<u8>,
        seed: u32,
        lsn: u64,
        id: MessageId,
        states: &[GroupState],
    ) -> usize {
        let record = Self::begin(buffer, seed, lsn, RecordType::Noted, states.len() as u32);
        record.buffer.extend_from_slice(&id.0);
        for state in states {
            put_group(record.buffer, &state.group, state.attempts, state.done);
        }
        record.finish()
    }

    pub(crate) fn dead_len(kill: &Kill) -> usize {
        RECORD_HEADER_LEN + 24 + groups_len(kill.groups.iter().map(|group| &group[..]))
    }

    pub(crate) fn dead(
        buffer: &'a mut Vec<u8>,
        seed: u32,
        lsn: u64,
        id: MessageId,
        died_at: i64,
        kill: &Kill,
    ) -> usize {
        let mut record = Self::begin(buffer, seed, lsn, RecordType::Dead, kill.groups.len() as u32);
        record.set(0, 0, kill.reason as u8);
        record.buffer.extend_from_slice(&id.0);
        record.buffer.extend_from_slice(&died_at.to_le_bytes());
        for group in &kill.groups {
            put_group(record.buffer, group, 0, false);
        }
        record.finish()
    }

    pub(crate) fn sealed(buffer: &'a mut Vec<u8>, seed: u32, lsn: u64) -> usize {
        Self::begin(buffer, seed, lsn, RecordType::Sealed, 0).finish()
    }
}
