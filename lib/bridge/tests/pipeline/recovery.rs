//! Claims of instances that are gone: put back once, in their old order, and never those of the living.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kiteq_bridge::BridgeConfig;
use kiteq_testkit::{Redis, eventually};
use redis::aio::MultiplexedConnection;

use crate::support::{
    Doomed, QUEUE, Running, Sink, client, config, element, key, length, list, push, wait_until_settled,
};

/// A claim of the queue that another instance holds.
async fn claim_of(client: &mut MultiplexedConnection, mark: &str, number: u64, ids: std::ops::Range<u64>) {
    claim_of_source(client, "queue", &format!("{mark}/run.0/{number}"), ids).await;
}

async fn claim_of_source(
    client: &mut MultiplexedConnection,
    source: &str,
    name: &str,
    ids: std::ops::Range<u64>,
) {
    let value = format!("{source} 1");
    let () = redis::cmd("HSET").arg(key("claims")).arg(name).arg(value).query_async(client).await.unwrap();
    let elements: Vec<Vec<u8>> = ids.map(|id| element("feed", id)).collect();
    let () = redis::cmd("RPUSH")
        .arg(key(&format!("claim:{name}")))
        .arg(elements)
        .query_async(client)
        .await
        .unwrap();
}

async fn claims(client: &mut MultiplexedConnection) -> usize {
    redis::cmd("HLEN").arg(key("claims")).query_async(client).await.unwrap()
}

fn marks(marks: &[&str]) -> Option<Arc<BTreeSet<String>>> {
    Some(Arc::new(marks.iter().map(|mark| (*mark).to_owned()).collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crashed_instance_held_is_delivered_by_its_next_start() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed", "dark"]).await);
    let mut client = client(&redis).await;
    sink.set_silent(true);
    sink.set_available("dark", false);
    push(&mut client, (0..1000).map(|id| element(if id % 10 == 0 { "dark" } else { "feed" }, id))).await;
    push(&mut client, [b"bad".to_vec()]).await;
    let first = Doomed::start(config(&redis, &["feed", "dark"]), &sink);
    eventually("all is claimed", async || (length(&mut client, QUEUE).await == 0).then_some(())).await;
    first.crash();
    let held = claims(&mut client).await;
    assert!(held > 0);
    sink.set_silent(false);
    sink.set_available("dark", true);
    let second = Running::start(config(&redis, &["feed", "dark"]), &sink);
    sink.wait_for(1000).await;
    wait_until_settled(&mut client).await;
    assert!(length(&mut client, &key("dead")).await >= 1);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_loses_nothing() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    for round in 0..20_u64 {
        push(&mut client, (round * 500..(round + 1) * 500).map(|id| element("feed", id))).await;
        let doomed = Doomed::start(config(&redis, &["feed"]), &sink);
        let enough = fastrand::usize(1..500) + 500 * usize::try_from(round).unwrap();
        // Some of it has arrived, at a moment of no particular kind.
        eventually("some arrive", async || (sink.ids().len() >= enough).then_some(())).await;
        doomed.crash();
    }
    let last = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(10_000).await;
    wait_until_settled(&mut client).await;
    last.stop().await;
}

/// What is settled of a claim is forgotten while the rest of it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_long_claim_repeats_only_what_was_in_flight() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..50_000).map(|id| element("feed", id))).await;
    let few = BridgeConfig { claims_in_flight_max: 8, rate_limit: Some(50_000), ..config(&redis, &["feed"]) };
    let first = Doomed::start(few.clone(), &sink);
    eventually("some arrive", async || (sink.ids().len() >= 10_000).then_some(())).await;
    first.crash();
    assert_eq!((claims(&mut client).await, length(&mut client, QUEUE).await), (1, 0));
    push(&mut client, (50_000..50_100).map(|id| element("feed", id))).await;
    let second = Running::start(BridgeConfig { rate_limit: None, ..few }, &sink);
    sink.wait_for(50_100).await;
    wait_until_settled(&mut client).await;
    let again = sink.ids().len() - 50_100;
    // Pages of 100, with those that are asked for ahead; and the heads that were done when it died.
    assert!(again <= 2_500, "{again} came twice");
    second.stop().await;
}

#[tokio::test]
async fn an_instance_that_loses_a_long_claim_while_it_reads_goes_on() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..20_000).map(|id| element("feed", id))).await;
    let named = |instance: &str| BridgeConfig { instance: instance.to_owned(), ..config(&redis, &["feed"]) };
    // Slow enough to be in the middle.
    let first = Running::start(BridgeConfig { rate_limit: Some(4000), ..named("one") }, &sink);
    eventually("some arrive", async || (sink.ids().len() >= 2000).then_some(())).await;
    // The other one takes the first for dead: its mark is not there.
    let second = Running::start(named("two"), &sink);
    eventually("it is put back", async || (second.stat().queues[0].put_back > 0).then_some(())).await;
    sink.wait_for(20_000).await;
    wait_until_settled(&mut client).await;
    push(&mut client, (20_000..20_100).map(|id| element("feed", id))).await;
    sink.wait_for(20_100).await;
    let (first, second) = (first.stop().await, second.stop().await);
    assert_eq!((first.elements_lost, second.elements_lost), (0, 0));
    wait_until_settled(&mut client).await;
    let left: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn claims_go_back_in_their_old_order() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    for number in [9, 10, 11] {
        claim_of(&mut client, "gone_x:1", number, number * 10..number * 10 + 10).await;
    }
    push(&mut client, (120..125).map(|id| element("feed", id))).await;
    // Nothing is claimed: the dead letters are at their bound.
    let () = redis::cmd("RPUSH").arg(key("dead")).arg("{}").query_async(&mut client).await.unwrap();
    let stuck = BridgeConfig { dead_letters_max: Some(0), ..config(&redis, &["feed"]) };
    let (first, second) = (Running::start(stuck.clone(), &sink), Running::start(stuck, &sink));
    eventually("all went back", async || (claims(&mut client).await == 0).then_some(())).await;
    let expected: Vec<Vec<u8>> = (90..125).map(|id| element("feed", id)).collect();
    assert!(list(&mut client, QUEUE).await == expected);
    first.stop().await;
    second.stop().await;
}

