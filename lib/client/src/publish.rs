//! What an application publishes, and what it gets back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kiteq_protocol::{MessageId, MessageKind};

/// The number of delivery attempts that the protocol gives a message which does not ask for fewer.
const DELIVER_LIMIT_DEFAULT: u32 = 100;

/// A message to publish.
///
/// Everything but the body is shared between clones: build one as a template and call [`Publish::with_body`] for each
/// message where many go to the same topic.
///
/// ```
/// # use kiteq_client::Publish;
/// # use std::time::Duration;
/// let template = Publish::bytes("trade", "pay-succ", "").deliver_limit(20).expires_in(Duration::from_secs(600));
/// let message = template.with_body("order 17").property("trace", "4f2a");
/// ```
#[derive(Debug, Clone)]
pub struct Publish {
    pub(crate) head: Arc<Head>,
    pub(crate) body: Bytes,
    pub(crate) id: Option<MessageId>,
}

/// Everything about a message but its body and its id.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) kind: MessageKind,
    pub(crate) topic: Box<str>,
    pub(crate) message_type: Box<str>,
    pub(crate) properties: Vec<(String, String)>,
    pub(crate) expires_in: Option<Duration>,
    pub(crate) deliver_limit: u32,
    pub(crate) fly: bool,
    pub(crate) snappy: bool,
    pub(crate) timeout: Option<Duration>,
}

impl Publish {
    fn new(kind: MessageKind, topic: &str, message_type: &str, body: Bytes) -> Self {
        let head = Head {
            kind,
            topic: topic.into(),
            message_type: message_type.into(),
            properties: Vec::new(),
            expires_in: None,
            deliver_limit: DELIVER_LIMIT_DEFAULT,
            fly: false,
            snappy: false,
            timeout: None,
        };
        Self { head: Arc::new(head), body, id: None }
    }

    /// A message whose body is bytes.
    #[must_use]
    pub fn bytes(topic: &str, message_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(MessageKind::Bytes, topic, message_type, body.into())
    }

    /// A message whose body is text. Consumers in other languages get a string.
    #[must_use]
    pub fn string(topic: &str, message_type: &str, body: impl Into<String>) -> Self {
        Self::new(MessageKind::String, topic, message_type, body.into().into())
    }

    fn change(mut self, change: impl FnOnce(&mut Head)) -> Self {
        change(Arc::make_mut(&mut self.head));
        self
    }

    /// Adds a property, which consumers get with the message.
    #[must_use]
    pub fn property(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|head| head.properties.push((key.into(), value.into())))
    }

    /// After this time the message is a dead letter, not delivered any more. Counted from the call that publishes it, in
    /// whole seconds, rounded up. Without it, and above a week, the broker takes a week.
    #[must_use]
    pub fn expires_in(self, lifetime: Duration) -> Self {
        self.change(|head| head.expires_in = Some(lifetime))
    }

    /// After so many failed deliveries to a group the message is a dead letter. 1 to 100; the broker takes 100 for
    /// anything else.
    #[must_use]
    pub fn deliver_limit(self, attempts: u32) -> Self {
        self.change(|head| head.deliver_limit = attempts)
    }

    /// Delivers to whoever is connected and stores nothing: fast, and lost when nobody takes it.
    #[must_use]
    pub fn fly(self) -> Self {
        self.change(|head| head.fly = true)
    }

    /// Compresses the body with snappy where that makes it smaller. Consumers undo it by themselves.
    #[must_use]
    pub fn snappy(self) -> Self {
        self.change(|head| head.snappy = true)
    }

    /// How long this message may wait for its ack; the client's
    /// [`publish_timeout`](crate::ClientBuilder::publish_timeout) without it.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|head| head.timeout = Some(timeout))
    }

    /// Takes `id` in place of a generated one.
    ///
    /// For publishing again what ended as [`PublishError::Unconfirmed`](crate::PublishError::Unconfirmed): a broker that
    /// has the id already acks it and does not deliver it twice.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// The same message with another body and a new id.
    #[must_use]
    pub fn with_body(&self, body: impl Into<Bytes>) -> Self {
        Self { head: Arc::clone(&self.head), body: body.into(), id: None }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.head.topic
    }

    /// The message type.
    #[must_use]
    pub fn message_type(&self) -> &str {
        &self.head.message_type
    }
}

/// A broker's promise that it has the message and will deliver it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The message's id.
    pub id: MessageId,
    /// `host:port` of the broker that has it.
    pub broker: Arc<str>,
}
