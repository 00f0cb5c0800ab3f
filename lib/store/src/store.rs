//! The one interface of every backend.

use std::sync::Arc;

use kiteq_protocol::{Message, MessageId};

use crate::error::StoreError;
use crate::held::{
    AppendOutcome, DeadLetter, Done, GroupState, Kill, Loaded, Recovered, Revived, Slot, StoreStats, Verdict,
    VerdictOutcome,
};
use crate::paging::{OwnedStore, PagedStore};

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
    fn revive(&self, ids: Vec<MessageId>, done: Done<Vec<Revived>>);

    /// Deletes dead letters for good. `done` gets how many there were.
    fn purge(&self, ids: Vec<MessageId>, done: Done<usize>);

    /// What this store adds when it may hold more messages than its caller keeps in memory.
    fn paged(&self) -> Option<&dyn PagedStore> {
        None
    }

    /// What this store adds when several brokers share it.
    fn owned(&self) -> Option<&dyn OwnedStore> {
        None
    }

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

/// Runs a call that reports through `done` and waits for it.
pub(crate) fn barrier(call: impl FnOnce(Done<Result<(), StoreError>>)) -> Result<(), StoreError> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    call(Box::new(move |result| {
        // The receiver waits below, so it is there.
        let _ = sender.send(result);
    }));
    // The store's thread ended without an answer only when a closure panicked on it.
    receiver.recv().unwrap_or(Err(StoreError::Closed))
}
