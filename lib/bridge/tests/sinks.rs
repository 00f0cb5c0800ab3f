//! Sinks: found in a real ZooKeeper, given batches, and everything that can go wrong with one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown as Half, TcpListener, TcpStream};
use std::time::Duration;

use kiteq_bridge::sinks::{Directory, Locality, Sinks};
use kiteq_bridge::{SinkTls, SinksConfig};
use kiteq_flume::{ServerOptions, Status, TlsServerFiles, TlsServerOptions};
use kiteq_telemetry::Shutdown;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use support::rig::{MARK, Other, Rig, batch, config, directory_config};
use support::sink::{FAILED, Manner, OK, Sink};
use support::{Log, PATIENCE, ZooKeeper, eventually, free_port};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Names a sink in `/flume/feed` as one of this host or of another, and gives its address.
fn name(host: &str, port: u16) -> (String, String) {
    (format!("/flume/feed/{host}_{port}_0000000001"), format!("{host}:{port}"))
}

async fn send(sinks: &Sinks, body: &str) -> String {
    timeout(PATIENCE, sinks.send("feed", &batch(body))).await.expect("in time").unwrap().sink
}

#[tokio::test]
async fn sinks_are_found_under_every_form_of_name_and_strange_names_cost_only_themselves() {
    let (log, _guard) = Log::capture();
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    for node in ["a_1001", "b_x_1002_0000000007", "c:1003_0000000008", "[::1]_1004", "no-port", "x_99999"] {
        other.put(&format!("/flume/feed/{node}")).await;
    }
    let rig = Rig::start(&server, config());
    rig.until_sinks(&["a:1001", "b_x:1002", "c:1003", "[::1]:1004"]).await;
    other.put("/flume/feed/d_1005").await;
    other.delete("/flume/feed/a_1001").await;
    rig.until_sinks(&["d:1005", "b_x:1002", "c:1003", "[::1]:1004"]).await;
    for node in ["no-port", "x_99999"] {
        assert_eq!(log.count(node), 1, "{}", log.text());
    }
    // The same sink under two names is one sink.
    other.put("/flume/feed/d_1005_0000000009").await;
    other.delete("/flume/feed/d_1005").await;
    other.put("/flume/feed/e_1006").await;
    rig.until_sinks(&["d:1005", "e:1006", "b_x:1002", "c:1003", "[::1]:1004"]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_business_whose_node_is_missing_is_made_and_waited_for_and_may_vanish_and_return() {
    let server = ZooKeeper::start().await;
    let rig = Rig::start(&server, config());
    let other = Other::connect(&server).await;
    eventually("the node is made", async || other.owner("/flume/feed").await.filter(|owner| *owner == 0))
        .await;
    rig.until_available("feed", false).await;
    let none = timeout(PATIENCE, rig.sinks.send("feed", &batch("early"))).await.unwrap().unwrap_err();
    assert_eq!((none.business.as_str(), none.last_error), ("feed", None));
    assert!(rig.sinks.send("unheard-of", &batch("lost")).await.is_err());
    assert!(!*rig.sinks.availability("unheard-of").borrow());

    let sink = Sink::start(OK).await;
    let (node, address) = name("127.0.0.1", sink.port);
    for round in ["first", "second"] {
        other.put(&node).await;
        rig.until_available("feed", true).await;
        assert_eq!(send(&rig.sinks, round).await, address);
        other.delete(&node).await;
        other.delete("/flume/feed").await;
        rig.until_available("feed", false).await;
        rig.until_sinks(&[]).await;
    }
    assert_eq!(sink.bodies().len(), 2);
    rig.end().await;
}

/// A port that treats every connection in the same way, until the process ends.
fn misbehaving(treat: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            treat(stream);
        }
    });
    port
}

/// Reads what comes until nothing comes, or the other side closes.
fn swallow(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.read(&mut [0; 4096]);
}

/// A sink on this host fails in some way; the batch arrives at another one, the failure is counted, logged once, and the
/// failing sink is left alone meanwhile.
async fn fails_over(server: &ZooKeeper, host: &str, port: u16, config: SinksConfig, reason: &'static str) {
    let good = Sink::start(OK).await;
    fails_over_to(good, server, host, port, config, reason).await;
}

