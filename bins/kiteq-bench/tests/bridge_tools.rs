//! Both ends of a bridge against a real Redis and a real ZooKeeper, with a bridge of thirty lines between them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use kiteq_bench::cli::Cli;
use kiteq_bench::commands::{Verdict, run};
use kiteq_bench::flume::journal::{self, Event, Line};
use kiteq_bench::flume::marker::Marker;
use kiteq_bench::redis::{Connection as RedisConnection, Reply};
use kiteq_flume::{BatchBuilder, ConnectOptions, Connection, FRAME_BYTES_MAX, FlumeError, Protocol, Status};
use kiteq_testkit::{Redis, RedisOptions, ZooKeeper, eventually, free_port};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const QUEUE: &str = "user-log";

/// A directory of a test, and runs of the tool that leave their results there.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command whose arguments may say `{name}` for a file of the directory.
    async fn run(&self, arguments: &str) -> (Verdict, Value) {
        let json = self.path(&format!("{:x}.json", fastrand::u64(..)));
        let mut line = vec!["kiteq-bench".to_owned()];
        let directory = format!("{}/", self.0.path().display());
        line.extend(arguments.split_whitespace().map(|word| word.replace('{', &directory).replace('}', "")));
        line.extend(["--quiet", "--json", json.to_str().unwrap()].map(str::to_owned));
        let verdict = run(Cli::try_parse_from(line).unwrap()).await.unwrap();
        (verdict, serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap())
    }
}

async fn redis(redis: &Redis) -> RedisConnection {
    RedisConnection::open(&redis.host().parse().unwrap()).await.unwrap()
}

/// All elements of a list.
async fn elements(server: &Redis, list: &str) -> Vec<Vec<u8>> {
    let mut connection = redis(server).await;
    let Reply::Array(count) = connection.call(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]).await.unwrap()
    else {
        panic!("no list")
    };
    let mut elements = Vec::new();
    for _ in 0..count {
        let Reply::Bulk(len) = connection.reply().await.unwrap() else { panic!("no string") };
        elements.push(connection.take(len).await.unwrap().to_vec());
    }
    elements
}

/// The event of an element: business, type, body; `None` when it becomes a dead letter.
fn event(element: &[u8]) -> Option<(String, String, String)> {
    let json: Value = serde_json::from_slice(element).ok()?;
    let params = &json["params"];
    let text = |name: &str| params[name].as_str().map(str::to_owned);
    let (momoid, business, kind) = (text("momoid")?, text("businessName")?, text("type")?);
    let body = params["body"].as_object()?;
    (business != "kiteq-bench-nowhere").then_some(())?;
    let log_type = params["log_type"].as_u64().map_or(String::new(), |number| number.to_string());
    let body = format!("{momoid}\t{kind}\t{}", serde_json::to_string(body).unwrap());
    Some((format!("{business}{log_type}"), kind, body))
}

async fn sink_connection(port: u16, options: &ConnectOptions) -> Connection {
    eventually("the sink listens", async || Connection::connect("127.0.0.1", port, options).await.ok()).await
}

fn batch(events: &[(String, String, String)], protocol: Protocol) -> kiteq_flume::Batch {
    let mut builder = BatchBuilder::new(protocol, FRAME_BYTES_MAX);
    for (business, kind, body) in events {
        let headers = [(&b"businessName"[..], business.as_bytes()), (b"type", kind.as_bytes())];
        builder.push(&headers, &[body.as_bytes()]).unwrap();
    }
    builder.finish()
}

/// Events of a run that nobody pushed.
fn made_up(sequences: std::ops::Range<u64>) -> Vec<(String, String, String)> {
    let body = |sequence| {
        let mut text = Vec::new();
        Marker { run_id: 0xabc, sequence, pushed_at_ns: 1, clock_tag: 0 }.put(&mut text);
        String::from_utf8(text).unwrap()
    };
    sequences.map(|sequence| ("location3".to_owned(), "update".to_owned(), body(sequence))).collect()
}

