//! A publish frame that is encoded once and then only patched: opaque, id, creation time and stamp have fixed places.

use bytes::BytesMut;
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::scan::{Fields, Value};
use kiteq_protocol::{Command, Dialect, pb};

use crate::stamp::{MessageNumber, NUMBER_OFFSET, STAMP_LEN, Stamp, TIME_OFFSET, filler, message_id};

/// The dialect that the engine speaks.
pub const DIALECT: Dialect = Dialect::GO;
/// A creation time is written as a varint of so many bytes, so that its place never moves.
const CREATED_LEN: usize = 5;

/// What all messages of one template have in common.
#[derive(Debug, Clone)]
pub struct MessageShape {
    /// Topic.
    pub topic: String,
    /// Message type.
    pub message_type: String,
    /// The publisher's group.
    pub group: String,
    /// Length of the body.
    pub body_bytes: usize,
    /// Never stored, delivered to whoever is connected.
    pub fly: bool,
    /// The run that the messages belong to.
    pub run_id: u64,
    /// Whose clock the send times are.
    pub clock_tag: u32,
}

/// What differs from message to message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variation {
    /// Correlates the ack.
    pub opaque: u32,
    /// Which message of the run.
    pub number: MessageNumber,
    /// When it was to be sent, ns of the monotonic clock.
    pub sent_at_ns: u64,
    /// Unix seconds.
    pub created_at: i64,
    /// False: a transaction whose verdict follows.
    pub commit: bool,
}

/// Places within a frame, from its start.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    number_digits: usize,
    commit: usize,
    created: usize,
    /// Absent where the body has no room for a stamp.
    stamp: Option<usize>,
}

/// An encoded frame and the places to patch in it.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    places: Places,
}

/// The message that the template is made from, and that patching must be equal to.
#[must_use]
pub fn publish_message(shape: &MessageShape, variation: Variation) -> pb::BytesMessage {
    let mut body = filler(shape.body_bytes);
    Stamp {
        clock_tag: shape.clock_tag,
        sent_at_ns: variation.sent_at_ns,
        run_id: shape.run_id,
        number: variation.number,
    }
    .write(&mut body);
    pb::BytesMessage {
        header: pb::Header {
            message_id: message_id(shape.run_id, variation.number).to_string(),
            topic: shape.topic.clone(),
            message_type: shape.message_type.clone(),
            expired_time: -1,
            deliver_limit: 100,
            group_id: shape.group.clone(),
            commit: variation.commit,
            fly: shape.fly,
            properties: Vec::new(),
            create_time: Some(variation.created_at),
            snappy: None,
        },
        body: body.into(),
    }
}

impl Template {
    /// Encodes the frame.
    #[must_use]
    pub fn new(shape: &MessageShape) -> Self {
        let first = Variation {
            opaque: 0,
            number: MessageNumber(0),
            sent_at_ns: 0,
            // Any value whose varint has the fixed length will do: it is overwritten.
            created_at: i64::from(u32::MAX),
            commit: true,
        };
        let mut frame = BytesMut::new();
        put_frame(&mut frame, DIALECT, Command::BytesMessage, 0, &publish_message(shape, first));
        let places = locate(&frame, shape.body_bytes);
        Self { bytes: frame.to_vec(), places }
    }

    /// The frame as encoded.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where to patch copies of [`Template::bytes`].
    #[must_use]
    pub fn places(&self) -> Places {
        self.places
    }
}

/// Finds the places by walking the frame that prost wrote.
fn locate(frame: &[u8], body_bytes: usize) -> Places {
    let offset_of = |part: &[u8]| part.as_ptr() as usize - frame.as_ptr() as usize;
    let mut places = Places {
        number_digits: 0,
        commit: 0,
        created: 0,
        stamp: (body_bytes >= STAMP_LEN).then(|| frame.len() - body_bytes),
    };
    for field in Fields::of(&frame[DIALECT.overhead()..]).flatten() {
        if let (1, Value::Bytes(header)) = (field.number, field.value) {
            for field in Fields::of(header).flatten() {
                let end = offset_of(field.encoded) + field.encoded.len();
                match field.number {
                    1 => places.number_digits = end - 16,
                    7 => places.commit = end - 1,
                    10 => places.created = end - CREATED_LEN,
                    _ => {}
                }
            }
        }
    }
    places
}

impl Places {
    /// Makes `frame`, a copy of the template, the frame of one message.
    pub fn patch(self, frame: &mut [u8], variation: Variation) {
        frame[..4].copy_from_slice(&variation.opaque.to_be_bytes());
        write_hex(&mut frame[self.number_digits..], variation.number.0);
        frame[self.commit] = u8::from(variation.commit);
        write_padded_varint(&mut frame[self.created..], variation.created_at as u64);
        if let Some(stamp) = self.stamp {
            let body = &mut frame[stamp..];
            body[TIME_OFFSET..TIME_OFFSET + 8].copy_from_slice(&variation.sent_at_ns.to_be_bytes());
            body[NUMBER_OFFSET..NUMBER_OFFSET + 8].copy_from_slice(&variation.number.0.to_be_bytes());
        }
    }
}

/// Writes 16 hexadecimal digits.
fn write_hex(target: &mut [u8], value: u64) {
    for (pair, byte) in target.chunks_exact_mut(2).zip(value.to_be_bytes()) {
        pair.copy_from_slice(&HEX_PAIRS[usize::from(byte)]);
    }
}

const HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Writes a varint of exactly [`CREATED_LEN`] bytes; canonical for every second from 1978 to 3058.
fn write_padded_varint(target: &mut [u8], value: u64) {
    for (index, byte) in target.iter_mut().take(CREATED_LEN).enumerate() {
        let more = if index + 1 < CREATED_LEN { 0x80 } else { 0 };
        *byte = (value >> (7 * index)) as u8 & 0x7f | more;
    }
}

/// The verdict frame of a transaction, patched like a publish.
#[must_use]
pub fn commit_frame(shape: &MessageShape, number: MessageNumber, opaque: u32, created_at: i64) -> BytesMut {
    let variation = Variation { opaque, number, sent_at_ns: 0, created_at, commit: false };
    let header = publish_message(&MessageShape { body_bytes: 0, ..shape.clone() }, variation).header;
    let verdict = pb::TxAckPacket { header, status: 1, feedback: "committed".to_owned() };
    let mut frame = BytesMut::new();
    put_frame(&mut frame, DIALECT, Command::TxAck, opaque, &verdict);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_patched_frame_is_what_the_protocol_encodes(
            topic in "[a-z]{1,20}",
            body_bytes in 0usize..3000,
            fly: bool,
            run_id: u64,
            opaque: u32,
            producer in 0usize..1 << 24,
            sequence in 0u64..1 << 40,
            sent_at_ns: u64,
            created_at in 300_000_000i64..30_000_000_000,
            commit: bool,
        ) {
            let shape = MessageShape {
                topic,
                message_type: "bench".to_owned(),
                group: "bench-producer".to_owned(),
                body_bytes,
                fly,
                run_id,
                clock_tag: 5,
            };
            let number = MessageNumber::new(producer, sequence);
            let variation = Variation { opaque, number, sent_at_ns, created_at, commit };
            let template = Template::new(&shape);
            let mut patched = template.bytes().to_vec();
            template.places().patch(&mut patched, variation);
            let mut encoded = BytesMut::new();
            put_frame(
                &mut encoded,
                DIALECT,
                Command::BytesMessage,
                opaque,
                &publish_message(&shape, variation),
            );
            prop_assert_eq!(patched, encoded.to_vec());
        }
    }
}
