//! `/metrics`: what a Prometheus server scrapes.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::http::Response;
use crate::process::ProcessCollector;

/// The path that a Prometheus server scrapes.
pub const METRICS_PATH: &str = "/metrics";
/// The content type of [`METRICS_PATH`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Adds memory, processor time and open files of this process.
pub fn register_process(registry: &mut Registry) {
    registry.register_collector(Box::new(ProcessCollector::default()));
}

/// All metrics of `registry` as an answer to a scrape.
#[must_use]
pub fn answer(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => Response::with_type(200, METRICS_CONTENT_TYPE, text),
        Err(error) => Response::text(500, format!("metrics cannot be encoded: {error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn registered_metrics_and_the_process_are_in_the_answer() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("kiteq_things", "Things", counter.clone());
        register_process(&mut registry);
        counter.inc_by(3);
        let response = answer(&registry);
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        assert_eq!((response.status, text.ends_with("# EOF\n")), (200, true), "{text}");
        assert!(text.contains("kiteq_things_total 3"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
    }
}
