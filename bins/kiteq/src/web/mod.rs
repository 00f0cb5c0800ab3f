//! What the HTTP port serves: health, metrics, the registry, dead letters, and a summary for people.

mod dead_letters;
mod registry;
mod stat;
mod state;

use std::sync::Arc;

use kiteq_registry::EmbeddedRegistry;
use kiteq_telemetry::{Response, Routes, health, metrics};

pub(crate) use state::{Serving, State};

/// Everything, from the first moment on; what needs the broker says that it is starting until it is there.
pub(crate) fn routes(state: &State, embedded: Option<Arc<EmbeddedRegistry>>) -> Routes {
    let (of_ready, of_metrics) = (state.clone(), state.clone());
    let routes = health::mount(Routes::new(), || Ok(()), move || state::ready(&of_ready));
    let routes = routes.get(metrics::METRICS_PATH, move |_| {
        let answer = of_metrics.serving().map(|serving| metrics::answer(&serving.metrics));
        std::future::ready(answer.unwrap_or_else(|reason| starting(&reason)))
    });
    let routes = stat::mount(routes, state);
    let routes = dead_letters::mount(routes, state);
    match embedded {
        Some(embedded) => registry::mount(routes, embedded),
        None => routes,
    }
}

fn starting(reason: &str) -> Response {
    Response::text(503, format!("{reason}\n"))
}
