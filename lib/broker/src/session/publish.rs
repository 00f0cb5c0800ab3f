//! Admission: what a publish is answered, and what of it goes on into the store.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use kiteq_protocol::{Dialect, HeaderChanges, Message, MessageError, MessageId, MessageKind, reply};
use kiteq_store::AppendOutcome;
use tokio::sync::OwnedSemaphorePermit;

use super::outbound::Outbound;
use crate::dispatch::{Event, Trial};
use crate::shared::{NAME_BYTES_MAX, Shared};

/// Deliver limits outside of 1 to this become this.
const DELIVER_LIMIT_MAX: i32 = 100;

/// The publishes of one read from one connection, on their way into the store.
pub(super) struct PublishBatch {
    messages: Vec<Message>,
    opaques: Vec<u32>,
    fly: Vec<Message>,
    trials: Vec<Trial>,
    bytes: usize,
    /// Answers that are known at once.
    pub(super) replies: BytesMut,
    scratch: BytesMut,
    unix_seconds: i64,
    /// The topic that was let in last: publishes come in runs.
    last_topic: Bytes,
}

impl PublishBatch {
    pub(super) fn new() -> Self {
        Self {
            messages: Vec::new(),
            opaques: Vec::new(),
            fly: Vec::new(),
            trials: Vec::new(),
            bytes: 0,
            replies: BytesMut::new(),
            scratch: BytesMut::new(),
            unix_seconds: 0,
            last_topic: Bytes::new(),
        }
    }

    /// Starts a batch at this wall-clock time.
    pub(super) fn begin(&mut self, unix_seconds: i64) {
        self.unix_seconds = unix_seconds;
    }

