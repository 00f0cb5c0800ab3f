//! Groups that come and go at random over a store of which next to nothing is resident: each gets everything, once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kiteq_broker::BrokerConfig;
use kiteq_registry::Binding;
use kiteq_testkit::SharedRows;
use support::ledger::{Ledger, Worker};
use support::{TestBroker, TestRegistry, config, message};

const TYPES: [&str; 3] = ["a", "b", "c"];

/// What a group is bound to.
fn bindings(group: usize) -> (Binding, Vec<&'static str>) {
    let name = format!("group-{group}");
    match group % 4 {
        0 => (Binding::fanout(&name, "trade", 0, true), TYPES.to_vec()),
        kind => (Binding::direct(&name, "trade", TYPES[kind - 1], 0, true), vec![TYPES[kind - 1]]),
    }
}

async fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let resident_max = random.usize(4..64);
    let groups = random.usize(2..10);
    let rows = SharedRows::default();
    let store = rows.open("127.0.0.1:1", resident_max);
    let registry = Arc::new(TestRegistry::default());
    let bound: Vec<Binding> = (0..groups).map(|group| bindings(group).0).collect();
    registry.bind("trade", &bound);
    // On a busy machine nothing may count as late.
    let config = BrokerConfig {
        advertise: Some("127.0.0.1:1".to_owned()),
        delivery_window: random.usize(1..8),
        delivery_timeout: Duration::from_secs(60),
        ..config()
    };
    let broker = TestBroker::over(config, store.clone(), registry).await;
    let ledger = Ledger::default();
    let mut publisher = broker.client("publisher").await;
    let mut workers: HashMap<usize, Worker> = HashMap::new();
    let mut published: Vec<&str> = Vec::new();
    for _ in 0..random.usize(10..60) {
        let group = random.usize(0..groups);
        match random.u32(0..10) {
            0..5 => {
                let first = published.len();
                published.extend((0..random.usize(1..40)).map(|_| TYPES[random.usize(0..TYPES.len())]));
                publisher
                    .publish_all((first..published.len()).map(|number| {
                        let mut message = message(number as u128);
                        message.header.message_type = published[number].to_owned();
                        message
                    }))
                    .await;
            }
            5..8 if !workers.contains_key(&group) => {
                // Some fail a part of what they get, again and again.
                let fails = random.bool().then(|| random.u64(2..6));
                let mut turn = random.fork();
                let name = format!("group-{group}");
                let worker = Worker::answering(&broker, &name, &ledger, move |_| {
                    Some(fails.is_none_or(|one_in| turn.u64(0..one_in) > 0))
                });
                workers.insert(group, worker.await);
            }
            _ => {
                if let Some(worker) = workers.remove(&group) {
                    worker.stop().await;
                }
            }
        }
    }
    for (_, worker) in workers.drain() {
        worker.stop().await;
    }
    for group in 0..groups {
        workers.insert(group, Worker::start(&broker, &format!("group-{group}"), &ledger).await);
    }
    // With next to nothing resident that takes its time: a page, which is then a few messages, is read at a tick.
    broker.until_none_of("messages wait", || rows.messages()).await;
    for group in 0..groups {
        let wanted = bindings(group).1;
        let numbers = (0..published.len()).filter(|&number| wanted.contains(&published[number]));
        ledger.has_each_once(&format!("group-{group}"), numbers.map(|number| number as u128));
    }
    assert!(rows.dead().is_empty(), "{:?}", rows.dead());
    assert!(store.resident_peak() <= resident_max);
    broker.until("nothing is resident", |_| store.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_gets_everything_once_whoever_comes_and_goes() {
    let seeds = match std::env::var("KITEQ_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..10).map(|_| fastrand::u64(..)).collect(),
    };
    for seed in seeds {
        // Shown when the test fails: KITEQ_SEED=... runs it again.
        println!("seed {seed}");
        run(seed).await;
    }
}
