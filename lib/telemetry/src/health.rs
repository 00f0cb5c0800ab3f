//! `/healthz`: the process answers. `/readyz`: it can do its job.

use std::future::ready;

use crate::http::{Response, Routes};

/// The path that says whether the process is alive.
pub const HEALTH_PATH: &str = "/healthz";
/// The path that says whether the service can do its job.
pub const READY_PATH: &str = "/readyz";

/// Adds both paths. Each check gives Ok, or the reason why not, which becomes a 503 and its text.
#[must_use]
pub fn mount(
    routes: Routes,
    healthy: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ready_now: impl Fn() -> Result<(), String> + Send + Sync + 'static,
) -> Routes {
    routes
        .get(HEALTH_PATH, move |_| ready(answer(healthy())))
        .get(READY_PATH, move |_| ready(answer(ready_now())))
}

fn answer(check: Result<(), String>) -> Response {
    match check {
        Ok(()) => Response::text(200, "ok\n"),
        Err(reason) => Response::text(503, format!("{reason}\n")),
    }
}
