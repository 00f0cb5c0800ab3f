//! A server that serves and refuses: it reads its data, a user may not do this, too many are connected, another is the master.

use std::time::Duration;

use kiteq_bridge::BridgeConfig;
use kiteq_testkit::{Log, Proxy, Redis, RedisOptions, eventually};
use redis::aio::MultiplexedConnection;

use crate::support::{
    QUEUE, Running, Sink, client, config, dead, element, key, length, list, push, wait_until_settled,
};

async fn set(client: &mut MultiplexedConnection, setting: &str, value: &str) {
    let () = redis::cmd("CONFIG").arg(&["SET", setting, value]).query_async(client).await.unwrap();
}

/// One command each: between the commands of its file a server that loads looks after its clients, and may be told to dawdle.
async fn push_singly(client: &mut MultiplexedConnection, count: u64) {
    let mut pushes = redis::pipe();
    (0..count).for_each(|id| {
        pushes.rpush(QUEUE, element("feed", id)).ignore();
    });
    let () = pushes.query_async(client).await.unwrap();
}

/// Changes what the user `bridge` may do.
async fn allow(client: &mut MultiplexedConnection, rules: &[&str]) {
    let () = redis::cmd("ACL").arg(&["SETUSER", "bridge"]).arg(rules).query_async(client).await.unwrap();
}

fn as_user(redis: &Redis) -> BridgeConfig {
    BridgeConfig {
        // What was asked for and refused is waited for at a stop.
        drain_timeout: Duration::from_millis(200),
        redis_hosts: vec![format!("redis://bridge:word@{}", redis.host())],
        ..config(redis, &["feed"])
    }
}

#[tokio::test]
async fn a_server_that_reads_its_data_is_said_once_and_waited_for() {
    let options = RedisOptions { append_only: true, ..RedisOptions::default() };
    let (mut redis, sink) = (Redis::start_with(options).await, Sink::start(&["feed"]).await);
    let mut before = client(&redis).await;
    push_singly(&mut before, 10_000).await;
    redis.kill();
    redis.add_arguments(&["--key-load-delay", "300"]);
    let (log, _guard) = Log::capture();
    redis.launch();
    let running = Running::start(config(&redis, &["feed"]), &sink);
    running.wait_for_trouble("it is reading its data; waiting").await;
    // It is asked again and again meanwhile, by all that connect to it.
    let mut during = client(&redis).await;
    let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut during).await.unwrap();
    assert!(info.contains("loading:1"), "{info}");
    assert!(sink.events().is_empty());
    set(&mut during, "key-load-delay", "0").await;
    sink.wait_for(10_000).await;
    wait_until_settled(&mut during).await;
    running.wait_until_ready().await;
    assert_eq!(log.count("LOADING"), 1, "{}", log.text());
    assert_eq!((sink.ids().len(), length(&mut during, QUEUE).await), (10_000, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_restart_that_takes_its_time_in_the_middle_loses_nothing() {
    let options = RedisOptions {
        append_only: true,
        // Loading takes a while each time.
        arguments: ["--key-load-delay", "20"].map(str::to_owned).to_vec(),
        ..RedisOptions::default()
    };
    let (mut redis, sink) = (Redis::start_with(options).await, Sink::start(&["feed"]).await);
    let mut before = client(&redis).await;
    push_singly(&mut before, 10_000).await;
    let (log, _guard) = Log::capture();
    let running = Running::start(config(&redis, &["feed"]), &sink);
    eventually("some arrive", async || (sink.ids().len() >= 2000).then_some(())).await;
    redis.kill();
    redis.launch();
    sink.wait_for(10_000).await;
    let mut after = client(&redis).await;
    wait_until_settled(&mut after).await;
    assert_eq!(length(&mut after, QUEUE).await, 0);
    // By the drain alone, of which there is one.
    assert!(log.count("LOADING") <= 1, "{}", log.text());
    running.stop().await;
}

#[tokio::test]
async fn a_user_who_may_not_run_scripts_is_said_until_it_may() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    allow(&mut client, &["on", ">word", "~*", "+@all", "-@scripting"]).await;
    push(&mut client, (0..100).map(|id| element("feed", id))).await;
    let running = Running::start(as_user(&redis), &sink);
    let trouble = running.wait_for_trouble("let this user run EVALSHA and SCRIPT LOAD").await;
    assert!(trouble.contains("NOPERM") && trouble.contains(&redis.host()), "{trouble}");
    assert_eq!((length(&mut client, QUEUE).await, sink.events().len()), (100, 0));
    allow(&mut client, &["+@scripting"]).await;
    running.finish(&sink, &mut client, 100).await;
}

#[tokio::test]
async fn a_user_who_may_not_touch_a_key_is_said_until_it_may() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let elements: Vec<_> = (0..350).map(|id| element("feed", id)).collect();
    push(&mut client, elements.clone()).await;
    let (ours, queue) = (format!("~{}", key("*")), format!("~{QUEUE}"));
    for keys in [&queue, &ours] {
        allow(&mut client, &["on", "nopass", "+@all", "resetkeys", keys]).await;
        let running = Running::start(as_user(&redis), &sink);
        running.wait_for_trouble("read and write the queue and its kiteq: keys").await;
        assert!(list(&mut client, QUEUE).await == elements && sink.events().is_empty());
        running.stop().await;
    }
    let running = Running::start(as_user(&redis), &sink);
    running.wait_for_trouble("NOPERM").await;
    // The two are all that it needs.
    allow(&mut client, &[&queue]).await;
    running.finish(&sink, &mut client, 350).await;
}

