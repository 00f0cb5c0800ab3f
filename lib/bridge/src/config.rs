//! What a bridge is told: plain values, documented, with the defaults of the product.

use std::path::PathBuf;
use std::time::Duration;

/// How elements leave a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClaimMode {
    /// Renamed to a list of the bridge's own and read from there: nothing is lost, an element may come twice.
    #[default]
    Script,
    /// By LPOP, for servers without scripting: what a bridge holds is lost when it dies.
    Pop,
}

/// The encoding of what is sent to sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkProtocol {
    /// Thrift's compact protocol, which a Flume source speaks unless it is told otherwise.
    #[default]
    Compact,
    /// Thrift's binary protocol.
    Binary,
}

/// TLS towards sinks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkTls {
    /// PEM file with the authorities that sign sinks' certificates; the system's when absent.
    pub authorities: Option<PathBuf>,
    /// The name that certificates must bear; the sink's host when absent.
    pub server_name: Option<String>,
}

/// How batches are brought to sinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinksConfig {
    /// The encoding of batches.
    pub protocol: SinkProtocol,
    /// TLS instead of plain TCP.
    pub tls: Option<SinkTls>,
    /// Time for a connection to be made, TLS included.
    pub connect_timeout: Duration,
    /// Time for a batch to be written and answered.
    pub request_timeout: Duration,
    /// Connections to one sink, each with one batch in flight.
    pub connections_per_sink: usize,
    /// How long a sink that failed is left alone at first; doubled with each failure that follows.
    pub backoff_min: Duration,
    /// The longest time for which a failing sink is left alone.
    pub backoff_max: Duration,
    /// How long a batch looks for a sink of its business before it is given back.
    pub patience: Duration,
}

impl Default for SinksConfig {
    fn default() -> Self {
        Self {
            protocol: SinkProtocol::Compact,
            tls: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(20),
            connections_per_sink: 4,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            patience: Duration::from_secs(5),
        }
    }
}

/// When a business's batch is sent: at whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchConfig {
    /// Events in a batch.
    pub events_max: usize,
    /// Bytes of event bodies in a batch.
    pub bytes_max: usize,
    /// Age of the first event of a batch.
    pub age_max: Duration,
    /// Bytes of a batch on the wire; no frame is larger, and an element that does not fit alone is a dead letter.
    pub frame_bytes_max: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            events_max: 1000,
            bytes_max: 12 << 20,
            age_max: Duration::from_millis(200),
            frame_bytes_max: 16_384_000,
        }
    }
}

/// Everything that a bridge is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Redis servers: `host:port`, or `redis://user:password@host:port/db`, with `rediss` for TLS. Every queue is
    /// drained on each of them.
    pub redis_hosts: Vec<String>,
    /// PEM file with the authorities that sign the certificates of `rediss` servers; the system's when absent.
    pub redis_authorities: Option<PathBuf>,
    /// Keys of the lists to drain.
    pub queues: Vec<String>,
    /// Connections to one Redis server, at most. A queue takes two, and one more watches the queues.
    pub redis_connections_max: usize,
    /// Time for an answer of Redis, and for a connection to it.
    pub redis_timeout: Duration,
    /// How elements leave a queue.
    pub claim_mode: ClaimMode,
    /// Elements that are read in one round trip, at most: a page.
    pub claim_elements: usize,
    /// Pages of one queue that are not settled yet, at most. At the bound nothing more is claimed or read from it.
    pub claims_in_flight_max: usize,
    /// Bytes of batches that are being filled or sent, all queues together. At the bound nothing is read from Redis.
    pub pipeline_bytes_max: usize,
    /// Elements per second that are read, all queues together; no limit when absent. With one, a claim has what is read in a second.
    pub rate_limit: Option<u64>,
    /// Whether elements are raw DEFLATE (no zlib or gzip header) of their JSON.
    pub compressed: bool,
    /// Bytes of an inflated element; a larger one is a dead letter.
    pub inflated_bytes_max: usize,
    /// Names of the businesses to route to, each a node below `/flume`.
    pub businesses: Vec<String>,
    /// The name of this bridge among those of its host.
    pub instance: String,
    /// The name of this host in the bridge's mark.
    pub host_name: String,
    /// ZooKeeper servers, `host:port`.
    pub zookeeper_hosts: Vec<String>,
    /// Session timeout asked of ZooKeeper.
    pub zookeeper_session_timeout: Duration,
    /// How long a peer's mark must be gone from ZooKeeper before its claims are put back.
    pub peer_grace: Duration,
    /// When a batch is sent.
    pub batch: BatchConfig,
    /// How a batch is sent.
    pub sinks: SinksConfig,
    /// Elements that wait in Redis for a business without sinks, per queue and business. At the bound nothing more is
    /// claimed from the queue.
    pub parked_max: u64,
    /// Dead letters of one queue. At the bound nothing more is claimed from the queue until somebody has looked at
    /// them; no limit when absent. None is ever dropped.
    pub dead_letters_max: Option<u64>,
    /// Time for what is claimed to be sent and settled at a stop; what is left then is put back.
    pub drain_timeout: Duration,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            redis_hosts: vec!["127.0.0.1:6379".to_owned()],
            redis_authorities: None,
            queues: Vec::new(),
            redis_connections_max: 20,
            redis_timeout: Duration::from_secs(10),
            claim_mode: ClaimMode::Script,
            claim_elements: 1000,
            claims_in_flight_max: 256,
            pipeline_bytes_max: 64 << 20,
            rate_limit: None,
            compressed: false,
            inflated_bytes_max: 16 << 20,
            businesses: Vec::new(),
            instance: "bridge".to_owned(),
            host_name: "localhost".to_owned(),
            zookeeper_hosts: vec!["127.0.0.1:2181".to_owned()],
            zookeeper_session_timeout: Duration::from_secs(10),
            peer_grace: Duration::from_secs(10),
            batch: BatchConfig::default(),
            sinks: SinksConfig::default(),
            parked_max: 1_000_000,
            dead_letters_max: None,
            drain_timeout: Duration::from_secs(15),
        }
    }
}