async fn fails_over_to(
    good: Sink,
    server: &ZooKeeper,
    host: &str,
    port: u16,
    config: SinksConfig,
    reason: &'static str,
) {
    let (log, _guard) = Log::capture();
    let other = Other::connect(server).await;
    let (bad_node, bad) = name(host, port);
    let (good_node, good_address) = name("127.0.0.1", good.port);
    other.put(&bad_node).await;
    other.put(&good_node).await;
    // Longer than this takes: what is set aside stays so.
    let config = SinksConfig { backoff_min: PATIENCE * 4, backoff_max: PATIENCE * 4, ..config };
    let rig = Rig::start_for(server, config, &["feed"], Locality::of_names([host]));
    eventually("both are known", async || {
        (rig.stat(&bad)?.local && rig.stat(&good_address).is_some()).then_some(())
    })
    .await;
    for body in ["first", "second", "third"] {
        assert_eq!(send(&rig.sinks, body).await, good_address, "{reason}");
    }
    assert_eq!(good.bodies().len(), 3);
    let stat = rig.stat(&bad).unwrap();
    // Where the name server does not answer either, a name is looked up until the time for connecting is over.
    let is_slow = reason == "connect" && stat.failures.contains_key("connect_timeout");
    let reason = if is_slow { "connect_timeout" } else { reason };
    assert_eq!(stat.failures, BTreeMap::from([(reason, 1)]), "{stat:?}");
    assert!(matches!(stat.state, "aside" | "full") && stat.last_error.is_some(), "{stat:?}");
    assert_eq!(log.count(&format!("sink=\"{bad}\" reason=\"{reason}\"")), 1, "{}", log.text());
    let mut text = String::new();
    encode(&mut text, &rig.metrics).unwrap();
    for line in [
        format!(r#"bridge_sink_failures_total{{sink="{bad}",reason="{reason}"}} 1"#),
        format!(r#"bridge_sink_state{{sink="{bad}",state="{}"}} 1"#, stat.state),
        format!(r#"bridge_sink_batches_total{{sink="{good_address}"}} 3"#),
        format!(r#"bridge_sink_events_total{{sink="{good_address}"}} 3"#),
        format!(r#"bridge_sink_request_seconds_count{{sink="{good_address}"}} 3"#),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    rig.end().await;
    other.delete(&bad_node).await;
    other.delete(&good_node).await;
}

#[tokio::test]
async fn whatever_is_wrong_with_a_sink_its_batch_goes_to_another() {
    let server = ZooKeeper::start().await;
    let patient = || SinksConfig { patience: PATIENCE, ..config() };
    let impatient = || SinksConfig { request_timeout: Duration::from_millis(200), ..patient() };

    fails_over(&server, "localhost", free_port(), patient(), "refused").await;
    fails_over(&server, "no-such-host.invalid", 4545, patient(), "connect").await;
    for (status, reason) in
        [(Status::Failed, "failed"), (Status::Error, "error"), (Status::Unknown, "unknown")]
    {
        let sink = Sink::start(Manner::Answer(status)).await;
        fails_over(&server, "localhost", sink.port, patient(), reason).await;
    }
    let sink = Sink::start(Manner::Drop).await;
    fails_over(&server, "localhost", sink.port, patient(), "closed").await;
    let sink = Sink::start(Manner::Silence).await;
    fails_over(&server, "localhost", sink.port, impatient(), "timeout").await;

    let half_closed = misbehaving(|stream| {
        stream.shutdown(Half::Write).unwrap();
        swallow(&stream);
    });
    fails_over(&server, "localhost", half_closed, patient(), "closed").await;
    let http = misbehaving(|mut stream| {
        swallow(&stream);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
    });
    fails_over(&server, "localhost", http, patient(), "protocol").await;
    let nonsense = misbehaving(|mut stream| {
        swallow(&stream);
        stream.write_all(b"\0\0\0\x05hello").unwrap();
        swallow(&stream);
    });
    fails_over(&server, "localhost", nonsense, patient(), "protocol").await;
}

#[tokio::test]
async fn a_sink_without_tls_among_sinks_with_it_is_set_aside() {
    let server = ZooKeeper::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("sink.pem"), directory.path().join("sink.key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = SinkTls { authorities: Some(certificate.clone()), server_name: None };
    let files = TlsServerFiles { certificate, key, client_ca: None };
    let options =
        ServerOptions { tls: Some(TlsServerOptions::load(&files).unwrap()), ..ServerOptions::default() };
    let good = Sink::start_at(0, OK, options).await;
    let plain = Sink::start(OK).await;
    let config = SinksConfig { patience: PATIENCE, tls: Some(tls), ..config() };
    fails_over_to(good, &server, "localhost", plain.port, config, "tls").await;

    let missing = SinkTls { authorities: Some(directory.path().join("none.pem")), server_name: None };
    let shutdown = Shutdown::new();
    let directory = Directory::start(directory_config(&server, &["feed"], MARK), &shutdown).unwrap();
    for (config, part) in [
        (SinksConfig { tls: Some(missing), ..SinksConfig::default() }, "none.pem"),
        (SinksConfig { connections_per_sink: 0, ..SinksConfig::default() }, "sinks.connections_per_sink"),
        (SinksConfig { backoff_max: Duration::ZERO, ..SinksConfig::default() }, "sinks.backoff_max"),
    ] {
        let metrics = &mut Registry::default();
        let started = Sinks::start(config, &directory, Locality::of_names([]), metrics, &shutdown);
        let error = started.unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in {error}");
    }
    directory.close().await;
}

#[tokio::test]
async fn sinks_on_this_host_come_first_and_others_take_what_is_too_much_for_them() {
    let server = ZooKeeper::start().await;
    let (near, far, farther) = (Sink::start(OK).await, Sink::start(OK).await, Sink::start(OK).await);
    let other = Other::connect(&server).await;
    let near_address = format!("localhost:{}", near.port);
    other.put(&format!("/flume/feed/localhost_{}", near.port)).await;
    other.put(&name("127.0.0.1", far.port).0).await;
    other.put(&name("127.0.0.1", farther.port).0).await;
    let rig = Rig::start(&server, SinksConfig { connections_per_sink: 2, ..config() });
    rig.until_sinks(&[&near_address, &far.address(), &farther.address()]).await;
    for body in 0..20 {
        assert_eq!(send(&rig.sinks, &body.to_string()).await, near_address);
    }
    assert_eq!(near.connections(), 1, "one after the other over one connection");

    // Two batches fit each sink; the seventh waits, and goes wherever there is room first.
    [&near, &far, &farther].into_iter().for_each(|sink| sink.behave(Manner::Hold));
    let mut sending = JoinSet::new();
    for body in 100..107 {
        let sinks = rig.sinks.clone();
        sending.spawn(async move { send(&sinks, &body.to_string()).await });
        let expected = (body - 99).min(6);
        eventually("it is on its way", async || {
            (near.in_hand() + far.in_hand() + farther.in_hand() == expected).then_some(())
        })
        .await;
        if expected == 2 {
            assert_eq!(near.in_hand(), 2, "this host first");
        }
        if expected == 4 {
            assert_eq!((far.in_hand(), farther.in_hand()), (1, 1), "the least loaded");
        }
    }
    let stats = rig.sinks.stat();
    assert!(stats.iter().all(|stat| stat.in_flight == 2), "{stats:?}");
    farther.behave(OK);
    eventually("the seventh has gone through", async || (farther.batches() == 3).then_some(())).await;
    [&near, &far].into_iter().for_each(|sink| sink.behave(OK));
    let sent = sending.join_all().await;
    assert_eq!(sent.len(), 7);
    rig.end().await;
}

#[tokio::test]
async fn equal_sinks_share_the_load() {
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let sinks = [Sink::start(OK).await, Sink::start(OK).await, Sink::start(OK).await];
    for sink in &sinks {
        other.put(&name("127.0.0.1", sink.port).0).await;
    }
    let addresses = sinks.each_ref().map(Sink::address);
    let rig = Rig::start(&server, config());
    rig.until_sinks(&addresses.each_ref().map(String::as_str)).await;
    for body in 0..300 {
        send(&rig.sinks, &body.to_string()).await;
    }
    // By chance: 60 of 300 is six standard deviations below the mean.
    let shares = sinks.each_ref().map(Sink::batches);
    assert!(shares.iter().sum::<usize>() == 300 && shares.iter().all(|share| *share > 50), "{shares:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_sink_that_failed_is_probed_and_comes_back() {
    let (log, _guard) = Log::capture();
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let (near, far) = (Sink::start(Manner::Drop).await, Sink::start(OK).await);
    let near_address = format!("localhost:{}", near.port);
    other.put(&format!("/flume/feed/localhost_{}", near.port)).await;
    other.put(&name("127.0.0.1", far.port).0).await;
    let rig = Rig::start(&server, config());
    rig.until_sinks(&[&near_address, &far.address()]).await;
    assert_eq!(send(&rig.sinks, "first").await, far.address());
    let probed = async || rig.stat(&near_address).unwrap().failures["closed"];
    eventually("it is probed again and again", async || (probed().await >= 4).then_some(())).await;
    for body in 0..10 {
        assert_eq!(send(&rig.sinks, &body.to_string()).await, far.address(), "no batch is a probe");
    }
    near.behave(OK);
    rig.until_state(&near_address, "trial").await;
    assert_eq!(send(&rig.sinks, "back").await, near_address);
    rig.until_state(&near_address, "up").await;
    assert_eq!(near.bodies().into_keys().collect::<Vec<_>>(), [b"back".to_vec()]);
    assert_eq!(log.count("sink is set aside"), 1, "{}", log.text());
    assert_eq!(log.count("sink takes batches again"), 1, "{}", log.text());
    rig.end().await;
}

#[tokio::test]
async fn a_full_channel_is_waited_for_and_a_business_that_has_no_other_gives_batches_back() {
    let (log, _guard) = Log::capture();
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let sink = Sink::start(FAILED).await;
    let (node, address) = name("127.0.0.1", sink.port);
    other.put(&node).await;
    let rig = Rig::start(&server, SinksConfig { patience: PATIENCE, ..config() });
    rig.until_sinks(&[&address]).await;
    let sending = tokio::spawn({
        let sinks = rig.sinks.clone();
        async move { sinks.send("feed", &batch("patient")).await }
    });
    eventually("it is tried again", async || {
        (*rig.stat(&address)?.failures.get("failed")? >= 3).then_some(())
    })
    .await;
    assert_eq!(sink.connections(), 1, "the connection is fine");
    sink.behave(OK);
    let sent = timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap();
    assert!(sent.attempts >= 4, "{sent:?}");
    assert_eq!(log.count("sink does not take batches now"), 1, "{}", log.text());
    rig.end().await;

    sink.behave(FAILED);
    let rig = Rig::start(&server, config());
    rig.until_sinks(&[&address]).await;
    let none = timeout(PATIENCE, rig.sinks.send("feed", &batch("given back"))).await.unwrap().unwrap_err();
    assert!(none.last_error.as_deref().is_some_and(|error| error.contains("FAILED")), "{none:?}");
    sink.behave(OK);
    rig.until_available("feed", true).await;
    assert_eq!(send(&rig.sinks, "sent again").await, address);
    rig.end().await;
}

#[tokio::test]
async fn a_dead_sink_makes_only_its_own_business_wait() {
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let (dead, alive) = (free_port(), Sink::start(OK).await);
    other.put(&format!("/flume/lonely/127.0.0.1_{dead}")).await;
    other.put(&format!("/flume/feed/127.0.0.1_{dead}")).await;
    other.put(&name("127.0.0.1", alive.port).0).await;
    let rig = Rig::start_for(&server, config(), &["feed", "lonely"], Locality::of_names([]));
    rig.until_sinks(&[&format!("127.0.0.1:{dead}"), &alive.address()]).await;
    let none = timeout(PATIENCE, rig.sinks.send("lonely", &batch("a"))).await.unwrap().unwrap_err();
    assert!(none.to_string().contains("lonely") && none.last_error.is_some(), "{none}");
    rig.until_available("lonely", false).await;
    assert!(*rig.sinks.availability("feed").borrow());
    assert_eq!(send(&rig.sinks, "b").await, alive.address());
    let shared = rig.stat(&format!("127.0.0.1:{dead}")).unwrap();
    assert_eq!(shared.businesses, ["feed", "lonely"]);

    let revived = Sink::start_at(dead, OK, ServerOptions::default()).await;
    rig.until_available("lonely", true).await;
    let sent = timeout(PATIENCE, rig.sinks.send("lonely", &batch("c"))).await.unwrap().unwrap();
    assert_eq!(sent.sink, revived.address());
    rig.end().await;
}

#[tokio::test]
async fn a_sink_that_is_removed_finishes_what_is_in_flight() {
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let sink = Sink::start(Manner::Hold).await;
    let (node, address) = name("127.0.0.1", sink.port);
    other.put(&node).await;
    let rig = Rig::start(&server, config());
    rig.until_sinks(&[&address]).await;
    let sinks = rig.sinks.clone();
    let sending = tokio::spawn(async move { send(&sinks, "last").await });
    eventually("it is on its way", async || (sink.in_hand() == 1).then_some(())).await;
    other.delete(&node).await;
    rig.until_available("feed", false).await;
    assert_eq!(rig.stat(&address).unwrap().businesses, Vec::<String>::new());
    sink.behave(OK);
    assert_eq!(timeout(PATIENCE, sending).await.unwrap().unwrap(), address);
    rig.until_sinks(&[]).await;
    let mut text = String::new();
    encode(&mut text, &rig.metrics).unwrap();
    assert!(!text.contains(&address), "what has gone is not shown: {text}");
    rig.end().await;
}

#[tokio::test]
async fn a_batch_that_is_given_up_leaves_its_place_to_others() {
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let sink = Sink::start(Manner::Hold).await;
    let (node, address) = name("127.0.0.1", sink.port);
    other.put(&node).await;
    let rig = Rig::start(&server, SinksConfig { connections_per_sink: 1, ..config() });
    rig.until_sinks(&[&address]).await;
    let sinks = rig.sinks.clone();
    let sending = tokio::spawn(async move { send(&sinks, "given up").await });
    eventually("it is on its way", async || (sink.in_hand() == 1).then_some(())).await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    assert_eq!(rig.stat(&address).unwrap().in_flight, 0);
    sink.behave(OK);
    assert_eq!(send(&rig.sinks, "next").await, address);
    assert_eq!(sink.connections(), 2, "an answer to the one must not be taken for the other's");
    rig.end().await;
}

#[tokio::test]
async fn every_batch_arrives_while_sinks_come_go_and_die() {
    const SENDERS: usize = 8;
    const ROUNDS: usize = 12;
    let server = ZooKeeper::start().await;
    let other = Other::connect(&server).await;
    let config = SinksConfig { patience: PATIENCE, request_timeout: Duration::from_secs(1), ..config() };
    let rig = Rig::start(&server, config);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (sinks, stop) = (rig.sinks.clone(), stop.clone());
        senders.spawn(async move {
            let mut sent = Vec::new();
            while !stop.is_cancelled() {
                let body = format!("{sender}-{}", sent.len());
                send(&sinks, &body).await;
                sent.push(body.into_bytes());
            }
            sent
        });
    }
    // Each round brings a sink, and takes one: its node first, or its process, or both at once.
    let mut all: Vec<Sink> = Vec::new();
    let mut ledger: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let sink = Sink::start(OK).await;
        other.put(&name("127.0.0.1", sink.port).0).await;
        eventually("the new one takes batches", async || (sink.batches() > 20).then_some(())).await;
        all.push(sink);
        if all.len() < 2 {
            continue;
        }
        let old = all.remove(0);
        let (node, address) = name("127.0.0.1", old.port);
        if round % 3 == 0 {
            other.delete(&node).await;
            eventually("it has gone", async || rig.stat(&address).is_none().then_some(())).await;
        }
        if round % 3 == 2 {
            old.behave(if round % 2 == 0 { Manner::Drop } else { Manner::Silence });
            rig.until_state(&address, "aside").await;
        }
        // In the middle of things, unless it was let go before.
        let notes = old.kill().await;
        for (body, count) in notes {
            *ledger.entry(body).or_default() += count;
        }
        if round % 3 != 0 {
            other.delete(&node).await;
        }
    }
    stop.cancel();
    let sent: Vec<Vec<u8>> =
        timeout(PATIENCE, senders.join_all()).await.expect("all senders end").into_iter().flatten().collect();
    for sink in &all {
        for (body, count) in sink.bodies() {
            *ledger.entry(body).or_default() += count;
        }
    }
    let missing: Vec<_> = sent
        .iter()
        .filter(|body| !ledger.contains_key(*body))
        .map(|body| String::from_utf8_lossy(body))
        .collect();
    assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), sent.len());
    rig.end().await;
}

#[tokio::test]
async fn what_keeps_the_sinks_ends_with_the_last_handle() {
    let server = ZooKeeper::start().await;
    let rig = Rig::start(&server, config());
    let clone = rig.sinks.clone();
    eventually("our mark", async || {
        let other = Other::connect(&server).await;
        other.owner(&format!("/flume_source/feed/{MARK}")).await
    })
    .await;
    rig.shutdown.trigger("the test");
    drop(rig.sinks);
    assert!(rig.shutdown.running().iter().any(|(name, _)| name == "sinks"), "a clone is left");
    drop(clone);
    drop(rig.directory);
    let outcome = rig.shutdown.finish(PATIENCE).await;
    assert!(outcome.is_clean(), "{outcome:?}");
    eventually("the session is closed", async || (!server.ask("dump")?.contains(MARK)).then_some(())).await;
}
