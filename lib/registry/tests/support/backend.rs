//! The backends as the conformance suite sees them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kiteq_registry::{
    Binding, BrokerRecord, EmbeddedRegistry, EtcdRegistry, FileRegistry, HttpRegistry, Registry, ZkRegistry,
    connect,
};
use serde_json::json;

use super::http_server::HttpServer;
use super::{Etcd, ZooKeeper};

/// One way to keep a registry, with one broker and one client of it.
#[async_trait(?Send)]
pub trait Backend: Sized {
    /// Whether it can tell which brokers live.
    const KNOWS_THE_LIVING: bool;

    async fn open() -> Self;
    /// As the broker sees it.
    fn broker(&self) -> Arc<dyn Registry>;
    /// As a client sees it.
    fn client(&self) -> Arc<dyn Registry>;
    /// Makes the broker known, or takes it away.
    async fn show(&mut self, broker: Option<BrokerRecord>);
    /// Gives a group its bindings in the topics that they name.
    async fn bind(&mut self, group: &str, bindings: &[Binding]);
    /// Makes the registry unreachable for the client, and for the broker where that is another process's.
    async fn go_away(&mut self);
    /// Ends that.
    async fn come_back(&mut self);
}

async fn show(registry: &dyn Registry, broker: Option<BrokerRecord>) {
    match broker {
        Some(broker) => registry.register_broker(broker).await.unwrap(),
        None => registry.unregister_broker().await.unwrap(),
    }
}

/// A failure that may pass is none: the registry goes on trying, and the test waits for the effect.
async fn publish(registry: &dyn Registry, group: &str, bindings: &[Binding]) {
    if let Err(error) = registry.publish_bindings(group, bindings).await {
        assert!(error.is_retryable(), "{error}");
    }
}

/// A broker that keeps the registry itself, and a client over HTTP.
pub struct Embedded {
    _directory: tempfile::TempDir,
    registry: Arc<EmbeddedRegistry>,
    client: Arc<dyn Registry>,
    server: Option<HttpServer>,
    address: SocketAddr,
}

#[async_trait(?Send)]
impl Backend for Embedded {
    const KNOWS_THE_LIVING: bool = false;

    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = EmbeddedRegistry::open(directory.path()).unwrap();
        let server = HttpServer::start(Arc::clone(&registry), SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let client = connect(&server.uri()).await.unwrap();
        let address = server.address;
        Self { _directory: directory, registry, client, server: Some(server), address }
    }

    fn broker(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry) as Arc<dyn Registry>
    }

    fn client(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.client)
    }

    async fn show(&mut self, broker: Option<BrokerRecord>) {
        show(self.registry.as_ref(), broker).await;
    }

    async fn bind(&mut self, group: &str, bindings: &[Binding]) {
        publish(self.client.as_ref(), group, bindings).await;
    }

    async fn go_away(&mut self) {
        self.server.take().unwrap().stop().await;
    }

    async fn come_back(&mut self) {
        self.server = Some(HttpServer::start(Arc::clone(&self.registry), self.address).await);
    }
}

/// Two readers of one file.
pub struct File {
    directory: tempfile::TempDir,
    broker: Arc<FileRegistry>,
    client: Arc<FileRegistry>,
    shown: Option<BrokerRecord>,
    bindings: BTreeMap<(String, String), Vec<Binding>>,
}

impl File {
    fn path(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("registry.yaml")
    }

    fn write(&self) {
        let words = ["direct", "regx", "fanout"];
        let broker = |broker: &BrokerRecord| json!({"address": broker.address, "topics": broker.topics});
        let binding = |binding: &Binding| {
            json!({
                "groupIds": [binding.group_id], "topic": binding.topic, "messageType": binding.message_type,
                "bindType": words[usize::try_from(i64::from(binding.bind_type)).unwrap()],
                "watermark": binding.watermark, "persistent": binding.persistent,
            })
        };
        // JSON is YAML.
        let text = json!({
            "brokers": self.shown.iter().map(broker).collect::<Vec<_>>(),
            "bindings": self.bindings.values().flatten().map(binding).collect::<Vec<_>>(),
        });
        std::fs::write(Self::path(&self.directory), text.to_string()).unwrap();
    }
}

