//! Follows the registry: which brokers serve which topic, and the connections to them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiteq_registry::{Binding, RegistryError};
use tokio::time::Instant;

use crate::link::Link;
use crate::reconnect::{Backoff, keep_connected};
use crate::route::Route;
use crate::shared::Shared;
use crate::sync::{lock, read, write};

impl Shared {
    /// Starts to follow `topic`; `None` when there are `topics_max` already.
    pub(crate) fn add_route(self: &Arc<Self>, topic: &str, topics_max: usize) -> Option<Arc<Route>> {
        let mut routes = write(&self.routes);
        if let Some(route) = routes.get(topic) {
            return Some(Arc::clone(route));
        }
        if routes.len() >= topics_max {
            return None;
        }
        let route = Arc::new(Route::new(topic));
        routes.insert(topic.into(), Arc::clone(&route));
        drop(routes);
        self.tasks.spawn(Arc::clone(self).follow(Arc::clone(&route)));
        self.tasks.spawn(Arc::clone(self).place_parked(Arc::clone(&route)));
        Some(route)
    }

    async fn follow(self: Arc<Self>, route: Arc<Route>) {
        let mut brokers = self.registry.watch_brokers(&route.topic);
        loop {
            let addresses = brokers.borrow_and_update().clone();
            if let Some(addresses) = addresses {
                self.set_brokers(&route, &addresses);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                // A closed registry says nothing any more: the last known brokers stand.
                changed = brokers.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Connects to new brokers of a topic and leaves those that no topic has any more.
    fn set_brokers(self: &Arc<Self>, route: &Arc<Route>, addresses: &[String]) {
        let mut links = lock(&self.links);
        let mut link_of = |address: &String| {
            let known = links.get(address.as_str()).filter(|link| !link.stop.is_cancelled());
            if let Some(link) = known {
                link.leaving.store(false, Ordering::Release);
                return Arc::clone(link);
            }
            let link = Arc::new(Link::new(address, &self.settings, self.stop.child_token()));
            links.insert(Arc::clone(&link.address), Arc::clone(&link));
            self.tasks.spawn(keep_connected(Arc::clone(self), Arc::clone(&link)));
            link
        };
        let distinct: HashSet<&String> = addresses.iter().collect();
        let current = distinct.into_iter().map(&mut link_of).collect();
        route.set_links(current);
        let wanted: HashSet<Arc<str>> = read(&self.routes)
            .values()
            .flat_map(|route| route.links().iter().map(|link| Arc::clone(&link.address)).collect::<Vec<_>>())
            .collect();
        for link in links.values().filter(|link| !wanted.contains(&link.address)) {
            if !link.leaving.swap(true, Ordering::AcqRel) {
                tracing::info!(broker = %link.address, "the broker has left the registry");
                self.tasks.spawn(leave(Arc::clone(self), Arc::clone(link)));
            }
        }
        drop(links);
        self.changed();
    }

    /// Tells the registry that this group publishes to a topic. It is a note for people: nothing depends on it.
    pub(crate) fn announce(self: &Arc<Self>, route: &Arc<Route>) {
        if !route.announced.swap(true, Ordering::AcqRel) {
            let topics = vec![route.topic.to_string()];
            self.tasks.spawn(Arc::clone(self).keep_presenting(Presentation::Producer(topics)));
        }
    }

    /// Presents something to the registry, once.
    pub(crate) async fn present(&self, presentation: &Presentation) -> Result<(), RegistryError> {
        let group = &self.settings.group;
        match presentation {
            Presentation::Bindings(bindings) => self.registry.publish_bindings(group, bindings).await,
            Presentation::Producer(topics) => self.registry.register_producer(group, topics).await,
        }
    }

    /// Presents something to the registry, again and again until it has it or refuses it.
    pub(crate) async fn keep_presenting(self: Arc<Self>, presentation: Presentation) {
        let mut backoff = Backoff::new(self.settings.backoff_min, self.settings.backoff_max);
        loop {
            let result = tokio::select! {
                () = self.stop.cancelled() => return,
                result = self.present(&presentation) => result,
            };
            match result {
                Ok(()) => return,
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, what = presentation.name(), "the registry has not got it yet");
                }
                Err(error) => {
                    tracing::error!(%error, what = presentation.name(), "the registry does not take it");
                    return;
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}

/// What a client tells the registry about itself.
#[derive(Debug)]
pub(crate) enum Presentation {
    /// The bindings of its group.
    Bindings(Vec<Binding>),
    /// The topics that its group publishes to.
    Producer(Vec<String>),
}

impl Presentation {
    fn name(&self) -> &'static str {
        match self {
            Self::Bindings(_) => "bindings",
            Self::Producer(_) => "producer",
        }
    }
}

/// Closes a link that has left the registry once nothing is in flight on it, unless it comes back before that.
async fn leave(shared: Arc<Shared>, link: Arc<Link>) {
    let deadline = Instant::now() + shared.settings.leave_timeout;
    let is_over = || link.is_settled() || !link.leaving.load(Ordering::Acquire);
    tokio::select! {
        () = link.stop.cancelled() => return,
        _ = shared.wait_until_settled(deadline, is_over) => {}
    }
    let mut links = lock(&shared.links);
    if link.leaving.load(Ordering::Acquire) {
        link.stop.cancel();
        links.remove(&link.address);
    }
}
