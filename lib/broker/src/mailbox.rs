//! A queue that is emptied as a whole, so that whoever consumes takes everything that is waiting in one go.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Many producers, one consumer. Pushing never waits: what is in the mailbox is bounded by what its producers may have
/// outstanding (the publish budget, the delivery windows, the number of connections), not by the mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    waiting: Mutex<Vec<T>>,
    arrived: Notify,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: Mutex::new(Vec::new()), arrived: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // Nothing that runs under this lock can panic half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one item and wakes the consumer if it may be asleep.
    pub(crate) fn push(&self, item: T) {
        let was_empty = {
            let mut waiting = self.lock();
            let was_empty = waiting.is_empty();
            waiting.push(item);
            was_empty
        };
        if was_empty {
            self.arrived.notify_one();
        }
    }

    /// Waits until something may have arrived.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken here, and an arrival that was announced to a dropped wait is announced again.
    pub(crate) async fn arrival(&self) {
        if self.lock().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Swaps what is waiting with `taken`, which must be empty: the two vectors' memory is used in turns.
    pub(crate) fn take_all(&self, taken: &mut Vec<T>) {
        debug_assert!(taken.is_empty(), "items of the last turn are still there");
        std::mem::swap(&mut *self.lock(), taken);
    }

    /// How many items are waiting.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}
