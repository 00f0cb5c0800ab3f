//! A published message as a broker sees it: the fields that it decides by, and the bytes that it carries.
//!
//! A message travels and is stored as the canonical protobuf encoding of BytesMessage or StringMessage: the header
//! (field 1), then the body (field 2), nothing else. What arrives like that is carried as it is; a header that must
//! change ([`Message::change_header`]) is copied field by field, so unknown fields and properties survive.

use bytes::{Bytes, BytesMut};

use crate::command::MessageKind;
use crate::message_id::MessageId;
use crate::scan::{Fields, ScanError, Value, put_bytes_field_header, put_varint_field, varint_len};

/// The canonical encoding of a message, in two pieces so that changing the header leaves the body where it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// Tag, length and bytes of the header; tag and length of the body.
    pub head: Bytes,
    /// The body's own bytes.
    pub body: Bytes,
}

impl Payload {
    /// Splits canonical message bytes, as a store gives them back.
    ///
    /// # Errors
    /// When `message` is not one header followed by one body.
    pub fn from_canonical(message: Bytes) -> Result<Self, MessageError> {
        let mut fields = Fields::of(&message);
        let mut next = |number: u32, name: &'static str| match fields.next().transpose()? {
            Some(field) if field.number == number => match field.value {
                Value::Bytes(bytes) => Ok(bytes),
                _ => Err(MessageError::FieldType { field: name }),
            },
            _ => Err(MessageError::MissingField { field: name }),
        };
        next(1, "header")?;
        let body = next(2, "body")?;
        let body = message.slice_ref(body);
        if fields.next().is_some() {
            return Err(MessageError::NotCanonical);
        }
        let mut head = message;
        head.truncate(head.len() - body.len());
        Ok(Self { head, body })
    }

    /// Length of the canonical encoding, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there are no bytes at all, which no message's payload is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// The encoded Header within [`Payload::head`]; empty when the payload is not canonical.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        // The body's value is not in `head`, so the walk stops there: only the first field is looked at.
        match Fields::of(&self.head).next() {
            Some(Ok(field)) => match field.value {
                Value::Bytes(header) => header,
                _ => &[],
            },
            _ => &[],
        }
    }

    /// The id's text in the header, as the publisher wrote it and as consumers send it back; empty when there is none.
    #[must_use]
    pub fn message_id(&self) -> &[u8] {
        let mut message_id: &[u8] = &[];
        for field in Fields::of(self.header()).flatten() {
            if let (1, Value::Bytes(bytes)) = (field.number, field.value) {
                message_id = bytes;
            }
        }
        message_id
    }

    /// A copy in memory of its own, for keeping: what was received is a part of a read buffer, and holds all of it.
    #[must_use]
    pub fn compacted(&self) -> Self {
        let mut head = self.to_bytes();
        let body = head.split_off(self.head.len());
        Self { head, body }
    }

    /// The whole canonical encoding as one piece; copies.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.len());
        bytes.extend_from_slice(&self.head);
        bytes.extend_from_slice(&self.body);
        bytes.freeze()
    }

    /// This payload with some header fields changed; the body is shared. `scratch` lends the memory.
    ///
    /// # Errors
    /// When the header is not well-formed.
    pub fn with_header(&self, changes: HeaderChanges, scratch: &mut BytesMut) -> Result<Self, MessageError> {
        let header = self.header();
        let places = HeaderView::parse(header)?.places;
        let head = encode_head(header, &places, changes, self.body.len(), scratch);
        Ok(Self { head, body: self.body.clone() })
    }
}

/// Header fields to set; `None` keeps what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderChanges {
    /// Unix seconds.
    pub created_at: Option<i64>,
    /// Unix seconds.
    pub expires_at: Option<i64>,
    /// Attempts.
    pub deliver_limit: Option<i32>,
    /// Whether the message may be delivered.
    pub committed: Option<bool>,
}

/// A decoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its identity.
    pub id: MessageId,
    /// Which command publishes and delivers it.
    pub kind: MessageKind,
    /// Topic, verbatim.
    pub topic: Bytes,
    /// Message type, verbatim.
    pub message_type: Bytes,
    /// The publisher's group, verbatim.
    pub publish_group: Bytes,
    /// Unix seconds of publication; zero or less when the publisher left it out.
    pub created_at: i64,
    /// Unix seconds after which it is a dead letter; zero or less means none.
    pub expires_at: i64,
    /// Attempts after which it is a dead letter.
    pub deliver_limit: i32,
    /// False for a message that waits for its producer's verdict.
    pub committed: bool,
    /// Delivered to whoever is connected, never stored.
    pub fly: bool,
    /// What is stored and delivered.
    pub payload: Payload,
    /// Known right after decoding, so that changing the header then needs no second walk over it.
    places: Option<ChangeablePlaces>,
}

