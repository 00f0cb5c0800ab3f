//! Brokers come and go, the registry is away, the client closes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kiteq_client::{Bind, BuildError, Delivery, Nack, NotReady, Publish, PublishError};
use kiteq_registry::RegistryError;
use support::{FakeBroker, MOMENT, PATIENCE, TestRegistry, client_of, header, soon};
use tokio::sync::Semaphore;

fn message() -> Publish {
    Publish::bytes("trade", "pay-succ", "a")
}

#[tokio::test]
async fn messages_are_spread_over_the_brokers_of_a_topic() {
    let (one, other) = (FakeBroker::start().await, FakeBroker::start().await);
    let registry = TestRegistry::with("trade", &[&one.address, &other.address]);
    let client = client_of(&registry, "p").topics(["trade"]).resend_after(PATIENCE).build().await.unwrap();
    let (mut one, mut other) = tokio::join!(one.accept(), other.accept());
    // Until both are ready on the client's side, one of them may get more.
    let mut submitted = Vec::new();
    for _ in 0..1000 {
        submitted.push(client.submit(message()).await.unwrap());
        tokio::task::yield_now().await;
    }
    for connection in [&mut one, &mut other] {
        for _ in 0..100 {
            let published = connection.published().await;
            connection.ack(&published).await;
        }
    }
}

#[tokio::test]
async fn a_vanished_broker_is_left_once_its_messages_are_settled() {
    let (old, new) = (FakeBroker::start().await, FakeBroker::start().await);
    let registry = TestRegistry::with("trade", &[&old.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut old_connection) = tokio::join!(client.submit(message()), old.accept());
    let published = old_connection.published().await;
    registry.set("trade", &[&new.address]);
    let mut new_connection = new.accept().await;
    old_connection.ack(&published).await;
    soon("a receipt", submitted.unwrap()).await.unwrap();
    old_connection.assert_closed().await;
    let submitted = client.submit(message()).await.unwrap();
    let published = new_connection.published().await;
    new_connection.ack(&published).await;
    soon("a receipt", submitted).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_comes_back_before_it_was_left_stays_connected() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message()), broker.accept());
    let published = connection.published().await;
    registry.set("trade", &[]);
    let gone = async {
        while client.ready(Duration::ZERO).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("the news", gone).await;
    let error = client.ready(MOMENT).await.unwrap_err();
    assert!(matches!(error, NotReady::NoBroker { .. }), "{error}");
    registry.set("trade", &[&broker.address]);
    soon("ready", client.ready(PATIENCE)).await.unwrap();
    connection.ack(&published).await;
    soon("a receipt", submitted.unwrap()).await.unwrap();
    let submitted = client.submit(message()).await.unwrap();
    let published = connection.published().await;
    connection.ack(&published).await;
    soon("a receipt", submitted).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_away_at_start_gets_the_bindings_later() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let away = || RegistryError::Unavailable { place: "test".into(), reason: "away".into() };
    *registry.answers.lock().unwrap() = vec![away(), away()];
    let handler = async |_delivery: Delivery| Ok::<(), Nack>(());
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let _client = client.build().await.unwrap();
    broker.accept().await;
    let published = async {
        while registry.published.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the bindings", published).await;
}

#[tokio::test]
async fn a_registry_that_refuses_the_bindings_is_an_error() {
    let registry = TestRegistry::with("trade", &[]);
    let refused = RegistryError::Refused { place: "test".into(), reason: "no".into() };
    registry.answers.lock().unwrap().push(refused);
    let handler = async |_delivery: Delivery| Ok::<(), Nack>(());
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let error = client.build().await.unwrap_err();
    assert!(matches!(error, BuildError::Registry(_)), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let registry = TestRegistry::with("trade", &[]);
    let error = client_of(&registry, "s").window(0).build().await.unwrap_err();
    assert!(matches!(error, BuildError::Setting { setting: "window", .. }), "{error}");
    let error = client_of(&registry, "").build().await.unwrap_err();
    assert!(matches!(error, BuildError::Setting { setting: "group", .. }), "{error}");
}

#[tokio::test]
async fn closing_waits_for_handlers_and_acks_and_writes_what_is_left() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let (gate, started) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let handler = {
        let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
        move |_delivery: Delivery| {
            let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
            async move {
                started.add_permits(1);
                gate.acquire().await?.forget();
                Ok::<(), Nack>(())
            }
        }
    };
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let client = client.resend_after(PATIENCE).build().await.unwrap();
    let mut connection = broker.accept().await;
    connection.deliver(1, header(1), b"").await;
    soon("the handler", started.acquire()).await.unwrap().forget();
    let submitted = client.submit(message()).await.unwrap();
    let published = connection.published().await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(PATIENCE).await }
    });
    connection.assert_silent().await;
    gate.add_permits(1);
    assert!(connection.delivered().await.1.status, "the handler's ack is written");
    assert!(!closing.is_finished(), "the message is not acked yet");
    connection.ack(&published).await;
    soon("a receipt", submitted).await.unwrap();
    connection.assert_closed().await;
    drop(connection);
    soon("the end", closing).await.unwrap().unwrap();
    assert_eq!(client.publish(message()).await, Err(PublishError::Closed));
}

