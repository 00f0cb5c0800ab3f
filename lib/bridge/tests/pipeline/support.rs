//! A bridge between a real Redis and a Flume source in this process.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiteq_bridge::{AliveMarks, BatchConfig, Bridge, BridgeConfig, Deliver, Stat, StopReport, Undeliverable};
use kiteq_flume::{
    Answer, Batch, ConnectOptions, Connection, Handler, Incoming, Server, ServerOptions, Status,
};
use kiteq_telemetry::Shutdown;
use kiteq_testkit::{PATIENCE, Redis, eventually};
use prometheus_client::registry::Registry;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

pub(crate) const QUEUE: &str = "user-log";

/// An event that a sink has taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) business: String,
    pub(crate) body: String,
}

impl Event {
    /// The momoid, which the tests number.
    pub(crate) fn id(&self) -> u64 {
        self.body.split('\t').next().unwrap().parse().unwrap()
    }
}

/// What a sink does, and has got.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    events: Mutex<Vec<Event>>,
    silent: AtomicBool,
    failing: AtomicBool,
}

impl Handler for Ledger {
    async fn handle(&self, incoming: Incoming) -> Answer {
        if self.silent.load(Ordering::SeqCst) {
            return Answer::Silence;
        }
        if self.failing.load(Ordering::SeqCst) {
            return Answer::Status(Status::Failed);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let events = incoming.events.iter().map(|event| Event {
            business: text(event.header(b"businessName").unwrap()),
            body: text(event.body()),
        });
        self.events.lock().unwrap().extend(events);
        Answer::Status(Status::Ok)
    }
}

/// A Flume source, and the way to it.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) ledger: Arc<Ledger>,
    port: u16,
    available: Arc<HashMap<String, watch::Sender<bool>>>,
}

impl Sink {
    pub(crate) async fn start(businesses: &[&str]) -> Self {
        let server = Server::bind("127.0.0.1:0", ServerOptions::default()).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let ledger = Arc::new(Ledger::default());
        tokio::spawn(server.run(Arc::clone(&ledger)));
        let available = businesses.iter().map(|name| ((*name).to_owned(), watch::Sender::new(true)));
        Self { ledger, port, available: Arc::new(available.collect()) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set_available(&self, business: &str, available: bool) {
        self.available[business].send_replace(available);
    }

    /// Calls are read and never answered.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.ledger.silent.store(silent, Ordering::SeqCst);
    }

    /// Calls are answered FAILED.
    pub(crate) fn set_failing(&self, failing: bool) {
        self.ledger.failing.store(failing, Ordering::SeqCst);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.ledger.events.lock().unwrap().clone()
    }

    /// Ids in the order in which they came.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.events().iter().map(Event::id).collect()
    }

    /// Waits until so many different ids are here.
    pub(crate) async fn wait_for(&self, count: usize) {
        eventually(&format!("{count} elements arrive"), async || {
            let ids: BTreeSet<u64> = self.ids().into_iter().collect();
            (ids.len() >= count).then_some(())
        })
        .await;
    }
}

impl Deliver for Sink {
    async fn deliver(&self, business: &str, batch: &Batch) -> Result<(), Undeliverable> {
        assert!(self.available.contains_key(business));
        let send = async {
            let mut connection =
                Connection::connect("127.0.0.1", self.port, &ConnectOptions::default()).await?;
            connection.append_batch(batch).await
        };
        send.await.map_err(|_| Undeliverable)
    }

    fn availability(&self, business: &str) -> watch::Receiver<bool> {
        self.available[business].subscribe()
    }
}

/// A running bridge with what a test may want to pull.
pub(crate) struct Running {
    pub(crate) bridge: Bridge,
    pub(crate) alive: watch::Sender<AliveMarks>,
}

impl Running {
    pub(crate) fn start(config: BridgeConfig, sink: &Sink) -> Self {
        let alive = watch::Sender::new(Some(Arc::new(BTreeSet::new())));
        let shutdown = Shutdown::new();
        let bridge = Bridge::start_with(
            config,
            sink.clone(),
            alive.subscribe(),
            &mut Registry::default(),
            &shutdown,
            Shutdown::new(),
        );
        Self { bridge: bridge.unwrap(), alive }
    }

    pub(crate) async fn stop(self) -> StopReport {
        self.bridge.stop().await
    }

    pub(crate) fn stat(&self) -> Stat {
        self.bridge.stat()
    }

