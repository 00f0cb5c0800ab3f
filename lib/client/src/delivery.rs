//! What a consumer gets, and how it answers.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use kiteq_protocol::message::HeaderView;
use kiteq_protocol::scan::{Fields, Value};
use kiteq_protocol::{MessageError, MessageId, MessageKind};

use crate::snappy::{DecompressError, decompress};

/// A message that a broker delivered to this client's group. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Delivery {
    id: MessageId,
    kind: MessageKind,
    header: Header,
    body: Bytes,
}

impl Delivery {
    /// The message's id, the same each time that it is delivered.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Whether the publisher sent bytes or a string.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.header.text(&self.header.topic)
    }

    /// The message type.
    #[must_use]
    pub fn message_type(&self) -> &str {
        self.header.text(&self.header.message_type)
    }

    /// The publisher's group.
    #[must_use]
    pub fn publish_group(&self) -> &str {
        self.header.text(&self.header.publish_group)
    }

    /// The body, decompressed where the publisher compressed it.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as text; `None` when it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }

    /// Unix seconds of publication; zero when the publisher left it out.
    #[must_use]
    pub fn created_at(&self) -> i64 {
        self.header.created_at
    }

    /// Unix seconds after which it is not delivered any more; zero or less means never.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.header.expires_at
    }

    /// The publisher's properties, in its order. What is not UTF-8 is left out.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties(&self.header.encoded)
    }

    /// The value of a property.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<&str> {
        self.properties().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// Decodes a delivered frame's body; the header comes back also where the rest is no good, so that it can be named
    /// in the answer.
    pub(crate) fn decode(
        kind: MessageKind,
        frame_body: &Bytes,
        decompressed_bytes_max: usize,
    ) -> (Header, Result<Self, DeliveryError>) {
        let (header, body) = match split(frame_body) {
            Ok(parts) => parts,
            Err(error) => return (Header::default(), Err(error.into())),
        };
        let header = match Header::parse(header) {
            Ok(header) => header,
            Err(error) => return (Header::default(), Err(error)),
        };
        let Ok(id) = MessageId::parse(header.id_text()) else {
            let text = header.encoded.slice(header.id.clone());
            return (header, Err(MessageError::InvalidId { text }.into()));
        };
        let body = if header.snappy { decompress(kind, &body, decompressed_bytes_max) } else { Ok(body) };
        let delivery = body.map(|body| Self { id, kind, header: header.clone(), body });
        (header, delivery.map_err(DeliveryError::from))
    }
}

/// Why a delivered message cannot be handed to the application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error("not a message: {0}")]
    Message(#[from] MessageError),
    #[error("the header's {field} is not UTF-8")]
    Utf8 { field: &'static str },
    #[error(transparent)]
    Decompress(#[from] DecompressError),
}

/// An encoded Header and where its fields are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub(crate) encoded: Bytes,
    id: Range<usize>,
    topic: Range<usize>,
    message_type: Range<usize>,
    publish_group: Range<usize>,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
    snappy: bool,
}

impl Header {
    pub(crate) fn parse(encoded: Bytes) -> Result<Self, DeliveryError> {
        let view = HeaderView::parse(&encoded)?;
        for (field, bytes) in
            [("topic", view.topic), ("messageType", view.message_type), ("groupId", view.publish_group)]
        {
            std::str::from_utf8(bytes).map_err(|_| DeliveryError::Utf8 { field })?;
        }
        let range = |field: &[u8]| {
            let start = field.as_ptr().addr().saturating_sub(encoded.as_ptr().addr());
            if field.is_empty() { 0..0 } else { start..start + field.len() }
        };
        let snappy = last_varint(&encoded, 11).is_some_and(|value| value != 0);
        let (id, topic) = (range(view.message_id), range(view.topic));
        let (message_type, publish_group) = (range(view.message_type), range(view.publish_group));
        let (created_at, expires_at) = (view.created_at, view.expires_at);
        Ok(Self { id, topic, message_type, publish_group, created_at, expires_at, snappy, encoded })
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.encoded.get(range.clone()).unwrap_or_default()
    }

    fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(self.bytes(range)).unwrap_or_default()
    }

    pub(crate) fn id_text(&self) -> &[u8] {
        self.bytes(&self.id)
    }

    pub(crate) fn topic(&self) -> &str {
        self.text(&self.topic)
    }

    pub(crate) fn message_type(&self) -> &str {
        self.text(&self.message_type)
    }
}

/// The header and the body within a message.
fn split(frame_body: &Bytes) -> Result<(Bytes, Bytes), MessageError> {
    let (mut header, mut body) = (None, None);
    for field in Fields::of(frame_body) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => header = Some(frame_body.slice_ref(bytes)),
            (2, Value::Bytes(bytes)) => body = Some(frame_body.slice_ref(bytes)),
            _ => {}
        }
    }
    let header = header.ok_or(MessageError::MissingField { field: "header" })?;
    Ok((header, body.ok_or(MessageError::MissingField { field: "body" })?))
}