#[tokio::test]
async fn closing_gives_up_at_its_deadline_and_says_what_is_left() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let started = Arc::new(Semaphore::new(0));
    let handler = {
        let started = Arc::clone(&started);
        move |_delivery: Delivery| {
            started.add_permits(1);
            std::future::pending::<Result<(), Nack>>()
        }
    };
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let client = client.build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message()), broker.accept());
    connection.deliver(1, header(1), b"").await;
    connection.published().await;
    connection.deliver(2, header(2), b"").await;
    soon("both handlers", started.acquire_many(2)).await.unwrap().forget();
    let error = soon("the end", client.close(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!((error.deliveries, error.publishes), (2, 1));
    let error = soon("an error", submitted.unwrap()).await.unwrap_err();
    assert!(matches!(error, PublishError::Unconfirmed { .. }), "{error}");
}

#[tokio::test]
async fn dropping_the_client_ends_its_connections_and_what_waits() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let client = client_of(&registry, "p").resend_after(PATIENCE).build().await.unwrap();
    let (submitted, mut connection) = tokio::join!(client.submit(message()), broker.accept());
    connection.published().await;
    drop(client);
    let error = soon("an error", submitted.unwrap()).await.unwrap_err();
    assert!(!error.is_retry_safe(), "{error}");
    connection.assert_closed().await;
}

#[tokio::test]
async fn compressed_bodies_go_both_ways() {
    let broker = FakeBroker::start().await;
    let registry = TestRegistry::with("trade", &[&broker.address]);
    let (seen, mut handled) = tokio::sync::mpsc::channel::<Delivery>(8);
    let handler = move |delivery: Delivery| {
        let seen = seen.clone();
        async move {
            seen.send(delivery).await.map_err(|_| Nack::new("gone"))?;
            Ok(())
        }
    };
    let client = client_of(&registry, "s").consume([Bind::fanout("trade")], handler);
    let client = client.resend_after(PATIENCE).build().await.unwrap();
    let mut connection = broker.accept().await;
    let text = "abc".repeat(1000);
    for publish in [
        Publish::bytes("trade", "t", text.clone()).snappy(),
        Publish::string("trade", "t", text.clone()).snappy(),
        Publish::string("trade", "t", "short").snappy(),
    ] {
        let submitted = client.submit(publish).await.unwrap();
        let published = connection.published().await;
        connection.ack(&published).await;
        soon("a receipt", submitted).await.unwrap();
        let compressed = published.body != "short";
        assert_eq!(published.header.snappy, compressed.then_some(true));
        assert!(published.body.len() < 300);
        let body = std::str::from_utf8(&published.body);
        if published.cmd == kiteq_protocol::Command::StringMessage as u8 {
            connection.deliver_string(1, published.header.clone(), body.unwrap()).await;
        } else {
            connection.deliver(1, published.header.clone(), &published.body).await;
        }
        let delivery = soon("a delivery", handled.recv()).await.unwrap();
        assert_eq!(delivery.text().unwrap(), if compressed { text.as_str() } else { "short" });
        assert!(connection.delivered().await.1.status);
    }
}
