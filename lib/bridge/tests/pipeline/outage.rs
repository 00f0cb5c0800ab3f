//! Redis away, restarted, refusing: said clearly, waited for, and nothing lost.

use std::time::Duration;

use kiteq_bridge::BridgeConfig;
use kiteq_testkit::{Redis, RedisOptions, eventually, free_port};

use crate::support::{QUEUE, Running, Sink, client, config, element, length, push, wait_until_settled};

#[tokio::test]
async fn one_server_that_is_away_does_not_stop_another() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let mut both = config(&redis, &["feed"]);
    let away = format!("127.0.0.1:{}", free_port());
    both.redis_hosts.insert(0, away.clone());
    push(&mut client, (0..100).map(|id| element("feed", id))).await;
    let running = Running::start(both, &sink);
    sink.wait_for(100).await;
    let trouble = running.wait_for_trouble("refused").await;
    assert!(
        trouble.contains(&format!("queue {QUEUE} on {away}")) && !trouble.contains(&redis.host()),
        "{trouble}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_the_right_one_works() {
    let options = RedisOptions { password: Some("right".to_owned()), ..RedisOptions::default() };
    let (redis, sink) = (Redis::start_with(options).await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, [element("feed", 1)]).await;
    let with = |host: String| BridgeConfig { redis_hosts: vec![host], ..config(&redis, &["feed"]) };
    let none = Running::start(with(redis.host()), &sink);
    none.wait_for_trouble("give a password").await;
    none.stop().await;
    let wrong = Running::start(with(format!("redis://:wrong@{}", redis.host())), &sink);
    wrong.wait_for_trouble("check the user and password").await;
    wrong.stop().await;
    assert!(sink.events().is_empty());
    let right = Running::start(with(redis.uri()), &sink);
    sink.wait_for(1).await;
    right.wait_until_ready().await;
    right.stop().await;
}

#[tokio::test]
async fn a_key_of_another_type_is_said_until_it_is_a_list() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let () = redis::cmd("SET").arg(QUEUE).arg("x").query_async(&mut client).await.unwrap();
    let running = Running::start(config(&redis, &["feed"]), &sink);
    running.wait_for_trouble("the key of a queue must hold a list").await;
    let () = redis::cmd("DEL").arg(QUEUE).query_async(&mut client).await.unwrap();
    push(&mut client, [element("feed", 1)]).await;
    sink.wait_for(1).await;
    running.wait_until_ready().await;
    running.stop().await;
}

#[tokio::test]
async fn a_server_without_scripts_is_said_with_the_way_out() {
    let options = RedisOptions {
        arguments: ["--rename-command", "SCRIPT", ""].map(str::to_owned).to_vec(),
        ..RedisOptions::default()
    };
    let (redis, sink) = (Redis::start_with(options).await, Sink::start(&["feed"]).await);
    let running = Running::start(config(&redis, &["feed"]), &sink);
    running.wait_for_trouble("--claim=pop").await;
    running.stop().await;
}

#[tokio::test]
async fn a_replica_is_not_claimed_from_until_it_is_promoted() {
    let (master, replica) = (Redis::start().await, Redis::start().await);
    let sink = Sink::start(&["feed"]).await;
    let (mut at_master, mut at_replica) = (client(&master).await, client(&replica).await);
    push(&mut at_master, (0..100).map(|id| element("feed", id))).await;
    let port = master.port().to_string();
    let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query_async(&mut at_replica).await.unwrap();
    eventually("it has the queue", async || (length(&mut at_replica, QUEUE).await == 100).then_some(()))
        .await;
    let running = Running::start(config(&replica, &["feed"]), &sink);
    running.wait_for_trouble("replica").await;
    assert!(sink.events().is_empty());
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut at_replica).await.unwrap();
    sink.wait_for(100).await;
    wait_until_settled(&mut at_replica).await;
    running.stop().await;
}

#[tokio::test]
async fn a_full_server_is_drained_all_the_same() {
    let options = RedisOptions {
        arguments: ["--maxmemory-policy", "noeviction"].map(str::to_owned).to_vec(),
        ..RedisOptions::default()
    };
    let (redis, sink) = (Redis::start_with(options).await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..5000).map(|id| element("feed", id))).await;
    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1mb"]).query_async(&mut client).await.unwrap();
    let refused: Result<(), _> = redis::cmd("RPUSH").arg(QUEUE).arg("x").query_async(&mut client).await;
    assert!(refused.is_err());
    let running = Running::start(config(&redis, &["feed"]), &sink);
    sink.wait_for(5000).await;
    wait_until_settled(&mut client).await;
    running.stop().await;
}

#[tokio::test]
async fn scripts_that_were_flushed_are_given_again() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    for round in 0..10 {
        let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut client).await.unwrap();
        push(&mut client, (round * 300..(round + 1) * 300).map(|id| element("feed", id))).await;
    }
    sink.wait_for(3000).await;
    wait_until_settled(&mut client).await;
    running.stop().await;
}

#[tokio::test]
async fn a_restart_with_an_append_only_file_loses_nothing() {
    let options = RedisOptions { append_only: true, ..RedisOptions::default() };
    let (mut redis, sink) = (Redis::start_with(options).await, Sink::start(&["feed"]).await);
    let mut first = client(&redis).await;
    push(&mut first, (0..20_000).map(|id| element("feed", id))).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    for round in 1..=4 {
        eventually("some arrive", async || (sink.ids().len() >= round * 3000).then_some(())).await;
        redis.kill();
        redis.run().await;
    }
    sink.wait_for(20_000).await;
    let mut last = client(&redis).await;
    wait_until_settled(&mut last).await;
    assert_eq!(length(&mut last, QUEUE).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn connections_that_break_again_and_again_cost_nothing_but_time() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..20_000).map(|id| element("feed", id))).await;
    let running = Running::start(config(&redis, &["feed"]), &sink);
    eventually("all arrive", async || {
        let _: i64 = redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .query_async(&mut client)
            .await
            .unwrap();
        (sink.ids().len() >= 20_000).then_some(())
    })
    .await;
    sink.wait_for(20_000).await;
    wait_until_settled(&mut client).await;
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_connected_to_again() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let quick = BridgeConfig { redis_timeout: Duration::from_millis(300), ..config(&redis, &["feed"]) };
    let running = Running::start(quick, &sink);
    running.wait_until_ready().await;
    redis.pause();
    running.wait_for_trouble("no answer").await;
    redis.resume();
    push(&mut client, (0..10).map(|id| element("feed", id))).await;
    sink.wait_for(10).await;
    wait_until_settled(&mut client).await;
    running.wait_until_ready().await;
    running.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_renamed_away_and_back_goes_on() {
    let (redis, sink) = (Redis::start().await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let () =
        redis::cmd("RPUSH").arg("elsewhere").arg(element("feed", 1)).query_async(&mut client).await.unwrap();
    let running = Running::start(config(&redis, &["feed"]), &sink);
    running.wait_until_ready().await;
    let () = redis::cmd("RENAME").arg("elsewhere").arg(QUEUE).query_async(&mut client).await.unwrap();
    sink.wait_for(1).await;
    wait_until_settled(&mut client).await;
    running.stop().await;
}
