//! A running broker: starting it in the right order, and stopping it without breaking a promise.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiteq_protocol::MessageId;
use kiteq_registry::{ANY_TOPIC, BrokerRecord, BrokersWatch, Registry, RegistryError};
use kiteq_store::{DeadLetter, SharedStore, StoreError, StoreStats};
use kiteq_telemetry::{Importance, Shutdown};
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::BrokerConfig;
use crate::clock::WallClock;
use crate::dispatch::connections::ConnectionId;
use crate::dispatch::{BrokerStats, Dispatcher, Event, LaneStats, Residency, Surroundings};
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::session;
use crate::shared::{Shared, TopicGate, TransientBudget};
use crate::takeover::Takeover;
use crate::token_bucket::TokenBucket;

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", if source.kind() == std::io::ErrorKind::AddrInUse {
        "; another process has the port: stop it, or choose another one with -bind"
    } else {
        ""
    })]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Clients would be told an address that they cannot reach.
    #[error(
        "bound to {address}, which is no address that clients can reach: say with --advertise under which host:port they do"
    )]
    Advertise {
        /// The bound address.
        address: SocketAddr,
    },
    /// The others would take this broker for dead.
    #[error(
        "the store's messages would be written as {owner}'s, and {advertised} is registered, so the other brokers would take \
         them: start on a fixed port, or say with --advertise under which host:port clients reach this broker"
    )]
    Owner {
        /// The name in the store.
        owner: String,
        /// The name in the registry.
        advertised: String,
    },
    /// The store could not report what it holds.
    #[error("cannot recover: {0}")]
    Store(#[from] StoreError),
    /// The registry refused this broker for good.
    #[error("cannot register: {0}")]
    Registry(#[from] RegistryError),
}

/// What a stopping broker left undone; nothing in the good case. Messages are safe in the store either way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// What went wrong, a line each.
    pub problems: Vec<String>,
}

/// A running broker. Dropping it does not stop it: call [`Broker::stop`].
pub struct Broker {
    address: SocketAddr,
    advertised: String,
    shared: Arc<Shared>,
    registry: Arc<dyn Registry>,
    stats: Arc<BrokerStats>,
    registration: Arc<Mutex<Registration>>,
    /// Ends the acceptor.
    stop_accepting: CancellationToken,
    /// Ends sessions, and the tasks that follow the registry.
    stop_sessions: CancellationToken,
    /// Ends the taking over of other brokers' messages.
    stop_takeover: CancellationToken,
    sessions: Shutdown,
}

#[derive(Debug)]
enum Registration {
    Pending,
    Registered,
    /// Not yet; the registry goes on trying by itself, and has succeeded once it shows this broker.
    Failed {
        error: RegistryError,
        shown: BrokersWatch,
    },
}

/// How long the registry may take to withdraw a broker.
const WITHDRAW_MAX: Duration = Duration::from_secs(5);

