//! etcd: the keys that other programs see, and everything that can happen to a connection, a lease and a watch.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kiteq_registry::{ANY_TOPIC, Binding, BrokerRecord, EtcdRegistry, Registry, RegistryError};
use kiteq_testkit::Certificates;
use support::backend::open_etcd;
use support::proxy::Proxy;
use support::{Etcd, Log, PATIENCE, eventually, until};
use tokio::time::timeout;

const ADDRESS: &str = "127.0.0.1:13800";
const BROKER_KEY: &str = "/kiteq/server/trade/127.0.0.1:13800";
const ALIVE_KEY: &str = "/kiteq/alive_servers/127.0.0.1:13800";
const BINDING_KEY: &str = "/kiteq/sub/trade/s-bind";

fn broker() -> BrokerRecord {
    BrokerRecord { address: ADDRESS.to_owned(), topics: vec!["trade".to_owned()] }
}

async fn start(server: &Etcd) -> Arc<EtcdRegistry> {
    open_etcd(&[server.host()]).await
}

fn json(bindings: &[Binding]) -> Vec<u8> {
    serde_json::to_vec(bindings).unwrap()
}

fn fanout(watermark: i32) -> [Binding; 1] {
    [Binding::fanout("s", "trade", watermark, true)]
}

/// The lease that a key goes with; `None` while there is no such key.
fn lease(server: &Etcd, key: &str) -> Option<i64> {
    server.get(key).map(|key| key.lease)
}

fn is_broker(seen: &[String]) -> bool {
    seen == [ADDRESS.to_owned()]
}

#[tokio::test]
async fn the_keys_are_the_paths_that_existing_clients_know() {
    let server = Etcd::start().await;
    let registry = start(&server).await;
    registry.register_broker(broker()).await.unwrap();
    let bindings = [Binding::direct("s-pay", "trade", "pay-succ", 1000, true)];
    registry.publish_bindings("s-pay", &bindings).await.unwrap();
    registry.register_producer("p-pay", &["trade".to_owned()]).await.unwrap();

    for (key, is_leased) in
        [(BROKER_KEY, true), (ALIVE_KEY, true), ("/kiteq/all_servers/127.0.0.1:13800", false)]
    {
        let found = server.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        assert_eq!((found.value.len(), found.lease != 0), (0, is_leased), "{key}");
    }
    assert_eq!(lease(&server, BROKER_KEY), lease(&server, ALIVE_KEY), "they go together");
    let found = server.get("/kiteq/sub/trade/s-pay-bind").unwrap();
    assert_eq!(
        String::from_utf8(found.value).unwrap(),
        r#"[{"groupId":"s-pay","topic":"trade","messageType":"pay-succ","bindType":0,"version":"1.0.0","watermark":1000,"persistent":true}]"#
    );
    assert_eq!(found.lease, 0);
    let publishers = server.keys("/kiteq/pub/trade/p-pay/");
    assert_eq!((publishers.len(), publishers[0].lease), (1, 0), "this host");

    registry.publish_bindings("s-pay", &bindings).await.unwrap();
    let again = server.get("/kiteq/sub/trade/s-pay-bind").unwrap();
    assert_eq!(again.mod_revision, found.mod_revision, "the same bindings are not written twice");
    let before = server.get(BROKER_KEY).unwrap();
    registry.register_broker(broker()).await.unwrap();
    assert_eq!(server.get(BROKER_KEY).unwrap(), before, "nor is the same broker");

    registry.unregister_broker().await.unwrap();
    assert_eq!((server.get(BROKER_KEY), server.get(ALIVE_KEY)), (None, None));
    assert!(server.get("/kiteq/all_servers/127.0.0.1:13800").is_some());
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_used_once_it_is_up() {
    let (log, _guard) = Log::capture();
    let mut server = Etcd::prepare();
    let registry = start(&server).await;
    let mut bindings = registry.watch_bindings("trade");
    let mut brokers = registry.watch_brokers("trade");
    let error = timeout(PATIENCE, registry.register_broker(broker())).await.expect("bounded").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let error =
        timeout(PATIENCE, registry.publish_bindings("s", &fanout(1))).await.expect("bounded").unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains(&server.host()), "{error}");
    assert!(bindings.borrow_and_update().is_none() && brokers.borrow_and_update().is_none());

    server.run().await;
    until(&mut bindings, "what was published in vain", |seen| seen == fanout(1)).await;
    until(&mut brokers, "what was registered in vain", is_broker).await;
    assert_eq!(log.count("etcd cannot be used"), 1, "one line, however often it was tried: {}", log.text());
}

