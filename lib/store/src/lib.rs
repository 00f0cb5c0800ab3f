//! Where messages wait until every group has them.
//!
//! One trait, [`MessageStore`], with the same promise for every backend that makes one: a message whose append is done
//! survives a crash, until it is settled. A held message is known by its [`Slot`], a small dense number, so that a
//! broker's own tables can be plain arrays beside the store's; its 16-byte id stays in the store alone.
//!
//! Calls never block and never wait: each queues work, and its `done` closure runs on a thread of the store when the
//! work is as durable as the store makes it. Closures run in the order of the calls and must be quick. The caller bounds
//! what it has queued (a broker by its publish budget and by its delivery windows).

use std::sync::Arc;

use bytes::Bytes;
use kiteq_protocol::{Message, MessageId, MessageKind, Payload};

/// A held message. Valid from the `done` of its append (or from recovery) until the caller settles or kills it; then the
/// store hands the number out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Runs when queued work is done.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// What became of one appended message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Held, as durable as the store makes it.
    Stored(Slot),
    /// Its id is held already, or was settled within the dedupe window: nothing was stored.
    Duplicate,
    /// Not stored, now or ever.
    Refused(StoreError),
}

/// A producer's decision about a prepared message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver it.
    Commit,
    /// Forget it.
    Rollback,
}

/// What became of one verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerdictOutcome {
    /// Durably committed; deliver it.
    Committed(Slot),
    /// Gone; the slot is no longer the caller's.
    RolledBack(Slot),
    /// The id is not held, or was committed before: nothing happened.
    Ignored,
    /// The store could not do it; the message stays prepared.
    Failed(StoreError),
}

/// How far one group is with one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub group: Bytes,
    /// Deliveries that the group failed so far.
    pub attempts: u32,
    /// Whether the group has it and must not get it again.
    pub done: bool,
}

/// Why a message became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeadReason {
    /// A group failed it as often as its deliver limit allows.
    DeliverLimit = 1,
    /// Its time ran out before every group had it.
    Expired = 2,
    /// Its producer gave no verdict before its time ran out.
    NoVerdict = 3,
}

/// A message that is to become a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The message; the slot is no longer the caller's.
    pub slot: Slot,
    /// Why.
    pub reason: DeadReason,
    /// The groups that did not get it.
    pub groups: Vec<Bytes>,
}

/// A dead letter as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub id: MessageId,
    /// Which command carried it.
    pub kind: MessageKind,
    /// Why it is dead.
    pub reason: DeadReason,
    /// Unix seconds.
    pub died_at: i64,
    /// The groups that did not get it.
    pub groups: Vec<Bytes>,
    /// The message.
    pub payload: Payload,
}

/// A message that [`MessageStore::recover`] found.
#[derive(Debug, Clone, Copy)]
pub struct Recovered<'a> {
    /// Where it is held.
    pub slot: Slot,
    /// Its id.
    pub id: MessageId,
    /// Which command carries it.
    pub kind: MessageKind,
    /// Its topic.
    pub topic: &'a [u8],
    /// Its message type.
    pub message_type: &'a [u8],
    /// Unix seconds.
    pub expires_at: i64,
    /// Attempts.
    pub deliver_limit: u32,
    /// False while it waits for its producer's verdict.
    pub committed: bool,
    /// Last recorded state of each group that is done with it or has failed it; empty when none was recorded.
    pub groups: &'a [GroupState],
}

/// A held message, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: MessageId,
    /// Which command carries it.
    pub kind: MessageKind,
    /// The message as it was appended. The header of a message that was committed by a verdict still says commit=false.
    pub payload: Payload,
}