impl Broker {
    /// Starts serving: listens, takes over what the store holds, accepts connections, and registers last, when it can
    /// serve. A registry that cannot be reached does not keep it from serving; it is registered when the registry is back.
    ///
    /// Tasks are spawned on `service`, which stops when one that the broker cannot do without panics.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: BrokerConfig,
        store: SharedStore,
        registry: Arc<dyn Registry>,
        metrics: &mut prometheus_client::registry::Registry,
        service: &Shutdown,
    ) -> Result<Self, StartError> {
        let bind = config.bind;
        let listener =
            TcpListener::bind(bind).await.map_err(|source| StartError::Bind { address: bind, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Bind { address: bind, source })?;
        let advertised = match &config.advertise {
            Some(advertise) => advertise.clone(),
            None if address.ip().is_unspecified() => return Err(StartError::Advertise { address }),
            None => address.to_string(),
        };
        if let Some(owner) =
            store.owned().map(kiteq_store::OwnedStore::owner).filter(|owner| *owner != advertised)
        {
            return Err(StartError::Owner { owner: owner.to_owned(), advertised });
        }
        let config = Arc::new(config);
        let metrics = Metrics::register(metrics);
        let stop_sessions = CancellationToken::new();
        let inbox = Arc::new(Mailbox::new());
        let clock = Arc::new(WallClock::new());
        let stats = Arc::new(BrokerStats::default());
        let transient_budget = Arc::new(TransientBudget::new(config.publish_budget_bytes));
        let dispatcher = Dispatcher::new(Surroundings {
            config: config.clone(),
            store: store.clone(),
            registry: registry.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            inbox: inbox.clone(),
            transient_budget: transient_budget.clone(),
            stats: stats.clone(),
            stop: stop_sessions.clone(),
        });
        let dispatcher = recover(dispatcher, &config, store.clone()).await?;
        service.spawn("dispatch", Importance::Essential, dispatcher.run());

        let receive_limit =
            config.receive_permits_per_second.map(|limit| TokenBucket::new(limit, limit, Instant::now()));
        let shared = Arc::new(Shared {
            topics: TopicGate::new(&config.topics),
            publish_budget: Arc::new(Semaphore::new(config.publish_budget_bytes.min(Semaphore::MAX_PERMITS))),
            transient_budget,
            receive_limit: receive_limit.map(Mutex::new),
            address: advertised.clone(),
            is_leaving: AtomicBool::new(false),
            store,
            inbox,
            metrics,
            clock,
            config,
        });
        let broker = Self {
            address,
            advertised,
            shared,
            registry,
            stats,
            registration: Arc::new(Mutex::new(Registration::Pending)),
            stop_accepting: CancellationToken::new(),
            stop_sessions,
            stop_takeover: CancellationToken::new(),
            sessions: Shutdown::new(),
        };
        let acceptor = Acceptor {
            listener,
            shared: broker.shared.clone(),
            sessions: broker.sessions.clone(),
            stop: broker.stop_accepting.clone(),
            stop_sessions: broker.stop_sessions.clone(),
        };
        service.spawn("accept", Importance::Essential, acceptor.run());
        service.spawn("takeover", Importance::Essential, broker.takeover().run());
        broker.register().await?;
        tracing::info!(%address, advertised = broker.advertised, registry = broker.registry.describe(), "broker is serving");
        Ok(broker)
    }

    fn takeover(&self) -> Takeover {
        let config = &self.shared.config;
        Takeover {
            store: self.shared.store.clone(),
            alive: self.registry.watch_alive(),
            inbox: self.shared.inbox.clone(),
            metrics: self.shared.metrics.clone(),
            advertised: self.advertised.clone(),
            grace: config.takeover_grace,
            stop: self.stop_takeover.clone(),
        }
    }

    async fn register(&self) -> Result<(), StartError> {
        let record =
            BrokerRecord { address: self.advertised.clone(), topics: self.shared.config.topics.clone() };
        let outcome = self.registry.register_broker(record).await;
        let registration = match outcome {
            Ok(()) => Registration::Registered,
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "not registered yet; clients that know the address are served, and the registry is tried again");
                let topic = self.shared.config.topics.first().map_or(ANY_TOPIC, String::as_str);
                Registration::Failed { error, shown: self.registry.watch_brokers(topic) }
            }
            Err(error) => return Err(error.into()),
        };
        *self.registration.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = registration;
        Ok(())
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `host:port` that clients are told.
    #[must_use]
    pub fn advertised(&self) -> &str {
        &self.advertised
    }

    /// Whether publishes can be stored and delivered.
    ///
    /// # Errors
    /// The reason why not, for a person.
    pub fn ready(&self) -> Result<(), String> {
        if self.shared.is_leaving.load(Ordering::Relaxed) {
            return Err("the broker is stopping".to_owned());
        }
        self.shared.store.health().map_err(|error| error.to_string())?;
        match &*self.registration.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Registration::Registered => Ok(()),
            Registration::Pending => Err("not registered yet".to_owned()),
            Registration::Failed { shown, .. }
                if shown.borrow().as_ref().is_some_and(|brokers| brokers.contains(&self.advertised)) =>
            {
                Ok(())
            }
            Registration::Failed { error, .. } => {
                Err(format!("registry: {error}; registering goes on in the background"))
            }
        }
    }

    /// How each group stands with each topic.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneStats> {
        self.stats.lanes()
    }

    /// What the broker knows of a store that may hold more; `None` where it knows everything.
    #[must_use]
    pub fn residency(&self) -> Option<Residency> {
        self.stats.residency()
    }

    /// What the store holds.
    #[must_use]
    pub fn store_stats(&self) -> StoreStats {
        self.shared.store.stats()
    }

    /// Up to `limit` dead letters in the order of their ids, from the one after `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead_letters(
        &self,
        after: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let store = self.shared.store.clone();
        let read = tokio::task::spawn_blocking(move || store.dead_letters(after, limit));
        read.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Delivers dead letters again, to the groups that did not get them; returns how many of `ids` were dead letters.
    ///
    /// # Errors
    /// When the store cannot do it; some may have been replayed.
    pub async fn replay(&self, ids: Vec<MessageId>) -> Result<usize, StoreError> {
        let (answer, answered) = oneshot::channel();
        let inbox = self.shared.inbox.clone();
        self.shared.store.revive(
            ids,
            Box::new(move |outcomes| {
                let mut failed = None;
                let mut revived = Vec::new();
                for outcome in outcomes {
                    match outcome {
                        Ok(Some(letter)) => revived.push(letter),
                        Ok(None) => {}
                        Err(error) => failed = Some(error),
                    }
                }
                let count = revived.len();
                inbox.push(Event::Revived(revived));
                let _ = answer.send(failed.map_or(Ok(count), Err));
            }),
        );
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Deletes dead letters for good; returns how many of `ids` there were.
    ///
    /// # Errors
    /// When the store is closed.
    pub async fn purge(&self, ids: Vec<MessageId>) -> Result<usize, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.shared.store.purge(
            ids,
            Box::new(move |count| {
                let _ = answer.send(count);
            }),
        );
        answered.await.map_err(|_| StoreError::Closed)
    }

    /// Stops in good order: withdraws from the registry, serves on until clients have moved away, refuses publishes, waits
    /// for deliveries that are out, notes how far every message is, and closes the store. Bounded in time.
    pub async fn stop(&self) -> StopReport {
        let mut problems = Vec::new();
        let config = &self.shared.config;
        self.stop_takeover.cancel();
        match tokio::time::timeout(WITHDRAW_MAX, self.registry.unregister_broker()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not withdraw from the registry; clients find out by themselves");
            }
            Err(_) => tracing::warn!("the registry did not answer in time; clients find out by themselves"),
        }
        if !self.sessions.running().is_empty() {
            tracing::info!(grace = ?config.leave_grace, "serving on so that clients move away");
            tokio::time::sleep(config.leave_grace).await;
        }
        self.shared.is_leaving.store(true, Ordering::Relaxed);
        self.stop_accepting.cancel();
        let (landed, all_landed) = oneshot::channel();
        self.shared.inbox.push(Event::Drain(landed));
        if tokio::time::timeout(config.drain_timeout, all_landed).await.is_err() {
            tracing::warn!(timeout = ?config.drain_timeout, "some deliveries were not answered in time; they will be made again");
        }
        // Once the whole budget is free, every publish that was taken in has been answered.
        let all_permits = u32::try_from(config.publish_budget_bytes).unwrap_or(u32::MAX);
        let stored =
            tokio::time::timeout(config.drain_timeout, self.shared.publish_budget.acquire_many(all_permits))
                .await;
        if stored.is_err() {
            problems.push(format!(
                "publishes were still on their way into the store after {:?}",
                config.drain_timeout
            ));
        }
        self.stop_sessions.cancel();
        let sessions = self.sessions.finish(config.drain_timeout).await;
        if !sessions.is_clean() {
            problems.push(format!("connections did not close: {:?}", sessions.unfinished));
        }
        let (stopped, has_stopped) = oneshot::channel();
        self.shared.inbox.push(Event::Stop(stopped));
        if tokio::time::timeout(config.drain_timeout, has_stopped).await.is_err() {
            problems.push("the dispatcher did not stop in time".to_owned());
        }
        problems.extend(self.leave_store().await);
        let store = self.shared.store.clone();
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => problems.push(format!("store: {error}")),
            Err(error) => problems.push(format!("closing the store failed: {error}")),
        }
        self.registry.close().await;
        StopReport { problems }
    }
}

