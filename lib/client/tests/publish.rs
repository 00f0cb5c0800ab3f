//! Publishing: the promise behind a receipt, and what happens when a broker does not keep its side.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use kiteq_client::{Framing, Publish, PublishError, Refusal};
use kiteq_protocol::Command;
use support::{FakeBroker, PATIENCE, TestRegistry, client_of, soon};

fn message(body: &str) -> Publish {
    Publish::bytes("trade", "pay-succ", body.to_owned())
}

#[tokio::test]
async fn a_message_arrives_as_it_was_described_and_its_ack_is_a_receipt() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p-orders").secret("123456").build().await.unwrap();
    let publish = Publish::string("trade", "pay-succ", "echo")
        .property("trace", "17")
        .deliver_limit(5)
        .expires_in(Duration::from_secs(60));
    let publishing = tokio::spawn({
        let client = client.clone();
        async move { client.publish(publish).await }
    });
    let mut connection = broker.accept().await;
    let meta = connection.meta.clone().unwrap();
    assert_eq!((meta.group_id.as_str(), meta.secret_key.as_str()), ("p-orders", "123456"));
    let published = connection.published().await;
    assert_eq!(published.cmd, Command::StringMessage as u8);
    assert_ne!(published.opaque, 0);
    assert_eq!(published.body, "echo");
    let header = &published.header;
    assert_eq!((header.topic.as_str(), header.message_type.as_str()), ("trade", "pay-succ"));
    assert_eq!((header.group_id.as_str(), header.deliver_limit), ("p-orders", 5));
    assert_eq!((header.commit, header.fly, header.snappy), (true, false, None));
    assert_eq!((header.properties[0].key.as_str(), header.properties[0].value.as_str()), ("trace", "17"));
    let lifetime = header.expired_time - header.create_time.unwrap();
    assert!((60..=61).contains(&lifetime), "{lifetime}");
    connection.ack(&published).await;
    let receipt = soon("a receipt", publishing).await.unwrap().unwrap();
    assert_eq!(receipt.id.to_string(), header.message_id);
    assert_eq!(*receipt.broker, *broker.address);
    assert_eq!(registry.producers.lock().unwrap()[0], ("p-orders".to_owned(), "trade".to_owned()));
}

#[tokio::test]
async fn the_length_prefixed_framing_works_too() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").framing(Framing::LengthPrefixed).build().await.unwrap();
    let (receipt, ()) = tokio::join!(client.publish(message("a")), async {
        let mut connection = broker.accept().await;
        assert_eq!(connection.dialect(), kiteq_protocol::Dialect::JAVA);
        let published = connection.published().await;
        connection.ack(&published).await;
    });
    receipt.unwrap();
}

#[tokio::test]
async fn many_are_in_flight_and_acks_in_any_order_find_their_message() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let messages: Vec<Publish> = (0..100).map(|number| message(&number.to_string())).collect();
    let (results, ()) = tokio::join!(client.publish_batch(messages), async {
        let mut connection = broker.accept().await;
        let mut published = Vec::new();
        for number in 0..100 {
            let one = connection.published().await;
            assert_eq!(one.body, number.to_string());
            published.push(one);
        }
        for one in published.iter().rev() {
            let status = one.body != "13";
            connection.answer(one, status, "disk full").await;
        }
    });
    assert_eq!(results.len(), 100);
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), number != 13, "{result:?}");
    }
}

