//! All of it: a real Redis, a real ZooKeeper, sinks found there.

use std::time::Duration;

use kiteq_bridge::{Bridge, BridgeConfig, SinksConfig};
use kiteq_telemetry::Shutdown;
use kiteq_testkit::{Redis, ZooKeeper, eventually};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::support::{QUEUE, Sink, client, config, element, key, length, push, wait_until_settled};

fn with_zookeeper(redis: &Redis, zookeeper: &ZooKeeper, instance: &str) -> BridgeConfig {
    BridgeConfig {
        zookeeper_hosts: vec![zookeeper.host()],
        zookeeper_session_timeout: Duration::from_secs(1),
        instance: instance.to_owned(),
        sinks: SinksConfig { patience: Duration::from_millis(500), ..SinksConfig::default() },
        ..config(redis, &["feed", "dark"])
    }
}

async fn announce(client: &Client, business: &str, sink: &Sink) {
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for path in [
        "/flume".to_owned(),
        format!("/flume/{business}"),
        format!("/flume/{business}/127.0.0.1_{}", sink.port()),
    ] {
        match client.create(&path, b"", &open).await {
            Ok(_) | Err(zookeeper_client::Error::NodeExists) => {}
            Err(error) => panic!("{path}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_reach_the_sinks_that_zookeeper_names() {
    let (redis, zookeeper) = (Redis::start().await, ZooKeeper::start().await);
    let (sink, late) = (Sink::start(&[]).await, Sink::start(&[]).await);
    let (mut client, keeper) = (client(&redis).await, Client::connect(&zookeeper.host()).await.unwrap());
    announce(&keeper, "feed", &sink).await;
    push(&mut client, (0..2000).map(|id| element(if id % 2 == 0 { "feed" } else { "dark" }, id))).await;
    let (mut metrics, shutdown) = (Registry::default(), Shutdown::new());
    let bridge =
        Bridge::start(with_zookeeper(&redis, &zookeeper, "one"), &mut metrics, &shutdown).await.unwrap();
    sink.wait_for(1000).await;
    // What has no sink yet waits, and is brought to the one that comes.
    wait_until_settled(&mut client).await;
    eventually("the rest is parked", async || {
        (length(&mut client, &key("parked:dark")).await == 1000).then_some(())
    })
    .await;
    announce(&keeper, "dark", &late).await;
    late.wait_for(1000).await;
    wait_until_settled(&mut client).await;
    eventually("it is ready", async || bridge.ready().ok()).await;
    let stat = bridge.stat();
    assert_eq!((stat.sinks.len(), stat.queues[0].sent, stat.queues[0].waiting), (2, 2000, 0));
    let report = bridge.stop().await;
    assert_eq!((report.claims_left, report.elements_lost), (0, 0));
    assert!(keeper.list_children("/flume_source/feed").await.unwrap().is_empty(), "the mark is withdrawn");
    let mut text = String::new();
    encode(&mut text, &metrics).unwrap();
    for line in [
        "bridge_sent_total{business=\"feed\"} 1000",
        "bridge_sent_total{business=\"dark\"} 1000",
        "bridge_parked_total{business=\"dark\"} 1000",
        "bridge_dead_letters_total{queue=\"user-log\",reason=\"not_json\"} 0",
        "bridge_batch_events_count{business=\"feed\"}",
        "bridge_end_to_end_seconds_count{business=\"feed\"}",
        "bridge_sink_events_total",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(shutdown.finish(Duration::from_secs(5)).await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_puts_back_what_a_dead_instance_held() {
    let (redis, zookeeper, sink) = (Redis::start().await, ZooKeeper::start().await, Sink::start(&[]).await);
    let (mut client, keeper) = (client(&redis).await, Client::connect(&zookeeper.host()).await.unwrap());
    announce(&keeper, "feed", &sink).await;
    sink.set_silent(true);
    push(&mut client, (0..500).map(|id| element("feed", id))).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let doomed = with_zookeeper(&redis, &zookeeper, "doomed");
    let shutdown = Shutdown::new();
    let first = runtime.spawn(async move {
        let mut metrics = Registry::default();
        let bridge = Bridge::start(doomed, &mut metrics, &shutdown).await.unwrap();
        shutdown.cancelled().await;
        drop(bridge);
    });
    eventually("all is claimed", async || (length(&mut client, QUEUE).await == 0).then_some(())).await;
    let (mut metrics, shutdown) = (Registry::default(), Shutdown::new());
    let peer = with_zookeeper(&redis, &zookeeper, "peer");
    let second = Bridge::start(peer, &mut metrics, &shutdown).await.unwrap();
    eventually("it knows its peers", async || second.ready().ok()).await;
    sink.set_silent(false);
    assert!(sink.events().is_empty(), "the first one lives, so its claims are its own");
    runtime.shutdown_background();
    drop(first);
    sink.wait_for(500).await;
    wait_until_settled(&mut client).await;
    let report = second.stop().await;
    assert_eq!(report.claims_left, 0);
}

/// Nobody is told of what happens to sinks and peers meanwhile: what was known stands, and what is new is found afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn elements_flow_while_zookeeper_is_away_for_longer_than_its_session_and_after_it_is_back() {
    let (redis, mut zookeeper) = (Redis::start().await, ZooKeeper::start().await);
    let (sink, late) = (Sink::start(&[]).await, Sink::start(&[]).await);
    let mut client = client(&redis).await;
    let keeper = Client::connect(&zookeeper.host()).await.unwrap();
    announce(&keeper, "feed", &sink).await;
    drop(keeper);
    let (mut metrics, shutdown) = (Registry::default(), Shutdown::new());
    let bridge =
        Bridge::start(with_zookeeper(&redis, &zookeeper, "one"), &mut metrics, &shutdown).await.unwrap();
    let mut next = 0..;
    let mut more = || (&mut next).take(200).map(|id| element("feed", id)).collect::<Vec<_>>();
    push(&mut client, more()).await;
    sink.wait_for(200).await;
    eventually("it is ready", async || bridge.ready().ok()).await;

    zookeeper.kill();
    push(&mut client, more()).await;
    // First the connection is away, and once the session's time is over the session is given up.
    eventually("the session is given up", async || {
        bridge
            .ready()
            .is_err_and(|reason| reason.contains("ZooKeeper") && !reason.contains("away"))
            .then_some(())
    })
    .await;
    // A claim of a peer that may be alive: nobody can tell.
    let () = redis::cmd("HSET")
        .arg(&[key("claims").as_str(), "peer_x:1/run.0/0", "queue 1"])
        .query_async(&mut client)
        .await
        .unwrap();
    let held = key("claim:peer_x:1/run.0/0");
    let () =
        redis::cmd("RPUSH").arg(&held).arg(element("feed", 9999)).query_async(&mut client).await.unwrap();
    for round in 2..8 {
        push(&mut client, more()).await;
        sink.wait_for((round + 1) * 200).await;
    }
    push(&mut client, vec![element("dark", 5000)]).await;
    eventually("it is parked", async || (length(&mut client, &key("parked:dark")).await == 1).then_some(()))
        .await;
    assert_eq!(length(&mut client, &held).await, 1, "nobody is taken for dead");

    zookeeper.run().await;
    eventually("it is ready", async || bridge.ready().ok()).await;
    let keeper = Client::connect(&zookeeper.host()).await.unwrap();
    eventually("its mark is there again", async || {
        let marks = keeper.list_children("/flume_source/feed").await.unwrap();
        marks.iter().any(|mark| mark.contains("_one:")).then_some(())
    })
    .await;
    announce(&keeper, "dark", &late).await;
    late.wait_for(1).await;
    push(&mut client, more()).await;
    // The peer's mark is missing now that marks are known.
    sink.wait_for(9 * 200 + 1).await;
    wait_until_settled(&mut client).await;
    let report = bridge.stop().await;
    assert_eq!((report.claims_left, report.elements_lost), (0, 0));
}
