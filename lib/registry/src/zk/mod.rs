//! `zk://host:port[,host:port]`: ZooKeeper, with the tree that existing brokers and clients share.

mod alive;
mod bindings;
mod brokers;
mod session;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use kiteq_zookeeper::{Client, Error, Sessions, delete, make, make_ephemeral, write};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::alive::Alive;
use crate::binding::{Binding, check_name};
use crate::error::RegistryError;
use crate::nodes::BIND_SUFFIX;
use crate::outbox::{Item, Key, Outbox};
use crate::publication::{by_topic, check_registration, check_size, check_topics, local_host};
use crate::topics::TopicTable;
use crate::{AliveWatch, BindingsWatch, BrokerRecord, BrokersWatch, Registry};
use bindings::Nodes;

/// Longest time that withdrawing takes, and so closing.
const WITHDRAW_WAIT: Duration = Duration::from_secs(3);
/// Topics that are registered at a time.
const TOPICS_AT_ONCE: usize = 16;

/// A ZooKeeper registry. Sessions come and go; what is registered and watched is kept up through all of them.
#[derive(Debug)]
pub struct ZkRegistry {
    shared: Arc<Shared>,
    sessions: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    sessions: Sessions,
    bindings: TopicTable<Binding>,
    brokers: TopicTable<String>,
    alive: Alive,
    /// Binding nodes as last read, by topic: a node that becomes malformed keeps its bindings, in later sessions too.
    nodes: Mutex<HashMap<String, Nodes>>,
    /// What is to be registered.
    broker: watch::Sender<Option<BrokerRecord>>,
    /// What has been registered in some session. Held while that changes.
    registered: tokio::sync::Mutex<Option<BrokerRecord>>,
    outbox: Outbox,
    /// What has been published. Held while that changes.
    published: tokio::sync::Mutex<BTreeMap<Key, u64>>,
}

impl ZkRegistry {
    /// How long a session outlives its connection, unless the caller wants another time.
    pub const SESSION_TIMEOUT: Duration = kiteq_zookeeper::SESSION_TIMEOUT;

    /// Starts to follow the servers at `hosts` (`host:port`), which need not be reachable yet. A server bounds the session
    /// timeout that it grants. Needs a running tokio runtime.
    #[must_use]
    pub fn start(hosts: &[String], session_timeout: Duration) -> Arc<Self> {
        let shared = Arc::new(Shared {
            sessions: Sessions::new(hosts, session_timeout),
            bindings: TopicTable::new(),
            brokers: TopicTable::new(),
            alive: Alive::new(),
            nodes: Mutex::default(),
            broker: watch::Sender::new(None),
            registered: tokio::sync::Mutex::default(),
            outbox: Outbox::new(),
            published: tokio::sync::Mutex::default(),
        });
        let sessions = tokio::spawn(session::run(Arc::clone(&shared))).abort_handle();
        Arc::new(Self { shared, sessions })
    }
}

impl Drop for ZkRegistry {
    fn drop(&mut self) {
        self.sessions.abort();
    }
}

impl Shared {
    fn place(&self) -> String {
        format!("zk://{}", self.sessions.cluster())
    }

    fn refused(&self, reason: String) -> RegistryError {
        RegistryError::Refused { place: self.place(), reason }
    }

    fn failed(&self, error: &Error) -> RegistryError {
        let (place, reason) = (self.place(), error.to_string());
        match error {
            Error::NoAuth
            | Error::AuthFailed
            | Error::InvalidAcl
            | Error::QuotaExceeded
            | Error::BadArguments(_) => RegistryError::Refused { place, reason },
            _ => RegistryError::Unavailable { place, reason },
        }
    }

