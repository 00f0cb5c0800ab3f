//! Every setting, once: its names, its meaning, its type and range, and its place. The command line, the environment, the
//! file, the help and the printed configuration are all made from this table.

use std::time::Duration;

use kiteq_settings::address::{HttpAddress, parse_address, parse_host_port};
use kiteq_settings::{FileKey, Kind, RetiredKey, Setting, log_format, log_level, log_path, to_usize};

use super::registry::registry_uri;
use super::{Settings, schedule};

/// Keys that are accepted and said once in the log.
pub(crate) const RETIRED_KEYS: [RetiredKey; 3] = [
    RetiredKey { key: "logxml", instead: "logging is set with logLevel, logFormat and logPath; remove it" },
    RetiredKey {
        key: "maxDeliverWorkers",
        instead: "there are no delivery workers; deliveryWindow bounds what a connection may hold; remove it",
    },
    RetiredKey {
        key: "dlqExecHour",
        instead: "a message becomes a dead letter when its time has come, at any hour; remove it",
    },
];

/// `registry.ENV.hosts`, chosen by the cluster's `env`.
pub(crate) const REGISTRY_HOSTS: &str = "registry.ENV.hosts";

const WHERE: &str = "Where";
const DELIVERY: &str = "Delivery";
const LIMITS: &str = "Limits";
const STOPPING: &str = "Stopping";

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const COUNT_MAX: u64 = u32::MAX as u64;

/// Zero stands for no limit.
fn to_limit(value: u64) -> Option<u32> {
    u32::try_from(value).ok().filter(|&limit| limit > 0)
}

fn set_topics(settings: &mut Settings, topics: Vec<String>) -> Result<(), String> {
    if topics.is_empty() {
        return Err("expected at least one topic, such as trade,feed, or * alone for all".to_owned());
    }
    let bad = |topic: &&String| {
        topic.is_empty() || topic.contains(['/', ',']) || topic.contains(char::is_whitespace)
    };
    if let Some(topic) = topics.iter().find(bad) {
        return Err(format!("{topic:?} is no topic: it is empty or has a slash, a comma or a space"));
    }
    if topics.len() > 1 && topics.iter().any(|topic| topic == kiteq_registry::ANY_TOPIC) {
        return Err("* stands for all topics and must stand alone".to_owned());
    }
    settings.broker.topics = topics;
    Ok(())
}

