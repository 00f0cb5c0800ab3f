//! What the HTTP port serves: health, metrics, and a summary for people.

use std::future::ready;
use std::sync::{PoisonError, RwLock};

use kiteq_bridge::{Bridge, Stat};
use kiteq_telemetry::http::unavailable;
use kiteq_telemetry::{Response, Routes, Stage, health, metrics};
use prometheus_client::registry::Registry;
use serde::Serialize;

/// How the bridge is, for people and small scripts. Dashboards use /metrics.
pub(crate) const STAT_PATH: &str = "/stat";

const STOPPING: &str = "stopping: what was claimed is being sent, the rest put back";

/// A bridge that was started, and its metrics, which outlive it.
pub(crate) struct Serving {
    bridge: RwLock<Option<Bridge>>,
    metrics: Registry,
}

impl Serving {
    pub(crate) fn new(bridge: Bridge, metrics: Registry) -> Self {
        Self { bridge: RwLock::new(Some(bridge)), metrics }
    }

    /// Takes the bridge away to stop it.
    pub(crate) fn take_bridge(&self) -> Option<Bridge> {
        self.bridge.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn ask<T>(&self, question: impl FnOnce(&Bridge) -> Result<T, String>) -> Result<T, String> {
        let bridge = self.bridge.read().unwrap_or_else(PoisonError::into_inner);
        bridge.as_ref().map_or_else(|| Err(STOPPING.to_owned()), question)
    }
}

/// How far the bridge is.
pub(crate) type State = Stage<Serving>;

/// Everything, from the first moment on; what needs the bridge says that it is starting until it is there.
pub(crate) fn routes(state: &State) -> Routes {
    let (of_ready, of_metrics, of_stat) = (state.clone(), state.clone(), state.clone());
    health::mount(Routes::new(), || Ok(()), move || is_ready(&of_ready))
        .get(metrics::METRICS_PATH, move |_| {
            let answer = of_metrics.serving().map(|serving| metrics::answer(&serving.metrics));
            ready(answer.unwrap_or_else(|reason| unavailable(&reason)))
        })
        .get(STAT_PATH, move |_| ready(answer(&of_stat)))
}

fn is_ready(state: &State) -> Result<(), String> {
    state.serving()?.ask(Bridge::ready)
}

#[derive(Serialize)]
struct Answer {
    version: &'static str,
    uptime_seconds: u64,
    /// `yes`, or why not.
    ready: String,
    #[serde(flatten)]
    bridge: Stat,
}

fn answer(state: &State) -> Response {
    match state.serving().and_then(|serving| serving.ask(|bridge| Ok(bridge.stat()))) {
        Ok(bridge) => {
            let version = env!("CARGO_PKG_VERSION");
            let ready = is_ready(state).err().unwrap_or_else(|| "yes".to_owned());
            let uptime_seconds = state.uptime().as_secs();
            Response::pretty_json(200, &Answer { version, uptime_seconds, ready, bridge })
        }
        Err(reason) => unavailable(&reason),
    }
}
