//! ZooKeeper: the tree that existing clients see, and everything that can happen to a session.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kiteq_registry::{ANY_TOPIC, Binding, BrokerRecord, Registry, RegistryError, ZkRegistry};
use support::ZooKeeper;
use support::backend::SESSION_TIMEOUT;
use support::proxy::Proxy;
use support::{PATIENCE, eventually, until};
use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, Error};

const ADDRESS: &str = "127.0.0.1:13800";
const BROKER_NODE: &str = "/kiteq/server/trade/127.0.0.1:13800";
const ALIVE_NODE: &str = "/kiteq/alive_servers/127.0.0.1:13800";

fn broker() -> BrokerRecord {
    BrokerRecord { address: ADDRESS.to_owned(), topics: vec!["trade".to_owned()] }
}

fn start(server: &ZooKeeper) -> Arc<ZkRegistry> {
    ZkRegistry::start(&[server.host()], SESSION_TIMEOUT)
}

async fn look(server: &ZooKeeper) -> Client {
    Client::connect(&server.host()).await.unwrap()
}

/// Writes a node as another program would.
async fn put(client: &Client, path: &str, data: &[u8]) {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let (parent, _) = path.rsplit_once('/').unwrap();
    client.mkdir(parent, &options).await.unwrap();
    match client.create(path, data, &options).await {
        Err(Error::NodeExists) => client.set_data(path, data, None).await.map(|_| ()).unwrap(),
        created => created.map(|_| ()).unwrap(),
    }
}

fn json(bindings: &[Binding]) -> Vec<u8> {
    serde_json::to_vec(bindings).unwrap()
}

/// The session that a node belongs to; `None` while there is no such node.
async fn owner(client: &Client, path: &str) -> Option<i64> {
    client.check_stat(path).await.ok().flatten().map(|stat| stat.ephemeral_owner)
}

