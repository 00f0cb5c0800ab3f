//! Dead letters over HTTP: seen, delivered again, deleted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::Kiteq;
use support::client::Client;

const FIRST: &str = "00000000000000000000000000000001";
const SECOND: &str = "00000000000000000000000000000002";
const THIRD: &str = "00000000000000000000000000000003";
const NOBODY: &str = "ffffffffffffffffffffffffffffffff";

fn list(kiteq: &Kiteq, query: &str) -> Value {
    let (status, body) = kiteq.get(&format!("/dlq{query}"));
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn ids(page: &Value) -> Vec<&str> {
    page["deadLetters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["messageId"].as_str().unwrap())
        .collect()
}

/// A broker with three messages that nobody took in time.
fn broker_with_dead_letters() -> Kiteq {
    let kiteq = Kiteq::ready(&["-db=memory://"]);
    let binding = r#"{"group":"s-away","bindings":[{"groupId":"s-away","topic":"trade","messageType":"pay-succ",
        "bindType":0,"version":"1.0.0","watermark":0,"persistent":true}]}"#;
    assert_eq!(kiteq.request("PUT", "/registry/bindings", binding).0, 200);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (mut client, _) = Client::connect(&kiteq.address(), "p-test", "");
    for id in [FIRST, SECOND, THIRD] {
        let answer = client.publish(id, "trade", "pay-succ", i64::try_from(now).unwrap() + 1);
        assert!(answer.status, "{answer:?}");
    }
    kiteq.get_until("/stat", r#""deadLetters": 3"#);
    kiteq
}

#[test]
fn dead_letters_are_listed_replayed_and_deleted() {
    let kiteq = broker_with_dead_letters();

    let all = list(&kiteq, "");
    assert_eq!(ids(&all), [FIRST, SECOND, THIRD]);
    assert!(all.get("next").is_none(), "{all}");
    let letter = &all["deadLetters"][0];
    assert_eq!((&letter["topic"], &letter["messageType"]), (&"trade".into(), &"pay-succ".into()));
    assert_eq!((&letter["reason"], &letter["groups"][0]), (&"expired".into(), &"s-away".into()));
    assert_eq!((&letter["bodyBytes"], letter.get("body")), (&5.into(), None));

    let page = list(&kiteq, "?limit=2&bodies=true");
    assert_eq!((ids(&page), &page["next"]), (vec![FIRST, SECOND], &SECOND.into()));
    assert_eq!(page["deadLetters"][0]["body"], "hello");
    assert_eq!(ids(&list(&kiteq, &format!("?after={SECOND}"))), [THIRD]);

    let (status, answer) = kiteq.request("POST", &format!("/dlq/replay?id={FIRST},{NOBODY}"), "");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, &answer["done"], &answer["unknown"]), (200, &1.into(), &1.into()));
    kiteq.get_until("/stat", r#""messages": 1"#);
    assert_eq!(ids(&list(&kiteq, "")), [SECOND, THIRD]);

    assert_eq!(kiteq.request("DELETE", &format!("/dlq?id={SECOND}"), "").0, 200);
    assert_eq!(kiteq.request("DELETE", &format!("/dlq?id={SECOND}"), "").0, 404);
    let (_, answer) = kiteq.request("DELETE", "/dlq?all=true", "");
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["done"], 1);
    assert_eq!(ids(&list(&kiteq, "")), Vec::<&str>::new());
}

#[test]
fn wrong_requests_are_refused_with_what_is_expected() {
    let kiteq = Kiteq::ready(&["-db=memory://"]);
    for (method, path, part) in [
        ("GET", "/dlq?limit=0", "1 to 1000"),
        ("GET", "/dlq?limit=many", "1 to 1000"),
        ("GET", "/dlq?after=xyz", "32 hexadecimal digits"),
        ("GET", "/dlq?bodies=yes", "true or false"),
        ("POST", "/dlq/replay", "GET /dlq lists the ids"),
        ("DELETE", "/dlq?id=", "32 hexadecimal digits"),
        ("DELETE", "/dlq?all=true&id=1", "?id=ID"),
    ] {
        let (status, body) = kiteq.request(method, path, "");
        assert!(status == 400 && body.contains(part), "{method} {path}: {status} {body}");
    }
    assert_eq!(kiteq.get("/dlq/replay").0, 405);
}