#[tokio::test]
async fn a_full_window_makes_submit_wait() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").window(2).resend_after(PATIENCE).build().await.unwrap();
    let mut connection = {
        let (first, connection) = tokio::join!(client.submit(message("0")), broker.accept());
        drop(first.unwrap());
        connection
    };
    let second = client.submit(message("1")).await.unwrap();
    let third = tokio::time::timeout(support::MOMENT, client.submit(message("2"))).await;
    assert!(third.is_err(), "the window is full");
    let published = connection.published().await;
    connection.ack(&published).await;
    let third = soon("a place", client.submit(message("3"))).await.unwrap();
    connection.published().await;
    let published = connection.published().await;
    assert_eq!(published.body, "3", "the submit that was dropped while it waited has sent nothing");
    connection.ack(&published).await;
    soon("a receipt", third).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn an_unacked_message_is_sent_again_under_its_id_and_completes_once() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message("a")), broker.accept());
    let submitted = submitted.unwrap();
    let first = connection.published().await;
    let second = connection.published().await;
    assert_eq!(first.header, second.header);
    connection.ack(&first).await;
    let receipt = soon("a receipt", submitted).await.unwrap();
    assert_eq!(receipt.id.to_string(), first.header.message_id);
    // The second ack finds nobody; the next message is not taken for acked by it.
    connection.ack(&second).await;
    let submitted = client.submit(message("b")).await.unwrap();
    let next = connection.published().await;
    connection.answer(&next, false, "disk full").await;
    assert!(soon("an answer", submitted).await.is_err());
}

#[tokio::test]
async fn a_broken_connection_moves_its_messages_to_the_next_one() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message("a")), broker.accept());
    let submitted = submitted.unwrap();
    let first = connection.published().await;
    // Half an ack, then nothing.
    connection.raw(&[0, 0, 0, 1, 4, 0]).await;
    drop(connection);
    let mut connection = broker.accept().await;
    let second = connection.published().await;
    assert_eq!(second.header, first.header);
    connection.ack(&second).await;
    soon("a receipt", submitted).await.unwrap();
}

#[tokio::test]
async fn a_silent_broker_is_passed_over_for_another_one() {
    let (silent, healthy) = (FakeBroker::start().await, FakeBroker::start().await);
    let registry = TestRegistry::with("trade", &[&silent.address]);
    let client = client_of(&registry, "p").build().await.unwrap();
    let (submitted, mut silent_connection) = tokio::join!(client.submit(message("a")), silent.accept());
    let submitted = submitted.unwrap();
    let first = silent_connection.published().await;
    registry.set("trade", &[&silent.address, &healthy.address]);
    let mut connection = healthy.accept().await;
    let second = connection.published().await;
    assert_eq!(second.header.message_id, first.header.message_id);
    connection.ack(&second).await;
    assert_eq!(*soon("a receipt", submitted).await.unwrap().broker, *healthy.address);
    // The silent one still holds an unanswered copy, so it is the busier one: new messages avoid it.
    let submitted = client.submit(message("b")).await.unwrap();
    let published = connection.published().await;
    assert_eq!(published.body, "b");
    connection.ack(&published).await;
    soon("a receipt", submitted).await.unwrap();
}

#[tokio::test]
async fn a_refusal_says_whether_a_retry_is_sensible() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let serving = async {
        let mut connection = broker.accept().await;
        for feedback in ["Store Result KiteQ OverFlow [127.0.0.1:13800]", "UnSupport Topic Message!"] {
            let published = connection.published().await;
            connection.answer(&published, false, feedback).await;
        }
        connection
    };
    let publishing = async {
        let overflow = client.publish(message("a")).await.unwrap_err();
        assert!(matches!(overflow, PublishError::Refused { refusal: Refusal::Overflow, .. }), "{overflow}");
        assert!(overflow.is_retry_safe() && overflow.is_retryable());
        let unsupported = client.publish(message("b")).await.unwrap_err();
        assert!(unsupported.is_retry_safe() && !unsupported.is_retryable(), "{unsupported}");
    };
    tokio::join!(serving, publishing);
}