/// The dead one had claimed what was parked, for a business that nobody serves any more.
#[tokio::test]
async fn parked_elements_in_a_dead_ones_claim_are_routed_again() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["default"]).await);
    let mut client = client(&redis).await;
    claim_of_source(&mut client, "parked:feed", "gone_x:1/run.0/0", 0..50).await;
    let running = Running::start(config(&redis, &["default"]), &sink);
    sink.wait_for(50).await;
    wait_until_settled(&mut client).await;
    let left: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_living_peer_keeps_its_claims_until_its_mark_is_gone() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    claim_of(&mut client, "peer_x:1", 0, 0..10).await;
    claim_of(&mut client, "gone_x:1", 0, 10..20).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    running.alive.send_replace(None);
    running.alive.send_replace(marks(&["peer_x:1"]));
    sink.wait_for(10).await;
    assert_eq!(sink.ids().into_iter().collect::<BTreeSet<_>>(), (10..20).collect());
    eventually("the peer's is left", async || (claims(&mut client).await == 1).then_some(())).await;
    running.alive.send_replace(marks(&[]));
    sink.wait_for(20).await;
    wait_until_settled(&mut client).await;
    running.stop().await;
}

#[tokio::test]
async fn two_instances_share_a_queue_and_nothing_comes_twice() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let named = |instance: &str| BridgeConfig { instance: instance.to_owned(), ..config(&redis, &["feed"]) };
    let (first, second) = (Running::start(named("one"), &sink), Running::start(named("two"), &sink));
    let pid = std::process::id();
    let both = [format!("localhost_one:{pid}"), format!("localhost_two:{pid}")];
    for running in [&first, &second] {
        running.alive.send_replace(Some(Arc::new(both.iter().cloned().collect())));
    }
    for batch in 0..20 {
        push(&mut client, (batch * 500..(batch + 1) * 500).map(|id| element("feed", id))).await;
    }
    sink.wait_for(10_000).await;
    wait_until_settled(&mut client).await;
    assert_eq!(sink.ids().len(), 10_000, "none twice");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn an_instance_whose_claims_were_taken_goes_on() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    sink.set_silent(true);
    push(&mut client, (0..300).map(|id| element("feed", id))).await;
    let slow = BridgeConfig { drain_timeout: Duration::from_millis(100), ..config(&redis, &["feed"]) };
    let first = Running::start(BridgeConfig { instance: "one".to_owned(), ..slow }, &sink);
    eventually("all is claimed", async || (length(&mut client, QUEUE).await == 0).then_some(())).await;
    sink.set_silent(false);
    // The other one takes the first for dead: its mark is not there.
    let second =
        Running::start(BridgeConfig { instance: "two".to_owned(), ..config(&redis, &["feed"]) }, &sink);
    sink.wait_for(300).await;
    wait_until_settled(&mut client).await;
    let report = first.stop().await;
    assert_eq!(report.elements_lost, 0);
    assert_eq!(length(&mut client, QUEUE).await, 0);
    second.stop().await;
}
