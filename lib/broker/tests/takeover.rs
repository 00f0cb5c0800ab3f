//! Brokers that share a store take over the messages of those that are gone.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kiteq_broker::BrokerConfig;
use kiteq_protocol::pb;
use kiteq_registry::Binding;
use kiteq_testkit::{SharedRows, SharedStore};
use support::ledger::{Ledger, Worker};
use support::{SILENCE, TestBroker, TestRegistry, config, message};

const GRACE: Duration = Duration::from_millis(500);

/// Brokers that share rows and a registry.
struct Cluster {
    rows: SharedRows,
    registry: Arc<TestRegistry>,
}

struct Member {
    name: &'static str,
    broker: TestBroker,
    store: Arc<SharedStore>,
}

impl Cluster {
    fn new() -> Self {
        let registry = Arc::new(TestRegistry::default());
        registry.bind("trade", &[Binding::direct("consumer", "trade", "pay-succ", 0, true)]);
        Self { rows: SharedRows::default(), registry }
    }

    async fn start(&self, name: &'static str) -> Member {
        self.start_with(name, config()).await
    }

    async fn start_with(&self, name: &'static str, config: BrokerConfig) -> Member {
        let store = self.rows.open(name, 1000);
        let config = BrokerConfig { advertise: Some(name.to_owned()), takeover_grace: GRACE, ..config };
        let broker = TestBroker::over(config, store.clone(), self.registry.clone()).await;
        Member { name, broker, store }
    }

    /// Lets the registry say who lives.
    fn alive(&self, members: &[&Member]) {
        let names: Vec<String> = members.iter().map(|member| member.name.to_owned()).collect();
        self.registry.alive.send_replace(Some(names.into()));
    }
}

