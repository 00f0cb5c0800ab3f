//! Brokers that do not keep to the protocol: the client drops them, keeps what it was told to send, and goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use kiteq_client::{Bind, Client, Delivery, Nack, Publish, Submitted};
use kiteq_protocol::{Command, pb};
use support::{Connection, FakeBroker, PATIENCE, TestRegistry, client_of, header, soon};

/// A client with one message that waits for its ack on a connection.
async fn waiting() -> (FakeBroker, Connection, Client, Submitted) {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let publish = Publish::bytes("trade", "pay-succ", "a");
    let (submitted, mut connection) = tokio::join!(client.submit(publish), broker.accept());
    connection.published().await;
    (broker, connection, client, submitted.unwrap())
}

/// The message comes again over a new connection, and its ack there counts.
async fn assert_recovers(broker: &FakeBroker, mut broken: Connection, submitted: Submitted) {
    let mut connection = broker.accept().await;
    broken.assert_closed().await;
    let published = connection.published().await;
    assert_eq!(published.header.message_id, submitted.id().to_string());
    connection.ack(&published).await;
    soon("a receipt", submitted).await.unwrap();
}

#[tokio::test]
async fn an_oversized_frame_ends_the_connection() {
    let (broker, mut connection, _client, submitted) = waiting().await;
    let mut frame = vec![0, 0, 0, 1, Command::BytesMessage as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&i32::MAX.to_be_bytes());
    connection.raw(&frame).await;
    assert_recovers(&broker, connection, submitted).await;
}

#[tokio::test]
async fn a_negative_length_ends_the_connection() {
    let (broker, mut connection, _client, submitted) = waiting().await;
    connection.raw(&[0xff; 64]).await;
    assert_recovers(&broker, connection, submitted).await;
}

#[tokio::test]
async fn an_ack_that_cannot_be_read_ends_the_connection() {
    let (broker, mut connection, _client, submitted) = waiting().await;
    // A field of five bytes of which one is there.
    let mut frame = vec![0, 0, 0, 1, Command::StoreAck as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
    frame.extend_from_slice(&[0x0a, 0x05, b'x']);
    connection.raw(&frame).await;
    assert_recovers(&broker, connection, submitted).await;
}

#[tokio::test]
async fn frames_that_no_broker_should_send_are_ignored() {
    let (_broker, mut connection, client, submitted) = waiting().await;
    let stray = pb::MessageStoreAck { message_id: "x".into(), status: true, feedback: String::new() };
    // Opaques that nothing waits under, one of them beyond any slot; and an unknown command.
    connection.send(Command::StoreAck, 0, &stray).await;
    connection.send(Command::StoreAck, u32::MAX, &stray).await;
    connection.send(Command::ConnMeta, 3, &stray).await;
    let mut unknown = vec![0; 19];
    unknown[4] = 0x77;
    connection.raw(&unknown).await;
    connection.deliver(8, header(1), b"for nobody").await;
    let (opaque, nack) = connection.delivered().await;
    assert_eq!((opaque, nack.status), (8, false), "a client without a handler nacks");
    drop(submitted);
    let again = client.submit(Publish::bytes("trade", "pay-succ", "b")).await.unwrap();
    let published = connection.published().await;
    connection.ack(&published).await;
    soon("a receipt", again).await.unwrap();
}

#[tokio::test]
async fn what_came_before_garbage_in_the_same_write_still_counts() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let publish = Publish::bytes("trade", "pay-succ", "a");
    let (submitted, mut connection) = tokio::join!(client.submit(publish), broker.accept());
    let published = connection.published().await;
    let mut bytes = bytes::BytesMut::new();
    let (dialect, id) = (connection.dialect(), published.header.message_id.as_bytes());
    kiteq_protocol::reply::put_store_ack(&mut bytes, dialect, published.opaque, id, true, "");
    bytes.extend_from_slice(&[0xff; 64]);
    connection.raw(&bytes).await;
    soon("a receipt", submitted.unwrap()).await.unwrap();
    let mut connection = broker.accept().await;
    connection.assert_silent().await;
}

#[tokio::test]
async fn anything_but_the_auth_reply_to_a_handshake_is_tried_again() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").topics(["trade"]).build().await.unwrap();
    let mut connection = broker.accept_raw().await;
    connection.receive(Command::ConnMeta).await;
    connection.send(Command::Heartbeat, 1, &pb::HeartBeat { version: 1 }).await;
    drop(broker.accept_raw().await);
    let mut connection = broker.accept_raw().await;
    connection.raw(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n").await;
    let _connection = broker.accept().await;
    soon("ready", client.ready(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn a_handshake_without_an_answer_times_out_and_is_tried_again() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").topics(["trade"]).connect_timeout(Duration::from_millis(50));
    let _client = client.build().await.unwrap();
    let _silent = broker.accept_raw().await;
    broker.accept().await;
}

#[tokio::test]
async fn a_broker_that_answers_no_heartbeat_is_left() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").topics(["trade"]).heartbeat_interval(Duration::from_millis(30));
    let _client = client.build().await.unwrap();
    let mut connection = broker.accept().await;
    let mut heartbeats = 0;
    while let Some(frame) = connection.next().await {
        assert_eq!(frame.cmd, Command::Heartbeat as u8);
        heartbeats += 1;
    }
    assert_eq!(heartbeats, 3);
    // One that answers is kept for longer than that.
    let mut connection = broker.accept().await;
    for _ in 0..6 {
        let frame = connection.next().await.expect("still connected");
        let beat = <pb::HeartBeat as prost::Message>::decode(frame.body).unwrap();
        connection.send(Command::Heartbeat, frame.opaque, &beat).await;
    }
}

#[tokio::test]
async fn deliveries_that_cannot_be_handled_are_nacked() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let handler = async |_delivery: Delivery| Ok::<(), Nack>(());
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let _client = client.decompressed_bytes_max(1 << 20).build().await.unwrap();
    let mut connection = broker.accept().await;
    let snappy = pb::Header { snappy: Some(true), ..header(1) };
    // Announces 4 GiB - 1.
    connection.deliver(1, snappy.clone(), &[0xff, 0xff, 0xff, 0xff, 0x0f, 0x00]).await;
    connection.deliver(2, snappy.clone(), b"").await;
    connection.deliver_string(3, snappy, "not base64!").await;
    connection.deliver(4, pb::Header { message_id: "17".into(), ..header(1) }, b"").await;
    connection.send(Command::BytesMessage, 5, &pb::HeartBeat { version: 1 }).await;
    for (opaque, feedback) in
        [(1, "4294967295 bytes"), (2, "snappy"), (3, "base64"), (4, "32 hex"), (5, "header is missing")]
    {
        let (answered, nack) = connection.delivered().await;
        let reason = nack.feedback.unwrap();
        assert_eq!((answered, nack.status), (opaque, false));
        assert!(reason.contains(feedback), "{reason}");
    }
    connection.deliver(6, header(1), b"").await;
    assert!(connection.delivered().await.1.status);
}

#[tokio::test]
async fn a_broker_that_asks_but_does_not_listen_is_not_read_any_more_and_left() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").topics(["trade"]).window(1);
    let _client = client.heartbeat_interval(Duration::from_millis(200)).build().await.unwrap();
    let mut connection = broker.accept().await;
    // Questions until the client has had enough of them; it never sees one of its answers read.
    let flood = async {
        let question = pb::Header { topic: "t".repeat(60_000), ..header(1) };
        while connection.try_check(9, question.clone()).await.is_ok() {}
    };
    soon("the end of the connection", flood).await;
    broker.accept().await;
}