/// Brings everything from the queue to the sink, and what cannot be an event to the dead letters.
async fn bridge(server: &Redis, port: u16) {
    let (mut events, mut letters) = (Vec::new(), redis(server).await);
    for element in elements(server, QUEUE).await {
        match event(&element) {
            Some(event) => events.push(event),
            None => {
                let letter = match String::from_utf8(element) {
                    Ok(text) => json!({"reason": "test", "element": text}),
                    Err(error) => {
                        use base64::Engine;
                        let encoded = base64::engine::general_purpose::STANDARD.encode(error.as_bytes());
                        json!({"reason": "test", "element_base64": encoded})
                    }
                };
                let letter = letter.to_string();
                letters.call(&[b"RPUSH", b"kiteq:{user-log}:dead", letter.as_bytes()]).await.unwrap();
            }
        }
    }
    let options = ConnectOptions::default();
    let mut connection = sink_connection(port, &options).await;
    for events in events.chunks(300) {
        let batch = batch(events, Protocol::Compact);
        loop {
            match connection.append_batch(&batch).await {
                Ok(()) => break,
                Err(error) if error.leaves_connection_usable() => {}
                Err(_) => connection = sink_connection(port, &options).await,
            }
        }
    }
}

type Sink = JoinHandle<(Verdict, Value)>;

/// Runs a sink in the background; the port is its own.
fn sink(bench: &std::sync::Arc<Bench>, arguments: &str) -> (u16, Sink) {
    let port = free_port();
    let arguments = format!("flume-sink --listen 127.0.0.1:{port} {arguments}");
    let bench = std::sync::Arc::clone(bench);
    (port, tokio::spawn(async move { bench.run(&arguments).await }))
}

