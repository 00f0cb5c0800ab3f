//! Sinks and directory over a real ZooKeeper.

use std::time::Duration;

use kiteq_bridge::SinksConfig;
use kiteq_bridge::sinks::{Directory, DirectoryConfig, Locality, SinkStat, Sinks};
use kiteq_flume::{Batch, BatchBuilder, Protocol};
use kiteq_telemetry::Shutdown;
use prometheus_client::registry::Registry;
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode};

use super::{PATIENCE, ZooKeeper, eventually};

pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
pub const MARK: &str = "host_bridge:1";

/// Sinks that lose patience soon.
pub fn config() -> SinksConfig {
    SinksConfig {
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(20),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        patience: Duration::from_millis(500),
        ..SinksConfig::default()
    }
}

pub fn directory_config(server: &ZooKeeper, businesses: &[&str], mark: &str) -> DirectoryConfig {
    DirectoryConfig {
        hosts: vec![server.host()],
        session_timeout: SESSION_TIMEOUT,
        businesses: businesses.iter().map(|name| (*name).to_owned()).collect(),
        mark: mark.to_owned(),
    }
}

pub struct Rig {
    pub sinks: Sinks,
    pub directory: Directory,
    pub metrics: Registry,
    pub shutdown: Shutdown,
}

impl Rig {
    /// For the business `feed`; only `localhost` is this host.
    pub fn start(server: &ZooKeeper, config: SinksConfig) -> Self {
        Self::start_for(server, config, &["feed"], Locality::of_names(["localhost"]))
    }

    pub fn start_for(
        server: &ZooKeeper,
        config: SinksConfig,
        businesses: &[&str],
        locality: Locality,
    ) -> Self {
        let shutdown = Shutdown::new();
        let mut metrics = Registry::default();
        let directory = Directory::start(directory_config(server, businesses, MARK), &shutdown).unwrap();
        let sinks = Sinks::start(config, &directory, locality, &mut metrics, &shutdown).unwrap();
        Self { sinks, directory, metrics, shutdown }
    }

    pub fn stat(&self, sink: &str) -> Option<SinkStat> {
        self.sinks.stat().into_iter().find(|stat| stat.sink == sink)
    }

    /// Waits until exactly these sinks are known, with those of this host recognised.
    pub async fn until_sinks(&self, expected: &[&str]) {
        let mut expected: Vec<_> = expected.iter().map(|sink| (*sink).to_owned()).collect();
        expected.sort_unstable();
        eventually(&format!("sinks {expected:?}"), async || {
            let stats = self.sinks.stat();
            let mut known: Vec<_> = stats.iter().map(|stat| stat.sink.clone()).collect();
            known.sort_unstable();
            let is_local = |stat: &SinkStat| stat.local || !stat.sink.starts_with("localhost:");
            (known == expected && stats.iter().all(is_local)).then_some(())
        })
        .await;
    }

    pub async fn until_state(&self, sink: &str, state: &str) {
        eventually(&format!("{sink} is {state}"), async || {
            self.stat(sink).filter(|stat| stat.state == state).map(|_| ())
        })
        .await;
    }

    pub async fn until_available(&self, business: &str, expected: bool) {
        let mut available = self.sinks.availability(business);
        let seen = timeout(PATIENCE, available.wait_for(|available| *available == expected)).await;
        assert!(seen.is_ok_and(|seen| seen.is_ok()), "{business} available: {expected}");
    }

    /// Ends everything in the order in which a bridge does.
    pub async fn end(self) {
        drop(self.sinks);
        self.directory.close().await;
        let outcome = self.shutdown.finish(PATIENCE).await;
        assert!(outcome.is_clean(), "{outcome:?}");
    }
}

/// A batch of one event.
pub fn batch(body: &str) -> Batch {
    let mut builder = BatchBuilder::new(Protocol::Compact, 1_000_000);
    builder.push(&[(b"businessName", b"feed")], &[body.as_bytes()]).unwrap();
    builder.finish()
}

/// Another program's view of ZooKeeper.
pub struct Other(pub Client);

impl Other {
    pub async fn connect(server: &ZooKeeper) -> Self {
        Self(Client::connector().with_server_version(3, 4, 0).connect(&server.host()).await.unwrap())
    }

    /// Makes a node as a sink does; those above it too.
    pub async fn put(&self, path: &str) {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        self.0.mkdir(path, &options).await.unwrap();
    }

    pub async fn delete(&self, path: &str) {
        self.0.delete(path, None).await.unwrap();
    }

    /// The session that holds a node.
    pub async fn owner(&self, path: &str) -> Option<i64> {
        self.0.check_stat(path).await.ok().flatten().map(|stat| stat.ephemeral_owner)
    }
}
