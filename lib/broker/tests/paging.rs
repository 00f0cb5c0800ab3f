//! A store that holds more messages than the broker may know at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiteq_broker::BrokerConfig;
use kiteq_protocol::{Command, pb};
use kiteq_registry::Binding;
use kiteq_testkit::{SharedRows, SharedStore};
use support::ledger::{Ledger, Worker};
use support::{TestBroker, TestRegistry, config, message};

/// Under which the broker owns its messages.
const NAME: &str = "127.0.0.1:1";

fn direct(group: &str) -> Binding {
    Binding::direct(group, "trade", "pay-succ", 0, true)
}

/// Windows well below the few messages that are resident here.
fn paged_config() -> BrokerConfig {
    BrokerConfig { advertise: Some(NAME.to_owned()), delivery_window: 8, ..config() }
}

struct Paged {
    broker: TestBroker,
    rows: SharedRows,
    store: Arc<SharedStore>,
}

impl Paged {
    async fn start(config: BrokerConfig, resident_max: usize, bindings: &[Binding]) -> Self {
        Self::over(&SharedRows::default(), config, resident_max, bindings).await
    }

    async fn over(
        rows: &SharedRows,
        config: BrokerConfig,
        resident_max: usize,
        bindings: &[Binding],
    ) -> Self {
        let registry = Arc::new(TestRegistry::default());
        registry.bind("trade", bindings);
        let store = rows.open(NAME, resident_max);
        let broker = TestBroker::over(config, store.clone(), registry).await;
        Self { broker, rows: rows.clone(), store }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        self.broker.until(what, |_| is_so(self)).await;
    }

