//! The configuration: what can be set, where it stands in files, and what must go together. [`table`] has every setting.

mod file;
mod print;
mod registry;
mod schedule;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;

use kiteq_broker::BrokerConfig;
use kiteq_settings::address::HttpAddress;
use kiteq_settings::{
    ConfigError, Configuration, FileReader, Loaded, Program, RetiredKey, Section, Setting, units,
};
use kiteq_telemetry::LogConfig;
use toml::de::DeTable;

pub(crate) use registry::EMBEDDED_REGISTRY;

const HTTP_PORT: u16 = 13801;
/// Files that are no client connections: store segments, HTTP connections, the registry, logs.
const FILES_BESIDE_CONNECTIONS: usize = 5_000;

const ABOUT: &str = "KiteQ: a message broker. Without any flag it serves all topics on 127.0.0.1:13800, keeps messages \
                     and bindings below ./data, and needs nothing beside it.";

const EXAMPLES: &str = "\
Examples:
  kiteq
      Everything by default: clients on 127.0.0.1:13800, HTTP on 127.0.0.1:13801, data below ./data
  kiteq --bind 10.0.0.5:13800 --registry zk://zk1:2181,zk2:2181 --topics trade,feed --data-dir /var/lib/kiteq
      One broker of a cluster that finds itself through ZooKeeper
  kiteq -clusterName=memory_dev -configPath=conf/cluster.toml -bind=10.0.0.5:13800 -pport=13801 -logPath=/var/log/kiteq
      A cluster of a configuration file, with the flags of existing installations
  kiteq -bind=172.30.3.124:13800 -pport=13801 -db=\"mock://kiteq\" -topics=trade,feed -zkhost=localhost:2181
      No file at all
  kiteq --config conf/cluster.toml --cluster memory_dev --check
      Say whether a configuration is right, and exit
  curl http://127.0.0.1:13801/readyz
      Ask a running broker whether it can do its job; there are /healthz, /metrics, /stat and /dlq as well

Every flag can be written -flag=VALUE, -flag VALUE, --flag=VALUE and --flag VALUE.
A flag wins over its environment variable, that over the file, that over the default.
SIGTERM or SIGINT stops the broker: it leaves the registry, lets clients move away, finishes what is in flight.
A second one ends it at once. Exit codes: 0 all done, 1 failed or something left undone, 2 wrong flags or configuration.";

/// The configuration of one broker.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The HTTP port.
    pub(crate) http: HttpAddress,
    /// The store, when it is not the default one.
    pub(crate) store: Option<String>,
    /// The registry.
    pub(crate) registry: String,
    /// Where the default store and the embedded registry are.
    pub(crate) data_dir: PathBuf,
    /// Logging.
    pub(crate) log: LogConfig,
    /// Everything that the broker itself wants to know.
    pub(crate) broker: BrokerConfig,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: HttpAddress::Port(HTTP_PORT),
            store: None,
            registry: EMBEDDED_REGISTRY.to_owned(),
            data_dir: PathBuf::from("./data"),
            log: LogConfig::for_binary("kiteq"),
            broker: BrokerConfig::default(),
        }
    }
}

impl Configuration for Settings {
    const PROGRAM: Program = Program {
        name: "kiteq",
        version: env!("CARGO_PKG_VERSION"),
        variable_prefix: "KITEQ_",
        about: ABOUT,
        examples: EXAMPLES,
    };
    const TABLE: &'static [Setting<Self>] = table::SETTINGS;
    const RETIRED: &'static [RetiredKey] = &table::RETIRED_KEYS;
    const SECTION: Option<Section> = Some(Section {
        flag: "cluster",
        alias: "clusterName",
        help: "Cluster in the file, when it has several",
    });

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn log_mut(&mut self) -> &mut LogConfig {
        &mut self.log
    }

    fn read_file(
        reader: &mut FileReader<'_>,
        file: &DeTable<'_>,
        section: Option<&str>,
    ) -> Result<Loaded<Self>, ConfigError> {
        file::read(reader, file, section)
    }

    fn check(loaded: &Loaded<Self>) -> Result<(), ConfigError> {
        let broker = &loaded.broker;
        if broker.bind.ip().is_unspecified() && broker.advertise.is_none() {
            let what = format!(
                "{} is every address of this machine; say which one clients are told: --advertise=HOST:PORT",
                broker.bind
            );
            return Err(loaded.error_at("bind", what));
        }
        for (flag, bytes) in
            [("publish-budget", broker.publish_budget_bytes), ("outbound-max", broker.outbound_bytes_max)]
        {
            if bytes < broker.body_bytes_max {
                let what = format!(
                    "must hold at least one body of --body-max ({})",
                    units::show_size(broker.body_bytes_max as u64)
                );
                return Err(loaded.error_at(flag, what));
            }
        }
        if loaded.http_address() == broker.bind && broker.bind.port() != 0 {
            return Err(
                loaded.error_at("http", format!("{} is the address of --bind; choose another", broker.bind))
            );
        }
        let all_topics = broker.topics.iter().any(|topic| topic == kiteq_registry::ANY_TOPIC);
        let by_name = ["zk://", "etcd://"].into_iter().find(|scheme| loaded.registry.starts_with(scheme));
        if let Some(scheme) = by_name.filter(|_| all_topics) {
            let what = format!("a {scheme} registry wants the topics by name: --topics=trade,feed");
            return Err(loaded.error_at("topics", what));
        }
        Ok(())
    }

    // Not a part of every check: a file may describe stores that another version has.
    fn check_to_run(loaded: &Loaded<Self>) -> Result<(), ConfigError> {
        let is_shared = loaded.store_uri().starts_with("mysql://");
        if is_shared && loaded.broker.advertise.is_none() && loaded.broker.bind.port() == 0 {
            let what = "a broker is known in a mysql:// store by its address, which must be the same in every run: \
                        give a port, or --advertise=HOST:PORT";
            return Err(loaded.error_at("bind", what.to_owned()));
        }
        kiteq_store::check(&loaded.store_uri()).map_err(|error| loaded.error_at("store", error.to_string()))
    }

    fn print(loaded: &Loaded<Self>) -> String {
        print::print(loaded)
    }

    fn remarks(&self) -> Vec<String> {
        let count = self.broker.secrets.len();
        let said = format!("secrets of {count} groups; a group without one is refused");
        if count > 0 { vec![said] } else { Vec::new() }
    }

    fn open_files(&self) -> (usize, &'static str) {
        (self.broker.connections_max + FILES_BESIDE_CONNECTIONS, "connections-max")
    }
}

impl Settings {
    /// The store, the default one included.
    pub(crate) fn store_uri(&self) -> String {
        self.store.clone().unwrap_or_else(|| format!("mmap://{}", self.data_dir.join("store").display()))
    }

    /// This broker's name in a store that brokers share: the address that it registers.
    pub(crate) fn owner(&self) -> String {
        self.broker.advertise.clone().unwrap_or_else(|| self.broker.bind.to_string())
    }

    /// Where to listen for HTTP.
    pub(crate) fn http_address(&self) -> SocketAddr {
        self.http.beside(self.broker.bind)
    }
}

#[cfg(test)]
mod command_line_tests;
#[cfg(test)]
mod tests;
