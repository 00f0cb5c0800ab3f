//! What a bridge counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A queue on a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabels {
    pub(crate) redis: String,
    pub(crate) queue: String,
}

/// Dead letters of a queue, by reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DeadLabels {
    pub(crate) queue: String,
    pub(crate) reason: &'static str,
}

/// A business.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BusinessLabels {
    pub(crate) business: String,
}

type Histograms = Family<BusinessLabels, Histogram, fn() -> Histogram>;

/// The metrics of all queues and businesses. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) popped: Family<QueueLabels, Counter>,
    pub(crate) sent: Family<BusinessLabels, Counter>,
    pub(crate) undelivered: Family<BusinessLabels, Counter>,
    pub(crate) dead: Family<DeadLabels, Counter>,
    pub(crate) parked: Family<BusinessLabels, Counter>,
    pub(crate) put_back: Family<QueueLabels, Counter>,
    pub(crate) queue_length: Family<QueueLabels, Gauge>,
    pub(crate) claims: Family<QueueLabels, Gauge>,
    pub(crate) claim_age_seconds: Family<QueueLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub(crate) pipeline_bytes: Gauge,
    pub(crate) batch_events: Histograms,
    pub(crate) batch_bytes: Histograms,
    pub(crate) send_seconds: Histograms,
    pub(crate) end_to_end_seconds: Histograms,
}

fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 14))
}

fn bytes() -> Histogram {
    Histogram::new(exponential_buckets(256.0, 4.0, 10))
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            popped: Family::default(),
            sent: Family::default(),
            undelivered: Family::default(),
            dead: Family::default(),
            parked: Family::default(),
            put_back: Family::default(),
            queue_length: Family::default(),
            claims: Family::default(),
            claim_age_seconds: Family::default(),
            pipeline_bytes: Gauge::default(),
            batch_events: Family::new_with_constructor(counts),
            batch_bytes: Family::new_with_constructor(bytes),
            send_seconds: Family::new_with_constructor(seconds),
            end_to_end_seconds: Family::new_with_constructor(seconds),
        };
        metrics.register_queues(registry);
        metrics.register_businesses(registry);
        metrics
    }

    fn register_queues(&self, registry: &mut Registry) {
        registry.register("bridge_popped", "Elements read from a queue", self.popped.clone());
        registry.register("bridge_dead_letters", "Elements that became dead letters", self.dead.clone());
        registry.register(
            "bridge_put_back",
            "Elements of dead instances' claims put back",
            self.put_back.clone(),
        );
        registry.register(
            "bridge_queue_length",
            "Elements of a queue that wait to be read, those that this bridge has claimed included",
            self.queue_length.clone(),
        );
        registry.register("bridge_claims", "Claims that are not settled", self.claims.clone());
        registry.register(
            "bridge_claim_age_seconds",
            "Age of the oldest claim that is not settled",
            self.claim_age_seconds.clone(),
        );
        registry.register(
            "bridge_pipeline_bytes",
            "Bytes of batches that are being filled or sent",
            self.pipeline_bytes.clone(),
        );
    }

    fn register_businesses(&self, registry: &mut Registry) {
        registry.register("bridge_sent", "Elements that a sink has", self.sent.clone());
        registry.register(
            "bridge_retried",
            "Elements of batches that no sink took",
            self.undelivered.clone(),
        );
        registry.register("bridge_parked", "Elements parked for want of a sink", self.parked.clone());
        registry.register("bridge_batch_events", "Events in a batch", self.batch_events.clone());
        registry.register("bridge_batch_bytes", "Bytes of a batch", self.batch_bytes.clone());
        registry.register(
            "bridge_send_seconds",
            "Time from a full batch to its OK",
            self.send_seconds.clone(),
        );
        registry.register(
            "bridge_end_to_end_seconds",
            "Time from the claim of a batch's first element to the batch's OK",
            self.end_to_end_seconds.clone(),
        );
    }
}