#[async_trait(?Send)]
impl Backend for File {
    const KNOWS_THE_LIVING: bool = false;

    async fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(Self::path(&directory), "brokers: []\n").unwrap();
        let broker = FileRegistry::open(&Self::path(&directory), None).await.unwrap();
        let client = FileRegistry::open(&Self::path(&directory), None).await.unwrap();
        Self { directory, broker, client, shown: None, bindings: BTreeMap::new() }
    }

    fn broker(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.broker) as Arc<dyn Registry>
    }

    fn client(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.client) as Arc<dyn Registry>
    }

    async fn show(&mut self, broker: Option<BrokerRecord>) {
        self.shown.clone_from(&broker);
        self.write();
        show(self.broker.as_ref(), broker).await;
    }

    async fn bind(&mut self, group: &str, bindings: &[Binding]) {
        let mut topics: BTreeMap<(String, String), Vec<Binding>> = BTreeMap::new();
        for binding in bindings {
            topics.entry((group.to_owned(), binding.topic.clone())).or_default().push(binding.clone());
        }
        self.bindings.extend(topics);
        self.write();
        self.client.publish_bindings(group, bindings).await.unwrap();
    }

    async fn go_away(&mut self) {
        std::fs::rename(Self::path(&self.directory), self.directory.path().join("aside")).unwrap();
    }

    async fn come_back(&mut self) {
        std::fs::rename(self.directory.path().join("aside"), Self::path(&self.directory)).unwrap();
    }
}

/// A ZooKeeper server, and two sessions with it.
pub struct Zk {
    server: ZooKeeper,
    broker: Arc<ZkRegistry>,
    client: Arc<ZkRegistry>,
}

/// Short, so that a session that outlives its connection is soon over.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(1);

#[async_trait(?Send)]
impl Backend for Zk {
    const KNOWS_THE_LIVING: bool = true;

    async fn open() -> Self {
        let server = ZooKeeper::start().await;
        let start = || ZkRegistry::start(&[server.host()], SESSION_TIMEOUT);
        let (broker, client) = (start(), start());
        Self { server, broker, client }
    }

    fn broker(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.broker) as Arc<dyn Registry>
    }

    fn client(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.client) as Arc<dyn Registry>
    }

    async fn show(&mut self, broker: Option<BrokerRecord>) {
        show(self.broker.as_ref(), broker).await;
    }

    async fn bind(&mut self, group: &str, bindings: &[Binding]) {
        publish(self.client.as_ref(), group, bindings).await;
    }

    async fn go_away(&mut self) {
        self.server.kill();
    }

    async fn come_back(&mut self) {
        self.server.run().await;
    }
}

/// An etcd server, and two connections to it.
pub struct EtcdPair {
    server: Etcd,
    broker: Arc<EtcdRegistry>,
    client: Arc<EtcdRegistry>,
}

/// A registry with a short lease, so that one that is not renewed is soon over.
pub async fn open_etcd(hosts: &[String]) -> Arc<EtcdRegistry> {
    EtcdRegistry::open(&format!("etcd://{}?leaseSeconds=2", hosts.join(","))).await.unwrap()
}

#[async_trait(?Send)]
impl Backend for EtcdPair {
    const KNOWS_THE_LIVING: bool = true;

    async fn open() -> Self {
        let server = Etcd::start().await;
        let hosts = [server.host()];
        let (broker, client) = (open_etcd(&hosts).await, open_etcd(&hosts).await);
        Self { server, broker, client }
    }

    fn broker(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.broker) as Arc<dyn Registry>
    }

    fn client(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.client) as Arc<dyn Registry>
    }

    async fn show(&mut self, broker: Option<BrokerRecord>) {
        show(self.broker.as_ref(), broker).await;
    }

    async fn bind(&mut self, group: &str, bindings: &[Binding]) {
        publish(self.client.as_ref(), group, bindings).await;
    }

    async fn go_away(&mut self) {
        self.server.kill();
    }

    async fn come_back(&mut self) {
        self.server.run().await;
    }
}

/// The client side alone, for tests that bring their own servers.
pub fn http_client(hosts: &[SocketAddr]) -> Arc<HttpRegistry> {
    HttpRegistry::start(&hosts.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
}
