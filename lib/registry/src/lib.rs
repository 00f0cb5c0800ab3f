//! Where brokers, producers and consumers find each other.
//!
//! One trait, [`Registry`], and one backend for each way in which an installation keeps it: ZooKeeper, etcd, a file,
//! the broker's own data directory. What is read is offered as a `watch` channel of whole snapshots: a reader always holds
//! the last known state, also while the registry is away, and `None` means that nothing has been read yet.

mod alive;
mod binding;
mod connect;
mod embedded;
mod error;
mod etcd;
mod file;
mod fixed;
mod http;
mod http_api;
mod nodes;
mod outbox;
mod publication;
mod topics;
mod zk;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use binding::{BindType, Binding, MESSAGE_TYPE_BYTES_MAX, NAME_BYTES_MAX, check_name};
pub use connect::connect;
pub use embedded::{EmbeddedRegistry, HttpReply};
pub use error::RegistryError;
pub use etcd::EtcdRegistry;
pub use file::FileRegistry;
pub use fixed::FixedRegistry;
pub use http::HttpRegistry;
pub use publication::BINDINGS_PER_GROUP_MAX;
pub use topics::TOPICS_WATCHED_MAX;
pub use zk::ZkRegistry;

/// The bindings of one topic; `None` until they have been read for the first time.
pub type BindingsWatch = watch::Receiver<Option<Arc<[Binding]>>>;
/// The `host:port` addresses of the brokers of one topic; `None` until they have been read for the first time.
pub type BrokersWatch = watch::Receiver<Option<Arc<[String]>>>;
/// The `host:port` addresses of all living brokers, sorted; `None` whenever that is not known to be current.
pub type AliveWatch = watch::Receiver<Option<Arc<[String]>>>;

/// How a broker presents itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRecord {
    /// `host:port` under which clients reach it.
    pub address: String,
    /// The topics that it serves. [`ANY_TOPIC`] alone means all, where the backend allows that.
    pub topics: Vec<String>,
}

/// Stands for every topic in [`BrokerRecord::topics`].
pub const ANY_TOPIC: &str = "*";

/// A place where brokers, producers and consumers find each other.
///
/// Every registration is kept up by the implementation (through lost connections and expired sessions, with backoff)
/// until it is withdrawn or the registry is closed. Watches never end while the registry is open; what is malformed is
/// logged and left out, and the rest stays.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The URI without secrets, for logs.
    fn describe(&self) -> String;

    /// Presents a broker. Returns once it is registered, or with the first error; where that is
    /// [retryable](RegistryError::is_retryable) the registry goes on trying by itself.
    async fn register_broker(&self, broker: BrokerRecord) -> Result<(), RegistryError>;

    /// Withdraws what [`Registry::register_broker`] presented, so that clients move away.
    async fn unregister_broker(&self) -> Result<(), RegistryError>;

    /// Follows the bindings of `topic`. Cheap to call again for the same topic.
    fn watch_bindings(&self, topic: &str) -> BindingsWatch;

    /// Follows the brokers of `topic`. Cheap to call again for the same topic.
    fn watch_brokers(&self, topic: &str) -> BrokersWatch;

    /// Follows the living brokers of every topic. Unlike the other watches this one never shows what is merely the last
    /// known state: it is `None` while the registry is away, because whoever takes a broker for dead must not do so on
    /// stale knowledge. What it shows can still be older than now by the registry's own timeout (a ZooKeeper session's, an
    /// etcd lease's), within which a dead broker counts as living.
    ///
    /// Only ZooKeeper and etcd know who lives. A file, a fixed list and a broker's own registry do not: there the watch
    /// stays `None`.
    fn watch_alive(&self) -> AliveWatch;

    /// Publishes a consumer group's bindings, replacing those that it had in the same topics.
    async fn publish_bindings(&self, group: &str, bindings: &[Binding]) -> Result<(), RegistryError>;

    /// Notes that a producer group on this host publishes to `topics`.
    async fn register_producer(&self, group: &str, topics: &[String]) -> Result<(), RegistryError>;

    /// Withdraws everything and ends all watches. Bounded in time.
    async fn close(&self);
}
