//! The whole of a configuration: existing flags, what is wrong, what goes together, and the sample in conf/.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use kiteq_bridge::{ClaimMode, SinkProtocol};
use kiteq_settings::{Action, ConfigErrors, FileKey, Sources};

use super::table::SETTINGS;
use super::*;

const SAMPLE: &str = include_str!("../../../../conf/flume-bridge.toml");

fn sources(arguments: &[&str]) -> Sources {
    let arguments = ["flume-bridge"].iter().chain(arguments).map(OsString::from);
    match kiteq_settings::parse::<Settings>(arguments, BTreeMap::new()).unwrap() {
        Action::Run(sources) => sources,
        other => panic!("expected a run, not {other:?}"),
    }
}

fn with_flags(arguments: &[&str]) -> Result<Loaded<Settings>, ConfigErrors> {
    Loaded::load(&sources(arguments))
}

fn with_file(text: &str) -> Result<Loaded<Settings>, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bridge.toml");
    std::fs::write(&path, text).unwrap();
    Loaded::load(&Sources { file: Some(path), ..Sources::default() })
}

#[test]
fn the_command_is_well_formed() {
    kiteq_settings::command::<Settings>().debug_assert();
}

#[test]
fn existing_installations_flags_are_read_in_both_forms() {
    for dashes in ["-", "--"] {
        let flags = [
            "redis=h1:6379,h2:6379",
            "queuename=user-log",
            "redis-maxconn=30",
            "zkhost=h:2181,h:2181",
            "businesses=location,feed",
            "instancename=NAME",
            "logpath=DIR",
            "pport=13900",
            "iscompress=false",
        ]
        .map(|flag| format!("{dashes}{flag}"));
        let settings = with_flags(&flags.each_ref().map(String::as_str)).unwrap();
        let bridge = &settings.bridge;
        assert_eq!(bridge.redis_hosts, ["h1:6379", "h2:6379"]);
        assert_eq!(bridge.queues, ["user-log"]);
        assert_eq!(bridge.redis_connections_max, 30);
        assert_eq!(bridge.zookeeper_hosts, ["h:2181"]);
        assert_eq!(bridge.businesses, ["location", "feed"]);
        assert_eq!(bridge.instance, "NAME");
        assert_eq!(settings.log.directory, Some("DIR".into()));
        assert_eq!(settings.http_address().to_string(), "127.0.0.1:13900");
        assert!(!bridge.compressed);
        Settings::check_to_run(&settings).unwrap();
    }
    assert!(with_flags(&["-iscompress"]).unwrap().bridge.compressed);
    assert!(with_flags(&["-iscompress=true"]).unwrap().bridge.compressed);
}

#[test]
fn everything_that_the_bridge_is_told_can_be_set() {
    let flags = [
        "--host-name=host-7",
        "--claim=pop",
        "--claim-elements=7",
        "--claims-in-flight-max=8",
        "--pipeline-max=40MiB",
        "--rate-limit=9",
        "--inflated-max=1MiB",
        "--parked-max=10",
        "--dead-letters-max=11",
        "--redis-timeout=12s",
        "--redis-authorities=redis.pem",
        "--batch-events=13",
        "--batch-bytes=14KiB",
        "--batch-age=15ms",
        "--frame-max=16MiB",
        "--sink-protocol=binary",
        "--sink-connections=17",
        "--sink-connect-timeout=18s",
        "--sink-request-timeout=19s",
        "--sink-backoff-min=20ms",
        "--sink-backoff-max=21s",
        "--sink-patience=22s",
        "--sink-tls",
        "--sink-authorities=sinks.pem",
        "--sink-server-name=sinks",
        "--zookeeper-session-timeout=23s",
        "--peer-grace=24s",
        "--drain-timeout=25s",
        "--instance=i",
        "--redis=h:1",
        "--redis-connections-max=26",
        "--zookeeper=z:1",
        "--queues=q",
        "--businesses=b",
        "--compressed",
    ];
    let bridge = with_flags(&flags).unwrap().into_values().into_bridge();
    let seconds = Duration::from_secs;
    let expected = BridgeConfig {
        redis_hosts: vec!["h:1".to_owned()],
        redis_authorities: Some("redis.pem".into()),
        queues: vec!["q".to_owned()],
        redis_connections_max: 26,
        redis_timeout: seconds(12),
        claim_mode: ClaimMode::Pop,
        claim_elements: 7,
        claims_in_flight_max: 8,
        pipeline_bytes_max: 40 << 20,
        rate_limit: Some(9),
        compressed: true,
        inflated_bytes_max: 1 << 20,
        businesses: vec!["b".to_owned()],
        instance: "i".to_owned(),
        host_name: "host-7".to_owned(),
        zookeeper_hosts: vec!["z:1".to_owned()],
        zookeeper_session_timeout: seconds(23),
        peer_grace: seconds(24),
        batch: kiteq_bridge::BatchConfig {
            events_max: 13,
            bytes_max: 14 << 10,
            age_max: Duration::from_millis(15),
            frame_bytes_max: 16 << 20,
        },
        sinks: kiteq_bridge::SinksConfig {
            protocol: SinkProtocol::Binary,
            tls: Some(SinkTls {
                authorities: Some("sinks.pem".into()),
                server_name: Some("sinks".to_owned()),
            }),
            connect_timeout: seconds(18),
            request_timeout: seconds(19),
            connections_per_sink: 17,
            backoff_min: Duration::from_millis(20),
            backoff_max: seconds(21),
            patience: seconds(22),
        },
        parked_max: 10,
        dead_letters_max: Some(11),
        drain_timeout: seconds(25),
    };
    assert_eq!(bridge, expected);
}

