//! One consuming client.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use kiteq_client::{Bind, Client, Delivery, Nack};

use crate::client_engine::{ClientPlan, NOT_READY, READY_TIMEOUT, builder};
use crate::clock::{clock_tag, now_ns};
use crate::counters::Counters;
use crate::latency::Latencies;
use crate::run::{Measured, Run};
use crate::stamp::Stamp;

/// A client whose handler books what it gets.
pub(super) struct Consumer {
    client: Client,
    latencies: Arc<Mutex<Latencies>>,
}

/// Starts a consumer and waits until it is connected.
pub(super) async fn start(
    run: &Arc<Run>,
    plan: &ClientPlan,
    group_index: usize,
    group: &str,
) -> anyhow::Result<Consumer> {
    let latencies = Arc::new(Mutex::new(Latencies::default()));
    let books = Books {
        run: Arc::clone(run),
        group_index,
        clock_tag: clock_tag(),
        latencies: Arc::clone(&latencies),
    };
    let handler = move |delivery: Delivery| {
        books.enter(&delivery);
        std::future::ready(Ok::<(), Nack>(()))
    };
    // The bindings have been published for the whole group, so that a given address does as well as a registry.
    let no_bindings: [Bind; 0] = [];
    let client =
        builder(plan, group).topics(plan.load.topics.clone()).consume(no_bindings, handler).build().await?;
    client.ready(READY_TIMEOUT).await.context(NOT_READY)?;
    Ok(Consumer { client, latencies })
}

impl Consumer {
    /// Closes the client and gives what was measured.
    pub(super) async fn finish(self, patience: Duration) -> Measured {
        if let Err(error) = self.client.close(patience).await {
            tracing::debug!(%error, "consumer closed");
        }
        let end_to_end = self.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Measured { end_to_end, ..Measured::default() }
    }
}

struct Books {
    run: Arc<Run>,
    group_index: usize,
    clock_tag: u32,
    latencies: Arc<Mutex<Latencies>>,
}

impl Books {
    fn enter(&self, delivery: &Delivery) {
        let counters = &self.run.counters;
        let stamp = Stamp::read(delivery.body());
        let of_this_run = delivery.id().0.starts_with(&self.run.run_id.to_be_bytes());
        if !of_this_run {
            Counters::add(&counters.foreign, 1);
            return;
        }
        let now_ns = now_ns();
        if let (Some(stamp), Some(ledger)) = (stamp, &self.run.ledger) {
            ledger.open().delivered(self.group_index, stamp.number);
        }
        Counters::add(&counters.delivered, 1);
        Counters::add(&counters.delivered_bytes, delivery.body().len() as u64);
        counters.last_delivery_ns.store(now_ns, Relaxed);
        if let Some(stamp) =
            stamp.filter(|stamp| stamp.clock_tag == self.clock_tag && self.run.measures(stamp.sent_at_ns))
        {
            let latency_ns = now_ns.saturating_sub(stamp.sent_at_ns);
            self.latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency_ns, 1);
        }
    }
}
