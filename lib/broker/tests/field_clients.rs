//! Habits of the clients in the field that the protocol's tables do not show.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use kiteq_broker::BrokerConfig;
use kiteq_protocol::frame::BODY_BYTES_MAX;
use kiteq_protocol::{Command, Dialect, pb};
use kiteq_registry::Binding;
use prost::Message as _;
use support::{RawClient, TestBroker, config, message};
use tokio::io::AsyncReadExt as _;

fn direct(group: &str) -> Binding {
    Binding::direct(group, "trade", "pay-succ", 0, true)
}

/// The Go client keeps its handlers running while it connects again, and answers on the connection that it has then.
#[tokio::test]
async fn an_answer_for_an_earlier_connection_settles_no_other_message() {
    let broker = TestBroker::bound(config(), &[direct("consumer")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut before = broker.client("consumer").await;
    publisher.publish_ok(&message(1)).await;
    let (opaque, first) = before.delivery().await;
    drop(before);
    let mut after = broker.client("consumer").await;
    assert_eq!(after.consume().await.body, "body 1");
    broker.until("the first is settled", |broker| broker.store.stats().messages == 0).await;

    publisher.publish_ok(&message(2)).await;
    let (unanswered, second) = after.delivery().await;
    for stale in [opaque, unanswered] {
        after.ack(stale, &first, true).await;
        after.heartbeat().await;
    }
    assert_eq!(broker.store.stats().messages, 1, "nobody has acked the second message");
    assert_eq!(broker.metric("kiteq_deliver_acks_unknown_total"), 2.0);
    after.ack(unanswered, &second, true).await;
    broker.until("the second is settled", |broker| broker.store.stats().messages == 0).await;
}

/// A Go client stops reading, for good and without a word, when it is sent a body over the limit.
#[tokio::test]
async fn a_message_that_would_outgrow_the_limit_is_refused() {
    let broker = TestBroker::bound(config(), &[direct("consumer")]).await;
    let mut publisher = broker.client("publisher").await;
    let mut consumer = broker.client("consumer").await;
    let mut largest = message(1);
    // Zero takes one byte, the expiry that the broker puts there five; a creation time comes on top.
    largest.header.expired_time = 0;
    largest.body = "x".repeat(BODY_BYTES_MAX);
    largest.body.truncate(2 * BODY_BYTES_MAX - largest.encoded_len());
    // A shorter body may have a shorter length field.
    largest.body.push_str(&"x".repeat(BODY_BYTES_MAX - largest.encoded_len()));
    assert_eq!(largest.encoded_len(), BODY_BYTES_MAX);
    let ack = publisher.publish(&largest).await;
    assert!(!ack.status && ack.feedback.contains("the limit is 2097152"), "{}", ack.feedback);
    largest.body.truncate(largest.body.len() - 10);
    largest.header.message_id = message(2).header.message_id;
    publisher.publish_ok(&largest).await;
    assert_eq!(consumer.consume().await.body, largest.body);
}

/// While a group moves from Java to Go, its large messages are for the members that can take them.
#[tokio::test]
async fn what_is_too_large_for_one_member_goes_to_another() {
    let broker = TestBroker::bound(config(), &[direct("consumer")]).await;
    let _java = broker.client_with("consumer", Dialect::JAVA, 0).await;
    let mut go = broker.client("consumer").await;
    let mut publisher = broker.client("publisher").await;
    for number in 1..=4 {
        let mut large = message(number);
        large.body = "x".repeat(40_000);
        large.header.deliver_limit = 1;
        publisher.publish_ok(&large).await;
        assert_eq!(go.consume().await.header.message_id, large.header.message_id);
    }
    broker.until("all are settled", |broker| broker.store.stats().messages == 0).await;
    assert_eq!(broker.store.stats().dead_letters, 0);
}

/// A frame of a length-prefixed connection as it is on the wire, held to the version and the extension of that client.
async fn raw_frame(client: &mut RawClient) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 23];
    client.stream.read_exact(&mut head).await.unwrap();
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 19 + word(19), "the prefix counts header and body");
    assert_eq!(head[9..19], [0, 2, 0, 0, 0, 0, 0, 0, 0, 0], "version 2 comes back, the extension is empty");
    let mut body = vec![0; word(19) as usize];
    client.stream.read_exact(&mut body).await.unwrap();
    (head[8], word(4), body)
}

/// The Java client leaves the warm-up out, gives every frame an opaque from one counter, sends up to three heartbeats at once
/// when it is idle, and says nothing in its acks.
#[tokio::test]
async fn a_java_client_is_spoken_to_in_its_own_frames() {
    let broker = TestBroker::bound(config(), &[direct("java")]).await;
    let mut java = RawClient::connect(broker.broker.address(), Dialect::JAVA).await;
    let meta = pb::ConnMeta { group_id: "java".into(), secret_key: "123456".into(), warmingup_sec: None };
    java.send(Command::ConnMeta, 901, &meta).await;
    let (cmd, opaque, body) = raw_frame(&mut java).await;
    assert_eq!((cmd, opaque), (Command::ConnAuth as u8, 901));
    assert!(pb::ConnAuthAck::decode(&body[..]).unwrap().status);

    for opaque in 902..905 {
        java.send(Command::Heartbeat, opaque, &pb::HeartBeat { version: 1_700_000_000_000 }).await;
    }
    for expected in 902..905 {
        let (cmd, opaque, body) = raw_frame(&mut java).await;
        assert_eq!((cmd, opaque), (Command::Heartbeat as u8, expected));
        assert_eq!(pb::HeartBeat::decode(&body[..]).unwrap().version, 1_700_000_000_000);
    }

    java.send(Command::StringMessage, 905, &message(1)).await;
    let mut is_stored = false;
    let mut delivered = None;
    while !is_stored || delivered.is_none() {
        let (cmd, opaque, body) = raw_frame(&mut java).await;
        if cmd == Command::StoreAck as u8 {
            assert_eq!(opaque, 905);
            is_stored = pb::MessageStoreAck::decode(&body[..]).unwrap().status;
        } else {
            assert_eq!(cmd, Command::StringMessage as u8);
            delivered = Some((opaque, pb::StringMessage::decode(&body[..]).unwrap()));
        }
    }
    let (opaque, delivered) = delivered.unwrap();
    assert_eq!(delivered.body, "body 1");
    java.ack(opaque, &delivered, true).await;
    broker.until("the ack settles it", |broker| broker.store.stats().messages == 0).await;
}

