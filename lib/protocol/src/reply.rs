//! The replies that a broker or a consumer sends once for each message, encoded without an intermediate struct.

use bytes::BytesMut;

use crate::command::Command;
use crate::frame::{Dialect, FrameHeader};
use crate::scan::{put_bytes_field, put_varint_field, varint_len};

/// Appends a whole MESSAGE_STORE_ACK frame.
///
/// `message_id` is the id's text as the publisher wrote it, or its canonical form.
pub fn put_store_ack(
    buf: &mut BytesMut,
    dialect: Dialect,
    opaque: u32,
    message_id: &[u8],
    status: bool,
    feedback: &str,
) {
    let body_len = bytes_field_len(message_id.len()) + 2 + bytes_field_len(feedback.len());
    FrameHeader::new(Command::StoreAck, opaque, body_len).put(buf, dialect);
    put_bytes_field(buf, 1, message_id);
    put_varint_field(buf, 2, u64::from(status));
    put_bytes_field(buf, 3, feedback.as_bytes());
}

/// What a consumer says of one delivered message.
#[derive(Debug, Clone, Copy)]
pub struct DeliverAckFields<'a> {
    /// The message's id as it was delivered.
    pub message_id: &'a [u8],
    /// The message's topic.
    pub topic: &'a [u8],
    /// The message's type.
    pub message_type: &'a [u8],
    /// The consumer's group.
    pub group_id: &'a [u8],
    /// Whether the consumer is done with it.
    pub status: bool,
    /// Why not, for a person.
    pub feedback: &'a str,
}

/// Appends a whole DELIVER_ACK frame; `opaque` is the delivery's.
pub fn put_deliver_ack(buf: &mut BytesMut, dialect: Dialect, opaque: u32, ack: &DeliverAckFields<'_>) {
    let texts = [ack.message_id, ack.topic, ack.message_type, ack.group_id];
    let body_len = texts.iter().map(|text| bytes_field_len(text.len())).sum::<usize>()
        + 2
        + bytes_field_len(ack.feedback.len());
    FrameHeader::new(Command::DeliverAck, opaque, body_len).put(buf, dialect);
    for (number, text) in (1..).zip(texts) {
        put_bytes_field(buf, number, text);
    }
    put_varint_field(buf, 5, u64::from(ack.status));
    put_bytes_field(buf, 6, ack.feedback.as_bytes());
}

/// What a broker needs of a DELIVER_ACK. The opaque says which delivery it is; the id tells whether it is an answer to that
/// one at all, or to one of an earlier connection of the same client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverAckView<'a> {
    /// The message's id as it was delivered; empty when absent.
    pub message_id: &'a [u8],
    /// Whether the consumer is done with it.
    pub status: bool,
}

impl<'a> DeliverAckView<'a> {
    /// Reads a DELIVER_ACK body.
    ///
    /// # Errors
    /// When the body is not well-formed protobuf or has no status.
    pub fn parse(body: &'a [u8]) -> Result<Self, crate::MessageError> {
        let mut message_id: &[u8] = &[];
        let mut status = None;
        for field in crate::scan::Fields::of(body) {
            let field = field?;
            match (field.number, field.value) {
                (1, crate::scan::Value::Bytes(bytes)) => message_id = bytes,
                (5, crate::scan::Value::Varint(value)) => status = Some(value != 0),
                _ => {}
            }
        }
        let status = status.ok_or(crate::MessageError::MissingField { field: "DeliverAck.status" })?;
        Ok(Self { message_id, status })
    }
}

/// Encoded size of a length-delimited field whose number is below 16.
fn bytes_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}
