//! The configuration: what can be set, where a value comes from, and which one wins.
//!
//! A flag wins over an environment variable, that over the file, that over the default. [`table`] knows every setting.

mod address;
mod error;
mod file;
pub(crate) mod kind;
mod nearest;
mod print;
mod schedule;
pub(crate) mod table;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kiteq_broker::BrokerConfig;
use kiteq_telemetry::LogConfig;

pub(crate) use address::EMBEDDED_REGISTRY;
pub(crate) use error::{ConfigError, ConfigErrors};
pub(crate) use nearest::nearest;

use address::HttpAddress;
use table::SETTINGS;

const HTTP_PORT: u16 = 13801;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A line of the file.
    File(String),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::File(place) | Self::Variable(place) | Self::Flag(place)) = self;
        formatter.write_str(place)
    }
}

/// What the command line asks for, besides single settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// The cluster in it.
    pub(crate) cluster: Option<String>,
    /// Settings from flags: the setting's name, and the value.
    pub(crate) flags: Vec<(&'static str, String)>,
    /// Environment variables whose names begin with `KITEQ_`.
    pub(crate) variables: BTreeMap<String, String>,
}

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
    /// What is to be said once in the log: keys that mean nothing any more, variables that look misspelled.
    pub(crate) notes: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
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
            notes: Vec::new(),
            origins: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Puts all sources together and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong in the file, or else the first thing that is wrong elsewhere.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut settings = Self::default();
        match (&sources.file, &sources.cluster) {
            (Some(path), cluster) => file::load(path, cluster.as_deref(), &mut settings)?,
            (None, Some(cluster)) => {
                let what = format!(
                    "cluster {cluster:?} is in a configuration file, and none is given: add --config=FILE \
                     (-configPath=FILE)"
                );
                return Err(ConfigError::new("--cluster", what).into());
            }
            (None, None) => {}
        }
        settings.apply_variables(&sources.variables)?;
        for (flag, value) in &sources.flags {
            let place = format!("--{flag}");
            settings.apply(flag, value, Origin::Flag(place))?;
        }
        settings.check()?;
        Ok(settings)
    }

    fn apply(&mut self, flag: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.flag == flag) else {
            return Err(ConfigError::new(origin.to_string(), "is not known".to_owned()));
        };
        let applied = setting.kind.apply_text(self, value);
        applied.map_err(|reason| ConfigError::new(origin.to_string(), reason))?;
        self.origins.insert(setting.flag, origin);
        Ok(())
    }

    fn apply_variables(&mut self, variables: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        let known: Vec<String> = SETTINGS.iter().map(table::Setting::variable).collect();
        for (name, value) in variables {
            if let Some(setting) = SETTINGS.iter().find(|setting| &setting.variable() == name) {
                self.apply(setting.flag, value, Origin::Variable(name.clone()))?;
                continue;
            }
            // Not an error: orchestrators set variables of their own for a service of this name.
            if let Some(meant) = nearest(name, known.iter().map(String::as_str)) {
                self.notes
                    .push(format!("environment variable {name} is not known and ignored; there is {meant}"));
            }
        }
        Ok(())
    }

    /// Checks what no single value can get wrong.
    fn check(&self) -> Result<(), ConfigError> {
        let broker = &self.broker;
        if broker.bind.ip().is_unspecified() && broker.advertise.is_none() {
            let what = format!(
                "{} is every address of this machine; say which one clients are told: --advertise=HOST:PORT",
                broker.bind
            );
            return Err(self.error_at("bind", what));
        }
        for (flag, bytes) in
            [("publish-budget", broker.publish_budget_bytes), ("outbound-max", broker.outbound_bytes_max)]
        {
            if bytes < broker.body_bytes_max {
                let what = format!(
                    "must hold at least one body of --body-max ({})",
                    units::show_size(broker.body_bytes_max as u64)
                );
                return Err(self.error_at(flag, what));
            }
        }
        if self.http_address() == broker.bind && broker.bind.port() != 0 {
            return Err(
                self.error_at("http", format!("{} is the address of --bind; choose another", broker.bind))
            );
        }
        let all_topics = broker.topics.iter().any(|topic| topic == kiteq_registry::ANY_TOPIC);
        let by_name = ["zk://", "etcd://"].into_iter().find(|scheme| self.registry.starts_with(scheme));
        if let Some(scheme) = by_name.filter(|_| all_topics) {
            let what = format!("a {scheme} registry wants the topics by name: --topics=trade,feed");
            return Err(self.error_at("topics", what));
        }
        Ok(())
    }

    /// Checks the store's URI, without opening anything. Not a part of [`Settings::load`]: a file may describe stores that
    /// another version has.
    ///
    /// # Errors
    /// When there is no such store, or it does not take one of the parameters.
    pub(crate) fn check_store(&self) -> Result<(), ConfigError> {
        kiteq_store::check(&self.store_uri()).map_err(|error| self.error_at("store", error.to_string()))
    }

    fn error_at(&self, flag: &'static str, what: String) -> ConfigError {
        let place = self.origins.get(flag).map_or_else(|| format!("--{flag}"), ToString::to_string);
        ConfigError::new(place, what)
    }

    /// The store, the default one included.
    pub(crate) fn store_uri(&self) -> String {
        self.store.clone().unwrap_or_else(|| format!("mmap://{}", self.data_dir.join("store").display()))
    }

    /// Where to listen for HTTP.
    pub(crate) fn http_address(&self) -> SocketAddr {
        self.http.beside(self.broker.bind)
    }

    /// One line for each setting that says where things are, and for each other one that is not the default.
    pub(crate) fn lines(&self) -> Vec<String> {
        let default = Self::default();
        let shown = SETTINGS.iter().filter_map(|setting| {
            let value = setting.kind.show_text(self)?;
            let origin = self.origins.get(setting.flag);
            let worth_it =
                setting.heading == table::WHERE || setting.kind.show_text(&default).as_ref() != Some(&value);
            let origin = origin.map_or_else(|| "default".to_owned(), ToString::to_string);
            worth_it.then(|| format!("{} = {value} ({origin})", setting.flag))
        });
        shown.chain(self.secrets_line()).collect()
    }

    fn secrets_line(&self) -> Option<String> {
        let count = self.broker.secrets.len();
        (count > 0).then(|| format!("secrets of {count} groups; a group without one is refused"))
    }
}

/// `FILE:LINE`.
fn line_of(path: &Path, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    format!("{}:{}", path.display(), before.matches('\n').count() + 1)
}

#[cfg(test)]
mod tests;
