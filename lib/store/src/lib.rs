//! Where messages wait until every group has them.
//!
//! One trait, [`MessageStore`], with the same promise for every backend that makes one: a message whose append is done
//! survives a crash, until it is settled. A held message is known by its [`Slot`], a small dense number, so that a
//! broker's own tables can be plain arrays beside the store's; its 16-byte id stays in the store alone.
//!
//! Calls never wait for a disk to be synced: each queues work, and its `done` closure runs when the work is as durable as
//! the store makes it: on a thread of the store, or, where nothing has to be synced, on the caller's before the call
//! returns. Closures run in the order of the calls and must be quick; whatever lock they take the caller must not hold. The
//! caller bounds what it has queued (a broker by its publish budget and by its delivery windows).

mod command;
mod dedupe;
mod error;
mod held;
mod mailbox;
mod memory;
mod mmap;
mod mysql;
mod open;
mod paging;
mod store;
mod uri;

pub use error::{OpenError, StoreError};
pub use held::{
    AppendOutcome, DeadLetter, DeadReason, Done, GroupState, Kill, Loaded, Recovered, Revived, Slot,
    StoreStats, Verdict, VerdictOutcome,
};
pub use open::{check, open, open_owned};
pub use paging::{
    OwnedStore, Owner, Page, PageSource, Paged, PagedStore, Shelf, ShelfId, ShelfPlace, Shelving,
};
pub use store::{MessageStore, SharedStore};