impl Member {
    async fn publish(&self, numbers: std::ops::Range<u128>) {
        self.broker.client("publisher").await.publish_all(numbers.map(message)).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        self.broker.until(what, |_| is_so()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_broker_that_is_gone_reach_their_groups() {
    let cluster = Cluster::new();
    let members = [cluster.start("127.0.0.1:1").await, cluster.start("127.0.0.1:2").await];
    let gone = cluster.start("127.0.0.1:3").await;
    cluster.alive(&[&members[0], &members[1], &gone]);
    gone.publish(0..5000).await;
    gone.store.set_away(true);
    cluster.alive(&[&members[0], &members[1]]);
    let ledger = Ledger::default();
    let _one = Worker::start(&members[0].broker, "consumer", &ledger).await;
    let _other = Worker::start(&members[1].broker, "consumer", &ledger).await;
    members[0].until("all are delivered", || cluster.rows.messages() == 0).await;
    ledger.has_each_once("consumer", 0..5000);
    let adopted = |member: &Member| member.broker.metric("kiteq_messages_adopted_total");
    assert!((adopted(&members[0]) + adopted(&members[1]) - 5000.0).abs() < 0.5, "each by one of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_cut_off_stops_delivering_what_it_lost() {
    let cluster = Cluster::new();
    let (cut_off, other) = (cluster.start("127.0.0.1:1").await, cluster.start("127.0.0.1:2").await);
    cluster.alive(&[&cut_off, &other]);
    cut_off.publish(0..100).await;
    cut_off.store.set_away(true);
    cluster.alive(&[&other]);
    other.until("all are taken over", || cluster.rows.owned_by(other.name) == 100).await;
    cut_off.store.set_away(false);
    cluster.alive(&[&cut_off, &other]);
    cut_off.until("it knows none of them any more", || cut_off.store.resident() == 0).await;
    let mut consumer = cut_off.broker.client("consumer").await;
    consumer.hears_nothing().await;
    assert!((cut_off.broker.metric("kiteq_messages_gone_total") - 100.0).abs() < 0.5);
    let ledger = Ledger::default();
    let _worker = Worker::start(&other.broker, "consumer", &ledger).await;
    other.until("the new owner delivers them", || cluster.rows.messages() == 0).await;
    ledger.has_each_once("consumer", 0..100);
    // What is published to it from now on is its own again.
    cut_off.publish(100..101).await;
    assert_eq!(consumer.consume().await.body, "body 100");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_delivers_after_it_lost_it_costs_a_duplicate_and_no_message() {
    let cluster = Cluster::new();
    let (cut_off, other) = (cluster.start("127.0.0.1:1").await, cluster.start("127.0.0.1:2").await);
    cluster.alive(&[&cut_off, &other]);
    cut_off.publish(0..50).await;
    cluster.alive(&[&other]);
    other.until("all are taken over", || cluster.rows.owned_by(other.name) == 50).await;
    // The registry has lost the broker, and neither of them knows it yet.
    let ledger = Ledger::default();
    let _there = Worker::start(&cut_off.broker, "consumer", &ledger).await;
    let _here = Worker::start(&other.broker, "consumer", &ledger).await;
    other.until("nothing waits any more", || cluster.rows.messages() == 0).await;
    for number in 0..50 {
        assert!(ledger.times("consumer", number) >= 1, "message {number}");
    }
    cluster.alive(&[&cut_off, &other]);
    cut_off.until("it knows none of them any more", || cut_off.store.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_leaves_is_taken_over_at_once() {
    let cluster = Cluster::new();
    let stays = cluster.start_with("127.0.0.1:1", config()).await;
    let leaves = cluster.start("127.0.0.1:2").await;
    cluster.alive(&[&stays, &leaves]);
    leaves.publish(0..100).await;
    let report = leaves.broker.broker.stop().await;
    assert_eq!(report.problems, Vec::<String>::new());
    // It is still shown: that it has left counts for more.
    let ledger = Ledger::default();
    let _worker = Worker::start(&stays.broker, "consumer", &ledger).await;
    stays.until("all are delivered", || cluster.rows.messages() == 0).await;
    ledger.has_each_once("consumer", 0..100);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_while_nobody_knows_who_lives() {
    let cluster = Cluster::new();
    let stays = cluster.start("127.0.0.1:1").await;
    let leaves = cluster.start("127.0.0.1:2").await;
    leaves.publish(0..10).await;
    let _ = leaves.broker.broker.stop().await;
    for alive in [None, Some(Arc::from(["127.0.0.1:9".to_owned()]))] {
        cluster.registry.alive.send_replace(alive);
        tokio::time::sleep(GRACE + SILENCE).await;
        assert_eq!(cluster.rows.owned_by(leaves.name), 10);
    }
    cluster.alive(&[&stays]);
    stays.until("all are taken over", || cluster.rows.owned_by(stays.name) == 10).await;
}

fn prepared(number: u128) -> pb::StringMessage {
    let mut message = message(number);
    message.header.commit = false;
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_finds_its_message_at_whichever_broker_it_is() {
    let cluster = Cluster::new();
    let patient = BrokerConfig { recover_period: Duration::from_millis(500), ..config() };
    let one = cluster.start_with("127.0.0.1:1", patient.clone()).await;
    let other = cluster.start_with("127.0.0.1:2", patient).await;
    cluster.alive(&[&one, &other]);
    one.broker.client("publisher").await.publish_all((0..20).map(prepared)).await;
    let ledger = Ledger::default();
    let _worker = Worker::start(&one.broker, "consumer", &ledger).await;
    // Decided by the broker that does not have them.
    let mut publisher = other.broker.client("publisher").await;
    for number in 0..20 {
        publisher.verdict(1, &prepared(number), if number < 10 { 1 } else { 2 }).await;
    }
    // Its owner finds out when it is about to ask, and there is nobody whom it could ask.
    one.until("all are through", || cluster.rows.messages() == 0).await;
    ledger.has_each_once("consumer", 0..10);
    one.until("no slot is left taken", || one.store.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_messages_are_taken_over_with_the_questions_to_their_producers() {
    let cluster = Cluster::new();
    let stays = cluster.start("127.0.0.1:1").await;
    let leaves = cluster.start("127.0.0.1:2").await;
    cluster.alive(&[&stays, &leaves]);
    leaves.broker.client("publisher").await.publish_all([prepared(7)]).await;
    let _ = leaves.broker.broker.stop().await;
    let mut publisher = stays.broker.client("publisher").await;
    let (opaque, question) = publisher.expect::<pb::TxAckPacket>(kiteq_protocol::Command::TxAck).await;
    assert_eq!((question.status, &question.header.message_id), (0, &prepared(7).header.message_id));
    let mut consumer = stays.broker.client("consumer").await;
    publisher.verdict(opaque, &prepared(7), 1).await;
    assert_eq!(consumer.consume().await.body, "body 7");
}

#[tokio::test]
async fn a_broker_that_would_own_messages_under_a_name_that_nobody_registers_does_not_start() {
    let cluster = Cluster::new();
    let store = cluster.rows.open("127.0.0.1:0", 1000);
    let (mut metrics, service) =
        (prometheus_client::registry::Registry::default(), kiteq_telemetry::Shutdown::new());
    let registry = cluster.registry.clone();
    let started = kiteq_broker::Broker::start(config(), store, registry, &mut metrics, &service);
    let error = started.await.err().expect("it must not start").to_string();
    assert!(error.contains("127.0.0.1:0's") && error.contains("--advertise"), "{error}");
}