#[tokio::test]
async fn a_broker_whose_lease_has_expired_registers_again_and_reads_every_binding_again() {
    let server = Etcd::start().await;
    let proxy = Proxy::start(&server.host()).await;
    let registry = open_etcd(&[proxy.host()]).await;
    registry.register_broker(broker()).await.unwrap();
    let mut bindings = registry.watch_bindings("trade");
    let mut alive = registry.watch_alive();
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    until(&mut alive, "it lives", is_broker).await;
    let first = lease(&server, BROKER_KEY).unwrap();

    let host = proxy.freeze();
    eventually("the lease expires", async || server.get(BROKER_KEY).is_none().then_some(())).await;
    assert_eq!(server.get(ALIVE_KEY), None);
    timeout(PATIENCE, alive.wait_for(Option::is_none)).await.expect("forgotten").expect("open");
    server.put(BINDING_KEY, &json(&fanout(1)));
    host.thaw();
    until(&mut bindings, "what was bound meanwhile", |seen| seen == fanout(1)).await;
    let second = eventually("registered again", async || lease(&server, BROKER_KEY)).await;
    assert_ne!(first, second);
    until(&mut alive, "it lives again", is_broker).await;
}

#[tokio::test]
async fn a_lease_that_is_revoked_is_replaced() {
    let server = Etcd::start().await;
    let registry = start(&server).await;
    registry.register_broker(broker()).await.unwrap();
    for _ in 0..2 {
        let held = lease(&server, BROKER_KEY).unwrap();
        server.revoke(held);
        let next = eventually("registered again", async || lease(&server, BROKER_KEY)).await;
        assert_ne!(held, next);
        eventually("alive again", async || (lease(&server, ALIVE_KEY) == Some(next)).then_some(())).await;
    }
}

#[tokio::test]
async fn keys_that_an_earlier_run_has_left_are_taken_over() {
    let server = Etcd::start().await;
    let former = start(&server).await;
    former.register_broker(broker()).await.unwrap();
    let left = lease(&server, BROKER_KEY).unwrap();
    // It ends without a word, as a crash would.
    drop(former);
    let registry = start(&server).await;
    registry.register_broker(broker()).await.unwrap();
    let held = lease(&server, BROKER_KEY).unwrap();
    assert_ne!(left, held);
    server.revoke(left);
    assert_eq!(lease(&server, BROKER_KEY), Some(held), "it does not go with the earlier lease");
    assert_eq!(lease(&server, ALIVE_KEY), Some(held));
}

#[tokio::test]
async fn changes_that_were_compacted_during_an_outage_are_read_afresh() {
    let (log, _guard) = Log::capture();
    let server = Etcd::start().await;
    server.put(BINDING_KEY, &json(&fanout(0)));
    let proxy = Proxy::start(&server.host()).await;
    let registry = open_etcd(&[proxy.host()]).await;
    let mut bindings = registry.watch_bindings("trade");
    let mut brokers = registry.watch_brokers("trade");
    until(&mut bindings, "the first", |seen| seen == fanout(0)).await;
    until(&mut brokers, "none", <[_]>::is_empty).await;
    let host = proxy.stop().await;
    for watermark in 1..=20 {
        server.put(BINDING_KEY, &json(&fanout(watermark)));
    }
    server.put(BROKER_KEY, b"");
    server.delete(BINDING_KEY);
    server.put("/kiteq/sub/trade/s-other-bind", &json(&[Binding::fanout("s-other", "trade", 1, true)]));
    server.compact();
    let _proxy = Proxy::start_at(&host, &server.host()).await;
    until(&mut bindings, "what is left", |seen| seen == [Binding::fanout("s-other", "trade", 1, true)]).await;
    until(&mut brokers, "the broker", is_broker).await;
    assert_eq!(log.count("compacted before they were seen"), 1, "{}", log.text());
    server.put(BINDING_KEY, &json(&fanout(21)));
    until(&mut bindings, "watched on from there", |seen| seen.contains(&fanout(21)[0])).await;
}

