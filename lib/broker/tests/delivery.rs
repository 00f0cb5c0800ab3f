//! Publishing and delivering, as existing clients see it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use kiteq_broker::BrokerConfig;
use kiteq_protocol::{Command, Dialect, pb};
use kiteq_registry::Binding;
use support::{TestBroker, bytes_message, config, message};

fn direct(group: &str) -> Binding {
    Binding::direct(group, "trade", "pay-succ", 0, true)
}

#[tokio::test]
async fn a_message_reaches_every_matching_group_once() {
    let bindings = [
        direct("one"),
        Binding::regx("two", "trade", "pay-.*", 0, true),
        Binding::fanout("three", "trade", 0, true),
    ];
    let broker = TestBroker::bound(
        config(),
        &[&bindings[..], &[Binding::direct("other", "trade", "refund", 0, true)]].concat(),
    )
    .await;
    let mut publisher = broker.client("publisher").await;
    let mut other = broker.client("other").await;
    let mut consumers = Vec::new();
    for group in ["one", "two", "three"] {
        consumers.push(broker.client(group).await);
    }
    publisher.publish_ok(&message(1)).await;
    for consumer in &mut consumers {
        let delivered = consumer.consume().await;
        assert_eq!(delivered.body, "body 1");
        assert_eq!(delivered.header.message_id, message(1).header.message_id);
        assert!(delivered.header.expired_time > 0 && delivered.header.create_time() > 0);
        consumer.hears_nothing().await;
    }
    other.hears_nothing().await;
    broker.until("the message is settled", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn bytes_and_both_framings_meet() {
    let broker = TestBroker::bound(config(), &[direct("consumer")]).await;
    let mut java = broker.client_with("consumer", Dialect::JAVA, 0).await;
    let mut go = broker.client("publisher").await;
    go.send(Command::BytesMessage, 77, &bytes_message(5, b"\x00\xff raw")).await;
    let (opaque, ack) = go.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
    assert_eq!((opaque, ack.status), (77, true));
    assert!(ack.feedback.starts_with("Store Result true Cost:"), "{}", ack.feedback);
    let (_, delivered) = java.expect::<pb::BytesMessage>(Command::BytesMessage).await;
    assert_eq!(&delivered.body[..], b"\x00\xff raw");
}

#[tokio::test]
async fn messages_wait_for_a_persistent_group_and_count_no_attempt() {
    let broker = TestBroker::bound(config(), &[direct("later")]).await;
    let mut publisher = broker.client("publisher").await;
    for number in 0..20 {
        let mut limited = message(number);
        limited.header.deliver_limit = 1;
        publisher.publish_ok(&limited).await;
    }
    let mut consumer = broker.client("later").await;
    for number in 0..20 {
        assert_eq!(consumer.consume().await.body, format!("body {number}"));
    }
    broker.until("everything is settled", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn without_a_persistent_binding_nothing_waits() {
    let broker =
        TestBroker::bound(config(), &[Binding::direct("offline", "trade", "pay-succ", 0, false)]).await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    broker.until("the message is done", |broker| broker.store.stats().messages == 0).await;
    let mut consumer = broker.client("offline").await;
    consumer.hears_nothing().await;
    publisher.publish_ok(&message(2)).await;
    assert_eq!(consumer.consume().await.body, "body 2");
}

#[tokio::test]
async fn messages_wait_until_the_bindings_are_known() {
    let broker = TestBroker::start().await;
    let mut publisher = broker.client("publisher").await;
    let mut consumer = broker.client("consumer").await;
    publisher.publish_ok(&message(1)).await;
    consumer.hears_nothing().await;
    assert_eq!(broker.store.stats().messages, 1);
    broker.registry.bind("trade", &[direct("consumer")]);
    assert_eq!(consumer.consume().await.body, "body 1");
}

#[tokio::test]
async fn with_bindings_known_and_none_matching_the_message_is_done() {
    let broker = TestBroker::bound(config(), &[]).await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    broker.until("the message is done", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn a_failed_delivery_comes_again_to_that_group_only() {
    let broker = TestBroker::bound(config(), &[direct("good"), direct("bad")]).await;
    let mut publisher = broker.client("publisher").await;
    let (mut good, mut bad) = (broker.client("good").await, broker.client("bad").await);
    publisher.publish_ok(&message(1)).await;
    good.consume().await;
    for _ in 0..5 {
        let (opaque, delivered) = bad.delivery().await;
        bad.ack(opaque, &delivered, false).await;
    }
    bad.consume().await;
    good.hears_nothing().await;
    bad.hears_nothing().await;
    assert_eq!(broker.metric("kiteq_deliveries_total{result=\"refused\"}"), 5.0);
}

#[tokio::test]
async fn an_unanswered_delivery_comes_again_and_a_late_answer_counts() {
    let broker = TestBroker::bound(config(), &[direct("slow")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut slow = broker.client("slow").await;
    publisher.publish_ok(&message(1)).await;
    let (first, delivered) = slow.delivery().await;
    let (second, _) = slow.delivery().await;
    assert_ne!(first, second);
    slow.ack(first, &delivered, true).await;
    broker.until("the late answer settles it", |broker| broker.store.stats().messages == 0).await;
    slow.ack(second, &delivered, true).await;
    slow.heartbeat().await;
    slow.hears_nothing().await;
}

#[tokio::test]
async fn a_broken_connection_gives_its_deliveries_to_another() {
    let broker = TestBroker::bound(config(), &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut first = broker.client("group").await;
    for number in 0..10 {
        publisher.publish_ok(&message(number)).await;
    }
    for _ in 0..10 {
        first.delivery().await;
    }
    let mut second = broker.client("group").await;
    drop(first);
    for number in 0..10 {
        assert_eq!(second.consume().await.body, format!("body {number}"), "in the old order");
    }
    broker.until("everything is settled", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn at_its_deliver_limit_a_message_becomes_a_dead_letter_and_can_be_replayed() {
    let broker = TestBroker::bound(config(), &[direct("good"), direct("bad")]).await;
    let mut publisher = broker.client("publisher").await;
    let (mut good, mut bad) = (broker.client("good").await, broker.client("bad").await);
    let mut limited = message(1);
    limited.header.deliver_limit = 4;
    publisher.publish_ok(&limited).await;
    good.consume().await;
    for _ in 0..4 {
        let (opaque, delivered) = bad.delivery().await;
        bad.ack(opaque, &delivered, false).await;
    }
    broker.until("it is a dead letter", |broker| broker.store.stats().dead_letters == 1).await;
    let letters = broker.broker.dead_letters(None, 10).await.unwrap();
    assert_eq!(letters[0].groups, ["bad"]);
    assert_eq!(letters[0].payload.body, "body 1");
    assert_eq!(broker.broker.replay(vec![letters[0].id]).await.unwrap(), 1);
    assert_eq!(bad.consume().await.body, "body 1");
    good.hears_nothing().await;
    broker
        .until("nothing is left", |broker| broker.store.stats() == kiteq_store::StoreStats::default())
        .await;
}

#[tokio::test]
async fn an_expired_message_becomes_a_dead_letter_while_it_waits() {
    let broker = TestBroker::bound(config(), &[direct("offline")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut short = message(1);
    short.header.expired_time = unix_seconds() + 1;
    publisher.publish_ok(&short).await;
    broker.until("it is a dead letter", |broker| broker.store.stats().dead_letters == 1).await;
    let letters = broker.broker.dead_letters(None, 10).await.unwrap();
    assert_eq!(letters[0].reason, kiteq_store::DeadReason::Expired);
    assert_eq!(broker.broker.purge(vec![letters[0].id]).await.unwrap(), 1);
    broker.client("offline").await.hears_nothing().await;
}

fn unix_seconds() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

#[tokio::test]
async fn a_fly_message_is_delivered_and_never_stored() {
    let broker = TestBroker::bound(config(), &[direct("here"), direct("offline")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut here = broker.client("here").await;
    // A fly message does not wait for the bindings to be read.
    broker.until("the bindings are known", |broker| broker.broker.lanes().len() == 2).await;
    let mut fly = message(1);
    fly.header.fly = true;
    let ack = publisher.publish(&fly).await;
    assert_eq!((ack.status, ack.feedback.as_str()), (true, "FLY NO NEED SAVE"));
    assert_eq!(broker.store.stats().messages, 0);
    assert_eq!(here.consume().await.body, "body 1");
    broker.client("offline").await.hears_nothing().await;
    fly.header.commit = false;
    let ack = publisher.publish(&fly).await;
    assert_eq!((ack.status, ack.feedback.as_str()), (false, "FLY MUST BE COMMITTED !"));
}

#[tokio::test]
async fn delivered_first_a_message_that_all_groups_ack_is_never_stored() {
    let broker =
        TestBroker::bound(BrokerConfig { delivery_first: true, ..config() }, &[direct("one"), direct("two")])
            .await;
    let mut publisher = broker.client("publisher").await;
    let (mut one, mut two) = (broker.client("one").await, broker.client("two").await);
    publisher.send(Command::StringMessage, 9, &message(1)).await;
    one.consume().await;
    publisher.hears_nothing().await;
    two.consume().await;
    let (opaque, ack) = publisher.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
    assert_eq!((opaque, ack.status), (9, true));
    assert_eq!(broker.metric("kiteq_publishes_total{result=\"delivered_first\"}"), 1.0);
    assert_eq!(broker.metric("kiteq_publishes_total{result=\"stored\"}"), 0.0);
}

#[tokio::test]
async fn delivered_first_a_message_that_one_group_fails_is_stored_for_that_group() {
    let broker = TestBroker::bound(
        BrokerConfig { delivery_first: true, ..config() },
        &[direct("good"), direct("bad")],
    )
    .await;
    let mut publisher = broker.client("publisher").await;
    let (mut good, mut bad) = (broker.client("good").await, broker.client("bad").await);
    publisher.send(Command::StringMessage, 9, &message(1)).await;
    good.consume().await;
    good.heartbeat().await;
    let (opaque, delivered) = bad.delivery().await;
    bad.ack(opaque, &delivered, false).await;
    let (_, ack) = publisher.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
    assert!(ack.status);
    bad.consume().await;
    good.hears_nothing().await;
    broker.until("nothing is left", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn a_watermark_paces_one_group_and_not_the_other() {
    let slow = Binding::direct("slow", "trade", "pay-succ", 40, true);
    let broker = TestBroker::bound(config(), &[slow, direct("fast")]).await;
    let mut publisher = broker.client("publisher").await;
    let (mut slow, mut fast) = (broker.client("slow").await, broker.client("fast").await);
    let started = std::time::Instant::now();
    for number in 0..60 {
        publisher.publish_ok(&message(number)).await;
    }
    for _ in 0..60 {
        fast.consume().await;
    }
    for _ in 0..60 {
        slow.consume().await;
    }
    // 20 at once, the other 40 at 40 a second.
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_full_window_leaves_work_for_the_others() {
    let broker = TestBroker::bound(BrokerConfig { delivery_window: 4, ..config() }, &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut stuck = broker.client("group").await;
    for number in 0..4 {
        publisher.publish_ok(&message(number)).await;
    }
    for _ in 0..4 {
        stuck.delivery().await;
    }
    let mut lively = broker.client("group").await;
    for number in 4..104 {
        publisher.publish_ok(&message(number)).await;
    }
    for number in 4..104 {
        assert_eq!(lively.consume().await.body, format!("body {number}"));
    }
}

#[tokio::test]
async fn a_connection_that_warms_up_gets_a_smaller_share() {
    let broker = TestBroker::bound(config(), &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut warm = broker.client("group").await;
    let mut cold = broker.client_with("group", Dialect::GO, 3600).await;
    let consume_all = async |client: &mut support::RawClient| {
        let mut count = 0;
        while let Ok(delivered) = tokio::time::timeout(support::SILENCE, client.consume()).await {
            assert!(!delivered.body.is_empty());
            count += 1;
        }
        count
    };
    let publish_all = async {
        for number in 0..300 {
            publisher.publish_ok(&message(number)).await;
        }
    };
    let ((), of_warm, of_cold) = tokio::join!(publish_all, consume_all(&mut warm), consume_all(&mut cold));
    assert_eq!(of_warm + of_cold, 300);
    assert!(of_cold <= 20, "a cold connection got {of_cold} of 300");
}

#[tokio::test]
async fn a_binding_that_vanishes_and_returns_loses_nothing() {
    let broker = TestBroker::bound(config(), &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    // The ack may overtake the dispatcher, and only what is queued for a group can outlive its binding.
    broker.until("it is queued", |broker| broker.broker.lanes().iter().any(|lane| lane.backlog == 1)).await;
    broker.registry.bind("trade", &[]);
    let mut consumer = broker.client("group").await;
    consumer.hears_nothing().await;
    broker.registry.bind("trade", &[direct("group")]);
    assert_eq!(consumer.consume().await.body, "body 1");
}

#[tokio::test]
async fn what_waits_for_a_binding_that_stays_away_is_given_up_after_its_grace() {
    let grace = Duration::from_millis(400);
    let broker =
        TestBroker::bound(BrokerConfig { binding_grace: grace, ..config() }, &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    // The ack may overtake the dispatcher, and only what is queued for a group can outlive its binding.
    broker.until("it is queued", |broker| broker.broker.lanes().iter().any(|lane| lane.backlog == 1)).await;
    broker.registry.bind("trade", &[]);
    let mut consumer = broker.client("group").await;
    broker.until("it is given up", |broker| broker.store.stats().messages == 0).await;
    consumer.hears_nothing().await;
}

#[tokio::test]
async fn bodies_beyond_the_budget_are_read_back_in_order() {
    let broker =
        TestBroker::bound(BrokerConfig { body_cache_bytes: 2000, ..config() }, &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    for number in 0..3000 {
        publisher.publish_ok(&message(number)).await;
    }
    let mut consumer = broker.client("group").await;
    for number in 0..3000 {
        assert_eq!(consumer.consume().await.body, format!("body {number}"));
    }
    broker.until("everything is settled", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn a_length_prefixed_client_is_never_sent_a_frame_that_breaks_it() {
    let broker = TestBroker::bound(config(), &[direct("group")]).await;
    let mut java = broker.client_with("group", Dialect::JAVA, 0).await;
    let mut publisher = broker.client("publisher").await;
    let mut large = message(1);
    large.body = "x".repeat(40_000);
    large.header.deliver_limit = 2;
    publisher.publish_ok(&large).await;
    publisher.publish_ok(&message(2)).await;
    assert_eq!(java.consume().await.body, "body 2");
    broker.until("the large one is a dead letter", |broker| broker.store.stats().dead_letters == 1).await;
}

#[tokio::test]
async fn what_expires_behind_an_offline_group_leaves_its_queue() {
    let broker = TestBroker::bound(config(), &[direct("offline")]).await;
    let mut publisher = broker.client("publisher").await;
    for number in 0..1500 {
        let mut short = message(number);
        short.header.expired_time = unix_seconds() + 5;
        publisher.publish_ok(&short).await;
    }
    let mut lasting = message(9999);
    lasting.header.deliver_limit = 3;
    publisher.publish_ok(&lasting).await;
    let backlog = |broker: &TestBroker| broker.broker.lanes().first().map_or(0, |lane| lane.backlog);
    // First: the backlog is counted now and then, and was 1 too when the first message had come.
    broker.until("the others are dead letters", |broker| broker.store.stats().dead_letters == 1500).await;
    broker.until("only the lasting one is owed", |broker| backlog(broker) == 1).await;
    assert_eq!(broker.client("offline").await.consume().await.body, "body 9999");
}

#[tokio::test]
async fn what_waits_for_an_absent_group_leaves_the_body_cache_when_the_others_have_it() {
    let limit = 64 << 10;
    let config = BrokerConfig { body_cache_bytes: limit, ..config() };
    let broker = TestBroker::bound(config, &[direct("here"), direct("away")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut here = broker.client("here").await;
    for number in 0..500 {
        let mut large = message(number);
        large.body = "x".repeat(1000);
        publisher.publish_ok(&large).await;
        here.consume().await;
    }
    broker.until("all are counted", |broker| broker.metric("kiteq_messages_waiting") == 500.0).await;
    let cached = broker.metric("kiteq_body_cache_bytes");
    assert!(cached <= limit as f64, "{cached} bytes are cached");
    let mut away = broker.client("away").await;
    for number in 0..500 {
        assert_eq!(away.consume().await.header.message_id, message(number).header.message_id);
    }
}

#[tokio::test]
async fn delivered_first_a_message_whose_group_leaves_is_stored_before_its_ack() {
    let config = BrokerConfig { delivery_first: true, delivery_window: 1, ..config() };
    let broker = TestBroker::bound(config, &[direct("group")]).await;
    broker.until("the bindings are known", |broker| !broker.broker.lanes().is_empty()).await;
    let mut publisher = broker.client("publisher").await;
    let mut group = broker.client("group").await;
    publisher.send(Command::StringMessage, 1, &message(1)).await;
    publisher.send(Command::StringMessage, 2, &message(2)).await;
    // The first is out, the second waits in the queue.
    group.delivery().await;
    drop(group);
    for _ in 0..2 {
        let (_, ack) = publisher.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
        assert!(ack.status, "{}", ack.feedback);
    }
    assert_eq!(broker.store.stats().messages, 2);
    let mut group = broker.client("group").await;
    let mut bodies = [group.consume().await.body, group.consume().await.body];
    bodies.sort();
    assert_eq!(bodies, ["body 1", "body 2"]);
}

#[tokio::test]
async fn delivered_first_a_message_that_comes_again_is_a_duplicate() {
    let broker =
        TestBroker::bound(BrokerConfig { delivery_first: true, ..config() }, &[direct("group")]).await;
    broker.until("the bindings are known", |broker| !broker.broker.lanes().is_empty()).await;
    let mut publisher = broker.client("publisher").await;
    let mut group = broker.client("group").await;
    publisher.send(Command::StringMessage, 1, &message(1)).await;
    group.consume().await;
    let (_, ack) = publisher.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
    assert!(ack.status);
    let again = publisher.publish(&message(1)).await;
    assert_eq!((again.status, again.feedback.as_str()), (true, "Duplicate Message"));
    group.hears_nothing().await;
}

#[tokio::test]
async fn a_message_published_while_a_binding_is_gone_for_a_moment_is_kept_for_it() {
    let broker = TestBroker::bound(config(), &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    broker.until("it is queued", |broker| broker.broker.lanes().iter().any(|lane| lane.backlog == 1)).await;
    broker.registry.bind("trade", &[]);
    let mut consumer = broker.client("group").await;
    consumer.hears_nothing().await;
    publisher.publish_ok(&message(2)).await;
    consumer.hears_nothing().await;
    broker.registry.bind("trade", &[direct("group")]);
    assert_eq!(consumer.consume().await.body, "body 1");
    assert_eq!(consumer.consume().await.body, "body 2");
}

#[tokio::test]
async fn a_replayed_dead_letter_for_a_group_that_is_not_bound_stays_one() {
    let broker = TestBroker::bound(config(), &[direct("group")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut consumer = broker.client("group").await;
    let mut limited = message(1);
    limited.header.deliver_limit = 1;
    publisher.publish_ok(&limited).await;
    let (opaque, delivered) = consumer.delivery().await;
    consumer.ack(opaque, &delivered, false).await;
    broker.until("it is a dead letter", |broker| broker.store.stats().dead_letters == 1).await;
    broker.registry.bind("trade", &[]);
    consumer.hears_nothing().await;
    let id = broker.broker.dead_letters(None, 1).await.unwrap()[0].id;
    broker.broker.replay(vec![id]).await.unwrap();
    broker.until("it is a dead letter again", |broker| broker.store.stats().dead_letters == 1).await;
    assert_eq!(broker.broker.dead_letters(None, 1).await.unwrap()[0].groups, ["group"]);
    broker.registry.bind("trade", &[direct("group")]);
    consumer.heartbeat().await;
    broker.until("it can be replayed", |broker| broker.metric("kiteq_messages_waiting") == 0.0).await;
    assert_eq!(broker.broker.replay(vec![id]).await.unwrap(), 1);
    assert_eq!(consumer.consume().await.body, "body 1");
}

#[tokio::test]
async fn a_consumer_that_never_reads_is_not_sent_more_and_more() {
    let limit = 256 << 10;
    let config = BrokerConfig { outbound_bytes_max: limit, ..config() };
    let broker = TestBroker::bound(config, &[direct("deaf")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut deaf = broker.client("deaf").await;
    for number in 0..100 {
        let mut large = message(number);
        large.body = "x".repeat(100_000);
        publisher.publish_ok(&large).await;
    }
    // Several delivery timeouts pass while it reads nothing.
    broker
        .until("deliveries time out", |broker| {
            broker.metric("kiteq_deliveries_total{result=\"timed_out\"}") >= 3.0
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    deaf.send(Command::Heartbeat, 9, &pb::HeartBeat { version: 1 }).await;
    let started = broker.metric("kiteq_deliveries_started_total");
    // What the sockets hold comes on top of what the broker does.
    let sent = broker.metric("kiteq_socket_bytes_total{result=\"sent\"}");
    assert!(
        started * 100_000.0 <= sent + 4.0 * limit as f64,
        "{started} deliveries were started, {sent} bytes sent"
    );
}
