//! A running bridge: the drains of all queues on all servers, and what they share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiteq_flume::Batch;
use kiteq_telemetry::{Importance, Shutdown};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::config::{BridgeConfig, ClaimMode};
use crate::deliver::{AliveMarks, Deliver, Undeliverable};
use crate::drain::{Drain, DrainParts, Progress};
use crate::error::StartError;
use crate::limit::{Budget, RateLimit};
use crate::metrics::{Metrics, QueueLabels};
use crate::recovery::{Warden, Watched};
use crate::redis::{Address, Dialer, Keys, Owner, tls_connector};
use crate::route::Routes;
use crate::sinks::{Directory, DirectoryConfig, Locality, Sinks};
use crate::stat::{BusinessStat, Stat, StopReport};

/// Time for what stops after the drains.
const HELPERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to a server beside those of its queues.
const CONNECTIONS_PER_SERVER: usize = 1;
/// One to claim and read, one to settle.
const CONNECTIONS_PER_QUEUE: usize = 2;

/// One queue on one server.
#[derive(Debug)]
struct Source {
    host: String,
    queue: String,
    progress: Arc<Progress>,
}

/// A running bridge: it drains its queues until its [`Shutdown`] is triggered.
#[derive(Debug)]
pub struct Bridge {
    mark: String,
    sources: Vec<Source>,
    businesses: Vec<(String, watch::Receiver<bool>)>,
    alive: watch::Receiver<AliveMarks>,
    budget: Arc<Budget>,
    drain_timeout: Duration,
    /// Stops the drains; whoever started the bridge has it too.
    shutdown: Shutdown,
    drains: Vec<tokio::task::JoinHandle<()>>,
    /// Stops what drains need until their end.
    helpers: Shutdown,
    outside: Option<Outside>,
}

/// The way to the sinks that ZooKeeper names.
#[derive(Debug)]
struct Outside {
    directory: Directory,
    sinks: Sinks,
}

impl Deliver for Sinks {
    async fn deliver(&self, business: &str, batch: &Batch) -> Result<(), Undeliverable> {
        match self.send(business, batch).await {
            Ok(_) => Ok(()),
            Err(none) => {
                tracing::debug!(business, "a batch is parked: {none}");
                Err(Undeliverable)
            }
        }
    }

    fn availability(&self, business: &str) -> watch::Receiver<bool> {
        self.availability(business)
    }
}

impl Bridge {
    /// Starts to drain. Servers that are away are waited for; their absence shows in [`Bridge::ready`].
    ///
    /// # Errors
    /// A setting that has no meaning, or TLS files that cannot be used.
    ///
    /// # Cancel safety
    /// Not cancel safe: tasks that were started go on until `shutdown` is triggered.
    // Nothing is waited for today; that a start may wait is the interface.
    #[allow(clippy::unused_async, reason = "a start may wait")]
    pub async fn start(
        config: BridgeConfig,
        metrics: &mut Registry,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        // Refused before anything is started.
        check(&config)?;
        let helpers = Shutdown::new();
        let directory = DirectoryConfig {
            hosts: config.zookeeper_hosts.clone(),
            session_timeout: config.zookeeper_session_timeout,
            businesses: Routes::new(&config.businesses).names().to_vec(),
            mark: mark(&config),
        };
        let directory = Directory::start(directory, &helpers)?;
        let locality = Locality::of_this_host(std::slice::from_ref(&config.host_name));
        let sinks = Sinks::start(config.sinks.clone(), &directory, locality, metrics, &helpers)?;
        let alive = directory.alive();
        let bridge = Self::start_with(config, sinks.clone(), alive, metrics, shutdown, helpers)?;
        Ok(Self { outside: Some(Outside { directory, sinks }), ..bridge })
    }

    /// Starts to drain towards whatever `deliver` brings batches to. `alive` are the marks of all living bridges; `helpers` is what
    /// `deliver` and `alive` run on, stopped once everything that was claimed is settled or put back.
    ///
    /// # Errors
    /// A setting that has no meaning.
    pub fn start_with<D: Deliver>(
        config: BridgeConfig,
        deliver: D,
        alive: watch::Receiver<AliveMarks>,
        metrics: &mut Registry,
        shutdown: &Shutdown,
        helpers: Shutdown,
    ) -> Result<Self, StartError> {
        let addresses = check(&config)?;
        let mark = mark(&config);
        let tls = if addresses.iter().any(|address| address.tls) {
            let connector = tls_connector(config.redis_authorities.as_deref());
            Some(connector.map_err(|reason| StartError::Setting { setting: "redis authorities", reason })?)
        } else {
            None
        };
        if config.claim_mode == ClaimMode::Pop {
            tracing::warn!(
                "claim=pop: elements are popped without a claim; those that this bridge holds when it dies are lost"
            );
        }
        let dialer = |address: Address| Dialer {
            timeout: config.redis_timeout,
            tls: tls.clone().filter(|_| address.tls),
            name: client_name(&mark),
            address,
        };
        let dialers: Vec<Dialer> = addresses.into_iter().map(dialer).collect();
        let routes = Arc::new(Routes::new(&config.businesses));
        let businesses =
            routes.names().iter().map(|name| (name.clone(), deliver.availability(name))).collect();
        let starter = Starter {
            owner: Owner::new(&mark),
            budget: Arc::new(Budget::new(config.pipeline_bytes_max)),
            rate: Arc::new(RateLimit::new(config.rate_limit, Instant::now())),
            metrics: Metrics::register(metrics),
            config: Arc::new(config),
            deliver,
            routes,
            alive: alive.clone(),
            shutdown: shutdown.clone(),
            helpers: helpers.clone(),
        };
        shutdown.spawn("helpers", Importance::Essential, watch_helpers(helpers.clone(), shutdown.clone()));
        let (mut sources, mut drains) = (Vec::new(), Vec::new());
        for dialer in &dialers {
            starter.start_server(dialer, &mut sources, &mut drains);
        }
        Ok(Self {
            mark,
            sources,
            businesses,
            alive,
            budget: starter.budget,
            drain_timeout: starter.config.drain_timeout,
            shutdown: shutdown.clone(),
            drains,
            helpers,
            outside: None,
        })
    }