#[tokio::test]
async fn watches_go_on_from_the_revision_that_was_seen_last() {
    let server = Etcd::start().await;
    server.put(BINDING_KEY, &json(&fanout(0)));
    let proxy = Proxy::start(&server.host()).await;
    let registry = open_etcd(&[proxy.host()]).await;
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "the first", |seen| seen == fanout(0)).await;
    let host = proxy.stop().await;
    let reads = server.calls("Range");
    server.put(BINDING_KEY, &json(&fanout(1)));
    server.put("/kiteq/sub/trade/s-gone-bind", &json(&[Binding::fanout("s-gone", "trade", 1, true)]));
    server.delete("/kiteq/sub/trade/s-gone-bind");
    let _proxy = Proxy::start_at(&host, &server.host()).await;
    until(&mut bindings, "the change", |seen| seen == fanout(1)).await;
    assert_eq!(
        server.calls("Range") - reads,
        1,
        "where the cluster stands is asked, and nothing is read again"
    );
}

#[tokio::test]
async fn a_server_that_has_lost_its_data_is_read_and_written_afresh() {
    let mut server = Etcd::start().await;
    let registry = start(&server).await;
    let mut bindings = registry.watch_bindings("trade");
    registry.register_broker(broker()).await.unwrap();
    registry.publish_bindings("s", &fanout(1)).await.unwrap();
    for number in 0..20 {
        server.put(
            "/kiteq/sub/trade/s-other-bind",
            &json(&[Binding::fanout("s-other", "trade", number, true)]),
        );
    }
    until(&mut bindings, "both", |seen| seen.len() == 2).await;
    server.kill();
    server.wipe();
    server.run().await;
    until(&mut bindings, "what this one has published itself", |seen| seen == fanout(1)).await;
    eventually("registered", async || server.get(ALIVE_KEY)).await;
}

#[tokio::test]
async fn an_endpoint_that_dies_or_freezes_hands_over_to_another_one() {
    let server = Etcd::start().await;
    for freeze in [false, true] {
        let proxies = [Proxy::start(&server.host()).await, Proxy::start(&server.host()).await];
        let hosts = proxies.each_ref().map(Proxy::host).join(",");
        let uri = format!("etcd://{hosts}?leaseSeconds=30");
        let registry = EtcdRegistry::open(&uri).await.unwrap();
        registry.register_broker(broker()).await.unwrap();
        let mut bindings = registry.watch_bindings("trade");
        until(&mut bindings, "nothing yet", |_| true).await;
        let held = lease(&server, BROKER_KEY).unwrap();
        let (used, spare): (Vec<_>, Vec<_>) = proxies.into_iter().partition(|proxy| proxy.connections() > 0);
        assert_eq!((used.len(), spare.len()), (1, 1));
        let mut frozen = Vec::new();
        for proxy in used {
            if freeze {
                frozen.push(proxy.freeze());
            }
        }
        let binding = fanout(1 + i32::from(freeze));
        server.put(BINDING_KEY, &json(&binding));
        until(&mut bindings, "seen through the other endpoint", |seen| seen == binding).await;
        assert_eq!(lease(&server, BROKER_KEY), Some(held), "the lease has been kept");
        registry.close().await;
        assert_eq!(server.get(BROKER_KEY), None, "withdrawn");
    }
}

#[tokio::test]
async fn a_dead_endpoint_among_several_is_passed_over() {
    let server = Etcd::start().await;
    let dead = Etcd::prepare();
    for hosts in [[dead.host(), server.host()], [server.host(), dead.host()]] {
        let registry = open_etcd(&hosts).await;
        registry.register_broker(broker()).await.unwrap();
        until(&mut registry.watch_brokers("trade"), "read from the living one", is_broker).await;
        registry.close().await;
    }
}

#[tokio::test]
async fn a_cluster_that_loses_a_member_goes_on() {
    let mut members = Etcd::start_cluster(3).await;
    let hosts: Vec<_> = members.iter().map(Etcd::host).collect();
    let uri = format!("etcd://http://{}?leaseSeconds=30", hosts.join(",http://"));
    let registry = EtcdRegistry::open(&uri).await.unwrap();
    registry.register_broker(broker()).await.unwrap();
    let mut bindings = registry.watch_bindings("trade");
    let mut alive = registry.watch_alive();
    until(&mut alive, "it lives", is_broker).await;
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    for (number, watermark) in [(0, 1), (1, 2), (2, 3)] {
        members[number].kill();
        let publisher = open_etcd(&hosts).await;
        eventually("published", async || publisher.publish_bindings("s", &fanout(watermark)).await.ok())
            .await;
        until(&mut bindings, "seen without it", |seen| seen == fanout(watermark)).await;
        until(&mut alive, "it lives still", is_broker).await;
        members[number].run().await;
    }
}