impl Broker {
    /// Lets the other brokers of a shared store take this one's messages at once; says what went wrong.
    async fn leave_store(&self) -> Option<String> {
        let owned = self.shared.store.owned()?;
        let (answer, answered) = oneshot::channel();
        owned.leave(Box::new(move |left| {
            // Nobody waits any more after the deadline.
            let _ = answer.send(left);
        }));
        let problem = match tokio::time::timeout(self.shared.config.drain_timeout, answered).await {
            Ok(Ok(Ok(()))) => return None,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => StoreError::Closed.to_string(),
            Err(_) => "the store did not answer in time".to_owned(),
        };
        Some(format!(
            "the other brokers could not be told that this one leaves, so they wait before they take over: {problem}"
        ))
    }
}

/// Takes over what the store holds. Reading may take a while, so it does not run on a thread that serves.
async fn recover(
    mut dispatcher: Dispatcher,
    config: &BrokerConfig,
    store: SharedStore,
) -> Result<Dispatcher, StartError> {
    for topic in config.topics.iter().filter(|topic| *topic != kiteq_registry::ANY_TOPIC) {
        dispatcher.add_topic(topic);
    }
    let started = Instant::now();
    let runtime = tokio::runtime::Handle::current();
    let recovered = tokio::task::spawn_blocking(move || {
        // The dispatcher starts to follow the bindings of the topics that it meets.
        let _guard = runtime.enter();
        let mut count = 0u64;
        store.recover(&mut |message| {
            dispatcher.on_recovered(&message);
            count += 1;
        })?;
        Ok::<_, StoreError>((dispatcher, count))
    });
    match recovered.await {
        Ok(Ok((dispatcher, count))) => {
            tracing::info!(messages = count, took = ?started.elapsed(), "took over what the store holds");
            Ok(dispatcher)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(StoreError::Closed.into()),
    }
}

struct Acceptor {
    listener: TcpListener,
    shared: Arc<Shared>,
    sessions: Shutdown,
    stop: CancellationToken,
    stop_sessions: CancellationToken,
}

impl Acceptor {
    /// Accepts connections until it is told to stop.
    async fn run(self) {
        let places = Arc::new(Semaphore::new(self.shared.config.connections_max));
        let next_id = AtomicU64::new(1);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: accepting again at once would fail again at once.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.shared.metrics.connections_refused.inc();
                tracing::warn!(%peer, limit = self.shared.config.connections_max, "connection refused: too many are open");
                continue;
            };
            let id = ConnectionId(next_id.fetch_add(1, Ordering::Relaxed));
            self.admit(id, stream, peer, place);
        }
    }

    fn admit(
        &self,
        id: ConnectionId,
        stream: TcpStream,
        peer: SocketAddr,
        place: tokio::sync::OwnedSemaphorePermit,
    ) {
        let shared = self.shared.clone();
        let stop = self.stop_sessions.clone();
        let counted = Counted::new(shared.metrics.connections.clone());
        self.sessions.spawn("session", Importance::Expendable, async move {
            session::serve(shared, id, stream, peer, stop).await;
            drop(counted);
            drop(place);
        });
    }
}

/// Counts one connection for as long as it lives, also when its session panics.
struct Counted(Gauge);

impl Counted {
    fn new(connections: Gauge) -> Self {
        connections.inc();
        Self(connections)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
