//! The configuration: what can be set, and what must go together. [`table`] has every setting.

mod table;

use std::net::{Ipv4Addr, SocketAddr};

use kiteq_bridge::{BridgeConfig, SinkTls};
use kiteq_settings::address::HttpAddress;
use kiteq_settings::{ConfigError, Configuration, Loaded, Program, Setting, units};
use kiteq_telemetry::LogConfig;

const HTTP_PORT: u16 = 13802;
/// Sinks that a bridge is expected to know at once, for the limit of open files.
const SINKS_EXPECTED: usize = 100;
/// Files that are no connections to Redis or sinks: HTTP connections, ZooKeeper, logs.
const FILES_BESIDE_CONNECTIONS: usize = 200;

const ABOUT: &str = "Takes elements from Redis lists and brings them to Flume's Thrift sources. Until a sink has said OK for its batch, \
     an element is in Redis: in its list, in a claim, parked, or in a dead-letter list.";

const EXAMPLES: &str = "\
Examples:
  flume-bridge -redis=h1:6379,h2:6379 -queuename=user-log -zkhost=zk1:2181,zk2:2181 -businesses=location,feed
      -instancename=a -logpath=/var/log/flume-bridge -pport=13802 -iscompress=false
      The flags of existing installations, on one line
  flume-bridge --redis redis://:PASSWORD@h1:6379 --queues user-log,app-log --zookeeper zk1:2181 --businesses location
      Two lists of one server that wants a password; rediss:// is TLS
  flume-bridge --config conf/flume-bridge.toml --check
      Say whether a configuration is right, and exit
  flume-bridge --config conf/flume-bridge.toml --print-config
      Show what is in force, and where each value comes from
  curl http://127.0.0.1:13802/stat
      Ask a running bridge what it is doing; there are /healthz, /readyz and /metrics as well

Every flag can be written -flag=VALUE, -flag VALUE, --flag=VALUE and --flag VALUE.
A flag wins over its environment variable, that over the file, that over the default.
Give each bridge of a host an --instance of its own: after a crash it takes back what it had claimed under that name.
SIGTERM or SIGINT stops the bridge: nothing more is claimed, what is claimed is sent, and what cannot be sent within
--drain-timeout is put back. A second one ends it at once; its next start puts back what it held.
Exit codes: 0 all done, 1 failed or something left undone, 2 wrong flags or configuration.";

/// The configuration of one bridge.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The HTTP port.
    pub(crate) http: HttpAddress,
    /// The name of this host, when it is not what the system says.
    pub(crate) host_name: Option<String>,
    /// Whether sinks are reached by TLS.
    pub(crate) sink_tls: bool,
    /// How, if they are.
    pub(crate) tls: SinkTls,
    /// Logging.
    pub(crate) log: LogConfig,
    /// Everything else that the bridge itself wants to know.
    pub(crate) bridge: BridgeConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: HttpAddress::Port(HTTP_PORT),
            host_name: None,
            sink_tls: false,
            tls: SinkTls::default(),
            log: LogConfig::for_binary("flume-bridge"),
            bridge: BridgeConfig::default(),
        }
    }
}

impl Configuration for Settings {
    const PROGRAM: Program = Program {
        name: "flume-bridge",
        version: env!("CARGO_PKG_VERSION"),
        variable_prefix: "FLUME_BRIDGE_",
        about: ABOUT,
        examples: EXAMPLES,
    };
    const TABLE: &'static [Setting<Self>] = table::SETTINGS;

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn log_mut(&mut self) -> &mut LogConfig {
        &mut self.log
    }

    fn check(loaded: &Loaded<Self>) -> Result<(), ConfigError> {
        let (batch, sinks) = (&loaded.bridge.batch, &loaded.bridge.sinks);
        if sinks.backoff_max < sinks.backoff_min {
            let least = units::show_duration(sinks.backoff_min);
            let what = format!("must not be shorter than --sink-backoff-min ({least})");
            return Err(loaded.error_at("sink-backoff-max", what));
        }
        if batch.bytes_max > batch.frame_bytes_max {
            let most = units::show_size(batch.frame_bytes_max as u64);
            return Err(loaded.error_at("batch-bytes", format!("must fit into --frame-max ({most})")));
        }
        if batch.frame_bytes_max > loaded.bridge.pipeline_bytes_max {
            let least = units::show_size(batch.frame_bytes_max as u64);
            return Err(
                loaded.error_at("pipeline-max", format!("must hold at least one --frame-max ({least})"))
            );
        }
        for (flag, is_set) in [
            ("sink-authorities", loaded.tls.authorities.is_some()),
            ("sink-server-name", loaded.tls.server_name.is_some()),
        ] {
            if is_set && !loaded.sink_tls {
                return Err(loaded.error_at(flag, "means something with --sink-tls=true only"));
            }
        }
        Ok(())
    }

    fn check_to_run(loaded: &Loaded<Self>) -> Result<(), ConfigError> {
        let bridge = &loaded.bridge;
        if bridge.queues.is_empty() {
            let what =
                "is not set: say which Redis lists to drain, such as --queues=user-log (-queuename=user-log)";
            return Err(loaded.error_at("queues", what));
        }
        if bridge.businesses.is_empty() {
            let what = "is not set: say which nodes of ZooKeeper's /flume to send to, such as \
                        --businesses=location,default";
            return Err(loaded.error_at("businesses", what));
        }
        Ok(())
    }

    fn open_files(&self) -> (usize, &'static str) {
        let to_redis = self.bridge.redis_hosts.len().saturating_mul(self.bridge.redis_connections_max);
        let to_sinks = SINKS_EXPECTED.saturating_mul(self.bridge.sinks.connections_per_sink);
        (to_redis.saturating_add(to_sinks).saturating_add(FILES_BESIDE_CONNECTIONS), "sink-connections")
    }
}

impl Settings {
    /// Where to listen for HTTP; a port alone is on loopback.
    pub(crate) fn http_address(&self) -> SocketAddr {
        self.http.beside((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// What the bridge is told.
    pub(crate) fn into_bridge(self) -> BridgeConfig {
        let mut bridge = self.bridge;
        bridge.host_name = self.host_name.unwrap_or_else(system_host_name);
        bridge.sinks.tls = self.sink_tls.then_some(self.tls);
        bridge
    }
}

/// What the system calls this host.
fn system_host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
