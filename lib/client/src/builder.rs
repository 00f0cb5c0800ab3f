//! How a client is described before it starts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use kiteq_protocol::{Dialect, Framing};
use kiteq_registry::{BindType, Binding, Registry};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Client, Inner};
use crate::consumer::Consumer;
use crate::delivery::{AnyHandler, Handler};
use crate::discovery::Presentation;
use crate::error::BuildError;
use crate::id::MessageIds;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::transaction::{AnyCheckHandler, CheckHandler, Transactions};

/// Messages that a group wants. Persistent, without a limit of its own, unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    topic: String,
    message_type: String,
    bind_type: BindType,
    watermark: i32,
    persistent: bool,
}

impl Bind {
    fn new(topic: &str, message_type: &str, bind_type: BindType) -> Self {
        let (topic, message_type) = (topic.to_owned(), message_type.to_owned());
        Self { topic, message_type, bind_type, watermark: 0, persistent: true }
    }

    /// Messages of `topic` whose type equals `message_type`.
    #[must_use]
    pub fn direct(topic: &str, message_type: &str) -> Self {
        Self::new(topic, message_type, BindType::Direct)
    }

    /// Messages of `topic` whose type contains a match of `pattern` (RE2 syntax, unanchored).
    #[must_use]
    pub fn regx(topic: &str, pattern: &str) -> Self {
        Self::new(topic, pattern, BindType::Regx)
    }

    /// All messages of `topic`.
    #[must_use]
    pub fn fanout(topic: &str) -> Self {
        Self::new(topic, "*", BindType::Fanout)
    }

    /// Messages of the topic that the group takes in a second. Zero means the broker's default.
    #[must_use]
    pub fn watermark(mut self, messages_per_second: u32) -> Self {
        self.watermark = i32::try_from(messages_per_second).unwrap_or(i32::MAX);
        self
    }

    /// Whether messages wait for the group while none of its members is connected.
    #[must_use]
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    fn of_group(self, group: &str) -> Binding {
        Binding {
            bind_type: self.bind_type,
            ..Binding::direct(group, &self.topic, &self.message_type, self.watermark, self.persistent)
        }
    }
}

/// Describes a [`Client`] and starts it with [`ClientBuilder::build`].
#[must_use = "a builder does nothing until it builds"]
pub struct ClientBuilder {
    registry: Arc<dyn Registry>,
    settings: Settings,
    topics: Vec<String>,
    binds: Vec<Bind>,
    handler: Option<Arc<dyn AnyHandler>>,
    check_handler: Option<Arc<dyn AnyCheckHandler>>,
}