#[tokio::test]
async fn a_frozen_server_makes_nothing_known_go_away_except_who_lives() {
    let server = Etcd::start().await;
    server.put(BINDING_KEY, &json(&fanout(1)));
    let registry = start(&server).await;
    registry.register_broker(broker()).await.unwrap();
    let (mut bindings, mut alive) = (registry.watch_bindings("trade"), registry.watch_alive());
    until(&mut bindings, "the binding", |seen| seen == fanout(1)).await;
    until(&mut alive, "it lives", is_broker).await;
    server.pause();
    timeout(PATIENCE, alive.wait_for(Option::is_none)).await.expect("forgotten").expect("open");
    assert_eq!(bindings.borrow_and_update().as_deref(), Some(fanout(1).as_slice()));
    server.resume();
    until(&mut alive, "it lives again", is_broker).await;
}

#[tokio::test]
async fn user_and_password_are_given_and_wrong_ones_are_refused() {
    let (log, _guard) = Log::capture();
    let server = Etcd::start().await;
    server.enable_auth("kite", "s@cret/");
    let good = format!("etcd://kite:s%40cret%2F@{}?leaseSeconds=2", server.host());
    let registry = EtcdRegistry::open(&good).await.unwrap();
    registry.register_broker(broker()).await.unwrap();
    registry.publish_bindings("s", &fanout(1)).await.unwrap();
    until(&mut registry.watch_bindings("trade"), "the binding", |seen| seen == fanout(1)).await;
    until(&mut registry.watch_alive(), "it lives", is_broker).await;
    let held = lease(&server, BROKER_KEY).unwrap();

    for (uri, part) in [
        (format!("etcd://kite:wr0ng@{}", server.host()), "authentication failed"),
        (format!("etcd://{}?username=nobody&password=wr0ng", server.host()), "authentication failed"),
        (format!("etcd://{}", server.host()), "etcd://user:password@"),
    ] {
        let wrong = EtcdRegistry::open(&uri).await.unwrap();
        let error = timeout(PATIENCE, wrong.register_broker(broker())).await.expect("bounded").unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{uri}: {error}");
        assert!(error.to_string().contains(part), "{uri}: {error}");
        assert!(wrong.watch_brokers("trade").borrow().is_none());
        wrong.close().await;
    }
    assert_eq!(lease(&server, BROKER_KEY), Some(held), "the broker is still there");
    registry.close().await;
    assert!(!log.text().contains("cret") && !log.text().contains("wr0ng"), "{}", log.text());
}

#[tokio::test]
async fn a_token_that_etcd_has_forgotten_is_replaced() {
    let mut server = Etcd::start().await;
    server.enable_auth("kite", "secret");
    let registry =
        EtcdRegistry::open(&format!("etcd://kite:secret@{}?leaseSeconds=2", server.host())).await.unwrap();
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    // Changing a user makes every token of it invalid while the connection stays.
    server.call("auth/user/changepw", &serde_json::json!({"name": "kite", "password": "secret"}));
    registry.register_broker(broker()).await.unwrap();
    let mut feed = registry.watch_bindings("feed");
    until(&mut feed, "a topic that is watched later", <[_]>::is_empty).await;
    // A restart forgets all tokens.
    server.kill();
    server.run().await;
    server.log_in();
    server.put(BINDING_KEY, &json(&fanout(1)));
    until(&mut bindings, "seen with the next token", |seen| seen == fanout(1)).await;
    eventually("registered", async || server.get(ALIVE_KEY)).await;
}