/// Why a body is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not well-formed protobuf.
    #[error("not a protobuf message: {0}")]
    Scan(#[from] ScanError),
    /// A required field is absent.
    #[error("required field {field} is missing")]
    MissingField {
        /// The field's name.
        field: &'static str,
    },
    /// There is something behind the header and the body.
    #[error("more than one header and one body")]
    NotCanonical,
    /// A field has another type than the schema gives it.
    #[error("field {field} has the wrong wire type")]
    FieldType {
        /// The field's name.
        field: &'static str,
    },
    /// The id is not 32 hexadecimal digits; everything else is fine, so the publisher can be answered.
    #[error("messageId is not 32 hexadecimal digits")]
    InvalidId {
        /// The id as the publisher wrote it.
        text: Bytes,
    },
}

/// Where in an encoded Header the fields stand that [`HeaderChanges`] can set; empty where a field is absent.
type ChangeablePlaces = [(u32, u32); CHANGEABLE.len()];

/// The field numbers of what [`HeaderChanges`] can set.
const CHANGEABLE: [u32; 4] = [4, 5, 7, 10];

/// The fields of a Header, borrowed from its encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// The id's text as written.
    pub message_id: &'a [u8],
    /// Topic.
    pub topic: &'a [u8],
    /// Message type.
    pub message_type: &'a [u8],
    /// The publisher's group.
    pub publish_group: &'a [u8],
    /// Unix seconds; zero or less means none.
    pub expires_at: i64,
    /// Attempts.
    pub deliver_limit: i32,
    /// Whether it may be delivered.
    pub committed: bool,
    /// Whether it is never stored.
    pub fly: bool,
    /// Unix seconds; zero when absent.
    pub created_at: i64,
    places: ChangeablePlaces,
}

const REQUIRED: [(u32, &str); 8] = [
    (1, "Header.messageId"),
    (2, "Header.topic"),
    (3, "Header.messageType"),
    (4, "Header.expiredTime"),
    (5, "Header.deliverLimit"),
    (6, "Header.groupId"),
    (7, "Header.commit"),
    (8, "Header.fly"),
];

impl<'a> HeaderView<'a> {
    /// Reads an encoded Header. As proto2 has it, the last occurrence of a repeated scalar field wins.
    ///
    /// # Errors
    /// When the bytes are not well-formed, a required field is missing or has another type.
    pub fn parse(header: &'a [u8]) -> Result<Self, MessageError> {
        let mut view = Self::default();
        let mut seen = 0u32;
        let mut fields = Fields::of(header);
        while let Some(field) = fields.next().transpose()? {
            if let Some(index) = CHANGEABLE.iter().position(|&number| number == field.number) {
                let end = fields.offset();
                view.places[index] = ((end - field.encoded.len()) as u32, end as u32);
            }
            match (field.number, field.value) {
                (1, Value::Bytes(bytes)) => view.message_id = bytes,
                (2, Value::Bytes(bytes)) => view.topic = bytes,
                (3, Value::Bytes(bytes)) => view.message_type = bytes,
                (4, Value::Varint(value)) => view.expires_at = value as i64,
                (5, Value::Varint(value)) => view.deliver_limit = value as i32,
                (6, Value::Bytes(bytes)) => view.publish_group = bytes,
                (7, Value::Varint(value)) => view.committed = value != 0,
                (8, Value::Varint(value)) => view.fly = value != 0,
                (10, Value::Varint(value)) => view.created_at = value as i64,
                (number @ 1..=8, _) => {
                    return Err(MessageError::FieldType { field: REQUIRED[number as usize - 1].1 });
                }
                (10, _) => return Err(MessageError::FieldType { field: "Header.createTime" }),
                _ => {}
            }
            if field.number <= 8 {
                seen |= 1 << field.number;
            }
        }
        match REQUIRED.iter().find(|(number, _)| seen & (1 << number) == 0) {
            Some((_, field)) => Err(MessageError::MissingField { field }),
            None => Ok(view),
        }
    }
}

impl Message {
    /// Decodes the body of a BYTES_MESSAGE or STRING_MESSAGE frame. Copies nothing when the encoding is canonical.
    ///
    /// # Errors
    /// See [`MessageError`]; after [`MessageError::InvalidId`] the connection is still usable.
    pub fn decode(kind: MessageKind, frame_body: &Bytes) -> Result<Self, MessageError> {
        let mut header = None;
        let mut body = None;
        let mut field_count = 0;
        for field in Fields::of(frame_body) {
            let field = field?;
            field_count += 1;
            match (field.number, field.value) {
                (1, Value::Bytes(bytes)) => header = Some((field_count, bytes)),
                (2, Value::Bytes(bytes)) => body = Some((field_count, bytes)),
                (1, _) => return Err(MessageError::FieldType { field: "header" }),
                (2, _) => return Err(MessageError::FieldType { field: "body" }),
                _ => {}
            }
        }
        let (header_position, header) = header.ok_or(MessageError::MissingField { field: "header" })?;
        let (body_position, body) = body.ok_or(MessageError::MissingField { field: "body" })?;
        let view = HeaderView::parse(header)?;
        let body_bytes = frame_body.slice_ref(body);
        let head = if (header_position, body_position, field_count) == (1, 2, 2) {
            frame_body.slice(..frame_body.len() - body.len())
        } else {
            encode_head(header, &view.places, HeaderChanges::default(), body.len(), &mut BytesMut::new())
        };
        let message = Self::from_view(kind, view, frame_body, Payload { head, body: body_bytes })?;
        Ok(Self { places: Some(view.places), ..message })
    }

