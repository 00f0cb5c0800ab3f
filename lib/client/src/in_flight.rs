//! A message on its way: shared by the application that waits for its receipt and by every connection it was sent on.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use kiteq_protocol::frame::BODY_BYTES_MAX;
use kiteq_protocol::{Dialect, MessageId};

use crate::encode::{HeaderFields, put_message};
use crate::error::{PublishError, Refusal};
use crate::publish::{Head, Publish, Receipt};
use crate::settings::{Settings, places};
use crate::snappy;
use crate::sync::lock;

/// A message that has been accepted for publication.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: MessageId,
    pub(crate) head: Arc<Head>,
    /// As it goes over the wire: compressed where `snappy` says so.
    body: Bytes,
    snappy: bool,
    pub(crate) intent: Intent,
    created_at: i64,
    expires_at: i64,
    accepted: Instant,
    /// When to stop trying.
    pub(crate) deadline: Instant,
    /// Places that it takes in a connection's window.
    pub(crate) places: u32,
    progress: Mutex<Progress>,
}

/// What the caller means to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intent {
    /// Deliver it, or only prepare it.
    pub(crate) commit: bool,
    /// The caller waits for the ack before it does anything else.
    pub(crate) awaited: bool,
}

#[derive(Debug, Default)]
struct Progress {
    outcome: Option<Result<Receipt, PublishError>>,
    waker: Option<Waker>,
    /// Connections that hold a copy and may still answer.
    copies: u32,
    /// How often the message has been written to a connection.
    sent: u32,
    /// Whether a copy was sent that will not be answered, or not apart from another one.
    unanswered: bool,
}

impl Outgoing {
    /// Checks and completes a message. Compresses its body, where that was asked for, on the caller's time.
    pub(crate) fn new(
        publish: Publish,
        id: MessageId,
        intent: Intent,
        settings: &Settings,
    ) -> Result<Arc<Self>, PublishError> {
        let Publish { head, mut body, .. } = publish;
        if head.fly && !intent.commit {
            return Err(PublishError::Invalid { reason: "a fly message cannot be part of a transaction" });
        }
        let compressed = if head.snappy { snappy::compress(head.kind, &body) } else { None };
        let snappy = compressed.is_some();
        if let Some(compressed) = compressed {
            body = compressed;
        }
        let accepted = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timeout = head.timeout.unwrap_or(settings.publish_timeout);
        let lifetime = head.expires_in.unwrap_or(Duration::MAX);
        let expires_at = head.expires_in.map_or(-1, |lifetime| unix_seconds_rounded_up(now, lifetime));
        let message = Self {
            id,
            body,
            snappy,
            intent,
            created_at: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            expires_at,
            accepted,
            deadline: accepted + timeout.min(lifetime).min(FAR_AWAY),
            places: 0,
            progress: Mutex::default(),
            head,
        };
        let len = message.header(&settings.group).message_len(message.body.len());
        if len > BODY_BYTES_MAX {
            return Err(PublishError::TooLarge { len, limit: BODY_BYTES_MAX });
        }
        Ok(Arc::new(Self { places: places(len, settings.window), ..message }))
    }

    fn header<'a>(&'a self, group: &'a str) -> HeaderFields<'a> {
        HeaderFields {
            id: self.id,
            topic: &self.head.topic,
            message_type: &self.head.message_type,
            expires_at: self.expires_at,
            deliver_limit: self.head.deliver_limit,
            group,
            commit: self.intent.commit,
            fly: self.head.fly,
            properties: &self.head.properties,
            created_at: self.created_at,
            snappy: self.snappy,
        }
    }

    /// Appends the message as a frame and counts the copy.
    pub(crate) fn put(&self, buf: &mut BytesMut, dialect: Dialect, opaque: u32, group: &str) {
        put_message(buf, dialect, opaque, self.head.kind, &self.header(group), &self.body);
    }

    /// The encoded header, for verdicts about this message.
    pub(crate) fn encoded_header(&self, group: &str) -> Bytes {
        let header = self.header(group);
        let mut buf = BytesMut::with_capacity(header.encoded_len());
        header.put(&mut buf);
        buf.freeze()
    }

    /// Notes that a connection is about to get a copy.
    pub(crate) fn copy_sent(&self) {
        let mut progress = lock(&self.progress);
        progress.copies += 1;
        progress.sent += 1;
    }

