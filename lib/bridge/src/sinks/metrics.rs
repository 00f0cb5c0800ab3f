//! What is counted of each sink.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Why a batch was not taken: the values of the label `reason`.
pub(super) const REASONS: [&str; 12] = [
    "refused",
    "connect",
    "tls",
    "connect_timeout",
    "timeout",
    "closed",
    "io",
    "failed",
    "error",
    "unknown",
    "exception",
    "protocol",
];

/// The states of a sink: the values of the label `state`.
const STATES: [&str; 4] = ["up", "full", "aside", "trial"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSink {
    sink: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    sink: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    sink: String,
    state: &'static str,
}

/// The metrics of all sinks.
#[derive(Debug, Clone)]
pub(super) struct SinksMetrics {
    batches: Family<OfSink, Counter>,
    events: Family<OfSink, Counter>,
    failures: Family<Failure, Counter>,
    in_flight: Family<OfSink, Gauge>,
    state: Family<InState, Gauge>,
    seconds: Family<OfSink, Histogram, fn() -> Histogram>,
}

/// From half a millisecond to half a minute.
fn request_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

impl SinksMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            batches: Family::default(),
            events: Family::default(),
            failures: Family::default(),
            in_flight: Family::default(),
            state: Family::default(),
            seconds: Family::new_with_constructor(request_seconds),
        };
        let registry = registry.sub_registry_with_prefix("bridge_sink");
        registry.register("batches", "Batches that a sink has taken", metrics.batches.clone());
        registry.register("events", "Events of batches that a sink has taken", metrics.events.clone());
        registry.register(
            "failures",
            "Batches and probes that a sink did not take, by reason",
            metrics.failures.clone(),
        );
        registry.register("in_flight", "Batches on their way to a sink", metrics.in_flight.clone());
        registry.register("state", "1 for the state that a sink is in", metrics.state.clone());
        registry.register(
            "request_seconds",
            "Time from the choice of a sink to its OK",
            metrics.seconds.clone(),
        );
        metrics
    }

    /// The metrics of one sink. They are shown until [`SinksMetrics::forget`].
    pub(super) fn of(&self, sink: &str) -> SinkMetrics {
        let label = OfSink { sink: sink.to_owned() };
        let failures = REASONS
            .map(|reason| self.failures.get_or_create_owned(&Failure { sink: sink.to_owned(), reason }));
        let states =
            STATES.map(|state| self.state.get_or_create_owned(&InState { sink: sink.to_owned(), state }));
        SinkMetrics {
            batches: self.batches.get_or_create_owned(&label),
            events: self.events.get_or_create_owned(&label),
            failures,
            in_flight: self.in_flight.get_or_create_owned(&label),
            states,
            seconds: self.seconds.get_or_create_owned(&label),
        }
    }

    /// Shows a sink no more.
    pub(super) fn forget(&self, sink: &str) {
        let label = OfSink { sink: sink.to_owned() };
        self.batches.remove(&label);
        self.events.remove(&label);
        self.in_flight.remove(&label);
        self.seconds.remove(&label);
        for reason in REASONS {
            self.failures.remove(&Failure { sink: sink.to_owned(), reason });
        }
        for state in STATES {
            self.state.remove(&InState { sink: sink.to_owned(), state });
        }
    }
}

/// The metrics of one sink.
#[derive(Debug)]
pub(super) struct SinkMetrics {
    pub(super) batches: Counter,
    pub(super) events: Counter,
    pub(super) in_flight: Gauge,
    pub(super) seconds: Histogram,
    failures: [Counter; REASONS.len()],
    states: [Gauge; STATES.len()],
}

impl SinkMetrics {
    pub(super) fn failed(&self, reason: &str) {
        let counters = REASONS.iter().zip(&self.failures).filter(|(of, _)| **of == reason);
        counters.for_each(|(_, counter)| {
            counter.inc();
        });
    }

    pub(super) fn set_state(&self, state: &str) {
        for (of, gauge) in STATES.iter().zip(&self.states) {
            gauge.set(i64::from(*of == state));
        }
    }

    /// How many batches and probes were not taken, by reason; reasons that never occurred are left out.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS
            .into_iter()
            .zip(&self.failures)
            .map(|(of, counter)| (of, counter.get()))
            .filter(|(_, n)| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn a_sink_is_shown_until_it_is_forgotten() {
        let mut registry = Registry::default();
        let metrics = SinksMetrics::register(&mut registry);
        let sink = metrics.of("a:1");
        sink.batches.inc();
        sink.failed("timeout");
        sink.set_state("aside");
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        for line in [
            r#"bridge_sink_batches_total{sink="a:1"} 1"#,
            r#"bridge_sink_failures_total{sink="a:1",reason="timeout"} 1"#,
            r#"bridge_sink_failures_total{sink="a:1",reason="closed"} 0"#,
            r#"bridge_sink_state{sink="a:1",state="aside"} 1"#,
            r#"bridge_sink_state{sink="a:1",state="up"} 0"#,
        ] {
            assert!(text().contains(line), "{line} is not in {}", text());
        }
        assert_eq!(sink.failures().collect::<Vec<_>>(), [("timeout", 1)]);
        metrics.forget("a:1");
        assert!(!text().contains("a:1"), "{}", text());
    }
}
