//! `http://host:port[,host:port]`: the registries that brokers keep themselves, as a client sees them.
//!
//! Every host is a broker with a registry of its own. What is read is the union of what they say; what is published goes
//! to each of them, now or when it can be reached.

mod exchange;
mod host;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::alive::Alive;
use crate::binding::{Binding, check_name};
use crate::error::RegistryError;
use crate::outbox::{Key, Outbox};
use crate::publication::{by_topic, check_topics, local_host};
use crate::topics::TopicTable;
use crate::{AliveWatch, BindingsWatch, BrokerRecord, BrokersWatch, Registry};
use host::Host;

/// A client of the registries that brokers keep.
#[derive(Debug)]
pub struct HttpRegistry {
    shared: Arc<Shared>,
    followers: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    hosts: Vec<Host>,
    brokers: TopicTable<String>,
    alive: Alive,
    bindings: TopicTable<Binding>,
    outbox: Outbox,
}

impl Shared {
    /// Gives watchers what all hosts together say of their topics. A topic that no host has spoken of stays unknown.
    fn merge(&self) {
        for topic in self.brokers.names() {
            let known: Vec<_> = self.hosts.iter().filter_map(|host| host.brokers_of(&topic)).collect();
            if !known.is_empty() {
                let united: BTreeSet<String> = known.into_iter().flatten().collect();
                self.brokers.set(&topic, united.into_iter().collect());
            }
        }
        for topic in self.bindings.names() {
            let known: Vec<_> = self.hosts.iter().filter_map(|host| host.bindings_of(&topic)).collect();
            if !known.is_empty() {
                let mut united = Vec::new();
                for binding in known.into_iter().flatten() {
                    if !united.contains(&binding) {
                        united.push(binding);
                    }
                }
                self.bindings.set(&topic, united);
            }
        }
    }

    /// Sends what is new to every host. Done when one of them has it: a host that cannot be reached gets it later.
    async fn send(&self, item: &(Key, u64)) -> Result<(), RegistryError> {
        let outcomes = join_all(self.hosts.iter().map(|host| host.send_pending(&self.outbox))).await;
        self.outbox.check(item)?;
        if outcomes.iter().any(Result::is_ok) {
            return Ok(());
        }
        outcomes.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }
}

impl HttpRegistry {
    /// Starts to follow `hosts` (`host:port`), which need not be reachable yet. Needs a running tokio runtime.
    #[must_use]
    pub fn start(hosts: &[String]) -> Arc<Self> {
        let shared = Arc::new(Shared {
            hosts: hosts.iter().map(|address| Host::new(address)).collect(),
            brokers: TopicTable::new(),
            alive: Alive::new(),
            bindings: TopicTable::new(),
            outbox: Outbox::new(),
        });
        let mut followers = JoinSet::new();
        for index in 0..hosts.len() {
            followers.spawn(host::follow(Arc::clone(&shared), index));
        }
        Arc::new(Self { shared, followers: Mutex::new(followers) })
    }
}

#[async_trait]
impl Registry for HttpRegistry {
    fn describe(&self) -> String {
        let addresses: Vec<_> = self.shared.hosts.iter().map(Host::address).collect();
        format!("http://{}", addresses.join(","))
    }

    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        Err(RegistryError::Refused {
            place: self.describe(),
            reason: format!(
                "broker {:?} cannot register with another broker; give it embedded://, zk:// or file://",
                broker.address
            ),
        })
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    fn watch_bindings(&self, topic: &str) -> BindingsWatch {
        self.shared.bindings.watch(topic, || None)
    }

    fn watch_brokers(&self, topic: &str) -> BrokersWatch {
        self.shared.brokers.watch(topic, || None)
    }

    /// Stays `None`: each broker knows itself only.
    fn watch_alive(&self) -> AliveWatch {
        self.shared.alive.watch()
    }

    async fn publish_bindings(&self, group: &str, bindings: &[Binding]) -> Result<(), RegistryError> {
        let topics = by_topic(&self.describe(), group, bindings)?;
        let item = self.shared.outbox.put_bindings(group, topics)?;
        self.shared.send(&item).await
    }

    async fn register_producer(&self, group: &str, topics: &[String]) -> Result<(), RegistryError> {
        let place = self.describe();
        check_topics(&place, topics)?;
        check_name("group", group).map_err(|reason| RegistryError::Refused { place, reason })?;
        let item = self.shared.outbox.put_producer(group, &local_host(), topics)?;
        self.shared.send(&item).await
    }

    async fn close(&self) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.shared.brokers.close();
        self.shared.alive.close();
        self.shared.bindings.close();
    }
}