#[test]
fn without_flags_the_defaults_of_the_bridge_are_in_force() {
    let mut bridge = with_flags(&[]).unwrap().into_values().into_bridge();
    assert!(!bridge.host_name.is_empty());
    bridge.host_name = BridgeConfig::default().host_name;
    assert_eq!(bridge, BridgeConfig::default());
}

#[test]
fn what_must_be_said_is_asked_for() {
    for (flags, part) in [
        (&["-businesses=a"][..], "--queues: is not set"),
        (&["-queuename=q"], "--businesses: is not set"),
        (&["-queuename=q", "-businesses="], "--businesses: is not set"),
    ] {
        let error = Settings::check_to_run(&with_flags(flags).unwrap()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_what_is_expected() {
    for (flag, part) in [
        ("-redis=h1", "expected HOST:PORT or redis://"),
        ("-redis=http://h1:80", "expected HOST:PORT or redis://"),
        ("-redis=", "at least one"),
        ("-zkhost=h1", "zk1:2181"),
        ("-zkhost=", "at least one"),
        ("-businesses=a/b", "leave out /"),
        ("-instancename=a/b", "leave out /"),
        ("-instancename=", "not empty"),
        ("-redis-maxconn=2", "must be from 3 to 10000, not 2"),
        ("-pport=web", "a port alone is enough"),
        ("-iscompress=gzip", "expected true or false"),
        ("--claim=blpop", "script or pop"),
        ("--sink-protocol=json", "compact or binary"),
        ("--batch-age=200", "with its unit"),
        ("--sink-backoff-max=1ms", "--sink-backoff-min (100ms)"),
        ("--batch-bytes=17MiB", "--frame-max (16000KiB)"),
        ("--pipeline-max=1MiB", "--frame-max (16000KiB)"),
        ("--sink-server-name=x", "--sink-tls=true"),
    ] {
        let error = with_flags(&[flag]).unwrap_err().to_string();
        assert!(error.starts_with("--") && error.contains(part), "{flag}: {error}");
    }
}

#[test]
fn a_wrong_file_is_refused_with_its_line_and_the_nearest_key() {
    for (text, line, part) in [
        ("queues = [\"q\"]\nbatchAeg = \"1s\"\n", 2, "did you mean batchAge?"),
        ("queues = \"q\"\n", 1, "such as [\"user-log\"]"),
        ("sinkTls = \"yes\"\n", 1, "expected true or false"),
        ("[sinks]\n", 1, "unknown key sinks"),
    ] {
        let error = with_file(text).unwrap_err().to_string();
        assert!(error.contains(&format!("bridge.toml:{line}: ")) && error.contains(part), "{error}");
    }
}

#[test]
fn passwords_are_neither_printed_nor_logged() {
    let loaded = with_flags(&["-redis=redis://u:hunter2@h:6379/1,rediss://:hunter2@h:1"]).unwrap();
    let shown = Settings::print(&loaded) + &loaded.lines().join("\n");
    assert!(!shown.contains("hunter2") && shown.contains("redis://u:***@h:6379/1"), "{shown}");
    let error = with_flags(&["-redis=http://u:hunter2@h:1"]).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn the_printed_configuration_is_read_back_as_the_same() {
    let flags = ["-queuename=a,b", "-pport=0.0.0.0:1", "--sink-tls", "--rate-limit=5", "--claim=pop"];
    let loaded = with_flags(&flags).unwrap();
    let again = with_file(&Settings::print(&loaded)).unwrap();
    for setting in SETTINGS {
        assert_eq!(setting.kind.show_toml(&again), setting.kind.show_toml(&loaded), "{}", setting.flag);
    }
}

/// The sample runs as it is, and shows every other key, commented out, with its default.
#[test]
fn the_sample_shows_every_key_with_its_default() {
    let plain = with_file(SAMPLE).unwrap();
    Settings::check_to_run(&plain).unwrap();
    assert_eq!(plain.bridge.queues, ["user-log"]);
    let shown: Vec<&str> = SAMPLE.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let is_key =
        |line: &&str| SETTINGS.iter().any(|setting| line.starts_with(&format!("{} = ", setting.file_name())));
    let set: Vec<&str> =
        shown.iter().copied().filter(is_key).filter(|line| !line.contains("(not set)")).collect();
    let uncommented = with_file(&set.join("\n")).unwrap();
    let default = Settings::default();
    for setting in SETTINGS {
        let FileKey::Key(key, _) = setting.file else { panic!("{} has no key", setting.flag) };
        assert!(
            shown.iter().any(|line| line.starts_with(&format!("{key} = "))),
            "{key} is not in the sample"
        );
        if !["queues", "businesses"].contains(&key) {
            assert_eq!(setting.kind.show_toml(&uncommented), setting.kind.show_toml(&default), "{key}");
        }
    }
}
