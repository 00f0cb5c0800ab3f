//! The Redis of the test kit does what tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpStream;

use kiteq_testkit::{Redis, RedisOptions};

/// The reply to an inline command, as far as it comes in one piece.
fn ask(redis: &Redis, command: &str) -> String {
    let mut stream = TcpStream::connect(redis.host()).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut reply = [0; 256];
    let len = stream.read(&mut reply).unwrap();
    String::from_utf8(reply[..len].to_vec()).unwrap()
}

#[tokio::test]
async fn an_append_only_server_keeps_its_data_over_a_kill() {
    let mut redis = Redis::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    assert_eq!(ask(&redis, "RPUSH queue a b"), ":2\r\n");
    redis.kill();
    assert!(TcpStream::connect(redis.host()).is_err());
    redis.run().await;
    assert_eq!(ask(&redis, "LLEN queue"), ":2\r\n");
}

#[tokio::test]
async fn a_plain_server_starts_empty_again() {
    let mut redis = Redis::start().await;
    assert_eq!(ask(&redis, "RPUSH queue a b"), ":2\r\n");
    redis.kill();
    redis.run().await;
    assert_eq!(ask(&redis, "LLEN queue"), ":0\r\n");
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let options = RedisOptions { password: Some("open-sesame".to_owned()), ..RedisOptions::default() };
    let redis = Redis::start_with(options).await;
    assert!(ask(&redis, "LLEN queue").starts_with("-NOAUTH"));
    assert_eq!(ask(&redis, "AUTH open-sesame"), "+OK\r\n");
    assert_eq!(redis.uri(), format!("redis://:open-sesame@{}", redis.host()));
}
