//! Which brokers live, as far as that is known right now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::AliveWatch;

/// Living brokers that can be told; of more, none is: those left out would seem dead.
const LIVING_MAX: usize = 10_000;

type Value = Option<Arc<[String]>>;

/// The living brokers. A backend that can tell follows them once somebody has asked; for one that cannot, they stay
/// unknown.
#[derive(Debug)]
pub(crate) struct Alive {
    /// `None` once the registry is closed.
    sender: Mutex<Option<watch::Sender<Value>>>,
    is_wanted: watch::Sender<bool>,
}

impl Alive {
    pub(crate) fn new() -> Self {
        Self { sender: Mutex::new(Some(watch::Sender::new(None))), is_wanted: watch::Sender::new(false) }
    }

    fn sender(&self) -> MutexGuard<'_, Option<watch::Sender<Value>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) -> AliveWatch {
        self.is_wanted.send_replace(true);
        match &*self.sender() {
            Some(sender) => sender.subscribe(),
            None => watch::Sender::new(None).subscribe(),
        }
    }

    /// Ends the watches.
    pub(crate) fn close(&self) {
        *self.sender() = None;
    }

    /// Waits until somebody has asked, and gives the right to tell.
    pub(crate) async fn wanted(&self) -> Teller<'_> {
        // The sender is ours, so it cannot have gone.
        let _ = self.is_wanted.subscribe().wait_for(|is_wanted| *is_wanted).await;
        Teller(self)
    }

    fn replace(&self, value: Value) {
        if let Some(sender) = &*self.sender() {
            sender.send_if_modified(|known| {
                let is_new = *known != value;
                *known = value;
                is_new
            });
        }
    }
}

/// Tells who lives. However its owner ends, nothing stale is left behind: dropped, it makes everything unknown.
#[derive(Debug)]
pub(crate) struct Teller<'a>(&'a Alive);

impl Teller<'_> {
    /// These live, whatever their names look like: one that is left out would seem dead.
    pub(crate) fn tell(&self, mut addresses: Vec<String>) {
        if addresses.len() > LIVING_MAX {
            tracing::warn!(
                brokers = addresses.len(),
                limit = LIVING_MAX,
                "too many living brokers; which ones live counts as unknown"
            );
            return self.forget();
        }
        addresses.sort_unstable();
        self.0.replace(Some(addresses.into()));
    }

    /// What was told may have changed unseen.
    pub(crate) fn forget(&self) {
        self.0.replace(None);
    }
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_told_is_forgotten_with_its_teller() {
        let alive = Alive::new();
        let mut watch = alive.watch();
        let teller = alive.wanted().await;
        teller.tell(vec!["b:1".to_owned(), "a:1".to_owned()]);
        assert_eq!(
            watch.borrow_and_update().as_deref(),
            Some(["a:1".to_owned(), "b:1".to_owned()].as_slice())
        );
        teller.tell(vec!["a:1".to_owned(), "b:1".to_owned()]);
        assert!(!watch.has_changed().unwrap(), "nothing new");
        teller.tell(vec!["a:1".to_owned(); LIVING_MAX + 1]);
        assert_eq!(*watch.borrow_and_update(), None, "too many");
        teller.tell(Vec::new());
        assert_eq!(watch.borrow_and_update().as_deref(), Some([].as_slice()));
        drop(teller);
        assert_eq!(*watch.borrow_and_update(), None);
        alive.close();
        assert!(watch.has_changed().is_err() && alive.watch().has_changed().is_err());
    }
}