    /// The session, once it is known whether there is one.
    async fn client(&self) -> Result<Client, RegistryError> {
        self.sessions
            .client()
            .await
            .map_err(|reason| RegistryError::Unavailable { place: self.place(), reason })
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Nodes>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_nodes(&self, topic: &str) -> Nodes {
        self.nodes().get(topic).cloned().unwrap_or_default()
    }

    fn set_bindings(&self, topic: &str, nodes: &Nodes) {
        self.nodes().insert(topic.to_owned(), nodes.clone());
        self.bindings.set(topic, bindings::flatten(nodes));
    }

    /// Makes the tree agree with the broker that is to be registered, in this session.
    async fn register_in(&self, client: &Client) -> Result<(), RegistryError> {
        let mut registered = self.registered.lock().await;
        let wanted = self.broker.borrow().clone();
        if let Some(former) = registered.clone().filter(|former| Some(former) != wanted.as_ref()) {
            let kept = wanted.as_ref().filter(|wanted| wanted.address == former.address);
            withdraw(client, &former, kept).await.map_err(|error| self.failed(&error))?;
            *registered = None;
        }
        if let Some(broker) = wanted {
            // Noted first: what a failure leaves half registered is withdrawn too when it is no longer wanted.
            *registered = Some(broker.clone());
            register(client, &broker).await.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// Publishes what has not been published yet. What is refused is set aside.
    async fn publish_in(&self, client: &Client) -> Result<(), RegistryError> {
        let mut published = self.published.lock().await;
        for (key, generation, item) in self.outbox.items() {
            if published.get(&key) == Some(&generation) {
                continue;
            }
            match publish(client, &item).await.map_err(|error| self.failed(&error)) {
                Ok(()) => {
                    published.insert(key, generation);
                }
                Err(error) if error.is_retryable() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "publication refused");
                    self.outbox.refuse(key, generation, error);
                }
            }
        }
        Ok(())
    }

    /// Publishes an item with whatever else waits.
    async fn send(&self, item: &(Key, u64)) -> Result<(), RegistryError> {
        let client = self.client().await?;
        let outcome = self.publish_in(&client).await;
        self.outbox.check(item)?;
        outcome
    }
}

async fn register(client: &Client, broker: &BrokerRecord) -> Result<(), Error> {
    let address = broker.address.as_str();
    let topics =
        broker.topics.iter().cloned().map(|topic| register_topic(client.clone(), topic, address.to_owned()));
    stream::iter(topics).buffer_unordered(TOPICS_AT_ONCE).try_collect::<()>().await?;
    make_ephemeral(client, tree::ALIVE_SERVERS, address).await?;
    make(client, &format!("{}/{address}", tree::ALL_SERVERS)).await
}

async fn register_topic(client: Client, topic: String, address: String) -> Result<(), Error> {
    make(&client, &tree::publishers(&topic)).await?;
    make(&client, &tree::subscribers(&topic)).await?;
    make_ephemeral(&client, &tree::server(&topic), &address).await
}

/// Deletes the nodes of `former`, but for those that `kept` has too.
async fn withdraw(client: &Client, former: &BrokerRecord, kept: Option<&BrokerRecord>) -> Result<(), Error> {
    let address = former.address.as_str();
    let mut paths = Vec::new();
    for topic in &former.topics {
        if kept.is_none_or(|kept| !kept.topics.contains(topic)) {
            paths.push(format!("{}/{address}", tree::server(topic)));
        }
    }
    if kept.is_none() {
        paths.push(format!("{}/{address}", tree::ALIVE_SERVERS));
    }
    let deletions = paths.into_iter().map(|path| delete_node(client.clone(), path));
    stream::iter(deletions).buffer_unordered(TOPICS_AT_ONCE).try_collect::<()>().await
}

async fn delete_node(client: Client, path: String) -> Result<(), Error> {
    delete(&client, &path).await
}

async fn publish(client: &Client, item: &Item) -> Result<(), Error> {
    match item {
        Item::Bindings(request) => {
            let mut topics: BTreeMap<&str, Vec<&Binding>> = BTreeMap::new();
            for binding in &request.bindings {
                topics.entry(&binding.topic).or_default().push(binding);
            }
            for (topic, bindings) in topics {
                let data = serde_json::to_vec(&bindings)
                    .map_err(|error| Error::UnexpectedError(error.to_string()))?;
                let name = format!("{}{}", request.group, BIND_SUFFIX);
                write(client, &tree::subscribers(topic), &name, &data).await?;
            }
            Ok(())
        }
        Item::Producer(request) => {
            for topic in &request.topics {
                let path = format!("{}/{}/{}", tree::publishers(topic), request.group, request.host);
                make(client, &path).await?;
            }
            Ok(())
        }
    }
}

#[async_trait]
impl Registry for ZkRegistry {
    fn describe(&self) -> String {
        self.shared.place()
    }

    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        check_registration(&self.describe(), &broker)?;
        self.shared.broker.send_replace(Some(broker));
        let client = self.shared.client().await?;
        let outcome = self.shared.register_in(&client).await;
        if outcome.as_ref().is_err_and(|error| !error.is_retryable()) {
            self.shared.broker.send_replace(None);
        }
        outcome
    }

    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        self.shared.broker.send_replace(None);
        let withdrawn = timeout(WITHDRAW_WAIT, async {
            if self.shared.registered.lock().await.is_none() {
                return Ok(());
            }
            let client = self.shared.client().await?;
            self.shared.register_in(&client).await
        });
        withdrawn.await.unwrap_or_else(|_| {
            let reason = "the broker is not withdrawn yet; its nodes go with the session".to_owned();
            Err(RegistryError::Unavailable { place: self.shared.place(), reason })
        })
    }

    fn watch_bindings(&self, topic: &str) -> BindingsWatch {
        self.shared.bindings.watch(topic, || None)
    }

    fn watch_brokers(&self, topic: &str) -> BrokersWatch {
        self.shared.brokers.watch(topic, || None)
    }

    fn watch_alive(&self) -> AliveWatch {
        self.shared.alive.watch()
    }

    async fn publish_bindings(&self, group: &str, bindings: &[Binding]) -> Result<(), RegistryError> {
        let topics = by_topic(&self.describe(), group, bindings)?;
        check_size(&self.describe(), group, &topics)?;
        let item = self.shared.outbox.put_bindings(group, topics)?;
        self.shared.send(&item).await
    }

    async fn register_producer(&self, group: &str, topics: &[String]) -> Result<(), RegistryError> {
        check_topics(&self.describe(), topics)?;
        check_name("group", group).map_err(|reason| self.shared.refused(reason))?;
        let item = self.shared.outbox.put_producer(group, &local_host(), topics)?;
        self.shared.send(&item).await
    }

    async fn close(&self) {
        if let Err(error) = self.unregister_broker().await {
            tracing::warn!(%error, "broker not withdrawn");
        }
        self.sessions.abort();
        self.shared.sessions.close();
        self.shared.bindings.close();
        self.shared.brokers.close();
        self.shared.alive.close();
    }
}