/// The value of a varint field, the last one where it stands more than once.
pub(crate) fn last_varint(message: &[u8], number: u32) -> Option<u64> {
    let mut last = None;
    for field in Fields::of(message).flatten() {
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            last = Some(value);
        }
    }
    last
}

/// The properties in an encoded header.
pub(crate) fn properties(header: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    Fields::of(header).flatten().filter_map(|field| match (field.number, field.value) {
        (9, Value::Bytes(entry)) => Some((text_field(entry, 1)?, text_field(entry, 2)?)),
        _ => None,
    })
}

fn text_field(message: &[u8], number: u32) -> Option<&str> {
    Fields::of(message).flatten().find_map(|field| match field.value {
        Value::Bytes(bytes) if field.number == number => std::str::from_utf8(bytes).ok(),
        _ => None,
    })
}

/// "Not done": the broker delivers the message again, later or to another member of the group, until its deliver limit
/// or expiry makes it a dead letter.
///
/// Every error converts into one, so a handler can use `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    pub(crate) reason: String,
}

impl Nack {
    /// With a reason for whoever reads the broker's log.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Nack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl<E: std::error::Error> From<E> for Nack {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}

/// What an application does with a message. Every `Fn(Delivery) -> impl Future<Output = Result<(), Nack>>` is one.
///
/// `Ok` acks the message: the broker is done with it for this group. `Err` and a panic nack it. A message can come more
/// than once, so what a handler does should bear repetition. It should not block its thread for long; use
/// `tokio::task::spawn_blocking` for that.
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. Up to the client's [`concurrency`](crate::ClientBuilder::concurrency) of these run at once.
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Result<(), Nack>> + Send;
}

impl<F, R> Handler for F
where
    F: Fn(Delivery) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Nack>> + Send,
{
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Result<(), Nack>> + Send {
        self(delivery)
    }
}

pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<(), Nack>> + Send>>;

/// A [`Handler`] of any type.
pub(crate) trait AnyHandler: Send + Sync {
    fn start(self: Arc<Self>, delivery: Delivery) -> HandlerFuture;
}

impl<H: Handler> AnyHandler for H {
    fn start(self: Arc<Self>, delivery: Delivery) -> HandlerFuture {
        Box::pin(async move { self.handle(delivery).await })
    }
}

#[cfg(test)]
mod tests {
    use kiteq_protocol::pb;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn a_delivery_says_what_prost_reads(
            id in any::<[u8; 16]>(),
            (topic, message_type, group_id) in (".{0,40}", ".{0,40}", ".{0,40}"),
            (expired_time, created_at) in any::<(i64, i64)>(),
            properties in proptest::collection::vec((".{0,8}", ".{0,40}"), 0..4),
            body in ".{0,100}",
        ) {
            let header = pb::Header {
                message_id: MessageId(id).to_string(),
                topic,
                message_type,
                expired_time,
                deliver_limit: 100,
                group_id,
                commit: true,
                fly: false,
                properties: properties.iter().cloned().map(|(key, value)| pb::Entry { key, value }).collect(),
                create_time: Some(created_at),
                snappy: None,
            };
            let message = pb::StringMessage { header: header.clone(), body: body.clone() };
            let encoded = Bytes::from(message.encode_to_vec());
            let delivery = Delivery::decode(MessageKind::String, &encoded, 0).1.unwrap();
            prop_assert_eq!(delivery.id(), MessageId(id));
            prop_assert_eq!(delivery.topic(), header.topic);
            prop_assert_eq!(delivery.message_type(), header.message_type);
            prop_assert_eq!(delivery.publish_group(), header.group_id);
            prop_assert_eq!((delivery.expires_at(), delivery.created_at()), (expired_time, created_at));
            let read: Vec<_> =
                delivery.properties().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            prop_assert_eq!(read, properties);
            prop_assert_eq!(delivery.text(), Some(body.as_str()));
        }

        #[test]
        fn no_bytes_crash_the_decoder(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            (position, byte) in any::<(usize, u8)>(),
        ) {
            let _ = Delivery::decode(MessageKind::Bytes, &Bytes::from(bytes), 1 << 20);
            let header = pb::Header {
                message_id: MessageId([7; 16]).to_string(),
                topic: "trade".into(),
                snappy: Some(true),
                properties: vec![pb::Entry { key: "a".into(), value: "b".into() }],
                ..Default::default()
            };
            let message = pb::BytesMessage { header, body: Bytes::from_static(b"\x04\x0cecho") };
            let mut damaged = message.encode_to_vec();
            let position = position % damaged.len();
            damaged[position] = byte;
            let (header, delivery) = Delivery::decode(MessageKind::Bytes, &Bytes::from(damaged), 1 << 20);
            let _ = (header.topic(), header.message_type(), header.id_text());
            if let Ok(delivery) = delivery {
                let _ = (delivery.topic(), delivery.properties().count(), delivery.text());
            }
        }
    }
}
