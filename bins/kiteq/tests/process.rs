//! The real binary from start to end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;
use support::client::Client;
use support::{Kiteq, LONG, run};

const MEMORY: &str = "-db=memory://";

#[test]
fn sigterm_and_sigint_drain_and_exit_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let kiteq = Kiteq::ready(&[MEMORY]);
        let (_client, answer) = Client::connect(&kiteq.address(), "s-test", "");
        assert!(answer.status, "{answer:?}");
        kiteq.signal(signal);
        let ended = kiteq.wait();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("nothing was left undone"), "{ended:?}");
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    let mut kiteq = Kiteq::ready(&[MEMORY, "--leave-grace=1h"]);
    let (_client, _) = Client::connect(&kiteq.address(), "s-test", "");
    kiteq.signal(Signal::TERM);
    kiteq.wait_for("stopping");
    kiteq.get_until("/readyz", "stopping");
    kiteq.signal(Signal::TERM);
    let ended = kiteq.wait();
    assert_eq!(ended.code, Some(128 + 15), "{ended:?}");
}

#[test]
fn health_metrics_and_stat_are_served() {
    let kiteq = Kiteq::ready(&[MEMORY]);
    assert_eq!(kiteq.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(kiteq.get("/readyz"), (200, "ok\n".to_owned()));
    let (mut client, _) = Client::connect(&kiteq.address(), "p-test", "");
    let binding = r#"{"group":"s-test","bindings":[{"groupId":"s-test","topic":"trade","messageType":"*",
        "bindType":2,"version":"1.0.0","watermark":0,"persistent":true}]}"#;
    assert_eq!(kiteq.request("PUT", "/registry/bindings", binding).0, 200);
    let answer = client.publish("0123456789abcdef0123456789abcdef", "trade", "pay-succ", -1);
    assert!(answer.status, "{answer:?}");
    let metrics = kiteq.get_until("/metrics", r#"kiteq_publishes_total{result="stored"} 1"#);
    assert!(metrics.contains("process_resident_memory_bytes") && metrics.ends_with("# EOF\n"), "{metrics}");
    let stat = kiteq.get_until("/stat", r#""backlog": 1"#);
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["groups"][0]["group"], "s-test");
    assert_eq!(stat["store"]["messages"], 1);
    assert_eq!(stat["ready"], "yes");
    assert_eq!(kiteq.get("/nowhere").0, 404);
}

#[test]
fn garbage_on_either_port_costs_only_its_connection() {
    let kiteq = Kiteq::ready(&[MEMORY, "--handshake-seconds=100ms"]);
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n and more to fill it",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this looks like TLS\r\n\r\n",
        b"\x00\x00",
        b"",
    ];
    for bytes in garbage {
        let mut stream = TcpStream::connect(kiteq.address()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(bytes).unwrap();
        // Closed or reset, in time; an answer may come before.
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    let mut stream = TcpStream::connect(kiteq.http()).unwrap();
    stream.write_all(b"\x00\x01\x02 garbage \r\n\r\n").unwrap();
    assert_eq!(kiteq.get("/readyz").0, 200);
    let (_, answer) = Client::connect(&kiteq.address(), "s-test", "");
    assert!(answer.status);
}

#[test]
fn a_port_in_use_is_refused_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flags, parts) in [
        ([format!("-bind={address}"), "-pport=0".to_owned()], ["choose another", "-bind"]),
        (["-bind=127.0.0.1:0".to_owned(), format!("--http={address}")], ["choose another port", "--http"]),
    ] {
        let [first, second] = flags;
        let ended = Kiteq::start(&[&first, &second, MEMORY], &[]).wait();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.contains(&address) && parts.iter().all(|part| last.contains(part)), "{ended:?}");
    }
}

#[test]
fn a_store_that_cannot_be_opened_is_refused_with_what_to_do() {
    for (uri, part) in [
        ("rocksdb://./db/", "mmap://"),
        ("memroy://", "memory"),
        ("memory://?maxcpa=5", "maxcap"),
        ("nothing", "mmap"),
    ] {
        for flags in [&["-db", uri][..], &["-db", uri, "--check"]] {
            let ended = run(flags);
            assert_eq!((ended.code, ended.stderr.lines().count()), (Some(2), 1), "{ended:?}");
            assert!(ended.stderr.starts_with("kiteq: --store: "), "{ended:?}");
            assert!(ended.stderr.contains(uri) && ended.stderr.contains(part), "{ended:?}");
        }
    }
}

#[test]
fn a_store_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("taken"), "").unwrap();
    let uri = format!("mmap://{}/taken/store", directory.path().display());
    let ended = Kiteq::start(&["-bind=127.0.0.1:0", "-pport=0", "-db", &uri], &[]).wait();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.lines().last().unwrap().contains("taken/store"), "{ended:?}");
}

