//! The sinks: found in ZooKeeper, chosen, given batches, set aside when they fail.
//!
//! | file | what it owns |
//! |---|---|
//! | `directory`, `session`, `peers` | what is in ZooKeeper: sinks of each business, marks of bridges, our own mark |
//! | `name` | the forms of sinks' names |
//! | `route` | one business: the choice among its sinks, and whether it has any |
//! | `sink`, `health`, `failure` | one sink: its connections, its state, what a failure means |
//! | `keeper` | the task that applies the directory, ends pauses and probes |
//!
//! [`Sinks::send`] returns `Ok` only after a sink has said OK for the batch. There is no queue: callers wait for a place at a
//! sink, in their order, and how many of them there are is their bound.

mod directory;
mod failure;
mod health;
mod keeper;
mod locality;
mod metrics;
mod name;
mod peers;
mod route;
mod session;
mod sink;
mod stat;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiteq_flume::{Batch, BatchBuilder, ConnectOptions, Protocol, TlsFiles, TlsOptions};
use kiteq_telemetry::{Importance, Shutdown};
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use directory::{AliveWatch, Directory, DirectoryConfig, SinksWatch};
pub use locality::Locality;
pub use name::SinkAddress;
pub use route::NoSinks;
pub use stat::SinkStat;

use crate::config::{SinkProtocol, SinkTls, SinksConfig};
use crate::error::StartError;
use keeper::Keeper;
use metrics::SinksMetrics;
use route::Route;
use sink::{Common, Sink};

/// A batch without events fits any frame.
const EMPTY_FRAME_BYTES_MAX: usize = 1024;

/// A batch that a sink has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The sink, `host:port`.
    pub sink: String,
    /// How many sinks were asked: one, when nothing went wrong.
    pub attempts: u32,
}

/// The sinks of all businesses. Clones are handles to the same ones; when the last one is dropped, what keeps the sinks
/// ends.
#[derive(Debug, Clone)]
pub struct Sinks {
    shared: Arc<Shared>,
    _keeper: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    common: Arc<Common>,
    metrics: SinksMetrics,
    /// What a sink that is aside is probed with.
    empty: Batch,
    routes: BTreeMap<String, Arc<Route>>,
    sinks: Mutex<BTreeMap<SinkAddress, Arc<Sink>>>,
}

