//! The client of brokers that keep their own registry: several of them, broken ones, and ones that come back empty.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kiteq_registry::{Binding, BrokerRecord, EmbeddedRegistry, Registry, RegistryError};
use support::backend::http_client;
use support::http_server::HttpServer;
use support::{PATIENCE, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

async fn embedded(broker: &str) -> (tempfile::TempDir, Arc<EmbeddedRegistry>) {
    let directory = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::open(directory.path()).unwrap();
    let record = BrokerRecord { address: broker.to_owned(), topics: vec!["trade".to_owned()] };
    registry.register_broker(record).await.unwrap();
    (directory, registry)
}

/// What a broken peer does with a connection.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Closes,
    Silent,
    Says(&'static str),
}

/// Listens and serves every connection so.
async fn broken_peer(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::from(ANY_PORT)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            match fault {
                Fault::Closes => drop(stream),
                Fault::Silent => held.push(stream),
                Fault::Says(words) => {
                    let mut request = [0; 4096];
                    // The peer may be gone already; that is no failure of this one.
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(words.as_bytes()).await;
                }
            }
        }
    });
    address
}

const FAULTS: [Fault; 8] = [
    Fault::Closes,
    Fault::Silent,
    Fault::Says("garbage\r\n\r\n"),
    Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot json!"),
    Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
    Fault::Says("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\ncut sho"),
    Fault::Says("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"),
    Fault::Says("HTTP/1.1 404 Nothing\r\ncontent-length: 0\r\n\r\n"),
];

#[tokio::test]
async fn a_broken_peer_does_not_harm_what_a_good_one_says() {
    for fault in FAULTS {
        let (_directory, registry) = embedded("127.0.0.1:13800").await;
        let server = HttpServer::start(Arc::clone(&registry), SocketAddr::from(ANY_PORT)).await;
        let client = http_client(&[broken_peer(fault).await, server.address]);
        let mut watch = client.watch_brokers("trade");
        until(&mut watch, &format!("{fault:?}"), |seen| seen == ["127.0.0.1:13800".to_owned()]).await;
        let binding = [Binding::fanout("s-pay", "trade", 0, true)];
        client.publish_bindings("s-pay", &binding).await.unwrap();
        assert_eq!(
            registry.watch_bindings("trade").borrow().as_deref(),
            Some(binding.as_slice()),
            "{fault:?}"
        );
        client.close().await;
    }
}

#[tokio::test]
async fn with_only_broken_peers_nothing_is_known_and_a_call_fails_in_bounded_time() {
    let mut peers = Vec::new();
    for fault in FAULTS {
        peers.push(broken_peer(fault).await);
    }
    let client = http_client(&peers);
    let watch = client.watch_brokers("trade");
    let binding = [Binding::fanout("s-pay", "trade", 0, true)];
    let outcome = timeout(PATIENCE, client.publish_bindings("s-pay", &binding)).await.expect("bounded");
    let error = outcome.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(watch.borrow().is_none() && watch.has_changed().is_ok());
}

#[tokio::test]
async fn malformed_entries_are_left_out() {
    let body = r#"{"registry":"r","version":"v","brokers":{"trade":["nonsense","127.0.0.1:1"]},
        "bindings":{"trade":[{"groupId":"","topic":"trade","messageType":"*","bindType":2},
        {"groupId":"s","topic":"other","messageType":"*","bindType":2},
        {"groupId":"s","topic":"trade","messageType":"*","bindType":2}]}}"#;
    let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let client = http_client(&[broken_peer(Fault::Says(reply.leak())).await]);
    let (mut brokers, mut bindings) = (client.watch_brokers("trade"), client.watch_bindings("trade"));
    let brokers = until(&mut brokers, "brokers", |_| true).await;
    assert_eq!(*brokers, ["127.0.0.1:1".to_owned()]);
    let bindings = until(&mut bindings, "bindings", |_| true).await;
    assert_eq!(*bindings, [Binding::fanout("s", "trade", 0, false)]);
}

#[tokio::test]
async fn several_brokers_are_seen_together_and_each_gets_the_bindings() {
    let (_first_directory, first) = embedded("127.0.0.1:1").await;
    let (_second_directory, second) = embedded("127.0.0.1:2").await;
    let first_server = HttpServer::start(Arc::clone(&first), SocketAddr::from(ANY_PORT)).await;
    let second_server = HttpServer::start(Arc::clone(&second), SocketAddr::from(ANY_PORT)).await;
    let second_address = second_server.stop().await;
    let client = http_client(&[first_server.address, second_address]);
    let mut watch = client.watch_brokers("trade");
    until(&mut watch, "the one that is up", |seen| seen == ["127.0.0.1:1".to_owned()]).await;
    let binding = [Binding::fanout("s-pay", "trade", 0, true)];
    client.publish_bindings("s-pay", &binding).await.unwrap();

    let _second_server = HttpServer::start(Arc::clone(&second), second_address).await;
    until(&mut watch, "both", |seen| seen.len() == 2).await;
    until(&mut second.watch_bindings("trade"), "the late one gets it too", |seen| seen == binding).await;
}

#[tokio::test]
async fn a_broker_that_comes_back_empty_gets_the_bindings_again() {
    let (_directory, registry) = embedded("127.0.0.1:1").await;
    let server = HttpServer::start(registry, SocketAddr::from(ANY_PORT)).await;
    let client = http_client(&[server.address]);
    let mut watch = client.watch_brokers("trade");
    until(&mut watch, "the broker", |seen| seen.len() == 1).await;
    let binding = [Binding::fanout("s-pay", "trade", 0, true)];
    client.publish_bindings("s-pay", &binding).await.unwrap();
    let address = server.stop().await;

    let (_empty_directory, empty) = embedded("127.0.0.1:2").await;
    let _server = HttpServer::start(Arc::clone(&empty), address).await;
    until(&mut empty.watch_bindings("trade"), "published again", |seen| seen == binding).await;
    until(&mut watch, "the new broker", |seen| seen == ["127.0.0.1:2".to_owned()]).await;
}

#[tokio::test]
async fn a_refusal_is_reported_and_not_repeated() {
    let (_directory, registry) = embedded("127.0.0.1:1").await;
    let server = HttpServer::start(Arc::clone(&registry), SocketAddr::from(ANY_PORT)).await;
    let client = http_client(&[server.address]);
    // A thousand bindings of this size do not fit a request.
    let long = "x".repeat(1_024);
    let many: Vec<_> = (0..1_000).map(|_| Binding::direct("s-pay", "trade", &long, 0, true)).collect();
    let error = client.publish_bindings("s-pay", &many).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Refused { reason, .. } if reason.contains("413")), "{error}");
    let binding = [Binding::fanout("s-pay", "trade", 0, true)];
    client.publish_bindings("s-pay", &binding).await.unwrap();
    assert_eq!(registry.watch_bindings("trade").borrow().as_deref(), Some(binding.as_slice()));
}

#[tokio::test]
async fn a_broker_cannot_register_with_another_one() {
    let client = http_client(&[SocketAddr::from(([127, 0, 0, 1], 9))]);
    let record = BrokerRecord { address: "127.0.0.1:1".to_owned(), topics: vec!["trade".to_owned()] };
    let error = client.register_broker(record).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Refused { reason, .. } if reason.contains("embedded://")),
        "{error}"
    );
    timeout(Duration::from_secs(5), client.close()).await.expect("bounded");
}
