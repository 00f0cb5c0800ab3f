//! Redis over TLS, and what is said when the two sides do not agree about it.

use std::time::Duration;

use kiteq_bridge::BridgeConfig;
use kiteq_testkit::{Certificates, Log, Redis, RedisOptions, eventually};
use redis::aio::MultiplexedConnection;

use crate::support::{QUEUE, Running, Sink, client, config, element, length, push, wait_until_settled};

async fn start(password: Option<&str>) -> Redis {
    let options =
        RedisOptions { tls: true, password: password.map(str::to_owned), ..RedisOptions::default() };
    Redis::start_with(options).await
}

/// A bridge that drains `host` and trusts the authority of `trusted`.
fn trusting(redis: &Redis, host: String, trusted: &Redis) -> BridgeConfig {
    BridgeConfig {
        redis_hosts: vec![host],
        redis_authorities: Some(trusted.certificates().authority),
        ..config(redis, &["feed"])
    }
}

/// Has a server present another certificate from now on.
async fn present(client: &mut MultiplexedConnection, certificates: &Certificates) {
    let Certificates { authority, certificate, key } = certificates;
    let () = redis::cmd("CONFIG")
        .arg("SET")
        .arg(&["tls-ca-cert-file", authority.to_str().unwrap()])
        .arg(&["tls-cert-file", certificate.to_str().unwrap()])
        .arg(&["tls-key-file", key.to_str().unwrap()])
        .query_async(client)
        .await
        .unwrap();
}

#[tokio::test]
async fn elements_arrive_over_tls_with_and_without_a_password() {
    for password in [None, Some("open-sesame")] {
        let (redis, sink) = (start(password).await, Sink::start(&["feed"]).await);
        let mut client = client(&redis).await;
        push(&mut client, (0..3000).map(|id| element("feed", id))).await;
        let running = Running::start(trusting(&redis, redis.tls_uri(), &redis), &sink);
        running.finish(&sink, &mut client, 3000).await;
    }
}

#[tokio::test]
async fn a_password_over_tls_is_asked_for_and_checked() {
    let (redis, sink) = (start(Some("right")).await, Sink::start(&["feed"]).await);
    let hosts = [
        (redis.tls_uri().replace("right", "wrong"), "check the user and password"),
        (format!("rediss://{}", redis.tls_host()), "give a password"),
    ];
    for (host, advice) in hosts {
        let running = Running::start(trusting(&redis, host, &redis), &sink);
        let trouble = running.wait_for_trouble(advice).await;
        assert!(!trouble.contains("wrong@") && !trouble.contains("right@"), "{trouble}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_said_once_and_elements_flow_when_it_is_replaced() {
    let (log, _guard) = Log::capture();
    let (redis, sink) = (start(None).await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    push(&mut client, (0..100).map(|id| element("feed", id))).await;
    let directory = tempfile::tempdir().unwrap();
    let known = Certificates::make(directory.path());
    let bridge = BridgeConfig {
        redis_authorities: Some(known.authority.clone()),
        ..trusting(&redis, redis.tls_uri(), &redis)
    };
    let running = Running::start(bridge, &sink);
    let trouble = running.wait_for_trouble("--redis-authorities").await;
    assert!(trouble.contains(&format!("queue {QUEUE} on rediss://{}", redis.tls_host())), "{trouble}");
    assert!(trouble.contains("UnknownIssuer"), "{trouble}");
    assert_eq!((length(&mut client, QUEUE).await, sink.events().len()), (100, 0));
    // The server's own log has a line for each attempt.
    let () =
        redis::cmd("CONFIG").arg(&["SET", "loglevel", "verbose"]).query_async(&mut client).await.unwrap();
    eventually("it is tried again", async || {
        let text = std::fs::read_to_string(redis.directory().join("server.log")).unwrap();
        (text.matches("Error accepting a client connection").count() > 4).then_some(())
    })
    .await;
    assert_eq!(log.count("--redis-authorities"), 1, "{}", log.text());
    present(&mut client, &known).await;
    sink.wait_for(100).await;
    wait_until_settled(&mut client).await;
    running.wait_until_ready().await;
    assert_eq!(log.count("goes on"), 1, "{}", log.text());
    running.stop().await;
}

#[tokio::test]
async fn an_authority_that_was_made_anew_under_its_old_name_is_not_trusted() {
    let (redis, sink) = (start(None).await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("old.pem");
    std::fs::copy(Certificates::make(directory.path()).authority, &old).unwrap();
    present(&mut client, &Certificates::make(directory.path())).await;
    let bridge = BridgeConfig { redis_authorities: Some(old), ..trusting(&redis, redis.tls_uri(), &redis) };
    let running = Running::start(bridge, &sink);
    running.wait_for_trouble("--redis-authorities").await;
    running.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_said() {
    let (redis, sink) = (start(None).await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    // A host of many names: the address is right, and the certificate bears another one.
    let address = redis.tls_uri().replace("127.0.0.1", "127.0.0.2");
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "bind", "127.0.0.1 127.0.0.2"])
        .query_async(&mut client)
        .await
        .unwrap();
    let running = Running::start(trusting(&redis, address, &redis), &sink);
    running.wait_for_trouble("name the host as its certificate does").await;
    running.stop().await;
}

#[tokio::test]
async fn a_port_of_the_other_kind_is_said_with_the_scheme_to_write() {
    let (redis, sink) = (start(None).await, Sink::start(&["feed"]).await);
    let plain_at_tls = format!("redis://{}", redis.tls_host());
    let running = Running::start(trusting(&redis, plain_at_tls, &redis), &sink);
    let trouble = running.wait_for_trouble("its host is written rediss://").await;
    assert!(trouble.contains(&redis.tls_host()), "{trouble}");
    running.stop().await;

    // What the server makes of the greeting hangs on the random bytes in it: it waits for more, or complains.
    let tls_at_plain = trusting(&redis, format!("rediss://{}", redis.host()), &redis);
    let quick = BridgeConfig { redis_timeout: Duration::from_millis(500), ..tls_at_plain };
    let running = Running::start(quick, &sink);
    let trouble = running.wait_for_trouble("its host is written redis://").await;
    assert!(trouble.contains(&redis.host()), "{trouble}");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_its_clients_is_said() {
    let (redis, sink) = (start(None).await, Sink::start(&["feed"]).await);
    let mut client = client(&redis).await;
    let ask = |value: &str| redis::cmd("CONFIG").arg(&["SET", "tls-auth-clients", value]).to_owned();
    let () = ask("yes").query_async(&mut client).await.unwrap();
    push(&mut client, [element("feed", 1)]).await;
    let running = Running::start(trusting(&redis, redis.tls_uri(), &redis), &sink);
    running.wait_for_trouble("tls-auth-clients").await;
    let () = ask("no").query_async(&mut client).await.unwrap();
    sink.wait_for(1).await;
    running.wait_until_ready().await;
    running.stop().await;
}