#[tokio::test]
async fn rights_that_are_taken_away_in_the_middle_cost_nothing_but_time() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    allow(&mut client, &["on", "nopass", "~*", "+@all"]).await;
    let running = Running::start(as_user(&redis), &sink);
    running.wait_until_ready().await;
    // Claims can be made, and neither settled nor their dead letters be written.
    allow(&mut client, &["-del", "-rpush"]).await;
    push(&mut client, (0..10).map(|id| element("feed", id)).chain([b"bad".to_vec()])).await;
    sink.wait_for(10).await;
    eventually("claims are held", async || {
        let claims: usize = redis::cmd("HLEN").arg(key("claims")).query_async(&mut client).await.unwrap();
        (claims > 0).then_some(())
    })
    .await;
    assert!(dead(&mut client).await.is_empty());
    allow(&mut client, &["+@all"]).await;
    wait_until_settled(&mut client).await;
    assert_eq!((dead(&mut client).await.len(), sink.ids().len()), (1, 10));
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_takes_no_more_connections_is_said_and_waited_for() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, [element("feed", 1)]).await;
    set(&mut client, "maxclients", "1").await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    running.wait_for_trouble("it has as many as its maxclients").await;
    set(&mut client, "maxclients", "100").await;
    sink.wait_for(1).await;
    running.wait_until_ready().await;
    running.stop().await;
}

/// The master's name moves to the replica that was promoted; the old one becomes its replica, and the next one dies.
#[tokio::test]
async fn a_failover_in_the_middle_loses_nothing() {
    // A copy is made at once, so that the test need not wait for it.
    let options = || RedisOptions {
        arguments: ["--repl-diskless-sync-delay", "0"].map(str::to_owned).to_vec(),
        ..RedisOptions::default()
    };
    let (first, mut second) = (Redis::start_with(options()).await, Redis::start_with(options()).await);
    let sink = Sink::start(&["feed"]).await;
    let name = Proxy::start(&first.host());
    let bridge = BridgeConfig {
        redis_hosts: vec![name.host()],
        // Slow enough for the middle to be one.
        rate_limit: Some(5000),
        ..config(&first, &["feed"])
    };
    let (mut old, mut new) = (client(&first).await, client(&second).await);
    replicate(&first, &second).await;
    push(&mut old, (0..10_000).map(|id| element("feed", id))).await;
    let running = Running::start(bridge.clone(), &sink);
    eventually("some arrive", async || (sink.ids().len() >= 1000).then_some(())).await;

    // As a sentinel does it: the new one is promoted, then its name known, and the old one told at last.
    has_all(&mut old).await;
    promote(&mut new).await;
    name.redirect(&second.host());
    assert!(running.stat().queues[0].waiting > 0, "it is in the middle");
    replicate(&second, &first).await;
    sink.wait_for(10_000).await;

    // This time the master dies, and its name moves later.
    push(&mut new, (10_000..20_000).map(|id| element("feed", id))).await;
    eventually("some more arrive", async || sink.ids().contains(&11_000).then_some(())).await;
    has_all(&mut new).await;
    second.kill();
    assert!(running.stat().queues[0].waiting > 0, "it is in the middle");
    running.wait_for_trouble(&name.host()).await;
    promote(&mut old).await;
    name.redirect(&first.host());
    sink.wait_for(20_000).await;
    running.wait_until_ready().await;
    running.stop().await;

    // A claim whose end was not copied in time is put back at the next start: its elements come twice.
    let again = Running::start(bridge, &sink);
    wait_until_settled(&mut old).await;
    eventually("the queue is empty", async || (length(&mut old, QUEUE).await == 0).then_some(())).await;
    again.stop().await;
    let left: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut old).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

