//! `etcd://host:port[,host:port]`: etcd v3, with the keys that are the paths of the ZooKeeper tree.
//!
//! One connection at a time, to one of the endpoints; when it fails the next one is tried. What is registered goes with a
//! lease, which outlives a connection; what is watched goes on from the revision that was seen last.

mod known;
mod lease;
mod options;
mod rpc;
mod session;
mod tree;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::alive::Alive;
use crate::binding::{Binding, check_name};
use crate::error::RegistryError;
use crate::nodes::BIND_SUFFIX;
use crate::outbox::{Item, Key, Outbox};
use crate::publication::{by_topic, check_registration, check_size, check_topics, local_host};
use crate::topics::TopicTable;
use crate::{AliveWatch, BindingsWatch, BrokerRecord, BrokersWatch, Registry};
use lease::Lease;
use options::Options;
use rpc::{Rpc, failed, is_of_connection};

/// The messages and clients that proto/etcd.proto describes.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod api {
    tonic::include_proto!("etcdserverpb");
}

/// Longest wait of a caller for a connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(15);
/// Longest time that withdrawing takes, and so closing.
const WITHDRAW_WAIT: Duration = Duration::from_secs(3);
/// Keys that are deleted at a time.
const DELETIONS_AT_ONCE: usize = 16;

/// An etcd registry. Connections come and go; what is registered and watched is kept up through all of them.
#[derive(Debug)]
pub struct EtcdRegistry {
    shared: Arc<Shared>,
    connections: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    link: watch::Sender<Link>,
    bindings: TopicTable<Binding>,
    brokers: TopicTable<String>,
    alive: Alive,
    lease: Lease,
    /// What is to be registered.
    broker: watch::Sender<Option<BrokerRecord>>,
    /// What has been registered with some lease. Held while that changes.
    registered: tokio::sync::Mutex<Option<BrokerRecord>>,
    outbox: Outbox,
    /// What has been published. Held while that changes.
    published: tokio::sync::Mutex<BTreeMap<Key, u64>>,
}

/// Whether there is a connection.
#[derive(Debug)]
enum Link {
    /// The first one has not been tried to its end.
    Unknown,
    Up(Rpc),
    /// There is none, for this reason.
    Down(RegistryError),
}

/// What upkeep fails with.
#[derive(Debug)]
struct Failure {
    error: RegistryError,
    /// Whether another connection may do better.
    is_of_connection: bool,
}

impl EtcdRegistry {
    /// Starts to follow the servers of `etcd://[user:password@]host:port[,host:port][?option=value&...]`. `http://` or `https://`
    /// may stand before each host; `https` means TLS. Options: `username` and `password`, `ca`, `cert` and `key` (PEM files),
    /// `domain` (the name in the servers' certificate), `leaseSeconds` (10).
    ///
    /// The servers need not be reachable yet. Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the URI is not one, or names a certificate that cannot be read or is none.
    pub async fn open(uri: &str) -> Result<Arc<Self>, RegistryError> {
        let options = Options::parse(uri)?;
        for host in &options.hosts {
            options.endpoint(host).await?;
        }
        let shared = Arc::new(Shared {
            link: watch::Sender::new(Link::Unknown),
            bindings: TopicTable::new(),
            brokers: TopicTable::new(),
            alive: Alive::new(),
            lease: Lease::new(options.lease_ttl),
            broker: watch::Sender::new(None),
            registered: tokio::sync::Mutex::default(),
            outbox: Outbox::new(),
            published: tokio::sync::Mutex::default(),
            options,
        });
        let connections = tokio::spawn(session::run(Arc::clone(&shared))).abort_handle();
        Ok(Arc::new(Self { shared, connections }))
    }
}

impl Drop for EtcdRegistry {
    fn drop(&mut self) {
        self.connections.abort();
    }
}

impl Shared {
    fn place(&self) -> String {
        self.options.place()
    }

    fn refused(&self, reason: String) -> RegistryError {
        RegistryError::Refused { place: self.place(), reason }
    }

    fn unavailable(&self, reason: String) -> RegistryError {
        RegistryError::Unavailable { place: self.place(), reason }
    }

    fn failure(&self, status: &Status) -> Failure {
        Failure { error: failed(self.place(), status), is_of_connection: is_of_connection(status) }
    }

    /// The connection, once it is known whether there is one.
    async fn rpc(&self) -> Result<Rpc, RegistryError> {
        let mut link = self.link.subscribe();
        let known = timeout(CONNECTION_WAIT, link.wait_for(|link| !matches!(link, Link::Unknown))).await;
        match known {
            Ok(Ok(link)) => match &*link {
                Link::Up(rpc) => Ok(rpc.clone()),
                Link::Down(error) => Err(error.clone()),
                Link::Unknown => Err(self.unavailable("not connected yet".to_owned())),
            },
            Ok(Err(_)) => Err(self.unavailable("closed".to_owned())),
            Err(_) => Err(self.unavailable("no connection in time".to_owned())),
        }
    }

    /// Makes the keys agree with the broker that is to be registered.
    async fn register_in(&self, rpc: &Rpc) -> Result<(), Failure> {
        let mut registered = self.registered.lock().await;
        let wanted = self.broker.borrow().clone();
        let outcome = self.register(rpc, &mut registered, wanted).await;
        outcome.map_err(|status| self.failure(&status))
    }