impl ClientBuilder {
    pub(crate) fn new(registry: Arc<dyn Registry>, group: &str) -> Self {
        Self {
            registry,
            settings: Settings::new(group),
            topics: Vec::new(),
            binds: Vec::new(),
            handler: None,
            check_handler: None,
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// The group's secret, where brokers ask for one.
    pub fn secret(self, secret: impl Into<String>) -> Self {
        self.set(|settings| settings.secret = secret.into())
    }

    /// Topics to connect to at the start. Others are looked up when something is published to them first.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Consumes: publishes the group's bindings, and runs `handler` for every message that a broker delivers.
    ///
    /// Every member of a group should name the same bindings and have a handler: brokers deliver to any of them. A client
    /// that only publishes should be of a group of its own.
    pub fn consume(mut self, binds: impl IntoIterator<Item = Bind>, handler: impl Handler) -> Self {
        self.binds = binds.into_iter().collect();
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Answers brokers' questions about transactions that this process does not know; "unknown" without it.
    pub fn on_check(mut self, handler: impl CheckHandler) -> Self {
        self.check_handler = Some(Arc::new(handler));
        self
    }

    /// Handlers that run at once, over all brokers. 64 by default.
    pub fn concurrency(self, handlers: usize) -> Self {
        self.set(|settings| settings.concurrency = handlers)
    }

    /// Deliveries that wait for a handler; a large one counts once for each 64 KiB. Above it, sockets are not read. 1,024 by
    /// default. Keep it at or above the broker's window of a connection (512 by default): a client that does not read its
    /// socket does not see the acks of what its handlers publish either.
    pub fn backlog(self, deliveries: usize) -> Self {
        self.set(|settings| settings.backlog = deliveries)
    }

    /// How long a fresh connection's share of deliveries grows until it is a full one, in whole seconds. None by default.
    pub fn warm_up(self, duration: Duration) -> Self {
        self.set(|settings| settings.warm_up = duration)
    }

    /// Messages that may wait for their ack at each broker; a large one counts once for each 64 KiB. Above it,
    /// [`Client::submit`] waits. 1,024 by default.
    pub fn window(self, messages: usize) -> Self {
        self.set(|settings| settings.window = messages)
    }

    /// An unacked message is sent again after this time. 3 s by default.
    pub fn resend_after(self, duration: Duration) -> Self {
        self.set(|settings| settings.resend_after = duration)
    }

    /// How long a message may wait for its ack where it does not say so itself. 30 s by default.
    pub fn publish_timeout(self, duration: Duration) -> Self {
        self.set(|settings| settings.publish_timeout = duration)
    }

    /// How long connecting may take, and the broker's answer after that. 5 s by default.
    pub fn connect_timeout(self, duration: Duration) -> Self {
        self.set(|settings| settings.connect_timeout = duration)
    }

    /// How often a connection proves that it is alive. It is given up when three heartbeats in a row have no answer. 10 s by
    /// default.
    pub fn heartbeat_interval(self, duration: Duration) -> Self {
        self.set(|settings| settings.heartbeat_interval = duration)
    }

    /// The first and the longest wait between attempts to connect. 100 ms and 5 s by default.
    pub fn reconnect_backoff(self, min: Duration, max: Duration) -> Self {
        self.set(|settings| (settings.backoff_min, settings.backoff_max) = (min, max))
    }

    /// How long to leave a broker alone that refused this client. 30 s by default.
    pub fn refused_retry(self, duration: Duration) -> Self {
        self.set(|settings| settings.refused_retry = duration)
    }

    /// The largest body that a compressed message may have once decompressed; larger ones are nacked. 16 MiB by default.
    pub fn decompressed_bytes_max(self, bytes: usize) -> Self {
        self.set(|settings| settings.decompressed_bytes_max = bytes)
    }

    /// How many outcomes of transactions are remembered, and for how long, to answer brokers' questions. 100,000 and one
    /// hour by default. What is forgotten is left to the check handler.
    pub fn outcomes_kept(self, outcomes_max: usize, duration: Duration) -> Self {
        self.set(|settings| (settings.outcomes_max, settings.outcomes_kept_for) = (outcomes_max, duration))
    }

    /// How long a broker that has left the registry is kept for what is in flight there. 10 s by default.
    pub fn leave_timeout(self, duration: Duration) -> Self {
        self.set(|settings| settings.leave_timeout = duration)
    }

    /// The framing to speak: header-only by default; existing brokers and this project's understand both.
    pub fn framing(self, framing: Framing) -> Self {
        self.set(|settings| {
            settings.dialect = match framing {
                Framing::HeaderOnly => Dialect::GO,
                Framing::LengthPrefixed => Dialect::JAVA,
            }
        })
    }

    fn check(&self) -> Result<(), BuildError> {
        let settings = &self.settings;
        let positive = [
            ("group", settings.group.len()),
            ("concurrency", settings.concurrency),
            ("backlog", settings.backlog),
            ("window", settings.window),
            ("resend_after", settings.resend_after.as_nanos() as usize),
            ("heartbeat_interval", settings.heartbeat_interval.as_nanos() as usize),
            ("connect_timeout", settings.connect_timeout.as_nanos() as usize),
            ("reconnect_backoff", settings.backoff_min.as_nanos() as usize),
        ];
        if let Some(&(setting, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(BuildError::Setting { setting, reason: "must not be empty or zero".to_owned() });
        }
        let places = [
            ("concurrency", settings.concurrency),
            ("backlog", settings.backlog),
            ("window", settings.window),
        ];
        match places.iter().find(|(_, value)| *value > PLACES_MAX) {
            Some(&(setting, value)) => {
                let reason = format!("{value} is more than the {PLACES_MAX} allowed");
                Err(BuildError::Setting { setting, reason })
            }
            None => Ok(()),
        }
    }

    /// Starts the client: presents the bindings to the registry, and begins to connect. Does not wait for brokers; see
    /// [`Client::ready`]. Must be called within a tokio runtime.
    ///
    /// A registry that cannot be reached right now is no error: the client goes on trying.
    ///
    /// # Errors
    /// When a setting cannot work, or the registry refuses the bindings.
    pub async fn build(self) -> Result<Client, BuildError> {
        self.check()?;
        let Self { registry, settings, topics, binds, handler, check_handler } = self;
        let group = Arc::clone(&settings.group);
        let bindings: Vec<Binding> = binds.into_iter().map(|bind| bind.of_group(&group)).collect();
        let (stop, tasks, settled) = (CancellationToken::new(), TaskTracker::new(), Arc::new(Notify::new()));
        let consumer = handler.map(|handler| {
            Arc::new(Consumer::new(handler, &settings, Arc::clone(&settled), tasks.clone(), stop.clone()))
        });
        let shared = Arc::new(Shared {
            transactions: Transactions::new(&settings, check_handler),
            settings,
            registry,
            ids: MessageIds::new(),
            routes: RwLock::new(HashMap::new()),
            links: Mutex::new(HashMap::new()),
            consumer,
            changes: watch::channel(0).0,
            settled,
            deaf: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stop,
            tasks,
        });
        // From here on dropping the client, also by an early return, ends what has been started.
        let client = Client { inner: Arc::new(Inner { shared: Arc::clone(&shared) }) };
        if !bindings.is_empty() {
            present(&shared, Presentation::Bindings(bindings.clone())).await?;
        }
        if let Some(consumer) = &shared.consumer {
            consumer.start();
        }
        let consumed = bindings.into_iter().map(|binding| binding.topic);
        for topic in &topics {
            if let Some(route) = shared.add_route(topic, usize::MAX) {
                shared.announce(&route);
            }
        }
        for topic in consumed.collect::<HashSet<_>>() {
            shared.add_route(&topic, usize::MAX);
        }
        Ok(client)
    }
}

/// The most that a window, a backlog or the concurrency may be.
const PLACES_MAX: usize = 1 << 20;

/// Presents something now, or in the background when the registry is away.
async fn present(shared: &Arc<Shared>, presentation: Presentation) -> Result<(), BuildError> {
    match shared.present(&presentation).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_retryable() => {
            tracing::warn!(%error, "the registry is away; going on without it");
            shared.tasks.spawn(Arc::clone(shared).keep_presenting(presentation));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
