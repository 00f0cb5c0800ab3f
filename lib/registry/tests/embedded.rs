//! The registry that a broker keeps: its file, its HTTP side, its bounds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiteq_registry::{
    ANY_TOPIC, Binding, BrokerRecord, EmbeddedRegistry, HttpReply, Registry, RegistryError,
};
use tokio::time::timeout;

fn open() -> (tempfile::TempDir, Arc<EmbeddedRegistry>) {
    let directory = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::open(directory.path()).unwrap();
    (directory, registry)
}

async fn request(registry: &EmbeddedRegistry, method: &str, address: &str, body: &str) -> HttpReply {
    let (path, query) = address.split_once('?').map_or((address, None), |(path, query)| (path, Some(query)));
    registry.handle(method, path, query, body.as_bytes()).await.unwrap()
}

fn text(reply: &HttpReply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

fn broker(topics: &[&str]) -> BrokerRecord {
    BrokerRecord {
        address: "127.0.0.1:13800".to_owned(),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
    }
}

#[tokio::test]
async fn bindings_survive_a_restart() {
    let (directory, registry) = open();
    let bindings = [Binding::regx("s-pay", "trade", "pay-.*", 10, true)];
    registry.publish_bindings("s-pay", &bindings).await.unwrap();
    registry.close().await;
    let again = EmbeddedRegistry::open(directory.path()).unwrap();
    assert_eq!(again.watch_bindings("trade").borrow().as_deref(), Some(bindings.as_slice()));
    assert_eq!(again.watch_bindings("feed").borrow().as_deref(), Some([].as_slice()), "known to be none");
}

#[tokio::test]
async fn a_broker_of_any_topic_serves_every_topic() {
    let (_directory, registry) = open();
    let watch = registry.watch_brokers("trade");
    assert_eq!(watch.borrow().as_deref(), Some([].as_slice()));
    registry.register_broker(broker(&[ANY_TOPIC])).await.unwrap();
    assert_eq!(watch.borrow().as_deref(), Some(["127.0.0.1:13800".to_owned()].as_slice()));
    registry.register_broker(broker(&["feed"])).await.unwrap();
    assert_eq!(watch.borrow().as_deref(), Some([].as_slice()));
}

#[tokio::test]
async fn people_can_look_and_clean_up_over_http() {
    let (_directory, registry) = open();
    registry.register_broker(broker(&["trade"])).await.unwrap();
    let body = r#"{"group":"s-pay","bindings":[{"groupId":"s-pay","topic":"trade","messageType":"pay","bindType":0}]}"#;
    assert_eq!(request(&registry, "PUT", "/registry/bindings", body).await.status, 200);
    let body = r#"{"group":"p-pay","host":"web-1","topics":["trade"]}"#;
    assert_eq!(request(&registry, "PUT", "/registry/producers", body).await.status, 200);

    let reply = request(&registry, "GET", "/registry/brokers?topic=trade", "").await;
    assert_eq!((reply.status, text(&reply).as_str()), (200, r#"["127.0.0.1:13800"]"#));
    assert!(text(&request(&registry, "GET", "/registry/bindings?topic=tr%61de", "").await).contains("s-pay"));
    assert_eq!(text(&request(&registry, "GET", "/registry/bindings?topic=feed", "").await), "[]");
    assert!(text(&request(&registry, "GET", "/registry/producers", "").await).contains("web-1"));
    assert_eq!(text(&request(&registry, "DELETE", "/registry/bindings?group=s-pay", "").await), "1");
    assert_eq!(text(&request(&registry, "GET", "/registry/bindings", "").await), "[]");
}

#[tokio::test]
async fn bad_requests_get_an_error_that_says_why() {
    let (_directory, registry) = open();
    assert_eq!(registry.handle("GET", "/metrics", None, b"").await, None);
    for (method, address, body, status, part) in [
        ("GET", "/registry/nothing", "", 404, "/registry/bindings"),
        ("POST", "/registry/bindings", "", 405, "POST"),
        ("PUT", "/registry/bindings", "{", 400, "not as expected"),
        ("PUT", "/registry/bindings", r#"{"group":"g","bindings":[{"groupId":"g"}]}"#, 400, "missing field"),
        ("PUT", "/registry/bindings", r#"{"group":"","bindings":[]}"#, 422, "groupId is empty"),
        ("PUT", "/registry/producers", r#"{"group":"g","host":"a/b","topics":[]}"#, 422, "host"),
        ("GET", "/registry/brokers", "", 400, "\"topic\" is missing"),
        ("GET", "/registry/brokers?topic=%zz", "", 400, "percent-encoded"),
        ("DELETE", "/registry/bindings", "", 400, "\"group\" is missing"),
        ("POST", "/registry/watch", r#"{"brokersOf":[""]}"#, 422, "topic is empty"),
    ] {
        let reply = request(&registry, method, address, body).await;
        assert_eq!(reply.status, status, "{method} {address} {body}: {}", text(&reply));
        assert!(text(&reply).contains(part), "{method} {address} {body}: {}", text(&reply));
    }
    let long = " ".repeat(EmbeddedRegistry::REQUEST_BYTES_MAX + 1);
    assert_eq!(request(&registry, "PUT", "/registry/bindings", &long).await.status, 413);
}

#[tokio::test]
async fn a_waiting_request_is_answered_by_the_change_it_waits_for() {
    let (_directory, registry) = open();
    let first = request(&registry, "POST", "/registry/watch", r#"{"bindingsOf":["trade"]}"#).await;
    let version = serde_json::from_slice::<serde_json::Value>(&first.body).unwrap()["version"].clone();
    let body = format!(r#"{{"bindingsOf":["trade"],"version":{version},"waitMs":25000}}"#);
    let waiting = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { request(&registry, "POST", "/registry/watch", &body).await }
    });
    registry.publish_bindings("s-feed", &[Binding::fanout("s-feed", "feed", 0, true)]).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "another topic's change is no answer");
    registry.publish_bindings("s-pay", &[Binding::fanout("s-pay", "trade", 0, true)]).await.unwrap();
    let reply = timeout(Duration::from_secs(20), waiting).await.expect("answered by the change").unwrap();
    assert!(text(&reply).contains("s-pay") && !text(&reply).contains("s-feed"), "{}", text(&reply));
}

#[tokio::test]
async fn closing_answers_waiting_requests_and_ends_watches() {
    let (_directory, registry) = open();
    let watch = registry.watch_bindings("trade");
    let first = request(&registry, "POST", "/registry/watch", r#"{"brokersOf":["trade"]}"#).await;
    let version = serde_json::from_slice::<serde_json::Value>(&first.body).unwrap()["version"].clone();
    let body = format!(r#"{{"brokersOf":["trade"],"version":{version},"waitMs":25000}}"#);
    let (reply, ()) = tokio::join!(
        timeout(Duration::from_secs(20), request(&registry, "POST", "/registry/watch", &body)),
        registry.close()
    );
    assert_eq!(reply.expect("answered by the close").status, 200);
    assert!(watch.has_changed().is_err());
    let error = registry.publish_bindings("s", &[Binding::fanout("s", "trade", 0, true)]).await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
}

#[tokio::test]
async fn the_number_of_bindings_is_bounded() {
    let (_directory, registry) = open();
    let mut refused = None;
    for number in 0..21 {
        let group = format!("s-{number}");
        let binding = |index: usize| Binding::direct(&group, "trade", &format!("type-{index}"), 0, true);
        let bindings: Vec<_> = (0..1_000).map(binding).collect();
        refused = registry.publish_bindings(&group, &bindings).await.err().map(|error| (number, error));
    }
    let (number, error) = refused.expect("the last one is refused");
    assert_eq!(number, 20);
    assert!(error.to_string().contains("at most 20000"), "{error}");
}

#[test]
fn an_unusable_directory_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = EmbeddedRegistry::open(&file.join("below")).unwrap_err();
    assert!(matches!(&error, RegistryError::Unavailable { place, .. } if place.contains("below")), "{error}");
    let error = EmbeddedRegistry::open(Path::new("/proc/kiteq-cannot-be")).unwrap_err();
    assert!(error.to_string().contains("kiteq-cannot-be"), "{error}");
}
