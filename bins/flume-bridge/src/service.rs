//! The life of one bridge: start it, run until told to stop, let it finish what it has claimed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use kiteq_bridge::{Bridge, StopReport};
use kiteq_telemetry::{HttpServer, Shutdown, metrics, signal};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;
use crate::web::{self, Serving, State};

/// How long tasks have to end once everything was told to.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a bridge until a signal, or a failure, stops it.
///
/// # Errors
/// What could not be started, what failed while running, or what was left undone at the end.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    signal::stop_on_signals(&shutdown).context("SIGTERM and SIGINT cannot be handled")?;
    let state = State::new("the bridge is being started");
    let stop_http = CancellationToken::new();
    let http = HttpServer::bind(settings.http_address(), web::routes(&state), stop_http.clone()).await;
    let http = http.context("--http")?;
    tracing::info!("HTTP is on {}", http.address());
    let mut metrics = Registry::default();
    metrics::register_process(&mut metrics);
    let config = settings.into_bridge();
    let started = tokio::select! {
        started = Bridge::start(config, &mut metrics, &shutdown) => started,
        () = shutdown.cancelled() => {
            // Nothing was claimed yet, so there is nothing to wait for.
            tracing::info!("stopped before it served");
            return shutdown.failure().map_or(Ok(()), |failure| Err(anyhow!(failure)));
        }
    };
    let serving = Arc::new(Serving::new(started?, metrics));
    state.set_serving(&serving);
    tracing::info!("started: {} says what it is doing, /readyz whether all is well", web::STAT_PATH);
    shutdown.cancelled().await;
    state.set_stopping(&serving);
    let report = match serving.take_bridge() {
        Some(bridge) => bridge.stop().await,
        None => StopReport::default(),
    };
    let outcome = shutdown.finish(TASKS_DEADLINE).await;
    stop_http.cancel();
    http.stopped().await;
    tracing::info!(
        claims_settled = report.claims_settled,
        claims_put_back = report.claims_put_back,
        "what was claimed is settled or back in its queue"
    );
    outcome.into_result(left_undone(&report)).map_err(anyhow::Error::msg)
}

/// What a person may want to know about the end, for the exit code.
fn left_undone(report: &StopReport) -> Vec<String> {
    let mut left = Vec::new();
    if report.claims_left > 0 {
        let count = report.claims_left;
        left.push(format!(
            "{count} claims are left in Redis; the next start of this bridge, or another one, puts them back"
        ));
    }
    if report.elements_lost > 0 {
        left.push(format!(
            "{} elements are lost, because they were popped without a claim",
            report.elements_lost
        ));
    }
    left
}