    /// Waits until `/readyz` says something with `part` in it.
    pub(crate) async fn wait_for_trouble(&self, part: &str) -> String {
        eventually(&format!("trouble with {part:?}"), async || {
            self.bridge.ready().err().filter(|trouble| trouble.contains(part))
        })
        .await
    }

    pub(crate) async fn wait_until_ready(&self) {
        eventually("the bridge is ready", async || self.bridge.ready().ok()).await;
    }

    /// Waits until `count` elements have come, each once, with nothing of them left in Redis, and all is well again; and ends it.
    pub(crate) async fn finish(self, sink: &Sink, client: &mut MultiplexedConnection, count: usize) {
        sink.wait_for(count).await;
        wait_until_settled(client).await;
        self.wait_until_ready().await;
        assert_eq!(sink.ids().len(), count, "none twice");
        self.stop().await;
    }
}

/// A bridge in a runtime of its own, which can die without a word.
pub(crate) struct Doomed {
    runtime: tokio::runtime::Runtime,
    _running: Running,
}

impl Doomed {
    pub(crate) fn start(config: BridgeConfig, sink: &Sink) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = {
            let _guard = runtime.enter();
            Running::start(config, sink)
        };
        Self { runtime, _running: running }
    }

    /// Every task ends where it stands, as with SIGKILL.
    pub(crate) fn crash(self) {
        self.runtime.shutdown_background();
    }
}

pub(crate) fn config(redis: &Redis, businesses: &[&str]) -> BridgeConfig {
    BridgeConfig {
        redis_hosts: vec![redis.uri()],
        queues: vec![QUEUE.to_owned()],
        businesses: businesses.iter().map(|name| (*name).to_owned()).collect(),
        claim_elements: 100,
        redis_timeout: Duration::from_secs(5),
        peer_grace: Duration::ZERO,
        drain_timeout: Duration::from_secs(10),
        batch: BatchConfig { age_max: Duration::from_millis(20), ..BatchConfig::default() },
        ..BridgeConfig::default()
    }
}

/// An element of a business.
pub(crate) fn element(business: &str, id: u64) -> Vec<u8> {
    format!(
        r#"{{"action":"a","params":{{"momoid":"{id}","businessName":"{business}","type":"t","body":{{"n":{id}}}}}}}"#
    )
    .into_bytes()
}

pub(crate) async fn client(redis: &Redis) -> MultiplexedConnection {
    eventually("a connection of the test", async || try_client(redis).await).await
}

/// A connection to a server that may not listen yet.
async fn try_client(redis: &Redis) -> Option<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(PATIENCE))
        .set_connection_timeout(Some(PATIENCE));
    let client = redis::Client::open(redis.uri()).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.ok()
}

/// Pushes elements as applications do.
pub(crate) async fn push(client: &mut MultiplexedConnection, elements: impl IntoIterator<Item = Vec<u8>>) {
    let elements: Vec<Vec<u8>> = elements.into_iter().collect();
    for chunk in elements.chunks(1000) {
        let () = redis::cmd("RPUSH").arg(QUEUE).arg(chunk).query_async(client).await.unwrap();
    }
}

pub(crate) async fn length(client: &mut MultiplexedConnection, key: &str) -> u64 {
    redis::cmd("LLEN").arg(key).query_async(client).await.unwrap()
}

pub(crate) async fn list(client: &mut MultiplexedConnection, key: &str) -> Vec<Vec<u8>> {
    redis::cmd("LRANGE").arg(key).arg(0).arg(-1).query_async(client).await.unwrap()
}

/// The dead letters of the queue.
pub(crate) async fn dead(client: &mut MultiplexedConnection) -> Vec<serde_json::Value> {
    let letters = list(client, &key("dead")).await;
    letters.iter().map(|letter| serde_json::from_slice(letter).unwrap()).collect()
}

/// A key of the queue.
pub(crate) fn key(name: &str) -> String {
    format!("kiteq:{{{QUEUE}}}:{name}")
}

/// Waits until no claim is left.
pub(crate) async fn wait_until_settled(client: &mut MultiplexedConnection) {
    eventually("every claim is settled", async || {
        let keys: Vec<String> = redis::cmd("KEYS").arg("kiteq:*:claim*").query_async(client).await.unwrap();
        keys.is_empty().then_some(())
    })
    .await;
}
