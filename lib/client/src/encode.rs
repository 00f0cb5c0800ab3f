//! Outgoing messages and verdicts, written straight into a connection's buffer.
//!
//! Field numbers and rules are those of proto/kiteq.proto; every required field is written, also at its default.

use bytes::BytesMut;
use kiteq_protocol::frame::FrameHeader;
use kiteq_protocol::scan::{put_bytes_field, put_bytes_field_header, put_varint_field, varint_len};
use kiteq_protocol::{Command, Dialect, MessageId, MessageKind};

/// The fields of a Header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderFields<'a> {
    pub(crate) id: MessageId,
    pub(crate) topic: &'a str,
    pub(crate) message_type: &'a str,
    /// Unix seconds; zero or less means none.
    pub(crate) expires_at: i64,
    pub(crate) deliver_limit: u32,
    pub(crate) group: &'a str,
    pub(crate) commit: bool,
    pub(crate) fly: bool,
    pub(crate) properties: &'a [(String, String)],
    /// Unix seconds.
    pub(crate) created_at: i64,
    pub(crate) snappy: bool,
}

impl HeaderFields<'_> {
    pub(crate) fn encoded_len(&self) -> usize {
        let properties: usize = self.properties.iter().map(|entry| bytes_len(entry_len(entry))).sum();
        bytes_len(MessageId::TEXT_LEN)
            + bytes_len(self.topic.len())
            + bytes_len(self.message_type.len())
            + varint_field_len(self.expires_at as u64)
            + varint_field_len(u64::from(self.deliver_limit))
            + bytes_len(self.group.len())
            + 2
            + 2
            + properties
            + varint_field_len(self.created_at as u64)
            + if self.snappy { 2 } else { 0 }
    }

    /// Appends the encoded header. There must be room for [`Self::encoded_len`] to avoid growth in small steps.
    pub(crate) fn put(&self, buf: &mut BytesMut) {
        put_bytes_field(buf, 1, &self.id.to_text());
        put_bytes_field(buf, 2, self.topic.as_bytes());
        put_bytes_field(buf, 3, self.message_type.as_bytes());
        put_varint_field(buf, 4, self.expires_at as u64);
        put_varint_field(buf, 5, u64::from(self.deliver_limit));
        put_bytes_field(buf, 6, self.group.as_bytes());
        put_varint_field(buf, 7, u64::from(self.commit));
        put_varint_field(buf, 8, u64::from(self.fly));
        for entry in self.properties {
            put_bytes_field_header(buf, 9, entry_len(entry));
            put_bytes_field(buf, 1, entry.0.as_bytes());
            put_bytes_field(buf, 2, entry.1.as_bytes());
        }
        put_varint_field(buf, 10, self.created_at as u64);
        if self.snappy {
            put_varint_field(buf, 11, 1);
        }
    }

    /// Length of the frame body that [`put_message`] writes, in bytes.
    pub(crate) fn message_len(&self, body_len: usize) -> usize {
        bytes_len(self.encoded_len()) + bytes_len(body_len)
    }
}

/// Appends a whole BYTES_MESSAGE or STRING_MESSAGE frame.
pub(crate) fn put_message(
    buf: &mut BytesMut,
    dialect: Dialect,
    opaque: u32,
    kind: MessageKind,
    header: &HeaderFields<'_>,
    body: &[u8],
) {
    let header_len = header.encoded_len();
    let frame_body_len = bytes_len(header_len) + bytes_len(body.len());
    buf.reserve(dialect.overhead() + frame_body_len);
    FrameHeader::new(kind.command(), opaque, frame_body_len).put(buf, dialect);
    put_bytes_field_header(buf, 1, header_len);
    header.put(buf);
    put_bytes_field(buf, 2, body);
}

/// Appends a whole TX_ACK frame. `header` is an encoded Header.
pub(crate) fn put_tx_ack(
    buf: &mut BytesMut,
    dialect: Dialect,
    opaque: u32,
    header: &[u8],
    status: u8,
    feedback: &str,
) {
    let body_len = bytes_len(header.len()) + 2 + bytes_len(feedback.len());
    buf.reserve(dialect.overhead() + body_len);
    FrameHeader::new(Command::TxAck, opaque, body_len).put(buf, dialect);
    put_bytes_field(buf, 1, header);
    put_varint_field(buf, 2, u64::from(status));
    put_bytes_field(buf, 3, feedback.as_bytes());
}

/// Encoded size of an Entry without its own tag and length.
fn entry_len((key, value): &(String, String)) -> usize {
    bytes_len(key.len()) + bytes_len(value.len())
}

/// Encoded size of a length-delimited field whose number is below 16.
fn bytes_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Encoded size of a varint field whose number is below 16.
fn varint_field_len(value: u64) -> usize {
    1 + varint_len(value)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kiteq_protocol::{FrameDecoder, frame::BODY_BYTES_MAX, pb};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn prost_reads_what_is_written(
            (topic, message_type, group) in (".{0,40}", ".{0,40}", ".{0,40}"),
            (expires_at, created_at) in any::<(i64, i64)>(),
            deliver_limit in 0..=i32::MAX as u32,
            (commit, fly, snappy) in any::<(bool, bool, bool)>(),
            properties in proptest::collection::vec((".{0,8}", ".{0,200}"), 0..4),
            body in proptest::collection::vec(any::<u8>(), 0..400),
            java in any::<bool>(),
        ) {
            let dialect = if java { Dialect::JAVA } else { Dialect::GO };
            let id = MessageId([0xa5; 16]);
            let header = HeaderFields {
                id, topic: &topic, message_type: &message_type, expires_at, deliver_limit, group: &group,
                commit, fly, properties: &properties, created_at, snappy,
            };
            let mut buf = BytesMut::new();
            put_message(&mut buf, dialect, 9, MessageKind::Bytes, &header, &body);
            let mut encoded_header = BytesMut::new();
            header.put(&mut encoded_header);
            prop_assert_eq!(encoded_header.len(), header.encoded_len());
            put_tx_ack(&mut buf, dialect, 10, &encoded_header, 2, "no");

            let mut decoder = FrameDecoder::speaking(dialect, BODY_BYTES_MAX);
            let frame = decoder.decode(&mut buf).unwrap().unwrap();
            prop_assert_eq!((frame.opaque, frame.body.len()), (9, header.message_len(body.len())));
            let expected = pb::Header {
                message_id: id.to_string(),
                topic: topic.clone(),
                message_type: message_type.clone(),
                expired_time: expires_at,
                deliver_limit: deliver_limit as i32,
                group_id: group.clone(),
                commit,
                fly,
                properties: properties.iter().cloned().map(|(key, value)| pb::Entry { key, value }).collect(),
                create_time: Some(created_at),
                snappy: snappy.then_some(true),
            };
            let message = pb::BytesMessage { header: expected.clone(), body: Bytes::from(body) };
            prop_assert_eq!(&pb::BytesMessage::decode(frame.body.clone()).unwrap(), &message);
            prop_assert_eq!(message.encode_to_vec(), frame.body);

            let frame = decoder.decode(&mut buf).unwrap().unwrap();
            let verdict = pb::TxAckPacket { header: expected, status: 2, feedback: "no".into() };
            prop_assert_eq!(pb::TxAckPacket::decode(frame.body).unwrap(), verdict);
            prop_assert!(buf.is_empty());
        }
    }
}
