//! One business: its sinks, and the choice among them.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::sink::{Common, Sink, Slot};

/// No sink of the business may take a batch, for longer than the bridge has patience.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("business {business:?} has no sink that takes batches{}", last_error.as_ref().map(|error| format!("; the last one said: {error}")).unwrap_or_default())]
pub struct NoSinks {
    /// The business.
    pub business: String,
    /// Why the last attempt with this batch failed, if there was one.
    pub last_error: Option<String>,
}

#[derive(Debug)]
pub(super) struct Route {
    business: String,
    common: Arc<Common>,
    inner: Mutex<Inner>,
    available: watch::Sender<bool>,
    /// Batches that wait for a sink have their turns in their order, and only one of them looks around.
    turn: Semaphore,
}

#[derive(Debug)]
struct Inner {
    sinks: Arc<[Arc<Sink>]>,
    /// Since when no sink is usable.
    lost_at: Option<Instant>,
}

impl Route {
    pub(super) fn new(business: &str, common: Arc<Common>) -> Self {
        let inner = Inner { sinks: Arc::new([]), lost_at: Some(Instant::now()) };
        Self {
            business: business.to_owned(),
            common,
            inner: Mutex::new(inner),
            // Until ZooKeeper had time to name the sinks.
            available: watch::Sender::new(true),
            turn: Semaphore::new(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    pub(super) fn sinks(&self) -> Arc<[Arc<Sink>]> {
        Arc::clone(&self.lock().sinks)
    }

    pub(super) fn set_sinks(&self, sinks: Vec<Arc<Sink>>) {
        self.lock().sinks = sinks.into();
    }

    /// Sees whether the business is available. Gives when it will be no more, unless something happens before.
    pub(super) fn refresh(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        if inner.sinks.iter().any(|sink| sink.is_usable(now)) {
            inner.lost_at = None;
            self.set_available(true);
            return None;
        }
        let end = *inner.lost_at.get_or_insert(now) + self.common.config.patience;
        if end <= now {
            self.set_available(false);
        }
        (end > now).then_some(end)
    }

    /// A batch has looked around in vain for as long as it may.
    fn give_up(&self, now: Instant) {
        let inner = self.lock();
        if !inner.sinks.iter().any(|sink| sink.is_usable(now)) {
            self.set_available(false);
        }
    }

    fn set_available(&self, available: bool) {
        let is_news =
            self.available.send_if_modified(|known| std::mem::replace(known, available) != available);
        match (is_news, available) {
            (true, true) => tracing::info!(business = self.business, "business has sinks again"),
            (true, false) => tracing::warn!(
                business = self.business,
                "business has no sink that takes batches; its elements wait in Redis"
            ),
            (false, _) => {}
        }
        if is_news && !available {
            self.common.changed.notify_waiters();
        }
    }

    /// Waits for a place at a sink. `looked` adds up how long a batch has found no usable sink in all its attempts.
    ///
    /// # Cancel safety
    /// Cancel safe: it loses its turn.
    pub(super) async fn slot(&self, looked: &mut Duration) -> Result<Slot, NoSinks> {
        let none = || NoSinks { business: self.business.clone(), last_error: None };
        if !*self.available.borrow() {
            return Err(none());
        }
        let Ok(_turn) = self.turn.acquire().await else { return Err(none()) };
        loop {
            // Listens before it looks, so that what changes in between is not missed.
            let mut changed = pin!(self.common.changed.notified());
            changed.as_mut().enable();
            let now = Instant::now();
            if let Some(slot) = self.choose(now) {
                return Ok(slot);
            }
            self.refresh(now);
            if !*self.available.borrow() {
                return Err(none());
            }
            if self.lock().lost_at.is_none() {
                changed.await;
                continue;
            }
            let left = self.common.config.patience.saturating_sub(*looked);
            if timeout(left, changed).await.is_err() {
                self.give_up(Instant::now());
            }
            *looked += now.elapsed();
        }
    }

    /// Takes a place at a sink on this host if there is one, else at another one; at the least loaded, and of several of
    /// these at any.
    fn choose(&self, now: Instant) -> Option<Slot> {
        let sinks = self.sinks();
        let loads = sinks.iter().filter_map(|sink| Some((sink.load(now)?, sink)));
        let mut candidates: Vec<_> =
            loads.map(|(load, sink)| (preference(sink.is_local(), load, fastrand::u32(..)), sink)).collect();
        candidates.sort_unstable_by_key(|(preference, _)| *preference);
        // A place may have gone since it was seen.
        candidates.into_iter().find_map(|(_, sink)| sink.take_slot(now))
    }
}

/// Less is better.
fn preference(is_local: bool, load: usize, any: u32) -> (bool, usize, u32) {
    (!is_local, load, any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_on_this_host_come_first_then_the_least_loaded_then_any() {
        let mut preferences = [
            preference(false, 0, 9),
            preference(true, 3, 5),
            preference(false, 0, 2),
            preference(true, 1, 7),
        ];
        preferences.sort_unstable();
        assert_eq!(
            preferences,
            [
                preference(true, 1, 7),
                preference(true, 3, 5),
                preference(false, 0, 2),
                preference(false, 0, 9)
            ]
        );
    }
}