impl Sinks {
    /// Starts to follow the sinks that `directory` names for its businesses. `locality` knows which of them are on this host.
    ///
    /// # Errors
    /// [`StartError::Sinks`] when the TLS files cannot be used, [`StartError::Setting`] for a bound that is nought.
    pub fn start(
        config: SinksConfig,
        directory: &Directory,
        locality: Locality,
        metrics: &mut Registry,
        shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        check(&config)?;
        let connect = connect_options(&config)?;
        let empty = BatchBuilder::new(connect.protocol, EMPTY_FRAME_BYTES_MAX).finish();
        let common = Arc::new(Common { connect, config, changed: Notify::new(), keeper: Notify::new() });
        let businesses = directory.businesses().iter();
        let routes = businesses
            .map(|business| (business.clone(), Arc::new(Route::new(business, Arc::clone(&common)))))
            .collect();
        let shared = Arc::new(Shared {
            common,
            metrics: SinksMetrics::register(metrics),
            empty,
            routes,
            sinks: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let keeper = Keeper {
            shared: Arc::clone(&shared),
            directory: directory.sinks(),
            locality,
            stop: stop.clone(),
        };
        // It goes on while what was claimed is drained, after the service has been told to stop.
        shutdown.spawn("sinks", Importance::Essential, keeper.run());
        Ok(Self { shared, _keeper: Arc::new(stop.drop_guard()) })
    }

    /// Brings a batch to a sink of a business: `Ok` only after one has said OK for it. A batch that one sink did not take goes
    /// to another; a sink that gave no answer may have taken it too.
    ///
    /// # Errors
    /// [`NoSinks`] when the business is not [available](Self::availability), or the batch has found no usable sink for the
    /// configured patience.
    ///
    /// # Cancel safety
    /// Not cancel safe: a sink may have taken the batch, or may still take it. Nothing leaks.
    pub async fn send(&self, business: &str, batch: &Batch) -> Result<Sent, NoSinks> {
        let Some(route) = self.shared.routes.get(business) else {
            return Err(NoSinks { business: business.to_owned(), last_error: None });
        };
        let mut looked = Duration::ZERO;
        let mut attempts = 0;
        let mut last_error = None;
        loop {
            let slot = route
                .slot(&mut looked)
                .await
                .map_err(|none| NoSinks { last_error: last_error.take(), ..none })?;
            attempts += 1;
            let sink = slot.sink().name().to_owned();
            match slot.send(batch).await {
                Ok(()) => return Ok(Sent { sink, attempts }),
                Err(error) => last_error = Some(error.to_string()),
            }
        }
    }

    /// Whether batches of a business are worth sending. False once it has had no usable sink for the configured patience; true
    /// again as soon as there is one. A business that the directory does not follow is never available.
    #[must_use]
    pub fn availability(&self, business: &str) -> watch::Receiver<bool> {
        let route = self.shared.routes.get(business);
        route.map_or_else(|| watch::Sender::new(false).subscribe(), |route| route.available())
    }

    /// How each sink is doing.
    #[must_use]
    pub fn stat(&self) -> Vec<SinkStat> {
        let now = Instant::now();
        let sinks = self.shared.sinks().clone();
        let businesses_of = |sink: &Arc<Sink>| {
            let routes = self.shared.routes.iter();
            let named = routes.filter(|(_, route)| route.sinks().iter().any(|of| Arc::ptr_eq(of, sink)));
            named.map(|(business, _)| business.clone()).collect()
        };
        sinks.values().map(|sink| sink.stat(businesses_of(sink), now)).collect()
    }
}

impl Shared {
    fn sinks(&self) -> MutexGuard<'_, BTreeMap<SinkAddress, Arc<Sink>>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of sinks that no business names any more, once nothing is in flight to them.
    fn drop_idle_leavers(&self) {
        let routes: Vec<_> = self.routes.values().map(|route| route.sinks()).collect();
        let is_named =
            |sink: &Arc<Sink>| routes.iter().any(|sinks| sinks.iter().any(|of| Arc::ptr_eq(of, sink)));
        self.sinks().retain(|_, sink| {
            if is_named(sink) {
                return true;
            }
            sink.close_all();
            let stays = sink.in_flight() > 0;
            if !stays {
                tracing::info!(sink = sink.name(), "sink has gone");
                self.metrics.forget(sink.name());
            }
            stays
        });
    }
}

fn check(config: &SinksConfig) -> Result<(), StartError> {
    let nought =
        |setting| Err(StartError::Setting { setting, reason: "must be more than nought".to_owned() });
    match config {
        SinksConfig { connections_per_sink: 0, .. } => nought("sinks.connections_per_sink"),
        SinksConfig { connect_timeout: Duration::ZERO, .. } => nought("sinks.connect_timeout"),
        SinksConfig { request_timeout: Duration::ZERO, .. } => nought("sinks.request_timeout"),
        SinksConfig { backoff_min: Duration::ZERO, .. } => nought("sinks.backoff_min"),
        SinksConfig { backoff_min, backoff_max, .. } if backoff_max < backoff_min => {
            Err(StartError::Setting {
                setting: "sinks.backoff_max",
                reason: "must not be less than sinks.backoff_min".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn connect_options(config: &SinksConfig) -> Result<ConnectOptions, StartError> {
    let protocol = match config.protocol {
        SinkProtocol::Compact => Protocol::Compact,
        SinkProtocol::Binary => Protocol::Binary,
    };
    let tls = config.tls.as_ref().map(load_tls).transpose()?;
    Ok(ConnectOptions {
        protocol,
        tls,
        connect_timeout: config.connect_timeout,
        request_timeout: config.request_timeout,
        ..ConnectOptions::default()
    })
}

fn load_tls(tls: &SinkTls) -> Result<TlsOptions, StartError> {
    let files =
        TlsFiles { ca: tls.authorities.clone(), server_name: tls.server_name.clone(), ..TlsFiles::default() };
    TlsOptions::load(&files).map_err(|error| StartError::Sinks { reason: error.to_string() })
}
