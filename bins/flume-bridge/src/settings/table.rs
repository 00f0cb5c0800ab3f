//! Every setting, once. The command line, the environment, the file, the help and the printed configuration are all made
//! from this table.

use std::path::PathBuf;
use std::time::Duration;

use kiteq_bridge::{ClaimMode, SinkProtocol};
use kiteq_settings::address::{HttpAddress, parse_host_port, without_password};
use kiteq_settings::{FileKey, Kind, Setting, log_format, log_level, log_path, to_usize};

use super::Settings;

const WHERE: &str = "Where";
const CLAIMING: &str = "Claiming";
const BATCHES: &str = "Batches";
const SINKS: &str = "Sinks";
const PEERS: &str = "Other bridges";
const STOPPING: &str = "Stopping";

const TENTH: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn not_empty(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("expected a value that is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn to_file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("expected a file".to_owned()) } else { Ok(text.into()) }
}

/// A name that can be a part of a node's name in ZooKeeper.
fn node_name(text: &str) -> Result<String, String> {
    let name = not_empty(text)?;
    if name.contains(['/', '\0']) || [".", ".."].contains(&name.as_str()) {
        return Err(format!("{name:?} cannot be a name in ZooKeeper; leave out /"));
    }
    Ok(name)
}

/// The list without what is in it again.
fn distinct(list: Vec<String>) -> Vec<String> {
    let mut kept = Vec::with_capacity(list.len());
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// The same, with at least one item.
fn some(list: Vec<String>, example: &str) -> Result<Vec<String>, String> {
    if list.is_empty() {
        Err(format!("expected at least one, such as {example}"))
    } else {
        Ok(distinct(list))
    }
}

fn redis_hosts(list: Vec<String>) -> Result<Vec<String>, String> {
    let wrong = list.iter().find(|host| match host.split_once("://") {
        Some(("redis" | "rediss", rest)) => rest.is_empty(),
        Some(_) => true,
        None => parse_host_port(host).is_err(),
    });
    if let Some(host) = wrong {
        let host = without_password(host);
        return Err(format!(
            "expected HOST:PORT or redis://USER:PASSWORD@HOST:PORT/DB (rediss:// for TLS), not {host:?}"
        ));
    }
    some(list, "127.0.0.1:6379")
}

fn queues(list: &[String]) -> Result<Vec<String>, String> {
    list.iter().map(|queue| not_empty(queue)).collect::<Result<_, _>>().map(distinct)
}

fn businesses(list: &[String]) -> Result<Vec<String>, String> {
    list.iter().map(|name| node_name(name)).collect::<Result<_, _>>().map(distinct)
}

fn zookeeper_hosts(list: Vec<String>) -> Result<Vec<String>, String> {
    if let Some(host) = list.iter().find(|host| parse_host_port(host).is_err()) {
        return Err(format!("expected HOST:PORT, such as zk1:2181, not {host:?}"));
    }
    some(list, "zk1:2181")
}

fn set_claim_mode(settings: &mut Settings, text: &str) -> Result<(), String> {
    settings.bridge.claim_mode = match text {
        "script" => ClaimMode::Script,
        "pop" => ClaimMode::Pop,
        _ => return Err(format!("expected script or pop, not {text:?}")),
    };
    Ok(())
}

fn show_claim_mode(mode: ClaimMode) -> String {
    let text = match mode {
        ClaimMode::Script => "script",
        ClaimMode::Pop => "pop",
    };
    text.to_owned()
}

fn set_protocol(settings: &mut Settings, text: &str) -> Result<(), String> {
    settings.bridge.sinks.protocol = match text {
        "compact" => SinkProtocol::Compact,
        "binary" => SinkProtocol::Binary,
        _ => return Err(format!("expected compact or binary, not {text:?}")),
    };
    Ok(())
}

fn show_protocol(protocol: SinkProtocol) -> String {
    let text = match protocol {
        SinkProtocol::Compact => "compact",
        SinkProtocol::Binary => "binary",
    };
    text.to_owned()
}

/// In the order of the help.
pub(crate) const SETTINGS: &[Setting<Settings>] = &[
    Setting {
        flag: "redis",
        aliases: &[],
        file: FileKey::Key("redis", &[]),
        heading: WHERE,
        value_name: "HOST:PORT,...",
        help: "Redis servers: HOST:PORT, or redis://USER:PASSWORD@HOST:PORT/DB, or the same with rediss for TLS. Every queue is drained on each of them",
        kind: Kind::List {
            example: r#"["h1:6379", "h2:6379"]"#,
            set: |settings, list| redis_hosts(list).map(|list| settings.bridge.redis_hosts = list),
            get: |settings| settings.bridge.redis_hosts.clone(),
        },
    },
    Setting {
        flag: "queues",
        aliases: &["queuename"],
        file: FileKey::Key("queues", &[]),
        heading: WHERE,
        value_name: "A,B",
        help: "Keys of the Redis lists to drain",
        kind: Kind::List {
            example: r#"["user-log"]"#,
            set: |settings, list| queues(&list).map(|list| settings.bridge.queues = list),
            get: |settings| settings.bridge.queues.clone(),
        },
    },
    Setting {
        flag: "zookeeper",
        aliases: &["zkhost"],
        file: FileKey::Key("zookeeper", &[]),
        heading: WHERE,
        value_name: "HOST:PORT,...",
        help: "ZooKeeper servers, where sinks are found",
        kind: Kind::List {
            example: r#"["zk1:2181", "zk2:2181"]"#,
            set: |settings, list| zookeeper_hosts(list).map(|list| settings.bridge.zookeeper_hosts = list),
            get: |settings| settings.bridge.zookeeper_hosts.clone(),
        },
    },
    Setting {
        flag: "businesses",
        aliases: &[],
        file: FileKey::Key("businesses", &[]),
        heading: WHERE,
        value_name: "A,B",
        help: "Businesses to send to, each a node below /flume in ZooKeeper. One that is missing is created and waited for. Elements whose business is not among them go to default, with their log_type behind it, if that is",
        kind: Kind::List {
            example: r#"["location", "feed"]"#,
            set: |settings, list| businesses(&list).map(|list| settings.bridge.businesses = list),
            get: |settings| settings.bridge.businesses.clone(),
        },
    },
    Setting {
        flag: "instance",
        aliases: &["instancename"],
        file: FileKey::Key("instance", &[]),
        heading: WHERE,
        value_name: "NAME",
        help: "Name of this bridge among those of its host, the same after each restart",
        kind: Kind::Text {
            set: |settings, text| node_name(text).map(|name| settings.bridge.instance = name),
            get: |settings| Some(settings.bridge.instance.clone()),
        },
    },
    Setting {
        flag: "host-name",
        aliases: &[],
        file: FileKey::Key("hostName", &[]),
        heading: WHERE,
        value_name: "NAME",
        help: "Name of this host; by default what the system calls it. Sinks on this host are preferred",
        kind: Kind::Text {
            set: |settings, text| node_name(text).map(|name| settings.host_name = Some(name)),
            get: |settings| settings.host_name.clone(),
        },
    },
    Setting {
        flag: "http",
        aliases: &["pport"],
        file: FileKey::Key("http", &[]),
        heading: WHERE,
        value_name: "PORT|IP:PORT",
        help: "Where to listen for /healthz, /readyz, /metrics and /stat. A port alone is on 127.0.0.1",
        kind: Kind::Port {
            set: |settings, text| HttpAddress::parse(text).map(|address| settings.http = address),
            get: |settings| Some(settings.http.to_string()),
        },
    },
    Setting {
        flag: "compressed",
        aliases: &["iscompress"],
        file: FileKey::Key("compressed", &[]),
        heading: CLAIMING,
        value_name: "BOOL",
        help: "Elements are raw DEFLATE, without a zlib or gzip header",
        kind: Kind::Switch {
            set: |settings, on| settings.bridge.compressed = on,
            get: |settings| settings.bridge.compressed,
        },
    },
    Setting {
        flag: "claim",
        aliases: &[],
        file: FileKey::Key("claim", &[]),
        heading: CLAIMING,
        value_name: "MODE",
        help: "script renames what waits to a list of the bridge's own, and loses none; pop is for servers without scripting, and loses what the bridge holds when it dies",
        kind: Kind::Text {
            set: set_claim_mode,
            get: |settings| Some(show_claim_mode(settings.bridge.claim_mode)),
        },
    },
    Setting {
        flag: "claim-elements",
        aliases: &[],
        file: FileKey::Key("claimElements", &[]),
        heading: CLAIMING,
        value_name: "N",
        help: "Elements read from Redis in one round trip, at most; of large ones about 1 MiB",
        kind: Kind::Count {
            range: 1..=10_000,
            set: |settings, count| settings.bridge.claim_elements = to_usize(count),
            get: |settings| settings.bridge.claim_elements as u64,
        },
    },
    Setting {
        flag: "claims-in-flight-max",
        aliases: &[],
        file: FileKey::Key("claimsInFlightMax", &[]),
        heading: CLAIMING,
        value_name: "N",
        help: "Round trips of one queue whose elements are not all settled; at the bound no more is claimed or read from it",
        kind: Kind::Count {
            range: 1..=100_000,
            set: |settings, count| settings.bridge.claims_in_flight_max = to_usize(count),
            get: |settings| settings.bridge.claims_in_flight_max as u64,
        },
    },
    Setting {
        flag: "pipeline-max",
        aliases: &[],
        file: FileKey::Key("pipelineMax", &[]),
        heading: CLAIMING,
        value_name: "SIZE",
        help: "Memory for batches that are being filled or sent; at the bound nothing is claimed",
        kind: Kind::Size {
            range: 1 << 20..=1 << 40,
            set: |settings, bytes| settings.bridge.pipeline_bytes_max = to_usize(bytes),
            get: |settings| settings.bridge.pipeline_bytes_max as u64,
        },
    },
    Setting {
        flag: "rate-limit",
        aliases: &[],
        file: FileKey::Key("rateLimit", &[]),
        heading: CLAIMING,
        value_name: "N",
        help: "Elements read per second, all queues together; 0 is no limit",
        kind: Kind::Count {
            range: 0..=1_000_000_000,
            set: |settings, count| settings.bridge.rate_limit = Some(count).filter(|&limit| limit > 0),
            get: |settings| settings.bridge.rate_limit.unwrap_or(0),
        },
    },
    Setting {
        flag: "inflated-max",
        aliases: &[],
        file: FileKey::Key("inflatedMax", &[]),
        heading: CLAIMING,
        value_name: "SIZE",
        help: "Largest element after decompression; a larger one is a dead letter",
        kind: Kind::Size {
            range: 1 << 10..=1 << 30,
            set: |settings, bytes| settings.bridge.inflated_bytes_max = to_usize(bytes),
            get: |settings| settings.bridge.inflated_bytes_max as u64,
        },
    },
    Setting {
        flag: "parked-max",
        aliases: &[],
        file: FileKey::Key("parkedMax", &[]),
        heading: CLAIMING,
        value_name: "N",
        help: "Elements of a queue that may be parked in Redis for a business without sinks; at the bound nothing more is claimed from the queue",
        kind: Kind::Count {
            range: 0..=1_000_000_000_000,
            set: |settings, count| settings.bridge.parked_max = count,
            get: |settings| settings.bridge.parked_max,
        },
    },
    Setting {
        flag: "dead-letters-max",
        aliases: &[],
        file: FileKey::Key("deadLettersMax", &[]),
        heading: CLAIMING,
        value_name: "N",
        help: "Dead letters of a queue; at the bound nothing more is claimed from it until somebody has looked at them. 0 is no limit",
        kind: Kind::Count {
            range: 0..=1_000_000_000_000,
            set: |settings, count| settings.bridge.dead_letters_max = Some(count).filter(|&limit| limit > 0),
            get: |settings| settings.bridge.dead_letters_max.unwrap_or(0),
        },
    },
    Setting {
        flag: "redis-connections-max",
        aliases: &["redis-maxconn"],
        file: FileKey::Key("redisConnectionsMax", &[]),
        heading: CLAIMING,
        value_name: "N",
        help: "Connections to one Redis server. A queue takes two, one more watches the queues",
        kind: Kind::Count {
            range: 3..=10_000,
            set: |settings, count| settings.bridge.redis_connections_max = to_usize(count),
            get: |settings| settings.bridge.redis_connections_max as u64,
        },
    },
    Setting {
        flag: "redis-timeout",
        aliases: &[],
        file: FileKey::Key("redisTimeout", &[]),
        heading: CLAIMING,
        value_name: "DURATION",
        help: "How long Redis may take to answer, or to be connected to",
        kind: Kind::Time {
            bare_seconds: false,
            range: (TENTH, HOUR),
            set: |settings, duration| settings.bridge.redis_timeout = duration,
            get: |settings| settings.bridge.redis_timeout,
        },
    },
    Setting {
        flag: "redis-authorities",
        aliases: &[],
        file: FileKey::Key("redisAuthorities", &[]),
        heading: CLAIMING,
        value_name: "FILE",
        help: "Certificates (PEM) that sign those of rediss:// servers; by default the system's",
        kind: Kind::Text {
            set: |settings, text| to_file(text).map(|file| settings.bridge.redis_authorities = Some(file)),
            get: |settings| Some(settings.bridge.redis_authorities.as_ref()?.display().to_string()),
        },
    },
    Setting {
        flag: "batch-events",
        aliases: &[],
        file: FileKey::Key("batchEvents", &[]),
        heading: BATCHES,
        value_name: "N",
        help: "A batch is sent when it has so many events",
        kind: Kind::Count {
            range: 1..=1_000_000,
            set: |settings, count| settings.bridge.batch.events_max = to_usize(count),
            get: |settings| settings.bridge.batch.events_max as u64,
        },
    },
    Setting {
        flag: "batch-bytes",
        aliases: &[],
        file: FileKey::Key("batchBytes", &[]),
        heading: BATCHES,
        value_name: "SIZE",
        help: "A batch is sent when its bodies have so many bytes",
        kind: Kind::Size {
            range: 1 << 10..=1 << 30,
            set: |settings, bytes| settings.bridge.batch.bytes_max = to_usize(bytes),
            get: |settings| settings.bridge.batch.bytes_max as u64,
        },
    },
    Setting {
        flag: "batch-age",
        aliases: &[],
        file: FileKey::Key("batchAge", &[]),
        heading: BATCHES,
        value_name: "DURATION",
        help: "A batch is sent when its first event has waited so long",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::from_millis(1), MINUTE),
            set: |settings, duration| settings.bridge.batch.age_max = duration,
            get: |settings| settings.bridge.batch.age_max,
        },
    },
    Setting {
        flag: "frame-max",
        aliases: &[],
        file: FileKey::Key("frameMax", &[]),
        heading: BATCHES,
        value_name: "SIZE",
        help: "Largest frame that sinks take; an element that does not fit into one is a dead letter",
        kind: Kind::Size {
            range: 1 << 10..=1 << 30,
            set: |settings, bytes| settings.bridge.batch.frame_bytes_max = to_usize(bytes),
            get: |settings| settings.bridge.batch.frame_bytes_max as u64,
        },
    },
    Setting {
        flag: "sink-protocol",
        aliases: &[],
        file: FileKey::Key("sinkProtocol", &[]),
        heading: SINKS,
        value_name: "PROTOCOL",
        help: "compact or binary: what the Thrift sources are configured with",
        kind: Kind::Text {
            set: set_protocol,
            get: |settings| Some(show_protocol(settings.bridge.sinks.protocol)),
        },
    },
    Setting {
        flag: "sink-connections",
        aliases: &[],
        file: FileKey::Key("sinkConnections", &[]),
        heading: SINKS,
        value_name: "N",
        help: "Connections to one sink, each with one batch in flight",
        kind: Kind::Count {
            range: 1..=1000,
            set: |settings, count| settings.bridge.sinks.connections_per_sink = to_usize(count),
            get: |settings| settings.bridge.sinks.connections_per_sink as u64,
        },
    },
    Setting {
        flag: "sink-connect-timeout",
        aliases: &[],
        file: FileKey::Key("sinkConnectTimeout", &[]),
        heading: SINKS,
        value_name: "DURATION",
        help: "How long a connection to a sink may take to be made",
        kind: Kind::Time {
            bare_seconds: false,
            range: (TENTH, HOUR),
            set: |settings, duration| settings.bridge.sinks.connect_timeout = duration,
            get: |settings| settings.bridge.sinks.connect_timeout,
        },
    },
    Setting {
        flag: "sink-request-timeout",
        aliases: &[],
        file: FileKey::Key("sinkRequestTimeout", &[]),
        heading: SINKS,
        value_name: "DURATION",
        help: "How long a sink may take to answer a batch; then it goes to another one",
        kind: Kind::Time {
            bare_seconds: false,
            range: (TENTH, HOUR),
            set: |settings, duration| settings.bridge.sinks.request_timeout = duration,
            get: |settings| settings.bridge.sinks.request_timeout,
        },
    },
    Setting {
        flag: "sink-backoff-min",
        aliases: &[],
        file: FileKey::Key("sinkBackoffMin", &[]),
        heading: SINKS,
        value_name: "DURATION",
        help: "How long a sink that failed is left alone at first; doubled each time",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::from_millis(1), HOUR),
            set: |settings, duration| settings.bridge.sinks.backoff_min = duration,
            get: |settings| settings.bridge.sinks.backoff_min,
        },
    },
    Setting {
        flag: "sink-backoff-max",
        aliases: &[],
        file: FileKey::Key("sinkBackoffMax", &[]),
        heading: SINKS,
        value_name: "DURATION",
        help: "The longest time for which a failing sink is left alone",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::from_millis(1), HOUR),
            set: |settings, duration| settings.bridge.sinks.backoff_max = duration,
            get: |settings| settings.bridge.sinks.backoff_max,
        },
    },
    Setting {
        flag: "sink-patience",
        aliases: &[],
        file: FileKey::Key("sinkPatience", &[]),
        heading: SINKS,
        value_name: "DURATION",
        help: "How long a batch looks for a sink of its business before its elements are parked",
        kind: Kind::Time {
            bare_seconds: false,
            range: (TENTH, HOUR),
            set: |settings, duration| settings.bridge.sinks.patience = duration,
            get: |settings| settings.bridge.sinks.patience,
        },
    },
    Setting {
        flag: "sink-tls",
        aliases: &[],
        file: FileKey::Key("sinkTls", &[]),
        heading: SINKS,
        value_name: "BOOL",
        help: "Reach sinks by TLS",
        kind: Kind::Switch { set: |settings, on| settings.sink_tls = on, get: |settings| settings.sink_tls },
    },
    Setting {
        flag: "sink-authorities",
        aliases: &[],
        file: FileKey::Key("sinkAuthorities", &[]),
        heading: SINKS,
        value_name: "FILE",
        help: "With --sink-tls: certificates (PEM) that sign those of sinks; by default the system's",
        kind: Kind::Text {
            set: |settings, text| to_file(text).map(|file| settings.tls.authorities = Some(file)),
            get: |settings| Some(settings.tls.authorities.as_ref()?.display().to_string()),
        },
    },
    Setting {
        flag: "sink-server-name",
        aliases: &[],
        file: FileKey::Key("sinkServerName", &[]),
        heading: SINKS,
        value_name: "NAME",
        help: "With --sink-tls: the name in the sinks' certificates; by default each sink's host",
        kind: Kind::Text {
            set: |settings, text| not_empty(text).map(|name| settings.tls.server_name = Some(name)),
            get: |settings| settings.tls.server_name.clone(),
        },
    },
    Setting {
        flag: "zookeeper-session-timeout",
        aliases: &[],
        file: FileKey::Key("zookeeperSessionTimeout", &[]),
        heading: PEERS,
        value_name: "DURATION",
        help: "How long ZooKeeper waits for this bridge before it takes its mark away",
        kind: Kind::Time {
            bare_seconds: false,
            range: (SECOND, HOUR),
            set: |settings, duration| settings.bridge.zookeeper_session_timeout = duration,
            get: |settings| settings.bridge.zookeeper_session_timeout,
        },
    },
    Setting {
        flag: "peer-grace",
        aliases: &[],
        file: FileKey::Key("peerGrace", &[]),
        heading: PEERS,
        value_name: "DURATION",
        help: "How long another bridge's mark must be gone before its claims are put back into their queues",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, DAY),
            set: |settings, duration| settings.bridge.peer_grace = duration,
            get: |settings| settings.bridge.peer_grace,
        },
    },
    Setting {
        flag: "drain-timeout",
        aliases: &[],
        file: FileKey::Key("drainTimeout", &[]),
        heading: STOPPING,
        value_name: "DURATION",
        help: "How long claimed elements have to reach a sink at a stop; the rest is put back",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, HOUR),
            set: |settings, duration| settings.bridge.drain_timeout = duration,
            get: |settings| settings.bridge.drain_timeout,
        },
    },
    log_level(),
    log_format(),
    log_path(&["logpath"]),
];