    async fn until_has(&self, ledger: &Ledger, group: &str, count: usize) {
        self.until(&format!("{group} has {count}"), |_| ledger.count(group) == count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_groups_that_are_away_keep_nobody_waiting() {
    const MESSAGES: u128 = 300;
    let away: Vec<String> = (0..50).map(|number| format!("away-{number}")).collect();
    let mut bindings: Vec<Binding> = away.iter().map(|group| direct(group)).collect();
    bindings.push(direct("here"));
    let paged = Paged::start(paged_config(), 64, &bindings).await;
    let ledger = Ledger::default();
    let here = Worker::start(&paged.broker, "here", &ledger).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..MESSAGES).map(message)).await;
    paged.until_has(&ledger, "here", 300).await;
    here.stop().await;
    assert_eq!(paged.rows.messages(), 300, "they wait for the others");

    // The first ones one by one, the others at once.
    for group in &away[..2] {
        let worker = Worker::start(&paged.broker, group, &ledger).await;
        paged.until_has(&ledger, group, 300).await;
        worker.stop().await;
    }
    let mut workers = Vec::new();
    for group in &away[2..] {
        workers.push(Worker::start(&paged.broker, group, &ledger).await);
    }
    paged.until("nothing waits any more", |paged| paged.rows.messages() == 0).await;
    for group in away.iter().map(String::as_str).chain(["here"]) {
        ledger.has_each_once(group, 0..MESSAGES);
    }
    assert!(paged.store.resident_peak() <= 64, "{} were resident", paged.store.resident_peak());
    paged.until("nothing is resident", |paged| paged.store.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_group_does_not_keep_another_waiting() {
    const MESSAGES: u128 = 500;
    let paged = Paged::start(paged_config(), 64, &[direct("slow"), direct("quick")]).await;
    let ledger = Ledger::default();
    let slow = Worker::answering(&paged.broker, "slow", &ledger, |_| None).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..MESSAGES).map(message)).await;
    let _quick = Worker::start(&paged.broker, "quick", &ledger).await;
    paged.until_has(&ledger, "quick", 500).await;
    ledger.has_each_once("quick", 0..MESSAGES);
    assert!(paged.store.resident_peak() <= 64);
    slow.stop().await;
    let _better = Worker::start(&paged.broker, "slow", &ledger).await;
    paged.until("nothing waits any more", |paged| paged.rows.messages() == 0).await;
    ledger.has_each_once("slow", 0..MESSAGES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_store_alone_expires() {
    let paged = Paged::start(paged_config(), 32, &[direct("away")]).await;
    let mut publisher = paged.broker.client("publisher").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    publisher
        .publish_all((0..200).map(|number| {
            let mut message = message(number);
            message.header.expired_time = now + 3;
            message
        }))
        .await;
    paged.until("all have expired", |paged| paged.rows.dead().len() == 200).await;
    assert!(paged.rows.dead().iter().all(|(_, groups)| groups == &["away"]));
    assert_eq!(paged.rows.messages(), 0);
}

fn prepared(number: u128) -> pb::StringMessage {
    let mut message = message(number);
    message.header.commit = false;
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_messages_wait_in_the_store_and_verdicts_find_them() {
    let config = BrokerConfig { recover_period: Duration::from_secs(3600), ..paged_config() };
    let paged = Paged::start(config, 32, &[direct("consumer")]).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..200).map(prepared)).await;
    // They are in nobody's way.
    let ledger = Ledger::default();
    let _consumer = Worker::start(&paged.broker, "consumer", &ledger).await;
    publisher.publish_all((1000..1200).map(message)).await;
    paged.until_has(&ledger, "consumer", 200).await;
    for number in 0..200 {
        publisher.verdict(9, &prepared(number), if number % 2 == 0 { 1 } else { 2 }).await;
    }
    paged.until("all are decided", |paged| paged.rows.messages() == 0).await;
    ledger.has_each_once("consumer", (1000..1200).chain((0..200).step_by(2)));
    paged.until("no slot is left taken", |paged| paged.store.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_of_prepared_messages_in_the_store_are_asked() {
    let config = BrokerConfig { recover_period: Duration::from_secs(1), ..paged_config() };
    let paged = Paged::start(config, 16, &[direct("consumer")]).await;
    let ledger = Ledger::default();
    let _consumer = Worker::start(&paged.broker, "consumer", &ledger).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..100).map(prepared)).await;
    while ledger.count("consumer") < 100 {
        let question = tokio::time::timeout(Duration::from_millis(100), publisher.next()).await;
        if let Ok(frame) = question {
            let frame = frame.unwrap();
            assert_eq!(frame.cmd, Command::TxAck as u8);
            let mut packet = <pb::TxAckPacket as prost::Message>::decode(frame.body).unwrap();
            packet.status = 1;
            publisher.send(Command::TxAck, frame.opaque, &packet).await;
        }
    }
    paged.until("nothing waits any more", |paged| paged.rows.messages() == 0).await;
    ledger.has_each_once("consumer", 0..100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_failed_a_message_for_good_is_named_after_its_time_in_the_store() {
    let paged = Paged::start(paged_config(), 16, &[direct("bad"), direct("away")]).await;
    let ledger = Ledger::default();
    let _bad = Worker::answering(&paged.broker, "bad", &ledger, |_| Some(false)).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher
        .publish_all((0..100).map(|number| {
            let mut message = message(number);
            message.header.deliver_limit = 2;
            message
        }))
        .await;
    paged
        .until("the bad group has failed all", |paged| {
            paged.broker.metric("kiteq_deliveries_total{result=\"refused\"}") >= 200.0
        })
        .await;
    let _away = Worker::start(&paged.broker, "away", &ledger).await;
    paged.until("all are dead letters", |paged| paged.rows.dead().len() == 100).await;
    assert!(paged.rows.dead().iter().all(|(_, groups)| groups == &["bad"]), "{:?}", paged.rows.dead());
    ledger.has_each_once("away", 0..100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_store_for_a_binding_that_is_gone_is_let_go() {
    let config = BrokerConfig { binding_grace: Duration::from_millis(200), ..paged_config() };
    let paged = Paged::start(config, 16, &[direct("gone"), direct("stays")]).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..100).map(message)).await;
    paged.broker.registry.bind("trade", &[direct("stays")]);
    let ledger = Ledger::default();
    let _stays = Worker::start(&paged.broker, "stays", &ledger).await;
    paged.until("nobody waits any more", |paged| paged.rows.messages() == 0).await;
    ledger.has_each_once("stays", 0..100);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_in_the_store_until_their_topics_bindings_are_known() {
    let rows = SharedRows::default();
    let registry = Arc::new(TestRegistry::default());
    registry.bind("trade", &[direct("consumer")]);
    let store = rows.open(NAME, 16);
    let config = BrokerConfig { topics: vec!["trade".to_owned(), "feed".to_owned()], ..paged_config() };
    let broker = TestBroker::over(config, store, registry).await;
    let ledger = Ledger::default();
    let _consumer = Worker::start(&broker, "consumer", &ledger).await;
    let mut publisher = broker.client("publisher").await;
    let feed = |number| {
        let mut message = message(number);
        message.header.topic = "feed".to_owned();
        message
    };
    publisher.publish_all((0..100).map(feed)).await;
    publisher.publish_all((100..200).map(message)).await;
    broker.until("the known topic is served", |_| ledger.count("consumer") == 100).await;
    broker.until("only the unknown topic's messages are left", |_| rows.messages() == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_what_lies_in_the_store() {
    let paged = Paged::start(paged_config(), 16, &[direct("one"), direct("two")]).await;
    let rows = paged.rows.clone();
    let ledger = Ledger::default();
    let one = Worker::start(&paged.broker, "one", &ledger).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..100).map(message)).await;
    paged.until_has(&ledger, "one", 100).await;
    one.stop().await;
    let report = paged.broker.broker.stop().await;
    assert_eq!(report.problems, Vec::<String>::new());

    let paged = Paged::over(&rows, paged_config(), 16, &[direct("one"), direct("two")]).await;
    let _one = Worker::start(&paged.broker, "one", &ledger).await;
    let _two = Worker::start(&paged.broker, "two", &ledger).await;
    paged.until("nothing waits any more", |paged| paged.rows.messages() == 0).await;
    ledger.has_each_once("one", 0..100);
    ledger.has_each_once("two", 0..100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_for_a_while_costs_no_message() {
    let paged = Paged::start(paged_config(), 16, &[direct("consumer")]).await;
    let mut publisher = paged.broker.client("publisher").await;
    publisher.publish_all((0..100).map(message)).await;
    paged.store.set_away(true);
    let ack = publisher.publish(&message(1000)).await;
    assert!(!ack.status && ack.feedback.contains("it is away"), "{}", ack.feedback);
    let ledger = Ledger::default();
    let _consumer = Worker::start(&paged.broker, "consumer", &ledger).await;
    paged.store.set_away(false);
    paged.until_has(&ledger, "consumer", 100).await;
}
