//! What the parts of an open store share.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashSet;

use super::layout::{Epoch, Layout};
use super::link::{Pool, Target};
use super::options::MysqlOptions;
use super::order::Order;
use super::slots::Slots;
use crate::error::StoreError;
use crate::mailbox::lock;
use crate::paging::{Shelf, ShelfId};

/// An open store, but for its writers and readers.
pub(super) struct Shared {
    pub(super) options: MysqlOptions,
    pub(super) layout: Layout,
    /// Our name in `kite_server`.
    pub(super) owner: String,
    /// This run.
    pub(super) epoch: Epoch,
    pub(super) master: Arc<Target>,
    /// Connections for everything but writing.
    pub(super) pool: Arc<Pool>,
    pub(super) slave: Option<Arc<Pool>>,
    /// Names of the indexes that questions are asked by, by digit.
    pub(super) indexes: Vec<Indexes>,
    /// Longest text that the server takes.
    pub(super) packet_bytes_max: usize,
    pub(super) slots: Mutex<Slots>,
    pub(super) counters: Counters,
    pub(super) order: Arc<Order>,
    health: Mutex<Vec<Option<StoreError>>>,
    known_shelves: Mutex<HashSet<(ShelfId, u32)>>,
    pub(super) is_closed: AtomicBool,
}

/// Names of a table's indexes, quoted.
#[derive(Debug, Clone, Default)]
pub(super) struct Indexes {
    /// The one of `message_id`.
    pub(super) id: String,
    /// The one that begins with `next_deliver_time, kite_server`.
    pub(super) place: String,
    /// The one that begins with `expired_time`.
    pub(super) expiry: String,
    /// The one that begins with `kite_server`.
    pub(super) owner: String,
}

/// Figures for people, and marks.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Messages of ours that are not resident, about.
    pub(super) waiting: AtomicI64,
    /// Dead letters, of all brokers.
    pub(super) dead_letters: AtomicI64,
    /// Bytes that the tables take, about.
    pub(super) disk_bytes: AtomicU64,
    /// Settled rows of ours that are kept for their ids.
    pub(super) settled: AtomicI64,
    /// A row that should be ours was not.
    pub(super) suspects_loss: AtomicBool,
}

/// The connected parts from which [`Shared`] is made.
pub(super) struct Opened {
    pub(super) options: MysqlOptions,
    pub(super) layout: Layout,
    pub(super) owner: String,
    pub(super) epoch: Epoch,
    pub(super) master: Arc<Target>,
    pub(super) indexes: Vec<Indexes>,
    pub(super) packet_bytes_max: usize,
}

impl Shared {
    pub(super) fn new(opened: Opened, writers: usize) -> Self {
        let Opened { options, layout, owner, epoch, master, indexes, packet_bytes_max } = opened;
        let pool = Arc::new(Pool::new(master.clone(), options.connections_max - writers));
        let slave = options
            .slave
            .as_ref()
            .map(|address| Arc::new(Pool::new(Arc::new(Target::new(&options, address)), 1)));
        Self {
            slots: Mutex::new(Slots::new(options.resident_max)),
            counters: Counters::default(),
            order: Arc::default(),
            health: Mutex::new(vec![None; writers]),
            known_shelves: Mutex::default(),
            is_closed: AtomicBool::new(false),
            options,
            layout,
            owner,
            epoch,
            master,
            pool,
            slave,
            indexes,
            packet_bytes_max,
        }
    }

    /// One writer's last word: why it cannot write, or that it can.
    pub(super) fn set_health(&self, writer: usize, failure: Option<&StoreError>) {
        let mut health = lock(&self.health);
        match (&health[writer], failure) {
            (None, Some(error)) => {
                tracing::warn!(%error, "MySQL takes no writes; publishes are refused until it does");
            }
            (Some(_), None) => tracing::info!("MySQL takes writes again"),
            _ => {}
        }
        health[writer] = failure.cloned();
    }

    pub(super) fn health(&self) -> Result<(), StoreError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        lock(&self.health).iter().flatten().next().cloned().map_or(Ok(()), Err)
    }

    /// Whether this process has yet to see that the shelf is written down.
    pub(super) fn is_new_shelf(&self, shelf: &Shelf) -> bool {
        !lock(&self.known_shelves).contains(&(shelf.id, super::shelves::checksum(shelf)))
    }

    pub(super) fn knows_shelf(&self, shelf: &Shelf) {
        lock(&self.known_shelves).insert((shelf.id, super::shelves::checksum(shelf)));
    }
}

/// A call that may tell of slots, until it is dropped, which is after its `done` has run.
pub(super) struct RunningCall {
    shared: Arc<Shared>,
    call: u64,
}

impl RunningCall {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        let call = lock(&shared.slots).begin_call();
        Self { shared: shared.clone(), call }
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        lock(&self.shared.slots).end_call(self.call);
    }
}

/// Unix seconds.
pub(super) fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// Unix milliseconds.
pub(super) fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
