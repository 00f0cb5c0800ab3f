//! Whatever comes in over the broker's port: a clear end for whoever sent it, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::BytesMut;
use kiteq_broker::BrokerConfig;
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::{Command, Dialect, pb};
use kiteq_registry::Binding;
use support::{RawClient, TestBroker, config, message};

async fn broker() -> TestBroker {
    TestBroker::bound(config(), &[Binding::direct("consumer", "trade", "pay-succ", 0, true)]).await
}

/// Publishes through one connection and consumes through another that both were there before.
async fn is_served(publisher: &mut RawClient, consumer: &mut RawClient, number: u128) {
    publisher.publish_ok(&message(number)).await;
    assert_eq!(consumer.consume().await.body, format!("body {number}"));
}

#[tokio::test]
async fn strangers_are_closed_and_everybody_else_is_served() {
    let broker = broker().await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    let tls_hello = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03, 0x11, 0x22];
    let strangers: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: kiteq\r\n\r\n",
        &tls_hello,
        &[0xff; 64],
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"SSH-2.0-x\r\n",
    ];
    for (number, bytes) in strangers.into_iter().enumerate() {
        let mut stranger = RawClient::connect(broker.broker.address(), Dialect::GO).await;
        stranger.send_raw(bytes).await;
        while stranger.next().await.is_some() {}
        is_served(&mut publisher, &mut consumer, number as u128).await;
    }
    assert_eq!(broker.metric("kiteq_protocol_errors_total"), 5.0);
    // A port scanner says nothing at all.
    drop(RawClient::connect(broker.broker.address(), Dialect::GO).await);
    is_served(&mut publisher, &mut consumer, 100).await;
}

#[tokio::test]
async fn half_a_handshake_and_silence_is_closed_in_time() {
    let broker = broker().await;
    let mut stranger = RawClient::connect(broker.broker.address(), Dialect::GO).await;
    stranger.send_raw(&[0, 0, 0, 1, 2, 0, 0]).await;
    while stranger.next().await.is_some() {}
}

#[tokio::test]
async fn half_a_frame_and_silence_is_closed_when_idle_for_too_long() {
    let idle = Duration::from_millis(400);
    let broker = TestBroker::bound(BrokerConfig { idle_timeout: idle, ..config() }, &[]).await;
    let mut client = broker.client("publisher").await;
    let mut frame = BytesMut::new();
    put_frame(&mut frame, Dialect::GO, Command::StringMessage, 3, &message(1));
    client.send_raw(&frame[..frame.len() / 2]).await;
    client.is_closed().await;
}

#[tokio::test]
async fn heartbeats_keep_a_quiet_connection() {
    let idle = Duration::from_secs(2);
    let broker = TestBroker::bound(BrokerConfig { idle_timeout: idle, ..config() }, &[]).await;
    let mut client = broker.client("publisher").await;
    for _ in 0..4 {
        tokio::time::sleep(idle / 3).await;
        client.heartbeat().await;
    }
}

#[tokio::test]
async fn impossible_lengths_are_answered_and_closed() {
    let broker = broker().await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    for (number, body_len) in [-1, i32::MIN, i32::MAX].into_iter().enumerate() {
        let mut bad = broker.client("bad").await;
        let mut frame = BytesMut::new();
        put_frame(&mut frame, Dialect::GO, Command::StringMessage, 7, &message(1));
        frame[15..19].copy_from_slice(&i32::to_be_bytes(body_len));
        bad.send_raw(&frame).await;
        let (opaque, ack) = bad.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
        assert_eq!((opaque, ack.status), (7, false));
        assert!(ack.feedback.contains(&body_len.to_string()), "{}", ack.feedback);
        bad.is_closed().await;
        is_served(&mut publisher, &mut consumer, 10 + number as u128).await;
    }
}

