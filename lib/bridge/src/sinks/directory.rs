//! What ZooKeeper says of sinks and bridges, and what it is told of this one.
//!
//! | path | kind | what it is |
//! |---|---|---|
//! | `/flume/{business}` | persistent, made when it is missing | a business |
//! | `/flume/{business}/{name}` | whatever its maker chose | a sink; see [`SinkAddress`] for its name |
//! | `/flume_source/{business}/{mark}` | ephemeral | a bridge that drains for the business |
//!
//! While ZooKeeper is away the sinks that were last read stand, and nothing is known of other bridges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiteq_telemetry::{Importance, Shutdown};
use kiteq_zookeeper::{Client, Link, Sessions, delete};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::name::SinkAddress;
use super::session;
use crate::error::StartError;

/// Sinks of one business that are used; further ones are logged and ignored.
const SINKS_MAX: usize = 1_000;
/// Longest time that withdrawing our mark takes, and so closing.
const WITHDRAW_WAIT: Duration = Duration::from_secs(3);

/// The sinks of each business, once they have been read.
pub type SinksWatch = watch::Receiver<Arc<BTreeMap<String, BTreeSet<SinkAddress>>>>;

/// The marks of all bridges that are alive; `None` while that is not known.
pub type AliveWatch = watch::Receiver<Option<Arc<BTreeSet<String>>>>;

/// What a directory is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// ZooKeeper servers, `host:port`.
    pub hosts: Vec<String>,
    /// Session timeout asked of ZooKeeper.
    pub session_timeout: Duration,
    /// The businesses to follow.
    pub businesses: Vec<String>,
    /// Our mark, `{hostname}_{instance}:{pid}`.
    pub mark: String,
}

/// A directory of sinks and bridges in ZooKeeper. Dropping it withdraws our mark with the session.
#[derive(Debug)]
pub struct Directory {
    shared: Arc<Shared>,
    stop: CancellationToken,
    _session: DropGuard,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: DirectoryConfig,
    pub(super) sessions: Sessions,
    sinks: watch::Sender<Arc<BTreeMap<String, BTreeSet<SinkAddress>>>>,
    pub(super) alive: watch::Sender<Option<Arc<BTreeSet<String>>>>,
    /// Names in each business that were logged because they name no sink.
    strange: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Directory {
    /// Starts to follow ZooKeeper, which need not be reachable yet, and to keep up our mark.
    ///
    /// # Errors
    /// [`StartError::Setting`] for a name that cannot be a node's.
    pub fn start(config: DirectoryConfig, shutdown: &Shutdown) -> Result<Self, StartError> {
        check(&config)?;
        let shared = Arc::new(Shared {
            sessions: Sessions::new(&config.hosts, config.session_timeout),
            config,
            sinks: watch::Sender::default(),
            alive: watch::Sender::new(None),
            strange: Mutex::default(),
        });
        let stop = CancellationToken::new();
        // It goes on while what was claimed is drained, after the service has been told to stop: without our mark, others
        // would take our claims.
        shutdown.spawn("zookeeper", Importance::Essential, session::run(Arc::clone(&shared), stop.clone()));
        Ok(Self { shared, _session: stop.clone().drop_guard(), stop })
    }

    /// The businesses that it follows.
    #[must_use]
    pub fn businesses(&self) -> &[String] {
        &self.shared.config.businesses
    }

    /// Follows the sinks. Without ZooKeeper what was last read stands.
    #[must_use]
    pub fn sinks(&self) -> SinksWatch {
        self.shared.sinks.subscribe()
    }

    /// Follows the marks of the bridges that are alive, whatever business they drain for, our own among them. `None` from the
    /// moment that the connection is lost until everything has been read again: nobody may be taken for dead then.
    #[must_use]
    pub fn alive(&self) -> AliveWatch {
        self.shared.alive.subscribe()
    }

    /// Whether ZooKeeper is connected and read.
    ///
    /// # Errors
    /// What is in the way, for people.
    pub fn ready(&self) -> Result<(), String> {
        let cluster = self.shared.sessions.cluster();
        match &*self.shared.sessions.link().borrow() {
            Link::Unknown => Err(format!("ZooKeeper {cluster}: not connected yet")),
            Link::Down(reason) => Err(format!("ZooKeeper {cluster}: {reason}")),
            Link::Up(_) if self.shared.alive.borrow().is_none() => {
                Err(format!("ZooKeeper {cluster}: its connection is away, or it has not been read yet"))
            }
            Link::Up(_) => Ok(()),
        }
    }

    /// Withdraws our mark and ends the session. For when nothing is claimed any more: others take claims without a mark. Bounded
    /// in time.
    ///
    /// # Cancel safety
    /// Cancel safe: the mark then goes with the session.
    pub async fn close(self) {
        let link = self.shared.sessions.link().borrow().clone();
        // First, so that it is not made again.
        self.stop.cancel();
        let Link::Up(client) = link else { return };
        match timeout(WITHDRAW_WAIT, self.withdraw(&client)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "our mark is not withdrawn; it goes with the session");
            }
            Err(_) => tracing::warn!("our mark is not withdrawn in time; it goes with the session"),
        }
    }

    async fn withdraw(&self, client: &Client) -> Result<(), kiteq_zookeeper::Error> {
        for business in self.businesses() {
            delete(client, &format!("{}/{}", marks(business), self.shared.config.mark)).await?;
        }
        Ok(())
    }
}