#[tokio::test]
async fn the_tree_is_the_one_that_existing_clients_know() {
    let server = ZooKeeper::start().await;
    let registry = start(&server);
    registry.register_broker(broker()).await.unwrap();
    let bindings = [Binding::direct("s-pay", "trade", "pay-succ", 1000, true)];
    registry.publish_bindings("s-pay", &bindings).await.unwrap();
    registry.register_producer("p-pay", &["trade".to_owned()]).await.unwrap();

    let client = look(&server).await;
    for (path, is_ephemeral) in [
        (BROKER_NODE, true),
        (ALIVE_NODE, true),
        ("/kiteq/all_servers/127.0.0.1:13800", false),
        ("/kiteq/pub/trade", false),
    ] {
        let (data, stat) = client.get_data(path).await.unwrap();
        assert_eq!((data.len(), stat.ephemeral_owner != 0), (0, is_ephemeral), "{path}");
    }
    let (data, stat) = client.get_data("/kiteq/sub/trade/s-pay-bind").await.unwrap();
    assert_eq!(
        String::from_utf8(data).unwrap(),
        r#"[{"groupId":"s-pay","topic":"trade","messageType":"pay-succ","bindType":0,"version":"1.0.0","watermark":1000,"persistent":true}]"#
    );
    assert_eq!(stat.ephemeral_owner, 0);
    assert_eq!(client.list_children("/kiteq/pub/trade/p-pay").await.unwrap().len(), 1, "this host");

    registry.publish_bindings("s-pay", &bindings).await.unwrap();
    let (_, again) = client.get_data("/kiteq/sub/trade/s-pay-bind").await.unwrap();
    assert_eq!(again.mzxid, stat.mzxid, "the same bindings are not written twice");

    registry.unregister_broker().await.unwrap();
    assert_eq!(client.check_stat(BROKER_NODE).await.unwrap(), None);
    assert_eq!(client.check_stat(ALIVE_NODE).await.unwrap(), None);
    assert!(client.check_stat("/kiteq/all_servers/127.0.0.1:13800").await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_used_once_it_is_up() {
    let mut server = ZooKeeper::prepare();
    let registry = start(&server);
    let mut bindings = registry.watch_bindings("trade");
    let mut brokers = registry.watch_brokers("trade");
    let binding = [Binding::fanout("s-pay", "trade", 0, true)];
    let error = timeout(PATIENCE, registry.register_broker(broker())).await.expect("bounded").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let error =
        timeout(PATIENCE, registry.publish_bindings("s-pay", &binding)).await.expect("bounded").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(bindings.borrow_and_update().is_none() && brokers.borrow_and_update().is_none());

    server.run().await;
    until(&mut bindings, "what was published in vain", |seen| seen == binding).await;
    until(&mut brokers, "what was registered in vain", |seen| seen == [ADDRESS.to_owned()]).await;
}

#[tokio::test]
async fn an_expired_session_is_followed_by_one_that_registers_and_reads_again() {
    let server = ZooKeeper::start().await;
    let client = look(&server).await;
    let registry = start(&server);
    registry.register_broker(broker()).await.unwrap();
    let mut bindings = registry.watch_bindings("trade");
    put(&client, "/kiteq/sub/trade/s-bind", &json(&[Binding::fanout("s", "trade", 1, true)])).await;
    until(&mut bindings, "the first binding", |seen| seen.len() == 1).await;
    let first = owner(&client, BROKER_NODE).await.unwrap();

    // The fault itself lasts so long: beyond the session's timeout and the client's own patience with it.
    server.pause();
    tokio::time::sleep(SESSION_TIMEOUT * 3).await;
    assert_eq!(bindings.borrow().as_deref().map(<[_]>::len), Some(1), "the last known binding stands");
    server.resume();

    let client = look(&server).await;
    eventually("registered by another session", async || {
        let owners = (owner(&client, BROKER_NODE).await, owner(&client, ALIVE_NODE).await);
        matches!(owners, (Some(topic), Some(alive)) if topic != first && alive == topic).then_some(())
    })
    .await;
    let second = [Binding::fanout("s", "trade", 2, true)];
    put(&client, "/kiteq/sub/trade/s-bind", &json(&second)).await;
    until(&mut bindings, "the changed binding", |seen| seen == second).await;
}

#[tokio::test]
async fn a_restarted_server_is_registered_with_and_read_again() {
    let mut server = ZooKeeper::start().await;
    let registry = start(&server);
    registry.register_broker(broker()).await.unwrap();
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    server.kill();
    server.run().await;
    let client = look(&server).await;
    let binding = [Binding::fanout("s", "trade", 2, true)];
    put(&client, "/kiteq/sub/trade/s-bind", &json(&binding)).await;
    until(&mut bindings, "a binding of the new life", |seen| seen == binding).await;
    // The session may have outlived the server; its node is there then, and belongs to a living session either way.
    eventually("the broker is registered", async || owner(&client, BROKER_NODE).await).await;
}

#[tokio::test]
async fn the_node_that_a_dead_broker_left_is_replaced() {
    let server = ZooKeeper::start().await;
    let dead = look(&server).await;
    put(&dead, "/kiteq/server/trade/placeholder:1", b"").await;
    let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    dead.create(BROKER_NODE, b"", &ephemeral).await.unwrap();
    let registry = start(&server);
    registry.register_broker(broker()).await.unwrap();
    let client = look(&server).await;
    assert_ne!(owner(&client, BROKER_NODE).await, Some(dead.session_id().0));
    drop(dead);
    let mut brokers = registry.watch_brokers("trade");
    until(&mut brokers, "the broker", |seen| seen.contains(&ADDRESS.to_owned())).await;
}

#[tokio::test]
async fn a_malformed_node_costs_nobody_anything() {
    let server = ZooKeeper::start().await;
    let client = look(&server).await;
    let good = [Binding::fanout("s-good", "trade", 1, true)];
    let other = [Binding::fanout("s-other", "trade", 1, true)];
    put(&client, "/kiteq/sub/trade/s-never-bind", b"{ no array").await;
    put(&client, "/kiteq/sub/trade/s-good-bind", &json(&good)).await;
    put(&client, "/kiteq/sub/trade/unrelated", b"whatever").await;
    let registry = start(&server);
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "the good one", |seen| seen == good).await;

    put(&client, "/kiteq/sub/trade/s-good-bind", b"\xff\x00 damaged").await;
    put(&client, "/kiteq/sub/trade/s-other-bind", &json(&other)).await;
    until(&mut bindings, "the damaged one's last word and the other", |seen| {
        seen == [&good[..], &other[..]].concat()
    })
    .await;
    put(&client, "/kiteq/sub/trade/s-never-bind", &json(&[Binding::fanout("s-never", "trade", 1, true)]))
        .await;
    until(&mut bindings, "the mended one", |seen| seen.len() == 3).await;
}

#[tokio::test]
async fn a_group_whose_node_is_deleted_goes_and_comes_back_with_it() {
    let server = ZooKeeper::start().await;
    let client = look(&server).await;
    let registry = start(&server);
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    for watermark in 1..=5 {
        let binding = [Binding::fanout("s", "trade", watermark, true)];
        put(&client, "/kiteq/sub/trade/s-bind", &json(&binding)).await;
        until(&mut bindings, "it comes", |seen| seen == binding).await;
        let changed = [Binding::fanout("s", "trade", -watermark, true)];
        put(&client, "/kiteq/sub/trade/s-bind", &json(&changed)).await;
        until(&mut bindings, "it changes", |seen| seen == changed).await;
        client.delete("/kiteq/sub/trade/s-bind", None).await.unwrap();
        until(&mut bindings, "it goes", <[_]>::is_empty).await;
    }
    client.delete("/kiteq/sub/trade", None).await.unwrap();
    let binding = [Binding::fanout("s", "trade", 9, true)];
    put(&client, "/kiteq/sub/trade/s-bind", &json(&binding)).await;
    until(&mut bindings, "it comes with its topic", |seen| seen == binding).await;
}

#[tokio::test]
async fn a_dead_host_among_several_is_passed_over() {
    let server = ZooKeeper::start().await;
    let dead = ZooKeeper::prepare();
    for hosts in [[dead.host(), server.host()], [server.host(), dead.host()]] {
        let registry = ZkRegistry::start(&hosts, SESSION_TIMEOUT);
        let mut bindings = registry.watch_bindings("trade");
        until(&mut bindings, "read from the living one", |_| true).await;
        registry.close().await;
    }
}

#[tokio::test]
async fn a_host_that_dies_hands_over_to_another_one() {
    let server = ZooKeeper::start().await;
    let proxies = [Proxy::start(&server.host()).await, Proxy::start(&server.host()).await];
    let hosts = proxies.each_ref().map(Proxy::host);
    let registry = ZkRegistry::start(&hosts, SESSION_TIMEOUT * 10);
    registry.register_broker(broker()).await.unwrap();
    let mut bindings = registry.watch_bindings("trade");
    until(&mut bindings, "nothing yet", <[_]>::is_empty).await;
    let client = look(&server).await;
    let first = owner(&client, BROKER_NODE).await.unwrap();

    let (used, spare): (Vec<_>, Vec<_>) = proxies.into_iter().partition(|proxy| proxy.connections() > 0);
    assert_eq!((used.len(), spare.len()), (1, 1));
    drop(used);
    let binding = [Binding::fanout("s", "trade", 1, true)];
    put(&client, "/kiteq/sub/trade/s-bind", &json(&binding)).await;
    until(&mut bindings, "seen through the other host", |seen| seen == binding).await;
    assert_eq!(owner(&client, BROKER_NODE).await, Some(first), "the session has moved, not ended");
    drop(spare);
}

#[tokio::test]
async fn what_the_tree_cannot_hold_is_refused() {
    let registry = ZkRegistry::start(&["127.0.0.1:9".to_owned()], SESSION_TIMEOUT);
    let record = |address: &str, topic: &str| BrokerRecord {
        address: address.to_owned(),
        topics: vec![topic.to_owned()],
    };
    for (record, part) in [
        (record(ADDRESS, ANY_TOPIC), "-topics"),
        (record("nonsense", "trade"), "host:port"),
        (record(ADDRESS, "tra/de"), "topic"),
    ] {
        let error = registry.register_broker(record).await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::Refused { .. }) && error.to_string().contains(part),
            "{error}"
        );
    }
    let long = "x".repeat(1_024);
    let many: Vec<_> = (0..1_000).map(|_| Binding::direct("s-pay", "trade", &long, 0, true)).collect();
    let error = registry.publish_bindings("s-pay", &many).await.unwrap_err();
    assert!(error.to_string().contains("fit"), "{error}");
    timeout(Duration::from_secs(10), registry.close()).await.expect("closing is bounded");
}