#[tokio::test]
async fn garbage_bodies_close_their_connection_only_and_what_came_before_counts() {
    let broker = broker().await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    let commands = [
        Command::StringMessage,
        Command::BytesMessage,
        Command::DeliverAck,
        Command::TxAck,
        Command::Heartbeat,
    ];
    for (number, command) in commands.into_iter().enumerate() {
        let number = number as u128;
        let mut bad = broker.client("bad").await;
        let mut frames = BytesMut::new();
        put_frame(&mut frames, Dialect::GO, Command::StringMessage, 1, &message(100 + number));
        let garbage_at = frames.len() + 19;
        put_frame(
            &mut frames,
            Dialect::GO,
            command,
            2,
            &pb::ConnAuthAck { status: true, feedback: "garbage".into() },
        );
        frames[garbage_at..].fill(0xff);
        bad.send_raw(&frames).await;
        let (opaque, ack) = bad.expect::<pb::MessageStoreAck>(Command::StoreAck).await;
        assert_eq!((opaque, ack.status), (1, true), "{command:?}");
        bad.is_closed().await;
        assert_eq!(consumer.consume().await.body, format!("body {}", 100 + number));
        is_served(&mut publisher, &mut consumer, number).await;
    }
}

#[tokio::test]
async fn an_unknown_command_closes_its_connection() {
    let broker = broker().await;
    let mut bad = broker.client("bad").await;
    let mut frame = BytesMut::new();
    put_frame(&mut frame, Dialect::GO, Command::Heartbeat, 2, &pb::HeartBeat { version: 1 });
    frame[4] = 0x77;
    bad.send_raw(&frame).await;
    bad.is_closed().await;
}

#[tokio::test]
async fn acks_for_nothing_are_ignored() {
    let broker = broker().await;
    let (mut publisher, mut consumer) = (broker.client("publisher").await, broker.client("consumer").await);
    for opaque in [0, 1, 77, 0x3fff_ffff, 0x4000_0000, u32::MAX] {
        consumer.ack(opaque, &message(1), true).await;
    }
    broker.until("all are counted", |broker| broker.metric("kiteq_deliver_acks_unknown_total") == 6.0).await;
    is_served(&mut publisher, &mut consumer, 1).await;
}

#[tokio::test]
async fn at_the_connection_limit_newcomers_are_closed_and_the_others_stay() {
    let broker = TestBroker::bound(BrokerConfig { connections_max: 2, ..config() }, &[]).await;
    let mut first = broker.client("first").await;
    let second = broker.client("second").await;
    RawClient::connect(broker.broker.address(), Dialect::GO).await.is_closed().await;
    first.publish_ok(&message(1)).await;
    drop(second);
    broker.until("a place is free", |broker| broker.metric("kiteq_connections") < 2.0).await;
    broker.client("third").await.heartbeat().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_either() {
    let limit = 64 << 10;
    let idle = Duration::from_millis(500);
    let broker =
        TestBroker::bound(BrokerConfig { outbound_bytes_max: limit, idle_timeout: idle, ..config() }, &[])
            .await;
    let deaf = broker.client("deaf").await;
    let flood = tokio::spawn(async move {
        let mut deaf = deaf;
        let mut frames = BytesMut::new();
        for number in 0..1000 {
            put_frame(&mut frames, Dialect::GO, Command::StringMessage, 1, &message(number));
        }
        // Ends when the broker gives up on it.
        while tokio::io::AsyncWriteExt::write_all(&mut deaf.stream, &frames).await.is_ok() {}
    });
    tokio::time::timeout(Duration::from_secs(60), flood).await.unwrap().unwrap();
    broker.client("publisher").await.publish_ok(&message(5000)).await;
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let broker = broker().await;
    let taken = BrokerConfig { bind: broker.broker.address(), ..config() };
    let store = kiteq_store::open("memory://").unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    let service = kiteq_telemetry::Shutdown::new();
    let started =
        kiteq_broker::Broker::start(taken, store, broker.registry.clone(), &mut metrics, &service).await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains(&broker.broker.address().to_string()) && error.contains("-bind"), "{error}");
}