impl Shared {
    /// Takes over the names of the sinks of a business.
    pub(super) fn set_sinks(&self, business: &str, names: Vec<String>) {
        let (mut sinks, mut strange) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            match SinkAddress::from_node(&name) {
                Some(sink) if sinks.len() < SINKS_MAX || sinks.contains(&sink) => {
                    sinks.insert(sink);
                }
                Some(_) | None => {
                    strange.insert(name);
                }
            }
        }
        self.tell_of_strange(business, strange);
        self.sinks.send_if_modified(|known| {
            if known.get(business) == Some(&sinks) {
                return false;
            }
            tracing::info!(business, sinks = sinks.len(), "sinks of the business were read");
            Arc::make_mut(known).insert(business.to_owned(), sinks);
            true
        });
    }

    /// Logs each name once for as long as it is there.
    fn tell_of_strange(&self, business: &str, strange: BTreeSet<String>) {
        let mut known = self.strange.lock().unwrap_or_else(PoisonError::into_inner);
        let told = known.entry(business.to_owned()).or_default();
        for name in strange.difference(told) {
            tracing::warn!(
                business,
                name,
                "node below /flume is ignored: its name is not host_port, host_port_SEQ or host:port_SEQ, or there are more than {SINKS_MAX} sinks"
            );
        }
        *told = strange;
    }
}

/// Where a business's sinks are.
pub(super) fn sinks(business: &str) -> String {
    format!("/flume/{business}")
}

/// The parent of [`marks`].
pub(super) const ALL_MARKS: &str = "/flume_source";

/// Where the marks of the bridges of a business are.
pub(super) fn marks(business: &str) -> String {
    format!("{ALL_MARKS}/{business}")
}

fn check(config: &DirectoryConfig) -> Result<(), StartError> {
    let setting = |setting, reason: String| Err(StartError::Setting { setting, reason });
    if config.hosts.is_empty() {
        return setting("zookeeper_hosts", "name at least one host:port".to_owned());
    }
    if let Some(host) = config.hosts.iter().find(|host| !is_host_and_port(host)) {
        return setting("zookeeper_hosts", format!("{host:?} is not host:port"));
    }
    if let Some(name) = config.businesses.iter().find(|name| !is_node_name(name)) {
        return setting("businesses", format!("{name:?} cannot be the name of a ZooKeeper node"));
    }
    if !is_node_name(&config.mark) {
        let reason = format!(
            "{:?}, made of host name and instance, cannot be the name of a ZooKeeper node",
            config.mark
        );
        return setting("instance", reason);
    }
    Ok(())
}

fn is_host_and_port(host: &str) -> bool {
    let parts = host.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_node_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|letter: char| letter == '/' || letter.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DirectoryConfig {
        DirectoryConfig {
            hosts: vec!["127.0.0.1:2181".to_owned()],
            session_timeout: Duration::from_secs(1),
            businesses: vec!["feed".to_owned()],
            mark: "host_bridge:1".to_owned(),
        }
    }

    #[test]
    fn a_setting_without_meaning_is_named() {
        assert!(check(&config()).is_ok());
        let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (config, part) in [
            (DirectoryConfig { hosts: Vec::new(), ..config() }, "zookeeper_hosts"),
            (DirectoryConfig { hosts: strings(&["zk"]), ..config() }, "\"zk\" is not host:port"),
            (DirectoryConfig { hosts: strings(&["a:1", ":2181"]), ..config() }, "\":2181\""),
            (DirectoryConfig { businesses: strings(&["feed", ""]), ..config() }, "businesses: \"\""),
            (DirectoryConfig { businesses: strings(&["a/b"]), ..config() }, "\"a/b\""),
            (DirectoryConfig { mark: "a/b_c:1".to_owned(), ..config() }, "instance"),
        ] {
            let error = check(&config).unwrap_err().to_string();
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
}