    /// Builds a message from its decoded header, which is a part of `source`.
    fn from_view(
        kind: MessageKind,
        view: HeaderView<'_>,
        source: &Bytes,
        payload: Payload,
    ) -> Result<Self, MessageError> {
        let text = |bytes: &[u8]| source.slice_ref(bytes);
        let invalid = |_| MessageError::InvalidId { text: text(view.message_id) };
        Ok(Self {
            id: MessageId::parse(view.message_id).map_err(invalid)?,
            kind,
            topic: text(view.topic),
            message_type: text(view.message_type),
            publish_group: text(view.publish_group),
            created_at: view.created_at,
            expires_at: view.expires_at,
            deliver_limit: view.deliver_limit,
            committed: view.committed,
            fly: view.fly,
            payload,
            places: None,
        })
    }

    /// Decodes what [`Payload::from_canonical`] accepts, as a store gives it back.
    ///
    /// # Errors
    /// When `payload` is not canonical.
    pub fn from_payload(kind: MessageKind, payload: Payload) -> Result<Self, MessageError> {
        let head = payload.head.clone();
        let source = Payload { head, body: Bytes::new() };
        let view = HeaderView::parse(source.header())?;
        Self::from_view(kind, view, &source.head, payload)
    }

    /// Sets header fields, in the decoded fields and in the payload alike. `scratch` lends the memory: pass the same
    /// buffer for every message of a batch and they share one allocation.
    ///
    /// # Errors
    /// When the payload's header is not well-formed.
    pub fn change_header(
        &mut self,
        changes: HeaderChanges,
        scratch: &mut BytesMut,
    ) -> Result<(), MessageError> {
        if changes == HeaderChanges::default() {
            return Ok(());
        }
        self.payload = match self.places.take() {
            Some(places) => {
                let Payload { head: _, body } = &self.payload;
                let head = encode_head(self.payload.header(), &places, changes, body.len(), scratch);
                Payload { head, body: body.clone() }
            }
            None => self.payload.with_header(changes, scratch)?,
        };
        self.created_at = changes.created_at.unwrap_or(self.created_at);
        self.expires_at = changes.expires_at.unwrap_or(self.expires_at);
        self.deliver_limit = changes.deliver_limit.unwrap_or(self.deliver_limit);
        self.committed = changes.committed.unwrap_or(self.committed);
        Ok(())
    }
}

/// Writes the head of a canonical message: `header` with `changes`, then tag and length of a body of `body_len` bytes.
///
/// Changed fields are left out where they stand and written at the end; of a scalar field that stands more than once, the
/// last one counts.
fn encode_head(
    header: &[u8],
    places: &ChangeablePlaces,
    changes: HeaderChanges,
    body_len: usize,
    scratch: &mut BytesMut,
) -> Bytes {
    debug_assert!(scratch.is_empty(), "the scratch buffer lends memory, it holds nothing");
    let values: [Option<u64>; CHANGEABLE.len()] = [
        changes.expires_at.map(|value| value as u64),
        // A negative int32 is written sign-extended to 64 bits, as proto2 has it.
        changes.deliver_limit.map(|value| i64::from(value) as u64),
        changes.committed.map(u64::from),
        changes.created_at.map(|value| value as u64),
    ];
    let mut left_out = [(0, 0); CHANGEABLE.len()];
    let mut header_len = header.len();
    for (index, value) in values.iter().enumerate() {
        if let Some(value) = value {
            left_out[index] = places[index];
            header_len += 1 + varint_len(*value);
            header_len -= (places[index].1 - places[index].0) as usize;
        }
    }
    left_out.sort_unstable();
    scratch.reserve(header_len + 2 * (1 + varint_len(u64::MAX)));
    put_bytes_field_header(scratch, 1, header_len);
    let mut copied = 0;
    for (start, end) in left_out {
        if end > 0 {
            scratch.extend_from_slice(&header[copied..start as usize]);
            copied = end as usize;
        }
    }
    scratch.extend_from_slice(&header[copied..]);
    for (number, value) in CHANGEABLE.into_iter().zip(values) {
        if let Some(value) = value {
            put_varint_field(scratch, number, value);
        }
    }
    put_bytes_field_header(scratch, 2, body_len);
    scratch.split().freeze()
}