#[tokio::test]
async fn keys_without_the_right_to_read_them_are_said_once_and_cost_nothing_else() {
    let (log, _guard) = Log::capture();
    let server = Etcd::start().await;
    server.enable_auth("kite", "secret");
    server.put("/kiteq/sub/trade/s-bind", &json(&fanout(1)));
    let done = |path: &str, body: serde_json::Value| {
        let answer = server.call(path, &body);
        assert!(answer.get("error").is_none(), "{answer}");
    };
    // base64 of /kiteq/sub/trade/ and of the key after all below it.
    done("auth/user/add", serde_json::json!({"name": "narrow", "password": "secret"}));
    done("auth/role/add", serde_json::json!({"name": "narrow"}));
    let range = serde_json::json!({
        "permType": "READ", "key": "L2tpdGVxL3N1Yi90cmFkZS8=", "range_end": "L2tpdGVxL3N1Yi90cmFkZTA=",
    });
    done("auth/role/grant", serde_json::json!({"name": "narrow", "perm": range}));
    done("auth/user/grant", serde_json::json!({"user": "narrow", "role": "narrow"}));
    let registry = EtcdRegistry::open(&format!("etcd://narrow:secret@{}", server.host())).await.unwrap();
    let brokers = registry.watch_brokers("trade");
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "what it may read", |seen| seen == fanout(1)).await;
    eventually("the rest is said", async || (log.count("cannot be read") == 1).then_some(())).await;
    assert!(brokers.borrow().is_none());
    let error = registry.publish_bindings("s", &fanout(2)).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Refused { .. }) && error.to_string().contains("permission"),
        "{error}"
    );
    server.put("/kiteq/sub/trade/s-bind", &json(&fanout(3)));
    until(&mut bindings, "a change of it", |seen| seen == fanout(3)).await;
    assert_eq!(log.count("connection has ended"), 0, "{}", log.text());
}

#[tokio::test]
async fn tls_with_certificates_on_both_sides() {
    let server = Etcd::start_tls().await;
    let Certificates { authority, certificate, key } = server.certificates();
    let [ca, certificate, key] = [authority, certificate, key].map(|path| path.display().to_string());
    let host = server.host();
    let good = format!("etcd://https://{host}?ca={ca}&cert={certificate}&key={key}");
    let registry = EtcdRegistry::open(&good).await.unwrap();
    registry.register_broker(broker()).await.unwrap();
    until(&mut registry.watch_brokers("trade"), "the broker", is_broker).await;
    for (uri, part) in [
        (format!("etcd://https://{host}?ca={ca}"), ""),
        (format!("etcd://https://{host}?cert={certificate}&key={key}"), "certificate"),
        (
            format!("etcd://https://{host}?ca={ca}&cert={certificate}&key={key}&domain=other.example"),
            "certificate",
        ),
        (format!("etcd://{host}"), ""),
    ] {
        let wrong = EtcdRegistry::open(&uri).await.unwrap();
        let error = timeout(PATIENCE, wrong.register_broker(broker())).await.expect("bounded").unwrap_err();
        assert!(error.to_string().contains(part), "{uri}: {error}");
        wrong.close().await;
    }
}

#[tokio::test]
async fn malformed_bindings_are_logged_and_ignored_and_the_others_stay() {
    let (log, _guard) = Log::capture();
    let server = Etcd::start().await;
    let registry = start(&server).await;
    server.put("/kiteq/sub/trade/s-never-bind", b"{ nonsense");
    server.put(BINDING_KEY, &json(&fanout(1)));
    server.put("/kiteq/sub/trade/notes", b"not a binding at all");
    server.put("/kiteq/server/trade/nonsense", b"");
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "the good one", |seen| seen == fanout(1)).await;
    until(&mut registry.watch_brokers("trade"), "no address", <[_]>::is_empty).await;
    server.put(BINDING_KEY, b"\xff\x00 damaged");
    let other = [Binding::fanout("s-other", "trade", 1, true)];
    server.put("/kiteq/sub/trade/s-other-bind", &json(&other));
    until(&mut bindings, "the damaged one's last word and the other", |seen| {
        seen == [fanout(1), other.clone()].concat()
    })
    .await;
    assert_eq!(log.count("binding node is malformed"), 2, "{}", log.text());
    server.put(BINDING_KEY, &json(&fanout(2)));
    until(&mut bindings, "the mended one", |seen| seen == [fanout(2), other.clone()].concat()).await;
}

