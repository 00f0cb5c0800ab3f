//! The broker's metrics: every counter and gauge in one place, with its help text.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kiteq_store::DeadReason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::dispatch::LaneStats;

type Count = Counter<u64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabel {
    topic: String,
    group: String,
}

/// Handles to the broker's metrics. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    publishes: Family<ResultLabel, Count>,
    pub(crate) publishes_stored: Count,
    pub(crate) publishes_duplicate: Count,
    pub(crate) publishes_flown: Count,
    pub(crate) publishes_delivered_first: Count,
    pub(crate) deliveries_started: Count,
    pub(crate) deliveries_acked: Count,
    pub(crate) deliveries_refused: Count,
    pub(crate) deliveries_timed_out: Count,
    pub(crate) delivery_failed_by_disconnect: Count,
    pub(crate) deliveries_answered_late: Count,
    pub(crate) acks_unknown: Count,
    pub(crate) transactions_committed: Count,
    pub(crate) transactions_rolled_back: Count,
    pub(crate) transaction_checks: Count,
    dead_letters: Family<ResultLabel, Count>,
    pub(crate) in_flight: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) resident: Gauge,
    pub(crate) shelves: Gauge,
    pub(crate) pages: Count,
    pub(crate) messages_paged: Count,
    pub(crate) messages_shelved: Count,
    pub(crate) messages_gone: Count,
    pub(crate) messages_adopted: Count,
    pub(crate) unrouted: Gauge,
    pub(crate) cached_bytes: Gauge,
    pub(crate) dispatch_queue: Gauge,
    pub(crate) consumers: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Count,
    pub(crate) protocol_errors: Count,
    backlog: Family<LaneLabel, Gauge>,
    lane_in_flight: Family<LaneLabel, Gauge>,
    append_seconds: Histogram,
    pub(crate) append_batch: Histogram,
    pub(crate) bytes_received: Count,
    pub(crate) bytes_sent: Count,
    pub(crate) store_disk_bytes: Gauge,
    pub(crate) store_dead_letters: Gauge,
}

impl Metrics {
    /// Registers everything under the prefix `kiteq`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("kiteq");
        let results = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<ResultLabel, Count>::default();
            registry.register(name, help, family.clone());
            family
        };
        let count = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Count::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge: Gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let of = |family: &Family<ResultLabel, Count>, result| {
            family.get_or_create(&ResultLabel { result }).clone()
        };
        let lanes = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<LaneLabel, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };

        let publishes = results(registry, "publishes", "Published messages by answer");
        let deliveries = results(registry, "deliveries", "Deliveries by result");
        let transactions = results(registry, "transactions", "Verdicts of producers that were carried out");
        let dead_letters = results(registry, "dead_letters", "Messages that became dead letters, by reason");
        let bytes = results(registry, "socket_bytes", "Bytes of client connections by direction");
        let append_seconds = Histogram::new(exponential_buckets(20e-6, 2.0, 20));
        registry.register_with_unit(
            "store_append",
            "From handing a batch of publishes to the store until it is as durable as the store makes it",
            Unit::Seconds,
            append_seconds.clone(),
        );
        let append_batch = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        registry.register(
            "store_append_batch_messages",
            "Messages in one batch of publishes",
            append_batch.clone(),
        );
        Self {
            publishes_stored: of(&publishes, "stored"),
            publishes_duplicate: of(&publishes, "duplicate"),
            publishes_flown: of(&publishes, "fly"),
            publishes_delivered_first: of(&publishes, "delivered_first"),
            publishes,
            deliveries_acked: of(&deliveries, "acked"),
            deliveries_refused: of(&deliveries, "refused"),
            deliveries_timed_out: of(&deliveries, "timed_out"),
            delivery_failed_by_disconnect: of(&deliveries, "disconnected"),
            deliveries_started: count(registry, "deliveries_started", "Deliveries handed to connections"),
            deliveries_answered_late: count(
                registry,
                "deliveries_answered_late",
                "Answers after the delivery timeout",
            ),
            acks_unknown: count(registry, "deliver_acks_unknown", "Answers to deliveries that are not known"),
            transactions_committed: of(&transactions, "committed"),
            transactions_rolled_back: of(&transactions, "rolled_back"),
            transaction_checks: count(registry, "transaction_checks", "Questions to producers for a verdict"),
            dead_letters,
            in_flight: gauge(registry, "deliveries_in_flight", "Unanswered deliveries"),
            waiting: gauge(
                registry,
                "messages_waiting",
                "Messages that some group has not acked, prepared ones included",
            ),
            resident: gauge(
                registry,
                "messages_resident",
                "Messages of messages_waiting that the broker knows; the others wait in the store alone",
            ),
            shelves: gauge(
                registry,
                "store_shelves",
                "Sets of groups for which messages wait in the store alone",
            ),
            pages: count(registry, "store_pages", "Pages of waiting messages taken from the store"),
            messages_paged: count(registry, "messages_paged", "Messages taken from the store in pages"),
            messages_shelved: count(
                registry,
                "messages_shelved",
                "Messages given back to the store because they could not be delivered soon",
            ),
            messages_adopted: count(
                registry,
                "messages_adopted",
                "Messages taken over from brokers that are gone",
            ),
            messages_gone: count(
                registry,
                "messages_gone",
                "Messages that turned out to be another broker's, or finished by one",
            ),
            unrouted: gauge(
                registry,
                "messages_unrouted",
                "Messages whose topic's bindings have not been read yet",
            ),
            cached_bytes: gauge(registry, "body_cache_bytes", "Bytes of message bodies kept in memory"),
            dispatch_queue: gauge(registry, "dispatch_queue_events", "Events that wait for the dispatcher"),
            consumers: gauge(registry, "clients", "Connections that have presented themselves"),
            connections: gauge(registry, "connections", "Open connections"),
            connections_refused: count(
                registry,
                "connections_refused",
                "Connections closed at once, at the limit",
            ),
            protocol_errors: count(
                registry,
                "protocol_errors",
                "Connections closed because of what they sent",
            ),
            backlog: lanes(
                registry,
                "backlog_messages",
                "Messages that a group has not acked, by topic; of a store that pages, the resident ones",
            ),
            lane_in_flight: lanes(
                registry,
                "backlog_in_flight",
                "Unanswered deliveries of a group, by topic",
            ),
            append_seconds,
            append_batch,
            bytes_received: of(&bytes, "received"),
            bytes_sent: of(&bytes, "sent"),
            store_disk_bytes: gauge(registry, "store_disk_bytes", "Bytes that the store takes on disk"),
            store_dead_letters: gauge(registry, "store_dead_letters", "Dead letters that are kept"),
        }
    }

    /// Counts a publish that was answered with false.
    pub(crate) fn publish_refused(&self, reason: &'static str) {
        self.publishes.get_or_create(&ResultLabel { result: reason }).inc();
    }

    pub(crate) fn dead_letter(&self, reason: DeadReason) {
        let result = match reason {
            DeadReason::DeliverLimit => "deliver_limit",
            DeadReason::Expired => "expired",
            DeadReason::NoVerdict => "no_verdict",
            DeadReason::Unreadable => "unreadable",
        };
        self.dead_letters.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn appended(&self, messages: usize, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
        self.append_batch.observe(messages as f64);
    }

    pub(crate) fn set_lanes(&self, lanes: &[LaneStats]) {
        for lane in lanes {
            let label = LaneLabel { topic: lane.topic.clone(), group: lane.group.clone() };
            self.backlog.get_or_create(&label).set(lane.backlog as i64);
            self.lane_in_flight.get_or_create(&label).set(lane.in_flight as i64);
        }
    }
}