    /// Whether it can do its job: every queue is being drained, and ZooKeeper is known.
    ///
    /// # Errors
    /// What is in the way, for people.
    pub fn ready(&self) -> Result<(), String> {
        let troubles = self.sources.iter().filter_map(|source| {
            let trouble = source.progress.trouble()?;
            Some(format!("queue {} on {}: {trouble}", source.queue, source.host))
        });
        let mut troubles: Vec<String> = troubles.collect();
        match &self.outside {
            Some(outside) => troubles.extend(outside.directory.ready().err()),
            None if self.alive.borrow().is_none() => troubles.push("living peers are not known".to_owned()),
            None => {}
        }
        if !self.businesses.is_empty() && !self.businesses.iter().any(|(_, available)| *available.borrow()) {
            troubles.push("no business has a sink".to_owned());
        }
        if troubles.is_empty() { Ok(()) } else { Err(troubles.join("; ")) }
    }

    /// How it is doing.
    #[must_use]
    pub fn stat(&self) -> Stat {
        let business = |(name, available): &(String, watch::Receiver<bool>)| BusinessStat {
            name: name.clone(),
            available: *available.borrow(),
        };
        Stat {
            mark: self.mark.clone(),
            queues: self
                .sources
                .iter()
                .map(|source| source.progress.stat(&source.host, &source.queue))
                .collect(),
            businesses: self.businesses.iter().map(business).collect(),
            sinks: self.outside.as_ref().map(|outside| outside.sinks.stat()).unwrap_or_default(),
            pipeline_bytes: self.budget.used_bytes() as u64,
        }
    }

    /// Waits until everything that was claimed is settled or put back, within the drain timeout. The `shutdown` given
    /// at the start is triggered if it has not been yet.
    ///
    /// # Cancel safety
    /// Not cancel safe: what is not put back yet stays in its claims, for the next start.
    pub async fn stop(self) -> StopReport {
        let settled = self.sum(|progress| &progress.settled);
        let put_back = self.sum(|progress| &progress.put_back);
        self.shutdown.trigger("the bridge is stopped");
        // A drain ends by itself soon after its timeout; the helpers' time is for putting back.
        let ends_at = tokio::time::Instant::now() + self.drain_timeout + HELPERS_TIMEOUT;
        let mut unfinished = 0;
        let (drains, sources) = (self.drains, self.sources);
        for mut drain in drains {
            if tokio::time::timeout_at(ends_at, &mut drain).await.is_err() {
                drain.abort();
                unfinished += 1;
            }
        }
        if unfinished > 0 {
            tracing::error!("{unfinished} queues did not stop in time: their claims stay in Redis");
        }
        if let Some(Outside { directory, sinks }) = self.outside {
            // Nothing is claimed any more, so nobody need take us for alive.
            directory.close().await;
            drop(sinks);
        }
        self.helpers.finish(HELPERS_TIMEOUT).await;
        let sum = |of: fn(&Progress) -> &AtomicU64| total(&sources, of);
        StopReport {
            claims_settled: sum(|progress| &progress.settled) - settled,
            claims_put_back: sum(|progress| &progress.put_back) - put_back,
            claims_left: sum(|progress| &progress.claims),
            elements_lost: sum(|progress| &progress.lost),
        }
    }

    fn sum(&self, of: fn(&Progress) -> &AtomicU64) -> u64 {
        total(&self.sources, of)
    }
}

/// A helper that cannot do its job stops the service.
async fn watch_helpers(helpers: Shutdown, shutdown: Shutdown) {
    tokio::select! {
        () = helpers.cancelled() => {
            if let Some(failure) = helpers.failure() {
                shutdown.fail(failure);
            }
        }
        () = shutdown.cancelled() => {}
    }
}