    /// Takes back [`Self::copy_sent`]: the copy was not written after all.
    pub(crate) fn copy_not_sent(&self) {
        let mut progress = lock(&self.progress);
        progress.copies -= 1;
        progress.sent -= 1;
    }

    /// Notes that the same connection gets the message once more: its next answer may be to either.
    pub(crate) fn copy_repeated(&self) {
        let mut progress = lock(&self.progress);
        progress.sent += 1;
        progress.unanswered = true;
    }

    /// Notes that a connection broke before it answered. True when the message must be sent elsewhere.
    pub(crate) fn copy_lost(&self) -> bool {
        let mut progress = lock(&self.progress);
        progress.copies -= 1;
        progress.unanswered = true;
        progress.copies == 0 && progress.outcome.is_none()
    }

    /// Notes that a copy was not taken and another one is out in its place. False when that one has been refused already.
    pub(crate) fn copy_moved(&self) -> bool {
        let mut progress = lock(&self.progress);
        let is_elsewhere = progress.copies > 1 || progress.outcome.is_some();
        progress.copies -= u32::from(is_elsewhere);
        is_elsewhere
    }

    pub(crate) fn is_done(&self) -> bool {
        lock(&self.progress).outcome.is_some()
    }

    /// A broker has it.
    pub(crate) fn acked(&self, broker: &Arc<str>) {
        let mut progress = lock(&self.progress);
        progress.copies -= 1;
        self.complete(progress, || Ok(Receipt { id: self.id, broker: Arc::clone(broker) }));
    }

    /// A broker does not take it. The last copy's answer counts: an earlier one may still be acked.
    pub(crate) fn refused(&self, broker: &Arc<str>, feedback: &str) {
        let mut progress = lock(&self.progress);
        progress.copies -= 1;
        if progress.copies == 0 {
            let earlier_copy_unanswered = progress.unanswered;
            self.complete(progress, || {
                Err(PublishError::Refused {
                    id: self.id,
                    broker: Arc::clone(broker),
                    refusal: Refusal::from_feedback(feedback),
                    feedback: feedback.into(),
                    earlier_copy_unanswered,
                })
            });
        }
    }

    /// Ends it without an answer: the deadline has passed, or the client is closed.
    pub(crate) fn give_up(&self, reason: GiveUp) {
        let progress = lock(&self.progress);
        let copies_sent = progress.sent;
        self.complete(progress, || {
            Err(match reason {
                _ if copies_sent > 0 => PublishError::Unconfirmed { id: self.id, copies_sent },
                GiveUp::Closed => PublishError::Closed,
                GiveUp::Deadline(reason) => self.never_sent(reason),
            })
        });
    }

    /// What to say of it when no connection took it.
    pub(crate) fn never_sent(&self, reason: &'static str) -> PublishError {
        let topic = self.head.topic.clone();
        PublishError::NoBroker { topic, waited: self.accepted.elapsed(), reason }
    }

    fn complete(
        &self,
        mut progress: std::sync::MutexGuard<'_, Progress>,
        outcome: impl FnOnce() -> Result<Receipt, PublishError>,
    ) {
        if progress.outcome.is_some() {
            return;
        }
        progress.outcome = Some(outcome());
        let waker = progress.waker.take();
        drop(progress);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Keeps deadlines within what [`Instant`] can hold.
const FAR_AWAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a message gets no answer any more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GiveUp {
    /// Its deadline has passed; what it waited for.
    Deadline(&'static str),
    /// The client is closed.
    Closed,
}

fn unix_seconds_rounded_up(now: Duration, lifetime: Duration) -> i64 {
    let at = now.saturating_add(lifetime);
    i64::try_from(at.as_secs()).unwrap_or(i64::MAX).saturating_add(i64::from(at.subsec_nanos() > 0))
}

/// A message that is on its way, and the future of its receipt.
///
/// # Cancel safety
/// Dropping it does not take the message back: it is still sent, and sent again until acked, unless the client is
/// closed. Polling it again after it is ready gives the same result again.
#[derive(Debug)]
#[must_use = "without awaiting it, a publish that failed goes unnoticed"]
pub struct Submitted {
    pub(crate) message: Arc<Outgoing>,
}

impl Submitted {
    /// The message's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.message.id
    }
}

impl Future for Submitted {
    type Output = Result<Receipt, PublishError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut progress = lock(&self.message.progress);
        if let Some(outcome) = &progress.outcome {
            return Poll::Ready(outcome.clone());
        }
        match &mut progress.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