#[tokio::test]
async fn a_group_whose_key_is_deleted_goes_and_comes_back_with_it() {
    let server = Etcd::start().await;
    let registry = start(&server).await;
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    for watermark in 1..=5 {
        server.put(BINDING_KEY, &json(&fanout(watermark)));
        until(&mut bindings, "it comes", |seen| seen == fanout(watermark)).await;
        server.put(BINDING_KEY, &json(&fanout(-watermark)));
        until(&mut bindings, "it changes", |seen| seen == fanout(-watermark)).await;
        server.delete(BINDING_KEY);
        until(&mut bindings, "it goes", <[_]>::is_empty).await;
    }
}

#[tokio::test]
async fn many_topics_and_many_groups_are_read_and_followed() {
    const TOPICS: usize = 2_000;
    const GROUPS: usize = 350;
    let server = Etcd::start().await;
    let registry = start(&server).await;
    for number in 0..GROUPS {
        let group = format!("s-{number}");
        server.put(
            &format!("/kiteq/sub/crowded/{group}-bind"),
            &json(&[Binding::fanout(&group, "crowded", 0, true)]),
        );
    }
    let topics: Vec<_> = (0..TOPICS).map(|number| format!("topic-{number}")).collect();
    registry
        .register_broker(BrokerRecord { address: ADDRESS.to_owned(), topics: topics.clone() })
        .await
        .unwrap();
    let mut watches: Vec<_> =
        topics.iter().map(|topic| (registry.watch_brokers(topic), registry.watch_bindings(topic))).collect();
    let mut crowded = registry.watch_bindings("crowded");
    until(&mut crowded, "every page", |seen| seen.len() == GROUPS).await;
    for (brokers, bindings) in &mut watches {
        until(brokers, "the broker", is_broker).await;
        until(bindings, "no binding", <[_]>::is_empty).await;
    }
    let binding = [Binding::fanout("s", "topic-1999", 1, true)];
    server.put("/kiteq/sub/topic-1999/s-bind", &json(&binding));
    until(&mut watches[1999].1, "the change", |seen| seen == binding).await;
    registry.unregister_broker().await.unwrap();
    for (brokers, _) in &mut watches {
        until(brokers, "gone", <[_]>::is_empty).await;
    }
}

#[tokio::test]
async fn a_broker_that_changes_its_topics_or_its_address_leaves_nothing_behind() {
    let server = Etcd::start().await;
    let registry = start(&server).await;
    let record = |address: &str, topics: &[&str]| BrokerRecord {
        address: address.to_owned(),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
    };
    let names = || server.keys("/kiteq/server/").into_iter().map(|found| found.key).collect::<Vec<_>>();
    registry.register_broker(record(ADDRESS, &["a", "b", "a"])).await.unwrap();
    assert_eq!(names(), ["/kiteq/server/a/127.0.0.1:13800", "/kiteq/server/b/127.0.0.1:13800"]);
    registry.register_broker(record(ADDRESS, &["b"])).await.unwrap();
    assert_eq!(names(), ["/kiteq/server/b/127.0.0.1:13800"]);
    registry.register_broker(record("127.0.0.1:1", &["b"])).await.unwrap();
    assert_eq!(names(), ["/kiteq/server/b/127.0.0.1:1"]);
    assert_eq!(server.keys("/kiteq/alive_servers/").len(), 1);
}

#[tokio::test]
async fn what_the_tree_cannot_hold_is_refused() {
    let registry = open_etcd(&["127.0.0.1:9".to_owned()]).await;
    for (address, topic, part) in
        [(ADDRESS, ANY_TOPIC, "-topics"), ("nonsense", "trade", "host:port"), (ADDRESS, "tra/de", "topic")]
    {
        let record = BrokerRecord { address: address.to_owned(), topics: vec![topic.to_owned()] };
        let error = registry.register_broker(record).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    timeout(Duration::from_secs(10), registry.close()).await.expect("closing is bounded");
}

#[tokio::test]
async fn withdrawing_from_a_server_that_does_not_answer_is_bounded() {
    let server = Etcd::start().await;
    let registry = EtcdRegistry::open(&format!("etcd://{}?leaseSeconds=60", server.host())).await.unwrap();
    registry.register_broker(broker()).await.unwrap();
    server.pause();
    let error = timeout(PATIENCE, registry.unregister_broker()).await.expect("bounded").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    server.resume();
    eventually("withdrawn by itself", async || server.get(BROKER_KEY).is_none().then_some(())).await;
}