async fn end(sink: Sink) -> Value {
    tokio::time::timeout(kiteq_testkit::PATIENCE, sink).await.expect("the sink ends in time").unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_filled_in_can_be_drained() {
    let (server, bench) = (Redis::start().await, Bench::new());
    let fill = format!(
        "redis-fill --redis {} --count 12345 --connections 2 --per-command 100 --ledger {{pushed}}",
        server.host()
    );
    let (verdict, report) = bench.run(&fill).await;
    assert_eq!(verdict, Verdict::Fine);
    assert_eq!(
        (&report["pushed"], &report["in_doubt"], &report["refused"]),
        (&12345.into(), &0.into(), &0.into())
    );
    let pushed = elements(&server, QUEUE).await;
    let sequences: BTreeSet<_> =
        pushed.iter().map(|element| Marker::find(element).unwrap().sequence).collect();
    assert_eq!((pushed.len(), sequences.len(), sequences.last()), (12345, 12345, Some(&12344)));
    assert!(pushed.iter().all(|element| element.len() == 250));

    let drain = format!("redis-drain --redis {} --per-command 1000", server.host());
    let (_, report) = bench.run(&drain).await;
    assert_eq!(report["flows"][0]["messages"], 12345);
    assert!(elements(&server, QUEUE).await.is_empty());
    assert_eq!(bench.run(&drain).await.1["flows"][0]["messages"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_element_is_in_the_sink_or_a_dead_letter() {
    let (server, bench) = (Redis::start().await, std::sync::Arc::new(Bench::new()));
    let fill = format!(
        "redis-fill --redis {} --count 3000 --businesses location,feed --log-type 3 --malformed 10% --unroutable 5% \
         --ledger {{pushed}}",
        server.host()
    );
    let (_, pushed) = bench.run(&fill).await;
    let dead = pushed["dead_letters_expected"].as_u64().unwrap();
    assert!((200..=700).contains(&dead), "{dead}");
    let (port, sink) = sink(
        &bench,
        &format!(
            "--ledger {{received}} --count {} --fail-every 3 --drop-every 5 --refuse-every 4",
            3000 - dead
        ),
    );
    bridge(&server, port).await;
    let received = end(sink).await;
    assert_eq!(received["received"], 3000 - dead);
    assert_eq!((&received["duplicates"], &received["foreign"]), (&0.into(), &0.into()));
    assert!(received["faults"].as_u64().unwrap() >= 3, "{received}");
    let businesses = received["businesses"].as_object().unwrap();
    assert_eq!(businesses.keys().collect::<Vec<_>>(), ["feed3", "location3"]);
    assert_eq!(received["flows"][0]["latency"]["count"], 3000 - dead);

    let by_list = format!(
        "flume-verify --pushed {{pushed}} --received {{received}} --dead-letters-of {}",
        server.host()
    );
    let (verdict, balance) = bench.run(&by_list).await;
    assert_eq!((verdict, &balance["missing"]), (Verdict::Fine, &0.into()), "{balance}");
    assert_eq!(balance["runs"][0]["dead_letters"], dead);
    assert_eq!(balance["runs"][0]["not_in_the_ledger"], 0);
    let ledgers = "flume-verify --pushed {pushed} --received {received}";
    assert_eq!(bench.run(&format!("{ledgers} --dead-letters {dead}")).await.0, Verdict::Fine);
    let (verdict, balance) = bench.run(&format!("{ledgers} --dead-letters {}", dead - 1)).await;
    assert_eq!((verdict, &balance["missing"]), (Verdict::Lost, &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_element_that_a_bridge_loses_is_found_missing() {
    let (server, bench) = (Redis::start().await, std::sync::Arc::new(Bench::new()));
    bench.run(&format!("redis-fill --redis {} --count 100 --ledger {{pushed}}", server.host())).await;
    let lost = Marker::find(&elements(&server, QUEUE).await[0]).unwrap();
    redis(&server).await.call(&[b"LPOP", QUEUE.as_bytes()]).await.unwrap();
    let (port, sink) = sink(&bench, "--ledger {received} --count 99");
    bridge(&server, port).await;
    end(sink).await;
    let (verdict, balance) = bench.run("flume-verify --pushed {pushed} --received {received}").await;
    assert_eq!((verdict, &balance["missing"]), (Verdict::Lost, &1.into()));
    assert_eq!(balance["runs"][0]["missing_sequences"], json!([lost.sequence]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_makes_duplicates_that_are_counted() {
    let bench = std::sync::Arc::new(Bench::new());
    let (port, sink) = sink(&bench, "--protocol binary --lose-answer-every 2 --count 30");
    let options = ConnectOptions { protocol: Protocol::Binary, ..ConnectOptions::default() };
    let batch_of = |sequences| batch(&made_up(sequences), Protocol::Binary);
    let mut connection = sink_connection(port, &options).await;
    connection.append_batch(&batch_of(0..10)).await.unwrap();
    let lost = connection.append_batch(&batch_of(10..20)).await.unwrap_err();
    assert!(matches!(lost, FlumeError::Closed { .. }), "{lost}");
    let mut connection = sink_connection(port, &options).await;
    connection.append_batch(&batch_of(10..20)).await.unwrap();
    let _ = connection.append_batch(&batch_of(20..30)).await;
    let report = end(sink).await;
    assert_eq!((&report["received"], &report["duplicates"]), (&30.into(), &10.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_sink_takes_nothing_and_answers_nothing() {
    let bench = std::sync::Arc::new(Bench::new());
    let (port, sink) = sink(&bench, "--stall-for 1h --duration 2s");
    let request_timeout = Duration::from_millis(300);
    let options = ConnectOptions { request_timeout, ..ConnectOptions::default() };
    let mut connection = sink_connection(port, &options).await;
    let error = connection.append_batch(&batch(&made_up(0..10), Protocol::Compact)).await.unwrap_err();
    assert!(matches!(error, FlumeError::Timeout { .. }), "{error}");
    let report = end(sink).await;
    assert_eq!((&report["received"], &report["faults"]), (&0.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_the_status_that_was_asked_for() {
    let bench = std::sync::Arc::new(Bench::new());
    let (port, sink) = sink(&bench, "--fail-every 1 --fail-with error --duration 2s");
    let mut connection = sink_connection(port, &ConnectOptions::default()).await;
    let error = connection.append_batch(&batch(&made_up(0..10), Protocol::Compact)).await.unwrap_err();
    assert!(matches!(error, FlumeError::Status { status: Status::Error, .. }), "{error}");
    assert_eq!(end(sink).await["received"], 0);
}

/// A real process, for a real kill.
async fn sink_process(port: u16, ledger: &Path) -> tokio::process::Child {
    let sink = tokio::process::Command::new(env!("CARGO_BIN_EXE_kiteq-bench"))
        .args(["flume-sink", "--quiet", "--listen", &format!("127.0.0.1:{port}"), "--ledger"])
        .arg(ledger)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop(sink_connection(port, &ConnectOptions::default()).await);
    sink
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_a_sink_that_is_killed_has_everything_that_it_acknowledged() {
    let bench = Bench::new();
    let (port, ledger) = (free_port(), bench.path("received"));
    for round in 0..3 {
        let mut sink = sink_process(port, &ledger).await;
        let mut connection = sink_connection(port, &ConnectOptions::default()).await;
        // One that came already, in an earlier process.
        let sequences = (round * 100)..(round * 100 + 100);
        for sequences in [sequences, 0..1] {
            connection.append_batch(&batch(&made_up(sequences), Protocol::Compact)).await.unwrap();
        }
        sink.kill().await.unwrap();
    }
    let (port, last) = (free_port(), std::sync::Arc::new(bench));
    let (_, sink) = {
        let arguments = format!("flume-sink --listen 127.0.0.1:{port} --ledger {{received}} --count 300");
        let bench = std::sync::Arc::clone(&last);
        (port, tokio::spawn(async move { bench.run(&arguments).await }))
    };
    let report = end(sink).await;
    assert_eq!((&report["received"], &report["duplicates"]), (&300.into(), &3.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_registered_while_it_runs() {
    let (mut zookeeper, bench) = (ZooKeeper::start().await, std::sync::Arc::new(Bench::new()));
    let zk = zookeeper.host();
    let (port, sink) = sink(&bench, &format!("--zk {zk} --businesses location3,feed --count 10"));
    let observer = kiteq_zookeeper::Client::connect(&zk).await.unwrap();
    let children = async |business: &str| {
        let children = observer.list_children(&format!("/flume/{business}")).await.unwrap_or_default();
        let prefix = format!("127.0.0.1_{port}_");
        children.iter().filter(|name| name.starts_with(&prefix)).count()
    };
    for business in ["location3", "feed"] {
        eventually("the sink is registered", async || (children(business).await == 1).then_some(())).await;
    }
    let mut connection = sink_connection(port, &ConnectOptions::default()).await;
    connection.append_batch(&batch(&made_up(0..10), Protocol::Compact)).await.unwrap();
    end(sink).await;
    eventually("the sink is gone", async || (children("feed").await == 0).then_some(())).await;
    zookeeper.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_took_before_it_was_killed_is_in_the_ledger_and_in_redis() {
    let options = RedisOptions { append_only: true, ..RedisOptions::default() };
    let (mut server, bench) = (Redis::start_with(options).await, std::sync::Arc::new(Bench::new()));
    let fill = format!(
        "redis-fill --redis {} --count 4000 --rate 4000 --per-command 20 --reconnect-timeout 30s --ledger {{pushed}}",
        server.host()
    );
    let filling = {
        let bench = std::sync::Arc::clone(&bench);
        tokio::spawn(async move { bench.run(&fill).await })
    };
    eventually("some are pushed", async || (elements(&server, QUEUE).await.len() > 500).then_some(())).await;
    server.kill();
    server.run().await;
    let (_, report) = tokio::time::timeout(kiteq_testkit::PATIENCE, filling).await.unwrap().unwrap();
    let (pushed, in_doubt) = (report["pushed"].as_u64().unwrap(), report["in_doubt"].as_u64().unwrap());
    assert_eq!((pushed + in_doubt, report["refused"].as_u64()), (4000, Some(0)));
    let there: BTreeSet<_> = elements(&server, QUEUE)
        .await
        .iter()
        .map(|element| Marker::find(element).unwrap().sequence)
        .collect();
    let mut in_ledger = 0;
    for line in journal::read(&bench.path("pushed")).unwrap() {
        let Line::Elements(event, _, ranges) = line else { panic!("{line:?}") };
        for sequence in ranges.into_iter().flatten().filter(|_| event == Event::Pushed) {
            in_ledger += 1;
            assert!(there.contains(&sequence), "{sequence}");
        }
    }
    assert_eq!(in_ledger, pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_of_a_rate_is_kept() {
    let (server, bench) = (Redis::start().await, Bench::new());
    let begin = std::time::Instant::now();
    let (_, report) =
        bench.run(&format!("redis-fill --redis {} --count 1000 --rate 1000", server.host())).await;
    // The last of a thousand is due 999 ms after the first.
    assert!(begin.elapsed() >= Duration::from_millis(999), "{:?}", begin.elapsed());
    assert_eq!(report["flows"][0]["latency"]["count"], 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_elements_is_quoted_and_the_verdict_says_so() {
    let (server, bench) = (Redis::start().await, Bench::new());
    redis(&server).await.call(&[b"SET", QUEUE.as_bytes(), b"no list"]).await.unwrap();
    let (verdict, report) = bench.run(&format!("redis-fill --redis {} --count 10", server.host())).await;
    assert_eq!((verdict, &report["refused"], &report["pushed"]), (Verdict::Lost, &10.into(), &0.into()));
    assert!(report["first_refusal"].as_str().unwrap().contains("WRONGTYPE"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_said_and_a_wrong_one_is_told() {
    let options = RedisOptions { password: Some("sesame".to_owned()), ..RedisOptions::default() };
    let (server, bench) = (Redis::start_with(options).await, Bench::new());
    let (_, report) = bench.run(&format!("redis-fill --redis {} --count 10", server.uri())).await;
    assert_eq!(report["pushed"], 10);
    for address in [server.host(), format!("redis://:wrong@{}", server.host())] {
        let cli =
            Cli::try_parse_from(["kiteq-bench", "redis-fill", "--redis", &address, "--count", "10"]).unwrap();
        let error = format!("{:#}", run(cli).await.unwrap_err());
        assert!(error.contains(&server.host()), "{error}");
    }
}
