//! The real binary from start to end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;
use support::client::Client;
use support::{Kiteq, LONG};

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
        let ended = Kiteq::start(&["-bind=127.0.0.1:0", "-pport=0", "-db", uri], &[]).wait();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let last = ended.stderr.lines().last().unwrap();
        assert!(last.contains(uri) && last.contains(part), "{ended:?}");
    }
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