/// In the order of the help.
pub(crate) const SETTINGS: &[Setting<Settings>] = &[
    Setting {
        flag: "bind",
        aliases: &[],
        file: FileKey::Key("bind", &[]),
        heading: WHERE,
        value_name: "IP:PORT",
        help: "Where to listen for clients. Port 0 takes a free one",
        kind: Kind::Text {
            set: |settings, text| parse_address(text).map(|address| settings.broker.bind = address),
            get: |settings| Some(settings.broker.bind.to_string()),
        },
    },
    Setting {
        flag: "advertise",
        aliases: &[],
        file: FileKey::Key("advertise", &[]),
        heading: WHERE,
        value_name: "HOST:PORT",
        help: "Address that clients are told, when it is not the one of --bind",
        kind: Kind::Text {
            set: |settings, text| {
                parse_host_port(text).map(|address| settings.broker.advertise = Some(address))
            },
            get: |settings| settings.broker.advertise.clone(),
        },
    },
    Setting {
        flag: "http",
        aliases: &["pport"],
        file: FileKey::Key("http", &["pport"]),
        heading: WHERE,
        value_name: "PORT|IP:PORT",
        help: "Where to listen for health, metrics, dead letters and the embedded registry. A port alone is on the \
               address of --bind. Whoever reaches it can delete dead letters",
        kind: Kind::Port {
            set: |settings, text| HttpAddress::parse(text).map(|address| settings.http = address),
            get: |settings| Some(settings.http.to_string()),
        },
    },
    Setting {
        flag: "store",
        aliases: &["db"],
        file: FileKey::Key("db", &["store"]),
        heading: WHERE,
        value_name: "URI",
        help: "Where messages wait: mmap://DIR?sync=group|os|interval:100ms, memory://?maxcap=N, mock://; by default \
               mmap below --data-dir",
        kind: Kind::Text {
            set: |settings, text| {
                settings.store = Some(text.to_owned());
                Ok(())
            },
            get: |settings| Some(settings.store_uri()),
        },
    },
    Setting {
        flag: "registry",
        aliases: &["zkhost"],
        file: FileKey::Elsewhere(REGISTRY_HOSTS),
        heading: WHERE,
        value_name: "URI",
        help: "Where brokers and clients find each other: embedded (this broker keeps it below --data-dir and serves it \
               over HTTP), zk://HOST:PORT,HOST:PORT, etcd://HOST:PORT,HOST:PORT, file://FILE; HOST:PORT alone is zk",
        kind: Kind::Text {
            set: |settings, text| registry_uri(text).map(|uri| settings.registry = uri),
            get: |settings| Some(settings.registry.clone()),
        },
    },
    Setting {
        flag: "topics",
        aliases: &[],
        file: FileKey::Key("topics", &[]),
        heading: WHERE,
        value_name: "A,B",
        help: "Topics served; messages of others are refused. * alone serves all",
        kind: Kind::List {
            example: "[\"trade\", \"feed\"]",
            set: set_topics,
            get: |settings| settings.broker.topics.clone(),
        },
    },
    Setting {
        flag: "data-dir",
        aliases: &[],
        file: FileKey::Key("dataDir", &[]),
        heading: WHERE,
        value_name: "DIR",
        help: "Where the default store and the embedded registry keep their files",
        kind: Kind::Text {
            set: |settings, text| {
                settings.data_dir = text.into();
                if text.is_empty() { Err("expected a directory".to_owned()) } else { Ok(()) }
            },
            get: |settings| Some(settings.data_dir.display().to_string()),
        },
    },
    Setting {
        flag: "delivery-first",
        aliases: &[],
        file: FileKey::Key("deliveryFirst", &[]),
        heading: DELIVERY,
        value_name: "BOOL",
        help: "Deliver before storing: what every group acks at once is never written",
        kind: Kind::Switch {
            set: |settings, on| settings.broker.delivery_first = on,
            get: |settings| settings.broker.delivery_first,
        },
    },
    Setting {
        flag: "delivery-seconds",
        aliases: &[],
        file: FileKey::Key("deliverySeconds", &[]),
        heading: DELIVERY,
        value_name: "SECONDS",
        help: "How long a delivery may stay unanswered before it counts as failed",
        kind: Kind::Time {
            bare_seconds: true,
            range: (Duration::from_millis(100), HOUR),
            set: |settings, duration| settings.broker.delivery_timeout = duration,
            get: |settings| settings.broker.delivery_timeout,
        },
    },
    Setting {
        flag: "recover-seconds",
        aliases: &[],
        file: FileKey::Key("recoverSeconds", &[]),
        heading: DELIVERY,
        value_name: "SECONDS",
        help: "How often the producers of undecided transactions are asked",
        kind: Kind::Time {
            bare_seconds: true,
            range: (Duration::from_millis(100), DAY),
            set: |settings, duration| settings.broker.recover_period = duration,
            get: |settings| settings.broker.recover_period,
        },
    },
    Setting {
        flag: "redelivery",
        aliases: &[],
        file: FileKey::Key("redelivery", &[]),
        heading: DELIVERY,
        value_name: "SCHEDULE",
        help: "When a failed delivery is tried again: waits after failures, below attempt counts",
        kind: Kind::Text {
            set: |settings, text| schedule::parse(text).map(|schedule| settings.broker.redelivery = schedule),
            get: |settings| Some(schedule::show(&settings.broker.redelivery)),
        },
    },
    Setting {
        flag: "delivery-window",
        aliases: &[],
        file: FileKey::Key("deliveryWindow", &[]),
        heading: DELIVERY,
        value_name: "N",
        help: "Unanswered deliveries that one connection may hold; more wait",
        kind: Kind::Count {
            range: 1..=1_000_000,
            set: |settings, count| settings.broker.delivery_window = to_usize(count),
            get: |settings| settings.broker.delivery_window as u64,
        },
    },
    Setting {
        flag: "default-watermark",
        aliases: &[],
        file: FileKey::Key("defaultWatermark", &[]),
        heading: DELIVERY,
        value_name: "N",
        help: "Messages a second for a group and topic whose binding sets no watermark; 0 is no limit",
        kind: Kind::Count {
            range: 0..=COUNT_MAX,
            set: |settings, count| settings.broker.default_watermark = to_limit(count),
            get: |settings| settings.broker.default_watermark.map_or(0, u64::from),
        },
    },
    Setting {
        flag: "message-lifetime",
        aliases: &[],
        file: FileKey::Key("messageLifetime", &[]),
        heading: DELIVERY,
        value_name: "DURATION",
        help: "Furthest expiry of a message; a later or absent one becomes this",
        kind: Kind::Time {
            bare_seconds: false,
            range: (SECOND, Duration::from_secs(365 * 24 * 3600)),
            set: |settings, duration| settings.broker.message_lifetime = duration,
            get: |settings| settings.broker.message_lifetime,
        },
    },
    Setting {
        flag: "binding-grace",
        aliases: &[],
        file: FileKey::Key("bindingGrace", &[]),
        heading: DELIVERY,
        value_name: "DURATION",
        help: "How long a group whose binding vanished keeps what waits for it",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, Duration::from_secs(30 * 24 * 3600)),
            set: |settings, duration| settings.broker.binding_grace = duration,
            get: |settings| settings.broker.binding_grace,
        },
    },
    Setting {
        flag: "takeover-grace",
        aliases: &[],
        file: FileKey::Key("takeoverGrace", &[]),
        heading: DELIVERY,
        value_name: "DURATION",
        help: "How long a broker that shares the store must have been gone before others take over its messages",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, DAY),
            set: |settings, duration| settings.broker.takeover_grace = duration,
            get: |settings| settings.broker.takeover_grace,
        },
    },
    Setting {
        flag: "receive-permits-per-second",
        aliases: &["recievePermitsPerSecond", "receivePermitsPerSecond"],
        file: FileKey::Key("recievePermitsPerSecond", &["receivePermitsPerSecond"]),
        heading: LIMITS,
        value_name: "N",
        help: "Publishes accepted a second over all connections, more are refused; 0 is no limit",
        kind: Kind::Count {
            range: 0..=COUNT_MAX,
            set: |settings, count| settings.broker.receive_permits_per_second = to_limit(count),
            get: |settings| settings.broker.receive_permits_per_second.map_or(0, u64::from),
        },
    },
    Setting {
        flag: "connections-max",
        aliases: &[],
        file: FileKey::Key("connectionsMax", &[]),
        heading: LIMITS,
        value_name: "N",
        help: "Connections at once; further ones are closed",
        kind: Kind::Count {
            range: 1..=1_000_000,
            set: |settings, count| settings.broker.connections_max = to_usize(count),
            get: |settings| settings.broker.connections_max as u64,
        },
    },
    Setting {
        flag: "handshake-seconds",
        aliases: &[],
        file: FileKey::Key("handshakeSeconds", &[]),
        heading: LIMITS,
        value_name: "SECONDS",
        help: "A connection that has not presented itself after so long is closed",
        kind: Kind::Time {
            bare_seconds: true,
            range: (Duration::from_millis(100), HOUR),
            set: |settings, duration| settings.broker.handshake_timeout = duration,
            get: |settings| settings.broker.handshake_timeout,
        },
    },
    Setting {
        flag: "idle-seconds",
        aliases: &[],
        file: FileKey::Key("idleSeconds", &[]),
        heading: LIMITS,
        value_name: "SECONDS",
        help: "A connection that has sent nothing, not even a heartbeat, for so long is closed",
        kind: Kind::Time {
            bare_seconds: true,
            range: (SECOND, DAY),
            set: |settings, duration| settings.broker.idle_timeout = duration,
            get: |settings| settings.broker.idle_timeout,
        },
    },
    Setting {
        flag: "body-max",
        aliases: &[],
        file: FileKey::Key("bodyMax", &[]),
        heading: LIMITS,
        value_name: "SIZE",
        help: "Largest message body. The Go client takes no more than 2MiB",
        kind: Kind::Size {
            range: 1 << 10..=64 << 20,
            set: |settings, bytes| settings.broker.body_bytes_max = to_usize(bytes),
            get: |settings| settings.broker.body_bytes_max as u64,
        },
    },
    Setting {
        flag: "length-prefixed-frame-max",
        aliases: &[],
        file: FileKey::Key("lengthPrefixedFrameMax", &[]),
        heading: LIMITS,
        value_name: "SIZE",
        help: "Largest frame for clients with length-prefixed frames, such as the Java client, which breaks its \
               connection over a larger one than 32KiB; such a delivery counts as failed instead",
        kind: Kind::Size {
            range: 1 << 10..=128 << 20,
            set: |settings, bytes| settings.broker.length_prefixed_frame_bytes_max = to_usize(bytes),
            get: |settings| settings.broker.length_prefixed_frame_bytes_max as u64,
        },
    },
    Setting {
        flag: "body-cache",
        aliases: &[],
        file: FileKey::Key("bodyCache", &[]),
        heading: LIMITS,
        value_name: "SIZE",
        help: "Memory for bodies of waiting messages; beyond it they are read back from the store",
        kind: Kind::Size {
            range: 0..=1 << 40,
            set: |settings, bytes| settings.broker.body_cache_bytes = to_usize(bytes),
            get: |settings| settings.broker.body_cache_bytes as u64,
        },
    },
    Setting {
        flag: "publish-budget",
        aliases: &[],
        file: FileKey::Key("publishBudget", &[]),
        heading: LIMITS,
        value_name: "SIZE",
        help: "Publishes that may be on their way into the store; above it sockets are not read",
        kind: Kind::Size {
            range: 1 << 20..=1 << 40,
            set: |settings, bytes| settings.broker.publish_budget_bytes = to_usize(bytes),
            get: |settings| settings.broker.publish_budget_bytes as u64,
        },
    },
    Setting {
        flag: "outbound-max",
        aliases: &[],
        file: FileKey::Key("outboundMax", &[]),
        heading: LIMITS,
        value_name: "SIZE",
        help: "Bytes queued towards one connection; above it no more is delivered to it",
        kind: Kind::Size {
            range: 64 << 10..=1 << 30,
            set: |settings, bytes| settings.broker.outbound_bytes_max = to_usize(bytes),
            get: |settings| settings.broker.outbound_bytes_max as u64,
        },
    },
    Setting {
        flag: "leave-grace",
        aliases: &[],
        file: FileKey::Key("leaveGrace", &[]),
        heading: STOPPING,
        value_name: "DURATION",
        help: "How long to go on serving after leaving the registry, so that clients move away",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, HOUR),
            set: |settings, duration| settings.broker.leave_grace = duration,
            get: |settings| settings.broker.leave_grace,
        },
    },
    Setting {
        flag: "drain-timeout",
        aliases: &[],
        file: FileKey::Key("drainTimeout", &[]),
        heading: STOPPING,
        value_name: "DURATION",
        help: "How long then to wait for deliveries that are in flight",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, HOUR),
            set: |settings, duration| settings.broker.drain_timeout = duration,
            get: |settings| settings.broker.drain_timeout,
        },
    },
    log_level(),
    log_format(),
    log_path(&[]),
];
