//! The real binary from start to end, with a real Redis and a real ZooKeeper.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::net::TcpListener;

use kiteq_testkit::{eventually, free_port};
use support::{BRIDGE, Installation, QUEUE, element};

#[tokio::test(flavor = "multi_thread")]
async fn elements_arrive_and_sigterm_and_sigint_drain() {
    let installation = Installation::start().await;
    let mut expected = Vec::new();
    for (id, signal) in [(1, "TERM"), (2, "INT")] {
        let bridge = installation.bridge(&[]);
        bridge.get_until("/readyz", "ok");
        let (pushed, arrived) = element(id);
        installation.redis(&["rpush", QUEUE, &pushed]);
        expected.push(arrived);
        let all_there = async || (installation.sink.bodies() == expected).then_some(());
        eventually("the element is with the sink", all_there).await;
        bridge.signal(signal);
        let ended = bridge.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("nothing was left undone"), "{ended:?}");
    }
    assert_eq!(installation.redis(&["dbsize"]), "0", "{}", installation.redis(&["keys", "*"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_before_the_drain_timeout_is_back_in_its_queue() {
    let installation = Installation::start_silent().await;
    let bridge = installation.bridge(&["--drain-timeout=500ms", "--batch-age=1ms"]);
    bridge.get_until("/readyz", "ok");
    let (pushed, _) = element(1);
    installation.redis(&["rpush", QUEUE, &pushed]);
    bridge.get_until("/stat", r#""popped": 1"#);
    let ended = bridge.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(installation.redis(&["lrange", QUEUE, "0", "-1"]), pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_and_the_next_start_sends_what_it_held() {
    let silent = Installation::start_silent().await;
    let mut bridge = silent.bridge(&["--drain-timeout=1h", "--batch-age=1ms"]);
    bridge.get_until("/readyz", "ok");
    let (pushed, _) = element(1);
    silent.redis(&["rpush", QUEUE, &pushed]);
    bridge.get_until("/stat", r#""popped": 1"#);
    bridge.signal("TERM");
    bridge.wait_for("stopping");
    bridge.get_until("/readyz", "stopping");
    bridge.signal("TERM");
    let ended = bridge.wait();
    assert_eq!(ended.code, Some(128 + 15), "{ended:?}");
    assert_eq!(silent.redis(&["llen", QUEUE]), "0");

    // The claim is put back by the next start, and by that one's drain into the queue.
    let bridge = silent.bridge(&["--drain-timeout=100ms"]);
    bridge.get_until("/stat", r#""popped": 1"#);
    let ended = bridge.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(silent.redis(&["lrange", QUEUE, "0", "-1"]), pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_stat_are_served() {
    let installation = Installation::start().await;
    let bridge = installation.bridge(&[]);
    bridge.get_until("/readyz", "ok");
    assert_eq!(bridge.get("/healthz"), (200, "ok\n".to_owned()));
    installation.redis(&["rpush", QUEUE, "not json"]);
    bridge.get_until("/stat", r#""dead_letters": 1"#);
    let metrics = bridge.get("/metrics").1;
    assert!(metrics.contains("process_resident_memory_bytes") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(metrics.lines().any(|line| line.contains("dead_letters") && line.ends_with(" 1")), "{metrics}");
    let stat: serde_json::Value = serde_json::from_str(&bridge.get("/stat").1).unwrap();
    assert_eq!(stat["ready"], "yes");
    assert_eq!(stat["queues"][0]["queue"], QUEUE);
    assert!(stat["mark"].as_str().unwrap().ends_with(&format!("_test:{}", bridge.pid())), "{stat}");
    assert_eq!(bridge.get("/nowhere").0, 404);
}

#[test]
fn a_port_in_use_is_refused_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let http = format!("--http={address}");
    let ended = BRIDGE.start(&[&http, "-queuename=q", "-businesses=b"], &[]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap();
    assert!(
        last.contains(&address) && last.contains("choose another port") && last.contains("--http"),
        "{last}"
    );
}

/// Nothing that the bridge needs is there: it waits, says so, and can still be stopped.
#[test]
fn servers_that_are_away_are_waited_for_and_named() {
    let (redis, zookeeper) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let servers = [format!("-redis={redis}"), format!("-zkhost={zookeeper}")];
    let mut flags: Vec<&str> = servers.iter().map(String::as_str).collect();
    flags.extend(["-queuename=q", "-businesses=b", "-pport=0"]);
    let mut bridge = BRIDGE.start(&flags, &[]);
    bridge.wait_for("HTTP is on ");
    assert_eq!(bridge.get("/healthz").0, 200);
    bridge.get_until("/readyz", &redis);
    let (status, reason) = bridge.get("/readyz");
    assert!(status == 503 && reason.contains("ZooKeeper"), "{reason}");
    let ended = bridge.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn claims_with_a_wrong_redis_setting_are_refused_with_the_setting() {
    let ended =
        BRIDGE.start(&["-redis=redis://h:6379/x", "-queuename=q", "-businesses=b", "-pport=0"], &[]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.lines().last().unwrap().contains("redis://user:password@host:port/db"), "{ended:?}");
}
