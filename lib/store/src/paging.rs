//! What a store adds when it may hold more messages than a broker keeps in memory, and when several brokers share it.

use std::sync::Arc;

use bytes::Bytes;
use kiteq_protocol::{MessageId, MessageKind};

use crate::error::StoreError;
use crate::held::{Done, GroupState, Slot};

/// A store that holds more messages than its caller knows.
///
/// A message that the caller knows is *resident*: it has a [`Slot`]. The others wait in the store alone: deferred at their
/// append because too many were resident ([`crate::AppendOutcome::Deferred`]), left by an earlier run, or shelved. The caller
/// asks for them in pages when it has room.
///
/// # Who frees a slot
/// Here a slot is handed out again only after the caller has given it up by settling, killing or shelving it, never because
/// of something that the caller has yet to hear of, and only after every call that was running then has been answered:
/// else what one says about the old message would hit the new one. So the caller
/// settles also the slot of a [`crate::VerdictOutcome::RolledBack`], of a load that is [`StoreError::Gone`] and of
/// [`OwnedStore::find_lost`]; there settling does nothing but free the slot.
pub trait PagedStore: Send + Sync {
    /// How many messages may be resident at once.
    fn resident_max(&self) -> usize;

    /// Makes up to `room` waiting messages resident, and no more than may be: appends go on while a page is on its way.
    fn page(&self, room: usize, from: PageSource, done: Done<Result<Page, StoreError>>);

    /// Gives up resident messages that cannot be delivered soon. The slots are no longer the caller's. A crash before this is
    /// durable makes the messages wait like those of an earlier run. A later [`PagedStore::page`] finds them, and one whose
    /// producer has decided meanwhile keeps that verdict.
    fn shelve(&self, messages: Vec<Shelving>);

    /// The shelves on which messages may lie, also from earlier runs.
    fn shelves(&self, done: Done<Result<Vec<Shelf>, StoreError>>);
}

/// A store that several brokers share. Each message belongs to one of them, which alone delivers it.
///
/// Any of them carries out a producer's verdict. About a message of another broker the outcome is
/// [`crate::VerdictOutcome::Deferred`], and that broker is told when it loads the message: by
/// [`crate::Loaded::committed_elsewhere`], or by [`StoreError::Gone`] when it was rolled back. It loads a prepared message
/// whenever it asks the producer.
pub trait OwnedStore: Send + Sync {
    /// This broker's name in the store: the `host:port` that it registers.
    fn owner(&self) -> &str;

    /// Names without a port, as a Go broker writes them, whose messages the configuration lets this broker take.
    fn adoptable(&self) -> &[String] {
        &[]
    }

    /// Every broker that has messages in the store, this one included.
    fn owners(&self, done: Done<Result<Vec<Owner>, StoreError>>);

    /// Makes up to `limit` messages of another broker this one's, each by a conditional update that one taker wins. They
    /// come with later pages. `done` gets how many there were; 0 means that nothing is left to take.
    fn adopt(&self, owner: String, limit: usize, done: Done<Result<usize, StoreError>>);

    /// Finds resident messages that do not belong to this broker any more. `done` gets their slots: the caller forgets the
    /// messages and settles the slots.
    fn find_lost(&self, done: Done<Result<Vec<Slot>, StoreError>>);

    /// Whether something that should have been this broker's was not, since [`OwnedStore::find_lost`] was last asked. Costs
    /// nothing; what nobody has touched since it was lost is not noticed by this.
    fn suspects_loss(&self) -> bool {
        false
    }

    /// Says that this broker leaves: the others may take its messages at once. Opening the store takes it back.
    fn leave(&self, done: Done<Result<(), StoreError>>);
}

/// A broker that owns messages in a shared store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name, `host:port`; a bare host name where a Go broker wrote it.
    pub name: String,
    /// Whether it left in good order.
    pub has_left: bool,
}

/// Which waiting messages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageSource {
    /// Those that wait for nothing: deferred at their append, of an earlier run, adopted, due by [`ShelfPlace::Until`]; and
    /// those whose time ran out, wherever they lie.
    Waiting,
    /// Those on these shelves.
    Shelves(Vec<ShelfId>),
}

/// Messages that have just become resident.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Roughly in the order of publication.
    pub messages: Vec<Paged>,
    /// Whether more of what was asked for waits, as far as is known without looking twice.
    pub has_more: bool,
}

/// One message of a page; like [`crate::Recovered`], with fields of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged {
    /// Where it is held.
    pub slot: Slot,
    /// Its id.
    pub id: MessageId,
    /// Which command carries it.
    pub kind: MessageKind,
    /// Its topic.
    pub topic: Bytes,
    /// Its message type.
    pub message_type: Bytes,
    /// Unix seconds.
    pub published_at: i64,
    /// Unix seconds.
    pub expires_at: i64,
    /// Attempts.
    pub deliver_limit: u32,
    /// False while it waits for its producer's verdict.
    pub committed: bool,
    /// Last recorded state of each group that is done with it or has failed it.
    pub groups: Vec<GroupState>,
}

/// A resident message that goes back into the store alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelving {
    /// The message; the slot is no longer the caller's.
    pub slot: Slot,
    /// How far its groups are.
    pub states: Vec<GroupState>,
    /// What it waits for.
    pub place: ShelfPlace,
}

/// What a shelved message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShelfPlace {
    /// A time, in unix seconds: it comes with a page after that.
    Until(i64),
    /// That its shelf is asked for.
    On(Arc<Shelf>),
}

/// Names a shelf, the same in every run and on every broker: a hash of its topic and groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShelfId(pub u32);

/// Where messages of one topic lie that are owed to exactly these groups, none of which can take them soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelf {
    /// Its name.
    pub id: ShelfId,
    /// The topic.
    pub topic: Bytes,
    /// The groups, sorted.
    pub groups: Vec<Bytes>,
}

impl Shelf {
    /// The shelf of a topic and a set of groups.
    #[must_use]
    pub fn new(topic: Bytes, mut groups: Vec<Bytes>) -> Self {
        groups.sort_unstable();
        groups.dedup();
        let mut hash = crc32c::crc32c(&topic);
        for group in &groups {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hash = crc32c::crc32c_append(hash, &(group.len() as u32).to_be_bytes());
            hash = crc32c::crc32c_append(hash, group);
        }
        Self { id: ShelfId(hash), topic, groups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_is_the_same_whatever_the_order_of_its_groups() {
        let shelf = |groups: &[&'static str]| {
            Shelf::new(Bytes::from_static(b"trade"), groups.iter().map(|&group| Bytes::from(group)).collect())
        };
        assert_eq!(shelf(&["a", "bc"]), shelf(&["bc", "a", "a"]));
        assert_ne!(shelf(&["a", "bc"]).id, shelf(&["ab", "c"]).id);
        // It stands in the store, so it may not change between versions.
        assert_eq!(shelf(&["a", "bc"]).id, ShelfId(964_030_427));
    }
}
