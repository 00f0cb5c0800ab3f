//! What a broker says about itself while its registry comes and goes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiteq_broker::Broker;
use kiteq_telemetry::Shutdown;
use support::{TestRegistry, config};

#[tokio::test]
async fn a_broker_whose_registry_was_away_is_ready_once_the_registry_shows_it() {
    let registry = Arc::new(TestRegistry::default());
    registry.is_away.store(true, Ordering::Relaxed);
    let store = kiteq_store::open("memory://").unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    let broker =
        Broker::start(config(), store, registry.clone(), &mut metrics, &Shutdown::new()).await.unwrap();

    let reason = broker.ready().unwrap_err();
    assert!(reason.contains("it is away"), "{reason}");
    registry.brokers.send_replace(Some(["other:1".to_owned()].into()));
    broker.ready().unwrap_err();
    registry.brokers.send_replace(Some([broker.advertised().to_owned()].into()));
    broker.ready().unwrap();
    assert!(broker.stop().await.problems.is_empty());
}