fn total(sources: &[Source], of: fn(&Progress) -> &AtomicU64) -> u64 {
    sources.iter().map(|source| of(&source.progress).load(Ordering::Relaxed)).sum()
}

/// The mark of a bridge with this configuration, in this process.
pub(crate) fn mark(config: &BridgeConfig) -> String {
    format!("{}_{}:{}", config.host_name, config.instance, std::process::id())
}

/// Redis takes no spaces in a client's name.
fn client_name(mark: &str) -> Arc<str> {
    mark.chars().map(|char| if char.is_ascii_graphic() { char } else { '-' }).collect::<String>().into()
}

/// What is needed to start drains.
struct Starter<D> {
    config: Arc<BridgeConfig>,
    owner: Owner,
    deliver: D,
    routes: Arc<Routes>,
    alive: watch::Receiver<AliveMarks>,
    budget: Arc<Budget>,
    rate: Arc<RateLimit>,
    metrics: Metrics,
    shutdown: Shutdown,
    helpers: Shutdown,
}

impl<D: Deliver> Starter<D> {
    fn start_server(
        &self,
        dialer: &Dialer,
        sources: &mut Vec<Source>,
        drains: &mut Vec<tokio::task::JoinHandle<()>>,
    ) {
        let host = dialer.address.to_string();
        let mut watched = Vec::new();
        for queue in unique(&self.config.queues) {
            let progress = Arc::new(Progress::default());
            progress.set_trouble(Some("connecting".to_owned()));
            let keys = Keys::new(queue);
            let labels = QueueLabels { redis: host.clone(), queue: queue.clone() };
            watched.push(Watched { keys: keys.clone(), progress: Arc::clone(&progress), labels });
            let drain = self.drain(dialer, keys, Arc::clone(&progress), sources.len());
            let task = drain.run(self.shutdown.clone());
            drains.push(self.shutdown.spawn(format!("drain {queue} on {host}"), Importance::Essential, task));
            sources.push(Source { host: host.clone(), queue: queue.clone(), progress });
        }
        let warden = Warden {
            config: Arc::clone(&self.config),
            dialer: dialer.clone(),
            ours: self.owner.clone(),
            queues: watched,
            alive: self.alive.clone(),
            metrics: self.metrics.clone(),
        };
        self.shutdown.spawn(
            format!("warden of {host}"),
            Importance::Essential,
            warden.run(self.shutdown.clone()),
        );
    }

    fn drain(&self, dialer: &Dialer, keys: Keys, progress: Arc<Progress>, task: usize) -> Drain<D> {
        Drain::new(DrainParts {
            config: Arc::clone(&self.config),
            dialer: dialer.clone(),
            keys,
            owner: self.owner.of_task(task),
            deliver: self.deliver.clone(),
            routes: Arc::clone(&self.routes),
            budget: Arc::clone(&self.budget),
            rate: Arc::clone(&self.rate),
            metrics: self.metrics.clone(),
            progress,
            helpers: self.helpers.clone(),
        })
    }
}

fn unique(names: &[String]) -> BTreeSet<&String> {
    names.iter().collect()
}

/// Pages of more elements would keep Redis from its other work for too long.
const CLAIM_ELEMENTS_MAX: usize = 10_000;

fn check(config: &BridgeConfig) -> Result<Vec<Address>, StartError> {
    let refuse = |setting, reason: String| Err(StartError::Setting { setting, reason });
    let mut addresses: Vec<Address> = Vec::new();
    for host in &config.redis_hosts {
        let address = Address::parse(host)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return refuse("redis hosts", "there is none to drain".to_owned());
    }
    if config.queues.is_empty() || config.queues.iter().any(String::is_empty) {
        return refuse("queues", "name at least one, none of them empty".to_owned());
    }
    if config.businesses.is_empty() || config.businesses.iter().any(String::is_empty) {
        return refuse("businesses", "name at least one, none of them empty".to_owned());
    }
    let connections = unique(&config.queues).len() * CONNECTIONS_PER_QUEUE + CONNECTIONS_PER_SERVER;
    if config.redis_connections_max < connections {
        return refuse(
            "redis connections",
            format!("{connections} are needed for so many queues, allow as many"),
        );
    }
    if !(1..=CLAIM_ELEMENTS_MAX).contains(&config.claim_elements) {
        return refuse(
            "claim elements",
            format!("from 1 to {CLAIM_ELEMENTS_MAX}, not {}", config.claim_elements),
        );
    }
    let positive = [
        ("claims in flight", config.claims_in_flight_max),
        ("pipeline bytes", config.pipeline_bytes_max),
        ("batch events", config.batch.events_max),
        ("batch bytes", config.batch.bytes_max),
        ("frame bytes", config.batch.frame_bytes_max),
        ("inflated bytes", config.inflated_bytes_max),
        ("rate limit", config.rate_limit.map_or(1, |rate| rate as usize)),
    ];
    for (setting, value) in positive {
        if value == 0 {
            return refuse(setting, "it must be at least 1".to_owned());
        }
    }
    Ok(addresses)
}