async fn promote(replica: &mut MultiplexedConnection) {
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(replica).await.unwrap();
}

/// Makes `replica` one, and waits until it has what `master` has.
async fn replicate(master: &Redis, replica: &Redis) {
    let mut client = client(replica).await;
    let port = master.port().to_string();
    let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query_async(&mut client).await.unwrap();
    eventually("it is a copy", async || {
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut client).await.unwrap();
        info.contains("master_link_status:up").then_some(())
    })
    .await;
}

/// Waits until the replica has what was written over this connection.
async fn has_all(master: &mut MultiplexedConnection) {
    let copies: i64 = redis::cmd("WAIT").arg(1).arg(0).query_async(master).await.unwrap();
    assert_eq!(copies, 1);
}

/// Half of a claim must not be one: its elements would be sent, and stay in the queue, and be sent again, without end.
#[tokio::test]
async fn a_user_who_may_copy_elements_and_not_take_them_away_gets_none() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    allow(&mut client, &["on", "nopass", "~*", "+@all", "-ltrim"]).await;
    let elements: Vec<_> = (0..350).map(|id| element("feed", id)).collect();
    push(&mut client, elements.clone()).await;
    let running = Running::start(as_user(&redis), &sink);
    running.wait_for_trouble("let this user run").await;
    has_failed(&mut client, 3).await;
    assert!(list(&mut client, QUEUE).await == elements && sink.events().is_empty());
    wait_until_settled(&mut client).await;
    allow(&mut client, &["+ltrim"]).await;
    running.finish(&sink, &mut client, 350).await;
}

/// The element is copied beside its letter, in one step, each time it is tried: a letter that cannot be written leaves no copy.
#[tokio::test]
async fn a_large_element_whose_letter_cannot_be_written_is_not_copied_again_and_again() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let () = redis::cmd("SET").arg(key("dead")).arg("x").query_async(&mut client).await.unwrap();
    push(&mut client, [vec![b'x'; 20 << 20]]).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    has_failed(&mut client, 3).await;
    assert_eq!(length(&mut client, &key("dead:oversize")).await, 0);
    let () = redis::cmd("DEL").arg(key("dead")).query_async(&mut client).await.unwrap();
    wait_until_settled(&mut client).await;
    assert_eq!(dead(&mut client).await.len(), 1);
    assert_eq!(length(&mut client, &key("dead:oversize")).await, 1);
    running.stop().await;
}

/// Waits until so many calls of scripts have failed.
async fn has_failed(client: &mut MultiplexedConnection, times: u64) {
    eventually("it is tried again", async || {
        let info: String = redis::cmd("INFO").arg("commandstats").query_async(client).await.unwrap();
        let line = info.lines().find(|line| line.starts_with("cmdstat_evalsha:"))?;
        let failed = line.split("failed_calls=").nth(1)?.split(',').next()?.parse::<u64>().unwrap();
        (failed >= times).then_some(())
    })
    .await;
}
