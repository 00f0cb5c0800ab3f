//! The life of one broker: start the parts in order, run until told to stop, stop them in the opposite order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use kiteq_registry::{EmbeddedRegistry, Registry};
use kiteq_telemetry::{HttpServer, Routes, Shutdown, health, signal};
use tokio_util::sync::CancellationToken;

use crate::settings::{EMBEDDED_REGISTRY, Settings};
use crate::web;

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
    tracing::info!("registry is {}", registry.describe());
    let routes = health::mount(Routes::new(), || Ok(()), || Err("starting".to_owned()));
    let routes = match embedded {
        Some(embedded) => web::mount_registry(routes, embedded),
        None => routes,
    };
    let stop_http = CancellationToken::new();
    let http = HttpServer::bind(settings.http_address(), routes, stop_http.clone()).await?;
    tracing::info!("HTTP is on {}", http.address());
    shutdown.cancelled().await;
    registry.close().await;
    let outcome = shutdown.finish(TASKS_DEADLINE).await;
    stop_http.cancel();
    http.stopped().await;
    match outcome.failure {
        Some(failure) => Err(anyhow!(failure)),
        None if outcome.unfinished.is_empty() => Ok(()),
        None => Err(anyhow!("some tasks did not end in time")),
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