/// What a store holds, for metrics and for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Live messages.
    pub messages: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Bytes of payload of both.
    pub payload_bytes: u64,
    /// Bytes taken on disk; zero for a store without one.
    pub disk_bytes: u64,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store holds as many messages as it may.
    #[error("store is full: it holds {held} of at most {limit} messages")]
    Full {
        /// Messages held.
        held: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk has no room for another segment.
    #[error("disk full below {place}: {reason}")]
    DiskFull {
        /// Directory.
        place: String,
        /// The system's words.
        reason: String,
    },
    /// A write or sync failed, so nothing that the store says about later writes could be believed.
    #[error(
        "store {place} stopped writing after a failure: {reason}; restart the broker once the cause is mended"
    )]
    Poisoned {
        /// Directory or database.
        place: String,
        /// What failed.
        reason: String,
    },
    /// What was read back is not what was written.
    #[error("{place}: {reason}")]
    Corrupt {
        /// File and offset, or table and row.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Reading failed, or the backend cannot be reached right now.
    #[error("{place}: {reason}")]
    Unavailable {
        /// File or database.
        place: String,
        /// The cause.
        reason: String,
    },
    /// The store is closed.
    #[error("store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::DiskFull { .. } | Self::Unavailable { .. })
    }
}

/// Why a store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store {uri:?}: {reason}")]
pub struct OpenError {
    /// As given, without secrets.
    pub uri: String,
    /// What is wrong and what to do.
    pub reason: String,
}

/// Where messages wait until every group has them. See the crate documentation for threads and order.
pub trait MessageStore: Send + Sync + 'static {
    /// What this is, without secrets, for logs: `mmap:///var/lib/kiteq?sync=group`.
    fn describe(&self) -> String;

    /// Reports every live message in the order of publication. Call it once, before anything else.
    ///
    /// # Errors
    /// When the backend cannot be read. What is damaged is logged and kept aside, and is no error.
    fn recover(&self, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<(), StoreError>;

    /// Stores messages. `done` gets them back in the same order, each with its outcome.
    fn append(&self, messages: Vec<Message>, done: Done<Vec<(Message, AppendOutcome)>>);

    /// Decides prepared messages. `done` gets one outcome for each verdict, in the same order. A commit is durable when
    /// it is reported; a rollback may be lost in a crash, and then the message is prepared again.
    fn decide(&self, verdicts: Vec<(MessageId, Verdict)>, done: Done<Vec<VerdictOutcome>>);

    /// Forgets messages that every group has. The slots are no longer the caller's. May be lost in a crash, and then
    /// the messages are live again.
    fn settle(&self, slots: Vec<Slot>);

    /// Notes how far groups are with messages that stay, replacing what was noted before. May be lost in a crash.
    fn note(&self, states: Vec<(Slot, Vec<GroupState>)>);

    /// Turns messages into dead letters. The slots are no longer the caller's.
    fn kill(&self, dead: Vec<Kill>);

    /// Reads messages back. `done` gets one result for each slot, in the same order; it may run before the `done` of
    /// earlier calls. The caller must not settle or kill a slot while it is being loaded.
    fn load(&self, slots: Vec<Slot>, done: Done<Vec<Result<Loaded, StoreError>>>);

    /// Up to `limit` dead letters in the order of their ids, from the one after `after`. Blocks: reads the disk.
    ///
    /// # Errors
    /// When the backend cannot be read.
    fn dead_letters(&self, after: Option<MessageId>, limit: usize) -> Result<Vec<DeadLetter>, StoreError>;

    /// Makes dead letters live again. `done` gets, for each id in the same order, the slot and the letter, or `None`
    /// when no dead letter has that id, or an error. A revived message has no expiry any more.
    fn revive(&self, ids: Vec<MessageId>, done: Done<Vec<Result<Option<(Slot, DeadLetter)>, StoreError>>>);

    /// Deletes dead letters for good. `done` gets how many there were.
    fn purge(&self, ids: Vec<MessageId>, done: Done<usize>);

    /// What is held now.
    fn stats(&self) -> StoreStats;

    /// Whether appends can succeed.
    ///
    /// # Errors
    /// The reason why not.
    fn health(&self) -> Result<(), StoreError>;

    /// Finishes queued work, makes it durable and releases the backend. Blocks; later calls get [`StoreError::Closed`].
    ///
    /// # Errors
    /// When something could not be made durable.
    fn close(&self) -> Result<(), StoreError>;
}

/// A store as the broker holds it.
pub type SharedStore = Arc<dyn MessageStore>;
