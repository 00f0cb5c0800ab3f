//! Two-phase commit, as existing producers use it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use kiteq_broker::BrokerConfig;
use kiteq_protocol::{Command, pb};
use kiteq_registry::Binding;
use support::{RawClient, TestBroker, config, message};

fn prepared(number: u128) -> pb::StringMessage {
    let mut message = message(number);
    message.header.commit = false;
    message
}

async fn broker() -> TestBroker {
    TestBroker::bound(config(), &[Binding::direct("consumer", "trade", "pay-succ", 0, true)]).await
}

async fn check(publisher: &mut RawClient) -> (u32, pb::TxAckPacket) {
    publisher.expect(Command::TxAck).await
}

#[tokio::test]
async fn nothing_is_delivered_before_the_commit() {
    let broker = TestBroker::bound(
        BrokerConfig { recover_period: std::time::Duration::from_secs(60), ..config() },
        &[Binding::direct("consumer", "trade", "pay-succ", 0, true)],
    )
    .await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    publisher.publish_ok(&prepared(1)).await;
    consumer.hears_nothing().await;
    publisher.verdict(9, &prepared(1), 0).await;
    consumer.hears_nothing().await;
    publisher.verdict(10, &prepared(1), 1).await;
    let delivered = consumer.consume().await;
    assert!(delivered.header.commit, "a committed message says so");
    publisher.verdict(11, &prepared(1), 1).await;
    publisher.verdict(12, &prepared(99), 1).await;
    publisher.heartbeat().await;
    consumer.hears_nothing().await;
    broker.until("it is settled", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn a_rolled_back_message_is_gone() {
    let broker = broker().await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    publisher.publish_ok(&prepared(1)).await;
    publisher.verdict(9, &prepared(1), 2).await;
    broker.until("it is gone", |broker| broker.store.stats().messages == 0).await;
    publisher.verdict(10, &prepared(1), 1).await;
    publisher.heartbeat().await;
    consumer.hears_nothing().await;
}

#[tokio::test]
async fn a_producer_that_says_nothing_is_asked_until_it_answers() {
    let broker = broker().await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    publisher.publish_ok(&prepared(1)).await;
    let (first, question) = check(&mut publisher).await;
    assert_eq!((question.status, question.feedback.as_str()), (0, "Server Check"));
    assert_eq!(question.header.message_id, message(1).header.message_id);
    assert!(first != 0);
    publisher.verdict(first, &prepared(1), 0).await;
    let (second, _) = check(&mut publisher).await;
    assert_ne!(first, second);
    publisher.verdict(second, &prepared(1), 1).await;
    consumer.consume().await;
    publisher.hears_nothing().await;
}

#[tokio::test]
async fn any_member_of_the_producers_group_is_asked() {
    let broker = broker().await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&prepared(1)).await;
    drop(publisher);
    let mut another = broker.client("publisher").await;
    let (opaque, _) = check(&mut another).await;
    another.verdict(opaque, &prepared(1), 2).await;
    broker.until("it is gone", |broker| broker.store.stats().messages == 0).await;
}

#[tokio::test]
async fn without_a_verdict_an_expired_message_is_a_dead_letter() {
    let broker = broker().await;
    let mut publisher = broker.client("publisher").await;
    let mut short = prepared(1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    short.header.expired_time = now + 1;
    publisher.publish_ok(&short).await;
    broker.until("it is a dead letter", |broker| broker.store.stats().dead_letters == 1).await;
    let letters = broker.broker.dead_letters(None, 10).await.unwrap();
    assert_eq!(letters[0].reason, kiteq_store::DeadReason::NoVerdict);
}

#[tokio::test]
async fn a_prepared_message_is_a_duplicate_too() {
    let broker = broker().await;
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&prepared(1)).await;
    let again = publisher.publish(&prepared(1)).await;
    assert_eq!((again.status, again.feedback.as_str()), (true, "Duplicate Message"));
}