    /// Takes in one publish, or answers it.
    ///
    /// # Errors
    /// When the body does not decode: the connection cannot be trusted any more.
    pub(super) fn add(
        &mut self,
        shared: &Shared,
        outbound: &Arc<Outbound>,
        dialect: Dialect,
        opaque: u32,
        kind: MessageKind,
        body: &Bytes,
    ) -> Result<(), MessageError> {
        let mut message = match Message::decode(kind, body) {
            Ok(message) => message,
            Err(MessageError::InvalidId { text }) => {
                shared.metrics.publish_refused("invalid_id");
                reply::put_store_ack(
                    &mut self.replies,
                    dialect,
                    opaque,
                    &text,
                    false,
                    "Invalid MessageId For UUID!",
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let checked = self.check(shared, &message);
        self.normalize(&mut message, shared.config.message_lifetime.as_secs() as i64)?;
        let payload_bytes = message.payload.len();
        // Normalizing changes the size: it may grow beyond what clients take, and what is delivered is what gives its bytes
        // back, so they are taken after it.
        let limit = shared.config.body_bytes_max;
        let admitted = checked.and_then(|()| match message.fly {
            _ if payload_bytes > limit => Err((
                "too_large",
                format!("Message has {payload_bytes} bytes with its expiry, the limit is {limit}"),
            )),
            true if !shared.transient_budget.try_take(payload_bytes) => Err(overflow(shared)),
            _ => Ok(()),
        });
        if let Err((reason, feedback)) = admitted {
            shared.metrics.publish_refused(reason);
            let id = message.id.to_text();
            reply::put_store_ack(&mut self.replies, dialect, opaque, &id, false, &feedback);
            return Ok(());
        }
        if message.fly {
            shared.metrics.publishes_flown.inc();
            reply::put_store_ack(
                &mut self.replies,
                dialect,
                opaque,
                &message.id.to_text(),
                true,
                "FLY NO NEED SAVE",
            );
            self.fly.push(message);
        } else if shared.config.delivery_first
            && message.committed
            && shared.transient_budget.try_take(payload_bytes)
        {
            let outbound = outbound.clone();
            self.trials.push(Trial { message, opaque, dialect, outbound, received: Instant::now() });
        } else {
            self.bytes += payload_bytes;
            self.messages.push(message);
            self.opaques.push(opaque);
        }
        Ok(())
    }

    /// Why a publish is refused: a word for the metrics and the text for the client.
    fn check(&mut self, shared: &Shared, message: &Message) -> Result<(), (&'static str, String)> {
        if message.topic != self.last_topic {
            if !shared.topics.serves(&message.topic) {
                return Err(("topic", "UnSupport Topic Message!".to_owned()));
            }
            self.last_topic = Bytes::copy_from_slice(&message.topic);
        }
        if message.message_type.len() > NAME_BYTES_MAX || message.publish_group.len() > NAME_BYTES_MAX {
            return Err((
                "name",
                format!("MessageType and GroupId are at most {NAME_BYTES_MAX} bytes long!"),
            ));
        }
        if message.expires_at > 0 && message.expires_at <= self.unix_seconds {
            return Err(("expired", "Expired Message!".to_owned()));
        }
        if shared.is_leaving.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(("leaving", format!("Broker {} is stopping, send to another one", shared.address)));
        }
        if shared.take_receive_permits(1) == 0 {
            return Err(overflow(shared));
        }
        if message.fly && !message.committed {
            return Err(("fly_uncommitted", "FLY MUST BE COMMITTED !".to_owned()));
        }
        Ok(())
    }

    fn normalize(&mut self, message: &mut Message, lifetime_seconds: i64) -> Result<(), MessageError> {
        let latest = self.unix_seconds + lifetime_seconds;
        let expires_at =
            if message.expires_at <= 0 || message.expires_at > latest { latest } else { message.expires_at };
        let deliver_limit = if (1..=DELIVER_LIMIT_MAX).contains(&message.deliver_limit) {
            message.deliver_limit
        } else {
            DELIVER_LIMIT_MAX
        };
        let changes = HeaderChanges {
            created_at: (message.created_at <= 0).then_some(self.unix_seconds),
            expires_at: (expires_at != message.expires_at).then_some(expires_at),
            deliver_limit: (deliver_limit != message.deliver_limit).then_some(deliver_limit),
            committed: None,
        };
        if self.scratch.capacity() < 256 {
            self.scratch.reserve(16 << 10);
        }
        message.change_header(changes, &mut self.scratch)
    }

    /// Sends everything on. Waits while too many bytes are on their way into the store: meanwhile the connection's socket
    /// is not read.
    ///
    /// # Cancel safety
    /// Not cancel safe: what was taken in is lost, unanswered.
    pub(super) async fn submit(&mut self, shared: &Arc<Shared>, outbound: &Arc<Outbound>, dialect: Dialect) {
        outbound.push_frames(&mut self.replies);
        if !self.fly.is_empty() {
            shared.inbox.push(Event::Fly(std::mem::take(&mut self.fly)));
        }
        if !self.trials.is_empty() {
            shared.inbox.push(Event::Try(std::mem::take(&mut self.trials)));
        }
        if self.messages.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let Some(budget) = take_budget(shared, bytes).await else { return };
        let messages = std::mem::take(&mut self.messages);
        let opaques = std::mem::take(&mut self.opaques);
        let (shared_by_done, outbound, received) = (shared.clone(), outbound.clone(), Instant::now());
        outbound.owe_frames();
        shared.store.append(
            messages,
            Box::new(move |outcomes| {
                answer(&shared_by_done, &outbound, dialect, &opaques, received, budget, outcomes);
            }),
        );
    }
}

/// A share of the publish budget; `None` once the broker has stopped.
pub(super) async fn take_budget(shared: &Shared, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let permits = bytes.clamp(1, shared.config.publish_budget_bytes).min(u32::MAX as usize) as u32;
    shared.publish_budget.clone().acquire_many_owned(permits).await.ok()
}

/// Runs when the store is done with a batch: answers the publisher and tells the dispatcher.
fn answer(
    shared: &Shared,
    outbound: &Outbound,
    dialect: Dialect,
    opaques: &[u32],
    received: Instant,
    budget: OwnedSemaphorePermit,
    outcomes: Vec<(Message, AppendOutcome)>,
) {
    shared.metrics.appended(outcomes.len(), received.elapsed());
    let feedback = stored_feedback(received);
    let mut acks = BytesMut::with_capacity(outcomes.len() * 96);
    let mut stored = Vec::with_capacity(outcomes.len());
    let mut deferred = 0;
    for ((message, outcome), opaque) in outcomes.into_iter().zip(opaques) {
        put_outcome(&mut acks, dialect, *opaque, message.id, &outcome, &feedback);
        match outcome {
            AppendOutcome::Stored(slot) => stored.push((slot, message)),
            AppendOutcome::Deferred => deferred += 1,
            AppendOutcome::Duplicate => {
                shared.metrics.publishes_duplicate.inc();
            }
            AppendOutcome::Refused(_) => shared.metrics.publish_refused("store"),
        }
    }
    outbound.push_owed(acks.freeze());
    shared.metrics.publishes_stored.inc_by(stored.len() as u64 + deferred);
    if deferred > 0 {
        shared.inbox.push(Event::Deferred);
    }
    if !stored.is_empty() {
        shared.inbox.push(Event::Stored { messages: stored, budget });
    }
}

/// The word for the metrics and the text for the client when more comes than the broker takes.
fn overflow(shared: &Shared) -> (&'static str, String) {
    ("overflow", format!("Store Result KiteQ OverFlow [{}]", shared.address))
}

/// What a publisher is told when its message is stored.
pub(crate) fn stored_feedback(received: Instant) -> String {
    format!("Store Result true Cost:{}", received.elapsed().as_millis())
}

/// Appends the STORE_ACK that an outcome deserves.
pub(crate) fn put_outcome(
    acks: &mut BytesMut,
    dialect: Dialect,
    opaque: u32,
    id: MessageId,
    outcome: &AppendOutcome,
    stored_feedback: &str,
) {
    let id = id.to_text();
    match outcome {
        AppendOutcome::Stored(_) | AppendOutcome::Deferred => {
            reply::put_store_ack(acks, dialect, opaque, &id, true, stored_feedback);
        }
        AppendOutcome::Duplicate => {
            reply::put_store_ack(acks, dialect, opaque, &id, true, "Duplicate Message");
        }
        AppendOutcome::Refused(error) => {
            reply::put_store_ack(acks, dialect, opaque, &id, false, &error.to_string());
        }
    }
}
