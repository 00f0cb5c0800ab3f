//! One host: what it said last, what it has been sent, and the task that keeps both current.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Method;
use kiteq_zookeeper::Backoff;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::exchange::exchange;

use crate::binding::Binding;
use crate::connect::with_port;
use crate::error::RegistryError;
use crate::http_api::{BINDINGS_PATH, PRODUCERS_PATH, PublishReply, WATCH_PATH, WatchReply, WatchRequest};
use crate::outbox::{Item, Key, Outbox};

/// How long a host is asked to hold back an answer that says nothing new.
const WATCH_WAIT: Duration = Duration::from_secs(20);
/// Between two answers, whatever the host does.
const PAUSE: Duration = Duration::from_millis(20);
/// An answer that says nothing new is held back at least so long by a host that does as it is asked.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Host {
    address: String,
    known: Mutex<Option<WatchReply>>,
    /// Held while items are sent, so that a host gets them in their order.
    sent: tokio::sync::Mutex<Sent>,
}

/// What a host has accepted.
#[derive(Debug, Default)]
struct Sent {
    /// The registry that accepted it: a host may come back with an empty one.
    registry: String,
    generations: BTreeMap<Key, u64>,
}

impl Sent {
    fn is_by(&mut self, registry: &str) {
        if self.registry != registry {
            registry.clone_into(&mut self.registry);
            self.generations.clear();
        }
    }
}

impl Host {
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), known: Mutex::new(None), sent: tokio::sync::Mutex::default() }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn known(&self) -> MutexGuard<'_, Option<WatchReply>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn brokers_of(&self, topic: &str) -> Option<Vec<String>> {
        self.known().as_ref()?.brokers.get(topic).cloned()
    }

    pub(super) fn bindings_of(&self, topic: &str) -> Option<Vec<Binding>> {
        self.known().as_ref()?.bindings.get(topic).cloned()
    }

    /// Sends every item that this host has not accepted yet. An item that it refuses is set aside.
    pub(super) async fn send_pending(&self, outbox: &Outbox) -> Result<(), RegistryError> {
        let mut sent = self.sent.lock().await;
        for (key, generation, item) in outbox.items() {
            if sent.generations.get(&key) == Some(&generation) {
                continue;
            }
            let answer: Result<PublishReply, _> = match &item {
                Item::Bindings(body) => self.put(BINDINGS_PATH, body).await,
                Item::Producer(body) => self.put(PRODUCERS_PATH, body).await,
            };
            match answer {
                Ok(reply) => {
                    sent.is_by(&reply.registry);
                    sent.generations.insert(key, generation);
                }
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(host = self.address, %error, "publication refused");
                    outbox.refuse(key, generation, error);
                }
            }
        }
        Ok(())
    }

    async fn put(
        &self,
        path: &'static str,
        body: &impl serde::Serialize,
    ) -> Result<PublishReply, RegistryError> {
        exchange(&self.address, Method::PUT, path, body, Duration::ZERO).await
    }

    /// Asks for the topics that are watched. Answers whether anything is new.
    async fn poll(&self, request: &WatchRequest) -> Result<bool, RegistryError> {
        let wait = Duration::from_millis(request.wait_ms);
        let mut reply: WatchReply = exchange(&self.address, Method::POST, WATCH_PATH, request, wait).await?;
        for (topic, addresses) in &mut reply.brokers {
            addresses.retain(|address| self.is_sound(with_port(address), topic, address));
        }
        for (topic, bindings) in &mut reply.bindings {
            bindings.retain(|binding| {
                let sound = binding.validate().is_ok() && binding.topic == *topic;
                self.is_sound(sound, topic, &binding.group_id)
            });
        }
        self.sent.lock().await.is_by(&reply.registry);
        let is_new = reply.version != request.version;
        *self.known() = Some(reply);
        Ok(is_new)
    }

    fn is_sound(&self, sound: bool, topic: &str, what: &str) -> bool {
        if !sound {
            tracing::warn!(host = self.address, topic, what, "registry entry is malformed and is ignored");
        }
        sound
    }
}

/// Keeps one host current until the task is aborted.
pub(super) async fn follow(shared: Arc<Shared>, index: usize) {
    let host = &shared.hosts[index];
    let mut outbox_changes = shared.outbox.changes();
    let mut broker_additions = shared.brokers.additions();
    let mut binding_additions = shared.bindings.additions();
    let mut backoff = Backoff::new();
    let mut is_lost = false;
    loop {
        outbox_changes.mark_unchanged();
        broker_additions.mark_unchanged();
        binding_additions.mark_unchanged();
        let step = async {
            let started = Instant::now();
            host.send_pending(&shared.outbox).await?;
            let request = shared.watch_request(host);
            if request.brokers_of.is_empty() && request.bindings_of.is_empty() {
                return std::future::pending().await;
            }
            let is_new = host.poll(&request).await?;
            Ok::<_, RegistryError>(is_new || started.elapsed() >= SOON)
        };
        let outcome = tokio::select! {
            outcome = step => outcome,
            Ok(()) = outbox_changes.changed() => continue,
            Ok(()) = broker_additions.changed() => continue,
            Ok(()) = binding_additions.changed() => continue,
        };
        match outcome {
            Ok(in_step) => {
                if is_lost {
                    tracing::info!(host = host.address, "registry is back");
                    is_lost = false;
                }
                shared.merge();
                if in_step {
                    backoff.reset();
                    sleep(PAUSE).await;
                } else {
                    sleep(backoff.delay()).await;
                }
            }
            Err(error) => {
                if !is_lost {
                    tracing::warn!(host = host.address, %error, "registry is lost; what was last read stands");
                    is_lost = true;
                }
                sleep(backoff.delay()).await;
            }
        }
    }
}

impl Shared {
    fn watch_request(&self, host: &Host) -> WatchRequest {
        let version = host.known().as_ref().map(|reply| reply.version.clone()).unwrap_or_default();
        WatchRequest {
            brokers_of: self.brokers.names(),
            bindings_of: self.bindings.names(),
            version,
            wait_ms: u64::try_from(WATCH_WAIT.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
