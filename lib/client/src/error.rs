//! What can go wrong, and whether trying again is safe and sensible.

use std::sync::Arc;
use std::time::Duration;

use kiteq_protocol::MessageId;
use kiteq_registry::RegistryError;

/// Why a broker refused a message. It says so in words; these are the ones that existing brokers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// More messages than the broker takes at the moment.
    Overflow,
    /// The broker does not serve the topic.
    UnsupportedTopic,
    /// The id is not one to the broker.
    InvalidMessageId,
    /// The message's expiry has passed.
    Expired,
    /// A fly message cannot be part of a transaction.
    FlyMustBeCommitted,
    /// The broker is about to stop, and no other one could take the message in its place.
    Stopping,
    /// The message could not be stored, or a reason that this client does not know.
    NotStored,
}

impl Refusal {
    pub(crate) fn from_feedback(feedback: &str) -> Self {
        let known = [
            ("OverFlow", Self::Overflow),
            ("UnSupport Topic", Self::UnsupportedTopic),
            ("Invalid MessageId", Self::InvalidMessageId),
            ("Expired Message", Self::Expired),
            ("is stopping, send to another one", Self::Stopping),
            ("FLY MUST BE COMMITTED", Self::FlyMustBeCommitted),
        ];
        known
            .iter()
            .find(|(words, _)| feedback.contains(words))
            .map_or(Self::NotStored, |&(_, refusal)| refusal)
    }

    /// Whether the same message may be taken later without anybody changing anything.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Overflow | Self::Stopping | Self::NotStored)
    }
}

/// Why a message has no receipt.
///
/// Two questions decide what to do next: is publishing it again *safe*, that is, can it not end up delivered twice
/// ([`is_retry_safe`](Self::is_retry_safe)); and is it *sensible*, that is, may it work without anybody changing
/// anything ([`is_retryable`](Self::is_retryable)).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The message contradicts itself. It was not sent.
    #[error("the message cannot be published: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The message is larger than a frame may be. It was not sent.
    #[error("the message has {len} bytes with its header, the limit is {limit}")]
    TooLarge {
        /// Encoded length, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The client is closed or closing. The message was not sent.
    #[error("the client is closed")]
    Closed,
    /// Every broker of the topic refused this client's group and secret. The message was not sent.
    #[error("broker {broker} refused this client: {feedback}")]
    Unauthorized {
        /// `host:port` of one of them.
        broker: Arc<str>,
        /// Its words.
        feedback: Arc<str>,
    },
    /// No broker took the message before its deadline, and it was never sent.
    #[error("no broker took the message for topic {topic:?} within {}: {reason}", seconds(*waited))]
    NoBroker {
        /// The topic.
        topic: Box<str>,
        /// How long the message waited.
        waited: Duration,
        /// What it waited for.
        reason: &'static str,
    },
    /// A broker answered that it does not take the message.
    #[error("broker {broker} refused message {id}: {feedback}")]
    Refused {
        /// The message's id.
        id: MessageId,
        /// `host:port`.
        broker: Arc<str>,
        /// Why, as far as this client understands.
        refusal: Refusal,
        /// The broker's words.
        feedback: Box<str>,
        /// Whether the message had been sent before, without an answer: that copy may have been stored.
        earlier_copy_unanswered: bool,
    },
    /// The message was sent and no answer came before its deadline: a broker may have stored it or not.
    #[error(
        "message {id} was sent {copies_sent} times and not acked before its deadline; it may have been stored"
    )]
    Unconfirmed {
        /// The message's id. Publish again with [`Publish::id`](crate::Publish::id) to let brokers drop the second one.
        id: MessageId,
        /// How often it was sent.
        copies_sent: u32,
    },
}

impl PublishError {
    /// Whether the message was certainly not taken, so that publishing it again cannot make it arrive twice.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::Invalid { .. }
            | Self::TooLarge { .. }
            | Self::Closed
            | Self::Unauthorized { .. }
            | Self::NoBroker { .. } => true,
            Self::Refused { earlier_copy_unanswered, .. } => !earlier_copy_unanswered,
            Self::Unconfirmed { .. } => false,
        }
    }

    /// Whether publishing the same message again may succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid { .. } | Self::TooLarge { .. } | Self::Closed | Self::Unauthorized { .. } => false,
            Self::NoBroker { .. } | Self::Unconfirmed { .. } => true,
            Self::Refused { refusal, .. } => refusal.is_temporary(),
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Why a client could not start.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting that cannot work.
    #[error("{setting}: {reason}")]
    Setting {
        /// The builder's method.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry refused the bindings or topics for good.
    #[error("the registry does not take what this client presents: {0}")]
    Registry(#[from] RegistryError),
}

/// Why a client is not connected yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// A topic has no connected broker within the time allowed.
    #[error("no broker of topic {topic:?} is connected: {reason}")]
    NoBroker {
        /// The topic.
        topic: Box<str>,
        /// What is missing.
        reason: &'static str,
    },
    /// A broker refused this client's group and secret.
    #[error("broker {broker} refused this client: {feedback}")]
    Unauthorized {
        /// `host:port`.
        broker: Arc<str>,
        /// Its words.
        feedback: Arc<str>,
    },
    /// The client is closed or closing.
    #[error("the client is closed")]
    Closed,
}

/// How a transaction ended other than by commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError<E> {
    /// The message could not be prepared; the closure was not run.
    #[error("the message was not prepared: {0}")]
    Prepare(PublishError),
    /// The closure failed, and the message is rolled back.
    #[error("rolled back: {0}")]
    RolledBack(E),
}

/// What a client left unfinished when its time to close ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("closed with {deliveries} deliveries unanswered and {publishes} publishes unacked")]
pub struct CloseError {
    /// Deliveries whose handler had not finished. Their brokers deliver them again.
    pub deliveries: usize,
    /// Messages without an ack. Their futures end in [`PublishError::Unconfirmed`] or [`PublishError::Closed`].
    pub publishes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(feedback: &str, earlier_copy_unanswered: bool) -> PublishError {
        PublishError::Refused {
            id: MessageId([1; 16]),
            broker: "localhost:13800".into(),
            refusal: Refusal::from_feedback(feedback),
            feedback: feedback.into(),
            earlier_copy_unanswered,
        }
    }

    #[test]
    fn a_refusal_says_whether_to_try_again() {
        for (feedback, refusal, retryable) in [
            ("Store Result KiteQ OverFlow [127.0.0.1:13800]", Refusal::Overflow, true),
            ("UnSupport Topic Message!", Refusal::UnsupportedTopic, false),
            ("Invalid MessageId For UUID!", Refusal::InvalidMessageId, false),
            ("Expired Message!", Refusal::Expired, false),
            ("FLY MUST BE COMMITTED !", Refusal::FlyMustBeCommitted, false),
            ("disk full", Refusal::NotStored, true),
        ] {
            assert_eq!(Refusal::from_feedback(feedback), refusal);
            let error = refused(feedback, false);
            assert_eq!((error.is_retry_safe(), error.is_retryable()), (true, retryable), "{error}");
        }
    }

    #[test]
    fn a_retry_is_not_safe_while_a_copy_may_be_stored() {
        assert!(!refused("disk full", true).is_retry_safe());
        assert!(!PublishError::Unconfirmed { id: MessageId([0; 16]), copies_sent: 1 }.is_retry_safe());
    }
}