/// Its frame decoder counts the prefix: a frame of 32 KiB is the last that it takes.
#[tokio::test]
async fn a_java_client_is_sent_frames_of_up_to_32_kib() {
    let broker = TestBroker::bound(config(), &[direct("java")]).await;
    let mut java = broker.client_with("java", Dialect::JAVA, 0).await;
    let mut publisher = broker.client("publisher").await;
    let mut largest = message(1);
    largest.header.expired_time = unix_seconds() + 3600;
    largest.header.create_time = Some(unix_seconds());
    largest.header.deliver_limit = 1;
    largest.body = "x".repeat(32 << 10);
    let too_much = 23 + largest.encoded_len() - (32 << 10);
    largest.body.truncate(largest.body.len() - too_much);
    assert_eq!(23 + largest.encoded_len(), 32 << 10);
    publisher.publish_ok(&largest).await;
    assert_eq!(java.consume().await.body, largest.body);
    largest.header.message_id = message(2).header.message_id;
    largest.body.push('x');
    publisher.publish_ok(&largest).await;
    broker.until("one byte more is a dead letter", |broker| broker.store.stats().dead_letters == 1).await;
    java.heartbeat().await;
}

/// A Java client reports the outcome of a transaction with commit=true in the header, over any of its connections. A Go
/// client's verdict has opaque 0.
#[tokio::test]
async fn verdicts_are_understood_as_either_client_sends_them() {
    let unasked = BrokerConfig { recover_period: Duration::from_secs(60), ..config() };
    let broker = TestBroker::bound(unasked, &[direct("consumer")]).await;
    let mut consumer = broker.client("consumer").await;
    for (number, dialect, opaque) in [(1, Dialect::JAVA, 77), (2, Dialect::GO, 0)] {
        let mut publisher = broker.client_with("producer", dialect, 0).await;
        let mut decider = broker.client_with("producer", dialect, 0).await;
        let mut prepared = prepared_by("producer", number);
        publisher.publish_ok(&prepared).await;
        prepared.header.commit = dialect == Dialect::JAVA;
        decider.verdict(opaque, &prepared, 1).await;
        let delivered = consumer.consume().await;
        assert_eq!(delivered.header.message_id, prepared.header.message_id);
        assert!(delivered.header.commit);
    }
}

/// A Java client sends the broker's question back as it came, but for the status.
#[tokio::test]
async fn a_question_that_comes_back_with_another_status_is_a_verdict() {
    let broker = TestBroker::bound(config(), &[direct("consumer")]).await;
    let mut consumer = broker.client("consumer").await;
    let mut java = broker.client_with("producer", Dialect::JAVA, 0).await;
    java.publish_ok(&prepared_by("producer", 1)).await;
    let (opaque, question) = java.expect::<pb::TxAckPacket>(Command::TxAck).await;
    assert_eq!((question.status, question.feedback.as_str()), (0, "Server Check"));
    java.send(Command::TxAck, opaque, &pb::TxAckPacket { status: 1, ..question }).await;
    assert_eq!(consumer.consume().await.body, "body 1");
}

fn prepared_by(group: &str, number: u128) -> pb::StringMessage {
    let mut prepared = message(number);
    prepared.header.commit = false;
    prepared.header.group_id = group.into();
    prepared
}

/// A client that waits for CONN_AUTH in vain asks again on the same connection; both questions may be answered.
#[tokio::test]
async fn a_repeated_handshake_is_answered_again() {
    let broker = TestBroker::bound(config(), &[direct("consumer")]).await;
    let mut consumer = broker.client("consumer").await;
    assert!(consumer.present("consumer", "", 0).await.status);
    let mut publisher = broker.client("publisher").await;
    publisher.publish_ok(&message(1)).await;
    assert_eq!(consumer.consume().await.body, "body 1");
    consumer.hears_nothing().await;
}

/// The last words to a client that broke the protocol reach it, also while it is still sending.
#[tokio::test]
async fn what_an_oversized_frame_is_answered_is_not_lost_to_a_reset() {
    let broker = TestBroker::bound(config(), &[]).await;
    let mut publisher = broker.client("publisher").await;
    let mut too_large = message(1);
    too_large.body = "x".repeat(3 * BODY_BYTES_MAX);
    let ack = publisher.publish(&too_large).await;
    assert!(!ack.status && ack.feedback.contains("the limit is 2097152"), "{}", ack.feedback);
    let end = publisher.stream.read(&mut [0]).await;
    assert!(matches!(end, Ok(0)), "the connection ends in order, not with {end:?}");
}

fn unix_seconds() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}