#[test]
fn the_clusters_of_the_sample_start() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/cluster.toml");
    let config = format!("-configPath={sample}");
    for cluster in ["file_dev", "mmap_dev", "memory_dev", "mock_dev"] {
        let cluster = format!("-clusterName={cluster}");
        // The registries of the sample are servers that are not here.
        let ended = Kiteq::ready(&[&config, &cluster, "--registry=embedded"]).stop();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    // Its database is not here either.
    let checked = run(&[&config, "-clusterName=mysql_dev", "--registry=embedded", "--check"]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(!checked.stderr.contains("password=root"), "{checked:?}");
    let refused = run(&[&config, "-clusterName=mysql_dev", "--registry=embedded", "-bind=127.0.0.1:0"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("give a port, or --advertise"), "{refused:?}");
}

#[test]
fn secrets_from_the_file_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.toml");
    std::fs::write(&path, "[clusters.a]\ndb = \"memory://\"\n[clusters.a.secrets]\ns-test = \"123456\"\n")
        .unwrap();
    let kiteq = Kiteq::ready(&["--config", path.to_str().unwrap()]);
    assert!(Client::connect(&kiteq.address(), "s-test", "123456").1.status);
    assert!(!Client::connect(&kiteq.address(), "s-test", "654321").1.status);
    let ended = kiteq.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("123456"), "{ended:?}");
}

/// Free ports come from the environment, so that no flag is needed.
const FREE_PORTS: [(&str, &str); 2] = [("KITEQ_BIND", "127.0.0.1:0"), ("KITEQ_HTTP", "0")];

#[test]
fn without_flags_it_works_and_says_with_what() {
    let mut kiteq = Kiteq::start(&[], &FREE_PORTS);
    kiteq.wait_for("ready: ");
    let (mut client, _) = Client::connect(&kiteq.address(), "p-test", "");
    assert!(client.publish("0123456789abcdef0123456789abcdef", "trade", "pay-succ", -1).status);
    assert!(kiteq.directory.path().join("data/store").is_dir());
    let ended = kiteq.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [
        "bind = 127.0.0.1:0 (KITEQ_BIND)",
        "store = mmap://./data/store (default)",
        "registry = embedded:// (default)",
        "topics = * (default)",
        "data-dir = ./data (default)",
    ] {
        assert!(ended.stderr.contains(line), "{line:?} is missing: {ended:?}");
    }
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let mut first = Kiteq::start(&[], &FREE_PORTS);
    first.wait_for("ready: ");
    let directory = first.directory.path().join("data");
    let flag = format!("--data-dir={}", directory.display());
    let second = Kiteq::start(&[&flag], &FREE_PORTS).wait();
    assert_eq!(second.code, Some(1), "{second:?}");
    let last = second.stderr.lines().last().unwrap();
    assert!(last.contains(directory.to_str().unwrap()) && last.contains("another"), "{second:?}");
    assert_eq!(first.get("/readyz").0, 200);
    assert_eq!(first.stop().code, Some(0));
}

#[test]
fn messages_and_bindings_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let flag = format!("--data-dir={}", directory.path().display());
    let binding = r#"{"group":"s-test","bindings":[{"groupId":"s-test","topic":"trade","messageType":"*",
        "bindType":2,"version":"1.0.0","watermark":0,"persistent":true}]}"#;
    let mut kiteq = Kiteq::start(&[&flag], &FREE_PORTS);
    kiteq.wait_for("ready: ");
    assert_eq!(kiteq.request("PUT", "/registry/bindings", binding).0, 200);
    let (mut client, _) = Client::connect(&kiteq.address(), "p-test", "");
    assert!(client.publish("0123456789abcdef0123456789abcdef", "trade", "pay-succ", -1).status);
    assert_eq!(kiteq.stop().code, Some(0));

    let mut kiteq = Kiteq::start(&[&flag], &FREE_PORTS);
    kiteq.wait_for("ready: ");
    let stat = kiteq.get_until("/stat", r#""backlog": 1"#);
    assert!(stat.contains(r#""group": "s-test""#), "{stat}");
    // A kill right after an ack loses nothing either.
    let (mut client, _) = Client::connect(&kiteq.address(), "p-test", "");
    assert!(client.publish("0123456789abcdef0123456789abcde0", "trade", "pay-succ", -1).status);
    kiteq.signal(Signal::KILL);
    assert_eq!(kiteq.wait().code, None);

    let mut kiteq = Kiteq::start(&[&flag], &FREE_PORTS);
    kiteq.wait_for("ready: ");
    kiteq.get_until("/stat", r#""backlog": 2"#);
    assert_eq!(kiteq.stop().code, Some(0));
}