    async fn register(
        &self,
        rpc: &Rpc,
        registered: &mut Option<BrokerRecord>,
        wanted: Option<BrokerRecord>,
    ) -> Result<(), Status> {
        let moved = registered
            .as_ref()
            .filter(|former| wanted.as_ref().is_none_or(|wanted| wanted.address != former.address));
        if moved.is_some() {
            self.lease.revoke(rpc).await?;
            *registered = None;
        }
        let Some(broker) = wanted else { return Ok(()) };
        let lease = self.lease.held(rpc).await?;
        if let Some(former) = registered.as_ref() {
            let left = former.topics.iter().filter(|topic| !broker.topics.contains(topic));
            let deletions: Vec<_> = left
                .map(|topic| {
                    delete(rpc.clone(), format!("{}{}", tree::servers(topic), former.address), lease)
                })
                .collect();
            stream::iter(deletions).buffer_unordered(DELETIONS_AT_ONCE).try_collect::<()>().await?;
        }
        // Noted first: what a failure leaves half registered is withdrawn too when it is no longer wanted.
        *registered = Some(broker.clone());
        match register(rpc, &broker, lease).await {
            Err(status) if status.code() == Code::NotFound => {
                self.lease.lost(lease);
                Err(Status::unavailable("the broker's lease has expired; it registers again"))
            }
            outcome => outcome,
        }
    }

    /// Publishes what has not been published yet. What is refused is set aside.
    async fn publish_in(&self, rpc: &Rpc) -> Result<(), Failure> {
        let mut published = self.published.lock().await;
        for (key, generation, item) in self.outbox.items() {
            if published.get(&key) == Some(&generation) {
                continue;
            }
            match publish(rpc, &item).await.map_err(|status| self.failure(&status)) {
                Ok(()) => {
                    published.insert(key, generation);
                }
                Err(failure) if failure.error.is_retryable() => return Err(failure),
                Err(failure) => {
                    tracing::warn!(error = %failure.error, "publication refused");
                    self.outbox.refuse(key, generation, failure.error);
                }
            }
        }
        Ok(())
    }

    /// Publishes an item with whatever else waits.
    async fn send(&self, item: &(Key, u64)) -> Result<(), RegistryError> {
        let rpc = self.rpc().await?;
        let outcome = self.publish_in(&rpc).await;
        self.outbox.check(item)?;
        outcome.map_err(|failure| failure.error)
    }
}

async fn register(rpc: &Rpc, broker: &BrokerRecord, lease: i64) -> Result<(), Status> {
    let address = broker.address.as_str();
    let topics: BTreeSet<_> = broker.topics.iter().collect();
    let mut keys: Vec<_> =
        topics.into_iter().map(|topic| format!("{}{address}", tree::servers(topic))).collect();
    keys.push(format!("{}{address}", tree::ALIVE_SERVERS));
    tree::put_leased(rpc, &keys, lease).await?;
    tree::make(rpc, &format!("{}{address}", tree::ALL_SERVERS)).await
}

async fn delete(rpc: Rpc, key: String, lease: i64) -> Result<(), Status> {
    tree::delete_leased(&rpc, &key, lease).await
}

async fn publish(rpc: &Rpc, item: &Item) -> Result<(), Status> {
    match item {
        Item::Bindings(request) => {
            let mut topics: BTreeMap<&str, Vec<&Binding>> = BTreeMap::new();
            for binding in &request.bindings {
                topics.entry(&binding.topic).or_default().push(binding);
            }
            for (topic, bindings) in topics {
                let value = serde_json::to_vec(&bindings)
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                let key = format!("{}{}{BIND_SUFFIX}", tree::subscribers(topic), request.group);
                tree::write(rpc, &key, &value).await?;
            }
            Ok(())
        }
        Item::Producer(request) => {
            for topic in &request.topics {
                tree::make(rpc, &tree::publisher(topic, &request.group, &request.host)).await?;
            }
            Ok(())
        }
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    fn describe(&self) -> String {
        self.shared.place()
    }

    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError> {
        check_registration(&self.describe(), &broker)?;
        self.shared.broker.send_replace(Some(broker));
        let outcome = match self.shared.rpc().await {
            Ok(rpc) => self.shared.register_in(&rpc).await.map_err(|failure| failure.error),
            Err(error) => Err(error),
        };
        if outcome.as_ref().is_err_and(|error| !error.is_retryable()) {
            self.shared.broker.send_replace(None);
        }
        outcome
    }

    /// Ends the broker's lease: all of its keys go in one step.
    async fn unregister_broker(&self) -> Result<(), RegistryError> {
        self.shared.broker.send_replace(None);
        let withdrawn = timeout(WITHDRAW_WAIT, async {
            if self.shared.registered.lock().await.is_none() {
                return Ok(());
            }
            let rpc = self.shared.rpc().await?;
            self.shared.register_in(&rpc).await.map_err(|failure| failure.error)
        });
        withdrawn.await.unwrap_or_else(|_| {
            Err(self
                .shared
                .unavailable("the broker is not withdrawn yet; its keys go with the lease".to_owned()))
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
        self.connections.abort();
        self.shared.link.send_replace(Link::Down(self.shared.unavailable("closed".to_owned())));
        self.shared.bindings.close();
        self.shared.brokers.close();
        self.shared.alive.close();
    }
}
