//! What goes into a store and what comes out of it.

use bytes::Bytes;
use kiteq_protocol::{MessageId, MessageKind, Payload};

use crate::error::StoreError;

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
    /// Held just as well, but not resident: it comes with a later page. See [`crate::PagedStore`].
    Deferred,
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
    /// Carried out on a message that is not resident; a committed one comes with a later page.
    Deferred,
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
    /// Whether the group must not get it again: it has it, or, where `attempts` is not 0, it has failed it for good.
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
    /// The store could not read it back.
    Unreadable = 4,
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

/// What became of one revival: the slot and the letter, or `None` when no dead letter has that id.
pub type Revived = Result<Option<(Slot, DeadLetter)>, StoreError>;

/// A message that [`crate::MessageStore::recover`] found.
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
    /// Whether another broker has carried out its producer's commit, which this caller is told here and nowhere else. Only
    /// in a store that is shared.
    pub committed_elsewhere: bool,
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
