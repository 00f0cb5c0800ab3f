//! What a publish is answered, and who is let in.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashMap;

use kiteq_broker::BrokerConfig;
use kiteq_protocol::{Command, Dialect, pb};
use kiteq_registry::Binding;
use support::{RawClient, TestBroker, config, message};

#[tokio::test]
async fn refusals_have_the_documented_words() {
    let broker = TestBroker::bound(config(), &[]).await;
    let mut publisher = broker.client("publisher").await;
    let mut other_topic = message(1);
    other_topic.header.topic = "elsewhere".into();
    let mut bad_id = message(1);
    bad_id.header.message_id = "not-an-id".into();
    let mut expired = message(1);
    expired.header.expired_time = 1;
    for (refused, words) in [
        (other_topic, "UnSupport Topic Message!"),
        (bad_id.clone(), "Invalid MessageId For UUID!"),
        (expired, "Expired Message!"),
    ] {
        let ack = publisher.publish(&refused).await;
        assert_eq!((ack.status, ack.feedback.as_str()), (false, words));
        assert_eq!(ack.message_id, refused.header.message_id);
    }
    publisher.publish_ok(&message(1)).await;
}

#[tokio::test]
async fn a_held_or_just_completed_id_is_a_duplicate() {
    let bindings = [Binding::direct("consumer", "trade", "pay-succ", 0, true)];
    let broker = TestBroker::bound(config(), &bindings).await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    let held = publisher.publish(&message(1)).await;
    assert_eq!((held.status, held.feedback.as_str()), (true, "Duplicate Message"));
    let mut consumer = broker.client("consumer").await;
    consumer.consume().await;
    broker.until("it is settled", |broker| broker.store.stats().messages == 0).await;
    let completed = publisher.publish(&message(1)).await;
    assert_eq!((completed.status, completed.feedback.as_str()), (true, "Duplicate Message"));
    consumer.hears_nothing().await;
}

#[tokio::test]
async fn above_the_receive_limit_publishes_are_refused_and_the_connection_stays() {
    let broker =
        TestBroker::bound(BrokerConfig { receive_permits_per_second: Some(5), ..config() }, &[]).await;
    let mut publisher = broker.client("publisher").await;
    let mut refused = 0;
    for number in 0..20 {
        let ack = publisher.publish(&message(number)).await;
        if !ack.status {
            assert_eq!(ack.feedback, format!("Store Result KiteQ OverFlow [{}]", broker.broker.address()));
            refused += 1;
        }
    }
    assert!((10..=15).contains(&refused), "{refused} of 20 were refused");
}

#[tokio::test]
async fn a_full_store_refuses_and_takes_again_when_there_is_room() {
    let bindings = [Binding::direct("consumer", "trade", "pay-succ", 0, true)];
    let registry = std::sync::Arc::new(support::TestRegistry::default());
    registry.bind("trade", &bindings);
    let store = kiteq_store::open("memory://.?maxcap=3").unwrap();
    let broker = TestBroker::over(config(), store, registry).await;
    let mut publisher = broker.client("publisher").await;
    for number in 0..3 {
        publisher.publish_ok(&message(number)).await;
    }
    let ack = publisher.publish(&message(3)).await;
    assert!(!ack.status && ack.feedback.contains("full"), "{}", ack.feedback);
    let mut consumer = broker.client("consumer").await;
    consumer.consume().await;
    broker.until("there is room", |broker| broker.store.stats().messages < 3).await;
    publisher.publish_ok(&message(3)).await;
}

#[tokio::test]
async fn with_secrets_configured_only_those_who_know_them_come_in() {
    let secrets = HashMap::from([("known".to_owned(), "123456".to_owned())]);
    let broker = TestBroker::bound(BrokerConfig { secrets, ..config() }, &[]).await;
    for (group, secret, feedback) in [
        ("known", "wrong", "Invalid SecretKey"),
        ("unknown", "123456", "Unknown GroupId"),
        ("known", "", "Invalid SecretKey"),
    ] {
        let mut stranger = RawClient::connect(broker.broker.address(), Dialect::GO).await;
        let ack = stranger.present(group, secret, 0).await;
        assert_eq!((ack.status, ack.feedback.as_str()), (false, feedback));
        stranger.is_closed().await;
    }
    let mut friend = RawClient::connect(broker.broker.address(), Dialect::GO).await;
    let ack = friend.present("known", "123456", 0).await;
    assert_eq!((ack.status, ack.feedback.as_str()), (true, "Auth Succ"));
}

#[tokio::test]
async fn whoever_does_not_present_himself_first_is_told_and_closed() {
    let broker = TestBroker::bound(config(), &[]).await;
    for dialect in [Dialect::GO, Dialect::JAVA] {
        let mut stranger = RawClient::connect(broker.broker.address(), dialect).await;
        stranger.send(Command::StringMessage, 5, &message(1)).await;
        let (opaque, ack) = stranger.expect::<pb::ConnAuthAck>(Command::ConnAuth).await;
        assert_eq!(
            (opaque, ack.status, ack.feedback.as_str()),
            (5, false, "Unauthorized,Connection broken!")
        );
        stranger.is_closed().await;
    }
}

#[tokio::test]
async fn a_body_may_have_two_mebibytes_and_no_more() {
    let broker = TestBroker::bound(config(), &[]).await;
    let mut publisher = broker.client("publisher").await;
    let mut large = message(1);
    large.body = "x".repeat(2 * 1024 * 1024 - 300);
    publisher.publish_ok(&large).await;
    let mut too_large = message(2);
    too_large.body = "x".repeat(2 * 1024 * 1024);
    let ack = publisher.publish(&too_large).await;
    assert!(!ack.status && ack.feedback.contains("the limit is 2097152"), "{}", ack.feedback);
    publisher.is_closed().await;
}

#[tokio::test]
async fn a_stopping_broker_answers_what_it_took_and_lets_go_of_the_rest() {
    let bindings = [Binding::direct("consumer", "trade", "pay-succ", 0, true)];
    let broker = TestBroker::bound(config(), &bindings).await;
    let mut publisher = broker.client("publisher").await;
    let mut consumer = broker.client("consumer").await;
    publisher.publish_ok(&message(1)).await;
    let (opaque, delivered) = consumer.delivery().await;
    let registry = broker.registry.clone();
    let store = broker.store.clone();
    let stopping = tokio::spawn(async move { broker.broker.stop().await });
    while registry.registered.lock().unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    consumer.ack(opaque, &delivered, true).await;
    let report = tokio::time::timeout(support::PATIENCE, stopping).await.unwrap().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(store.stats().messages, 0, "the ack that came while stopping counts");
    consumer.is_closed().await;
}