#[tokio::test]
async fn withdrawing_from_a_server_that_does_not_answer_is_bounded() {
    let server = ZooKeeper::start().await;
    let registry = ZkRegistry::start(&[server.host()], Duration::from_secs(30));
    registry.register_broker(broker()).await.unwrap();
    server.pause();
    let error = timeout(PATIENCE, registry.unregister_broker()).await.expect("bounded").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    server.resume();
    let client = look(&server).await;
    eventually("withdrawn by itself", async || {
        client.check_stat(BROKER_NODE).await.unwrap().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn closing_withdraws_the_broker_at_once() {
    let server = ZooKeeper::start().await;
    let registry = ZkRegistry::start(&[server.host()], Duration::from_secs(30));
    registry.register_broker(broker()).await.unwrap();
    registry.close().await;
    let client = look(&server).await;
    assert_eq!(client.check_stat(BROKER_NODE).await.unwrap(), None);
    eventually("the session is closed too", async || {
        let sessions = server.ask("cons")?;
        (sessions.matches("sid=0x").count() <= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_lives_is_unknown_while_the_connection_is_away_and_current_after() {
    let server = ZooKeeper::start().await;
    let proxy = Proxy::start(&server.host()).await;
    let other_proxy = Proxy::start(&server.host()).await;
    let hosts = [proxy.host(), other_proxy.host()];
    // The session outlives everything here, so it is the connection alone that counts.
    let registry = ZkRegistry::start(&hosts, SESSION_TIMEOUT * 30);
    let mut alive = registry.watch_alive();
    until(&mut alive, "nobody lives", <[_]>::is_empty).await;
    alive.mark_unchanged();
    let (used, spare): (Vec<_>, Vec<_>) =
        [proxy, other_proxy].into_iter().partition(|proxy| proxy.connections() > 0);
    drop(used);
    timeout(PATIENCE, alive.wait_for(Option::is_none)).await.expect("forgotten").expect("open");
    put(&look(&server).await, ALIVE_NODE, b"").await;
    until(&mut alive, "what came about meanwhile", |seen| seen == [ADDRESS.to_owned()]).await;
    drop(spare);
}

#[tokio::test]
async fn who_lives_is_unknown_once_a_server_is_silent() {
    let server = ZooKeeper::start().await;
    let registry = start(&server);
    registry.register_broker(broker()).await.unwrap();
    let mut alive = registry.watch_alive();
    until(&mut alive, "it lives", |seen| seen == [ADDRESS.to_owned()]).await;
    server.pause();
    timeout(PATIENCE, alive.wait_for(Option::is_none)).await.expect("forgotten").expect("open");
    server.resume();
    until(&mut alive, "it lives in its next session", |seen| seen == [ADDRESS.to_owned()]).await;
}