#[tokio::test]
async fn what_a_stopping_broker_refuses_goes_to_another_one() {
    const STOPPING: &str = "Broker 127.0.0.1:13800 is stopping, send to another one";
    let (stopping, other) = (FakeBroker::start().await, FakeBroker::start().await);
    let registry = TestRegistry::with("trade", &[&stopping.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message("a")), stopping.accept());
    let submitted = submitted.unwrap();
    let first = connection.published().await;
    registry.set("trade", &[&stopping.address, &other.address]);
    let mut elsewhere = other.accept().await;
    // One that arrives there shows that the client counts with it.
    let probing = async {
        loop {
            drop(client.submit(message("probe")).await.unwrap());
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = elsewhere.published() => {}
        _ = probing => {}
    }
    connection.answer(&first, false, STOPPING).await;
    let mut second = elsewhere.published().await;
    while second.header != first.header {
        second = elsewhere.published().await;
    }
    elsewhere.ack(&second).await;
    assert_eq!(*soon("a receipt", submitted).await.unwrap().broker, *other.address);
}

#[tokio::test]
async fn what_the_only_broker_refuses_because_it_stops_is_told() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message("a")), broker.accept());
    let first = connection.published().await;
    connection.answer(&first, false, "Broker x is stopping, send to another one").await;
    let refused = soon("an answer", submitted.unwrap()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused { refusal: Refusal::Stopping, .. }), "{refused}");
    assert!(refused.is_retry_safe() && refused.is_retryable());
}

#[tokio::test]
async fn a_refusal_after_a_lost_copy_is_not_safe_to_retry() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message("a")), broker.accept());
    connection.published().await;
    drop(connection);
    let mut connection = broker.accept().await;
    let second = connection.published().await;
    connection.answer(&second, false, "disk full").await;
    let error = soon("an answer", submitted.unwrap()).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { earlier_copy_unanswered: true, .. }), "{error}");
    assert!(!error.is_retry_safe());
}

#[tokio::test]
async fn without_an_ack_until_its_deadline_a_message_is_unconfirmed() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").build().await.unwrap();
    let publish = message("a").timeout(Duration::from_secs(1));
    let (submitted, _connection) = tokio::join!(client.submit(publish), broker.accept());
    let submitted = submitted.unwrap();
    let id = submitted.id();
    let error = soon("an error", submitted).await.unwrap_err();
    match error {
        PublishError::Unconfirmed { id: unconfirmed, copies_sent } => {
            assert_eq!(unconfirmed, id);
            assert!(copies_sent >= 2, "{copies_sent}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn without_a_broker_a_message_fails_safely_and_says_why() {
    let registry = TestRegistry::with("trade", &[]);
    let client = client_of(&registry, "p").build().await.unwrap();
    let publish = message("a").timeout(Duration::from_millis(50));
    let error = soon("an error", client.publish(publish)).await.unwrap_err();
    assert!(matches!(error, PublishError::NoBroker { .. }) && error.is_retry_safe(), "{error}");
    assert!(error.to_string().contains("knows no broker"), "{error}");
}

#[tokio::test]
async fn a_refused_client_fails_at_once_and_comes_back_by_itself() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").build().await.unwrap();
    let refusing = async {
        let mut connection = broker.accept_raw().await;
        connection.authenticate(false, "bad secret").await;
    };
    let (error, ()) = tokio::join!(client.publish(message("a")), refusing);
    match error.unwrap_err() {
        PublishError::Unauthorized { feedback, .. } => assert_eq!(&*feedback, "bad secret"),
        other => panic!("{other}"),
    }
    let mut connection = broker.accept().await;
    // Until the client has read the answer, the refusal stands.
    let ready = async {
        while client.ready(PATIENCE).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon("ready", ready).await;
    let (receipt, ()) = tokio::join!(client.publish(message("b")), async {
        let published = connection.published().await;
        connection.ack(&published).await;
    });
    receipt.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_frame_is_refused_before_it_is_sent() {
    let registry = TestRegistry::with("trade", &[]);
    let client = client_of(&registry, "p").build().await.unwrap();
    let error = client.publish(Publish::bytes("trade", "t", vec![0; 2 << 20])).await.unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { .. }), "{error}");
}
