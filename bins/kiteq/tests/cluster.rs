//! Brokers on one database that lose one of them: real processes, a real ZooKeeper, a real MariaDB, the Rust client.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiteq_client::{Bind, Client, Delivery, Nack, Publish};
use kiteq_registry::Registry;
use kiteq_testkit::{MariaDb, PATIENCE, ZooKeeper, eventually, free_port};
use rustix::process::Signal;
use support::Kiteq;

/// What a cluster shares.
struct Cluster {
    zookeeper: ZooKeeper,
    store: String,
    registry: Arc<dyn Registry>,
}

impl Cluster {
    /// Each test has databases of its own on one server.
    async fn start(database: &str) -> Self {
        let zookeeper = ZooKeeper::start().await;
        let store = MariaDb::shared().uri(database, "shardnum=1");
        let registry = kiteq_registry::connect(&zookeeper.uri()).await.unwrap();
        Self { zookeeper, store, registry }
    }

    fn broker(&self, takeover_grace: &str) -> Kiteq {
        let (bind, registry) = (format!("127.0.0.1:{}", free_port()), self.zookeeper.uri());
        let mut broker = Kiteq::start(
            &[
                &format!("--bind={bind}"),
                "--http=0",
                &format!("--registry={registry}"),
                &format!("--store={}", self.store),
                "--topics=trade",
                "--leave-grace=100ms",
                "--recover-seconds=1",
                &format!("--takeover-grace={takeover_grace}"),
            ],
            &[],
        );
        broker.wait_for("ready: ");
        broker
    }

    fn client(&self, group: &str) -> kiteq_client::ClientBuilder {
        let backoff = Duration::from_millis(50);
        Client::builder(Arc::clone(&self.registry), group)
            .reconnect_backoff(backoff, backoff)
            .publish_timeout(PATIENCE)
    }

    /// A producer that is connected to `brokers` brokers: each has acked something.
    async fn producer(&self, brokers: usize) -> Client {
        let producer = self.client("p-orders").topics(["trade"]).build().await.unwrap();
        let mut seen = HashSet::new();
        while seen.len() < brokers {
            let probes = (0..10).map(|_| Publish::string("trade", "paid", "probe"));
            for receipt in producer.publish_batch(probes).await {
                seen.insert(receipt.unwrap().broker);
            }
        }
        producer
    }

    async fn consumer(&self, ledger: &Ledger) -> Client {
        let ledger = ledger.clone();
        self.client("s-ledger")
            .consume([Bind::fanout("trade")], move |delivery: Delivery| {
                *ledger.0.lock().unwrap().entry(delivery.text().unwrap().to_owned()).or_default() += 1;
                std::future::ready(Ok::<(), Nack>(()))
            })
            .build()
            .await
            .unwrap()
    }

    /// Lets the group be bound, with nobody there.
    async fn bind(&self) {
        let consumer = self.consumer(&Ledger::default()).await;
        let mut bindings = self.registry.watch_bindings("trade");
        bindings
            .wait_for(|bindings| bindings.as_ref().is_some_and(|bindings| !bindings.is_empty()))
            .await
            .unwrap();
        consumer.close(PATIENCE).await.unwrap();
    }
}

/// How often each body came.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<HashMap<String, usize>>>);

impl Ledger {
    async fn has(&self, bodies: std::ops::Range<usize>) {
        eventually("every message has come", async || {
            let came = self.0.lock().unwrap();
            bodies.clone().all(|number| came.contains_key(&format!("order {number}"))).then_some(())
        })
        .await;
    }

    /// How many came more than once.
    fn twice(&self) -> usize {
        let came = self.0.lock().unwrap();
        came.iter().filter(|(body, times)| body.starts_with("order") && **times > 1).count()
    }
}

/// Publishes these and gives how many of them each broker has.
async fn publish(producer: &Client, numbers: std::ops::Range<usize>) -> HashMap<String, usize> {
    let messages = numbers.map(|number| Publish::string("trade", "paid", format!("order {number}")));
    let mut at: HashMap<String, usize> = HashMap::new();
    for receipt in producer.publish_batch(messages).await {
        *at.entry(receipt.unwrap().broker.to_string()).or_default() += 1;
    }
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_killed_broker_are_delivered_by_the_other() {
    let cluster = Cluster::start("killed").await;
    let (mut stays, killed) = (cluster.broker("1s"), cluster.broker("1s"));
    cluster.bind().await;
    let producer = cluster.producer(2).await;
    let at = publish(&producer, 0..1000).await;
    assert!(at.get(&killed.address()).is_some_and(|&count| count > 0), "both have some: {at:?}");
    killed.signal(Signal::KILL);
    // Publishing goes on meanwhile.
    publish(&producer, 1000..1100).await;
    let ledger = Ledger::default();
    let _consumer = cluster.consumer(&ledger).await;
    stays.wait_for("took over the messages of another broker");
    ledger.has(0..1100).await;
    assert_eq!(ledger.twice(), 0, "nobody had them before");
    stays.get_until("/stat", "\"messages\": 0");
    assert_eq!(stays.stop().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_broker_finds_out_what_it_lost() {
    let cluster = Cluster::start("frozen").await;
    let (mut stays, mut frozen) = (cluster.broker("1s"), cluster.broker("1s"));
    cluster.bind().await;
    let producer = cluster.producer(2).await;
    let at = publish(&producer, 0..300).await;
    assert!(at.get(&frozen.address()).is_some_and(|&count| count > 0), "both have some: {at:?}");
    frozen.signal(Signal::STOP);
    stays.wait_for("took over the messages of another broker");
    frozen.signal(Signal::CONT);
    frozen.wait_for("messages of this broker are another one's by now");
    let ledger = Ledger::default();
    let _consumer = cluster.consumer(&ledger).await;
    ledger.has(0..300).await;
    assert_eq!(ledger.twice(), 0, "it knew before somebody came");
    // It is a full member again.
    publish(&producer, 300..400).await;
    ledger.has(0..400).await;
    for broker in [stays, frozen] {
        assert_eq!(broker.stop().code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_leaves_hands_over_at_once() {
    let cluster = Cluster::start("leaves").await;
    let (mut stays, leaves) = (cluster.broker("1h"), cluster.broker("1h"));
    cluster.bind().await;
    let producer = cluster.producer(2).await;
    let at = publish(&producer, 0..300).await;
    assert!(at.get(&leaves.address()).is_some_and(|&count| count > 0), "both have some: {at:?}");
    let ended = leaves.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let said = stays.wait_for("took over the messages of another broker");
    assert!(said.contains("it left in good order"), "{said}");
    let ledger = Ledger::default();
    let _consumer = cluster.consumer(&ledger).await;
    ledger.has(0..300).await;
    assert_eq!(ledger.twice(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_outlives_the_broker_that_prepared_it() {
    let cluster = Cluster::start("transaction").await;
    let (stays, other) = (cluster.broker("1s"), cluster.broker("1s"));
    let ledger = Ledger::default();
    let _consumer = cluster.consumer(&ledger).await;
    let producer = cluster.producer(2).await;
    let mut brokers: HashMap<String, Kiteq> =
        [stays, other].into_iter().map(|broker| (broker.address(), broker)).collect();
    let brokers = &mut brokers;
    let committed = producer.transaction(Publish::string("trade", "paid", "order 0"), async |transaction| {
        // Dropping it kills it.
        assert!(brokers.remove(transaction.broker()).is_some());
        Ok::<(), String>(())
    });
    committed.await.unwrap();
    ledger.has(0..1).await;
    assert_eq!(ledger.twice(), 0);
}
