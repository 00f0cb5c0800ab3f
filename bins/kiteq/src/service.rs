//! The life of one broker: start the parts in order, run until told to stop, stop them in the opposite order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use kiteq_broker::Broker;
use kiteq_registry::{EmbeddedRegistry, Registry};
use kiteq_store::SharedStore;
use kiteq_telemetry::{HttpServer, Shutdown, metrics, signal};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::settings::{EMBEDDED_REGISTRY, Settings};
use crate::web::{self, Serving, State};

/// How long tasks have to end once everything was told to.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a broker until a signal, or a failure, stops it.
///
/// # Errors
/// What could not be started, what failed while running, or what was left undone at the end.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    signal::stop_on_signals(&shutdown).context("SIGTERM and SIGINT cannot be handled")?;
    let (registry, embedded) = open_registry(&settings).await?;
    let state = State::new("the registry is being opened");
    let stop_http = CancellationToken::new();
    let is_embedded = embedded.is_some();
    let routes = web::routes(&state, embedded);
    let http =
        HttpServer::bind(settings.http_address(), routes, stop_http.clone()).await.context("--http")?;
    tracing::info!("HTTP is on {}", http.address());
    let started = tokio::select! {
        started = start(settings, registry, &state, &shutdown) => started?,
        () = shutdown.cancelled() => {
            // Nothing was promised to anybody yet, so there is nothing to wait for.
            tracing::info!("stopped before it served");
            return shutdown.failure().map_or(Ok(()), |failure| Err(anyhow!(failure)));
        }
    };
    state.set_serving(&started);
    tracing::info!("ready: clients on {}, HTTP on {}", started.broker.address(), http.address());
    if is_embedded {
        tracing::info!("clients find this broker with the registry http://{}", http.address());
    }
    shutdown.cancelled().await;
    state.set_stopping(&started);
    let report = started.broker.stop().await;
    let outcome = shutdown.finish(TASKS_DEADLINE).await;
    stop_http.cancel();
    http.stopped().await;
    outcome.into_result(report.problems).map_err(anyhow::Error::msg)
}

/// Opens what the broker needs, and the broker.
async fn start(
    settings: Settings,
    registry: Arc<dyn Registry>,
    state: &State,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<Serving>> {
    state.starting("the store is being opened");
    let (uri, owner) = (settings.store_uri(), settings.owner());
    let store = spawn_blocking(move || kiteq_store::open_owned(&uri, &owner))
        .await
        .context("opening the store failed")??;
    tracing::info!("store is {}, registry is {}", store.describe(), registry.describe());
    state.starting("messages are being read back from the store");
    let mut metrics = prometheus_client::registry::Registry::default();
    metrics::register_process(&mut metrics);
    let (of_store, of_registry) = (Arc::clone(&store), Arc::clone(&registry));
    match Broker::start(settings.broker, of_store, of_registry, &mut metrics, shutdown).await {
        Ok(broker) => Ok(Arc::new(Serving { broker, store, registry, metrics })),
        Err(error) => {
            close(store).await;
            Err(error.into())
        }
    }
}

/// Closes a store that nothing was published to.
async fn close(store: SharedStore) {
    match spawn_blocking(move || store.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("closing the store: {error}"),
        Err(error) => tracing::warn!("closing the store failed: {error}"),
    }
}

type Opened = (Arc<dyn Registry>, Option<Arc<EmbeddedRegistry>>);

async fn open_registry(settings: &Settings) -> anyhow::Result<Opened> {
    if settings.registry == EMBEDDED_REGISTRY {
        let embedded = open_embedded(&settings.data_dir)?;
        return Ok((Arc::clone(&embedded) as Arc<dyn Registry>, Some(embedded)));
    }
    Ok((kiteq_registry::connect(&settings.registry).await?, None))
}

fn open_embedded(directory: &Path) -> anyhow::Result<Arc<EmbeddedRegistry>> {
    EmbeddedRegistry::open(directory)
        .context("the embedded registry cannot be opened; choose another --data-dir")
}
