//! The whole of a configuration: precedence, the file, what is wrong with it, and the samples in conf/.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kiteq_settings::{ConfigErrors, FileKey, Sources};

use super::table::SETTINGS;
use super::*;

const SAMPLE: &str = include_str!("../../../../conf/cluster.toml");

/// Loads a file with this content, `cluster` of it or the only one.
fn load(text: &str, cluster: Option<&str>) -> Result<Loaded<Settings>, ConfigErrors> {
    load_with(text, cluster, &[], &[])
}

fn load_with(
    text: &str,
    cluster: Option<&str>,
    variables: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Loaded<Settings>, ConfigErrors> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.toml");
    fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loaded::load(&Sources {
        file: Some(path),
        section: cluster.map(str::to_owned),
        flags: flags.iter().map(|&(flag, value)| (flag, value.to_owned())).collect(),
        variables: variables.collect(),
    })
}

fn refusal(text: &str) -> String {
    load(text, None).unwrap_err().to_string()
}

fn with_flags(flags: &[(&'static str, &str)]) -> Result<Loaded<Settings>, ConfigErrors> {
    let flags = flags.iter().map(|&(flag, value)| (flag, value.to_owned())).collect();
    Loaded::load(&Sources { flags, ..Sources::default() })
}

#[test]
fn an_existing_file_is_read_as_it_is() {
    let text = r#"
        [registry]
          [registry.dev]
            hosts="zk://localhost:2181"
        [clusters]
          [clusters.memory_dev]
            env="dev"
            topics=["relation","message","user-profile"]
            dlqExecHour=2
            deliveryFirst=false
            logxml="./conf/log.xml"
            db="memory://.?initcap=10000000&maxcap=2000000"
            deliverySeconds=5
            maxDeliverWorkers=8000
            recoverSeconds=10
            recievePermitsPerSecond=20000
    "#;
    let settings = load(text, Some("memory_dev")).unwrap();
    assert_eq!(settings.registry, "zk://localhost:2181");
    assert_eq!(settings.store_uri(), "memory://.?initcap=10000000&maxcap=2000000");
    assert_eq!(settings.broker.topics, ["relation", "message", "user-profile"]);
    assert_eq!(settings.broker.receive_permits_per_second, Some(20000));
    assert_eq!(settings.broker.delivery_timeout, Duration::from_secs(5));
    let notes = settings.notes.join("\n");
    for (key, instead) in
        [("dlqExecHour", "dead letter"), ("logxml", "logLevel"), ("maxDeliverWorkers", "deliveryWindow")]
    {
        assert!(notes.contains(key) && notes.contains(instead), "{notes}");
    }
    assert_eq!(settings.notes.len(), 3, "{notes}");
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
    let text = "[clusters.only]\nidleSeconds = 1\ndeliveryWindow = 1\nconnectionsMax = 1\n";
    let variables = [("KITEQ_DELIVERY_WINDOW", "2"), ("KITEQ_CONNECTIONS_MAX", "2")];
    let settings = load_with(text, None, &variables, &[("connections-max", "3")]).unwrap();
    let broker = &settings.broker;
    let got = (broker.idle_timeout.as_secs(), broker.delivery_window, broker.connections_max);
    assert_eq!(got, (1, 2, 3));
    assert_eq!(broker.body_bytes_max, BrokerConfig::default().body_bytes_max);
    let lines = settings.lines().join("\n");
    for part in [
        "cluster.toml:2)",
        "(KITEQ_DELIVERY_WINDOW)",
        "(--connections-max)",
        "bind = 127.0.0.1:13800 (default)",
    ] {
        assert!(lines.contains(part), "{part} is missing:\n{lines}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one() {
    for (text, line, meant) in [
        ("[clusters.a]\n\ndeliveryWindw = 5\n", 3, "did you mean deliveryWindow?"),
        ("[clusters.a]\ndeliverSeconds = 5\n", 2, "did you mean deliverySeconds?"),
        ("[clutsers.a]\n", 1, "did you mean clusters?"),
        ("[registry.dev]\nhosts = \"zk://a:1\"\nhost = \"b\"\n[clusters.a]\n", 3, "did you mean hosts?"),
        ("[clusters.a]\ncolour = 1\n", 2, "known are env, secrets, bind"),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(&format!("cluster.toml:{line}: unknown key")), "{refusal}");
        assert!(refusal.contains(meant), "{refusal}");
    }
}

#[test]
fn a_wrong_type_or_value_is_refused_with_what_is_expected() {
    for (line, expected) in [
        ("deliverySeconds = \"five\"", "500ms"),
        ("deliverySeconds = true", "expected a number of seconds"),
        ("deliverySeconds = -5", "500ms"),
        ("deliverySeconds = 0", "must be from 100ms to 1h, not 0s"),
        ("deliveryWindow = \"512\"", "expected a number from 1 to 1000000, not a string"),
        ("deliveryWindow = 0", "must be from 1 to 1000000, not 0"),
        ("deliveryWindow = 1.5", "not a float"),
        ("deliveryFirst = \"no\"", "expected true or false, not a string"),
        ("topics = \"a,b\"", "expected an array of strings"),
        ("topics = []", "at least one topic"),
        ("topics = [\"a\", 1]", "array of strings alone"),
        ("topics = [\"a/b\"]", "\"a/b\" is no topic"),
        ("topics = [\"a\", \"*\"]", "must stand alone"),
        ("bodyCache = 128", "such as \"128MiB\", not an integer"),
        ("bodyCache = \"128\"", "with its unit"),
        ("bodyMax = \"1GiB\"", "must be from 1KiB to 64MiB"),
        ("leaveGrace = 2", "such as \"5s\""),
        ("leaveGrace = \"2 fortnights\"", "500ms"),
        ("redelivery = \"often\"", "3 at once"),
        ("db = 5", "expected a string in quotes, not an integer"),
        ("bind = \"here\"", "127.0.0.1:13800"),
        ("http = \"web\"", "a port alone"),
        ("http = true", "a port, or a string"),
        ("logLevel = \"loud\"", "error, warn, info"),
        ("logFormat = \"xml\"", "text or json"),
        ("env = \"prod\"", "there is no [registry.prod] in this file; there is none"),
        ("secrets = \"x\"", "must be a table"),
        ("secrets = { a = 5 }", "expected a string that is not empty"),
    ] {
        let refusal = refusal(&format!("[clusters.a]\n{line}\n"));
        assert!(refusal.contains("cluster.toml:2: ") && refusal.contains(expected), "{line}: {refusal}");
    }
}

#[test]
fn everything_that_is_wrong_is_found_in_every_cluster() {
    let text = "[clusters.a]\ndeliveryWindow = 0\nx = 1\n[clusters.b]\nbodyMax = 1\n";
    let errors = load(text, Some("a")).unwrap_err();
    let lines: Vec<bool> = errors
        .errors
        .iter()
        .zip([2, 3, 5])
        .map(|(error, line)| error.place.ends_with(&format!(":{line}")))
        .collect();
    assert_eq!(lines, [true, true, true], "{errors:?}");
    assert!(errors.to_string().contains("and 2 more"), "{errors}");
}

#[test]
fn what_is_set_twice_is_refused() {
    let refusal = refusal("[clusters.a]\nrecievePermitsPerSecond = 1\nreceivePermitsPerSecond = 2\n");
    assert!(
        refusal.contains(":3: ") && refusal.contains("sets again") && refusal.contains(":2 sets"),
        "{refusal}"
    );
}

#[test]
fn a_wrong_cluster_name_lists_the_known_ones() {
    let text = "[clusters.a]\n[clusters.b]\n";
    let wrong = load(text, Some("c")).unwrap_err().to_string();
    assert!(wrong.contains("no cluster \"c\"; it has a, b"), "{wrong}");
    let none = refusal(text);
    assert!(
        none.contains("several clusters") && none.contains("-clusterName=NAME") && none.ends_with("a, b"),
        "{none}"
    );
    assert!(refusal("").contains("has no [clusters.NAME]"));
    let sources = Sources { section: Some("a".to_owned()), ..Sources::default() };
    let no_file = Loaded::<Settings>::load(&sources).unwrap_err().to_string();
    assert!(no_file.contains("-configPath=FILE"), "{no_file}");
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| {
        let sources = Sources { file: Some(path.to_owned()), ..Sources::default() };
        let refusal = Loaded::<Settings>::load(&sources).unwrap_err().to_string();
        assert!(refusal.contains(path.to_str().unwrap()), "{refusal}");
        refusal
    };
    let absent = refusal(&directory.path().join("absent.toml"));
    assert!(absent.contains("cannot be read") && absent.contains("--config=FILE"), "{absent}");
    assert!(refusal(directory.path()).contains("directory"));
    let path = directory.path().join("x.toml");
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(refusal(&path).contains("not UTF-8"));
    fs::write(&path, "[clusters.a]\ntopics = [\n").unwrap();
    assert!(refusal(&path).contains("no TOML"));
    fs::File::create(&path).unwrap().set_len(5 << 20).unwrap();
    assert!(refusal(&path).contains("no configuration is"));
}

#[test]
fn wrong_flags_and_variables_are_named() {
    let flag = with_flags(&[("delivery-window", "many")]).unwrap_err().to_string();
    assert_eq!(flag, "--delivery-window: expected a number from 1 to 1000000, not \"many\"");
    let variable = load_with("[clusters.a]\n", None, &[("KITEQ_BODY_CACHE", "big")], &[]).unwrap_err();
    assert!(variable.to_string().starts_with("KITEQ_BODY_CACHE: expected a size"), "{variable}");
}

#[test]
fn a_misspelled_variable_is_noted_and_one_of_an_orchestrator_is_not() {
    let variables = [("KITEQ_DELIVERY_WINDWO", "5"), ("KITEQ_PORT_13800_TCP_ADDR", "10.0.0.1")];
    let settings = load_with("[clusters.a]\n", None, &variables, &[]).unwrap();
    let [note] = settings.notes.as_slice() else { panic!("one note, not {:?}", settings.notes) };
    assert!(note.contains("KITEQ_DELIVERY_WINDWO") && note.contains("KITEQ_DELIVERY_WINDOW"), "{note}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    for (flags, expected) in [
        (&[("bind", "0.0.0.0:13800")][..], "--advertise=HOST:PORT"),
        (&[("registry", "zk://h:2181")], "--topics=trade,feed"),
        (&[("http", "13800")], "is the address of --bind"),
        (&[("body-max", "32MiB")], "--outbound-max: must hold"),
    ] {
        let refusal = with_flags(flags).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
    with_flags(&[("bind", ":13800"), ("registry", "h:2181"), ("topics", "a"), ("advertise", "b:1")]).unwrap();
}

#[test]
fn the_http_port_is_a_number_or_an_address() {
    for (value, address) in [("1", "127.0.0.1:1"), ("\"1\"", "127.0.0.1:1"), ("\"10.0.0.1:1\"", "10.0.0.1:1")]
    {
        let settings = load(&format!("[clusters.a]\nhttp = {value}\n"), None).unwrap();
        assert_eq!(settings.http_address().to_string(), address);
    }
}

#[test]
fn the_default_needs_nothing_beside_it() {
    let settings = with_flags(&[]).unwrap();
    assert_eq!(settings.broker.bind.to_string(), "127.0.0.1:13800");
    assert_eq!(settings.http_address().to_string(), "127.0.0.1:13801");
    assert_eq!(settings.store_uri(), "mmap://./data/store");
    assert_eq!(settings.registry, EMBEDDED_REGISTRY);
    assert_eq!(with_flags(&[("data-dir", "/var/lib/k")]).unwrap().store_uri(), "mmap:///var/lib/k/store");
}

#[test]
fn the_printed_configuration_is_read_back_as_the_same() {
    let flags = [
        ("registry", "h:2181"),
        ("topics", "a,b"),
        ("bind", "1.2.3.4:5"),
        ("delivery-seconds", "1500ms"),
        ("redelivery", "1 at once, then 1s"),
        ("default-watermark", "7"),
        ("log-path", "/tmp/\"quoted\""),
    ];
    let settings = with_flags(&flags).unwrap();
    let printed = Settings::print(&settings);
    assert!(printed.contains("deliverySeconds = \"1500ms\"  # --delivery-seconds"), "{printed}");
    assert!(printed.contains("idleSeconds = 120  # default"), "{printed}");
    let again = load(&printed, None).unwrap();
    for setting in SETTINGS {
        let shown = |settings| setting.kind.show_toml(settings);
        assert_eq!(shown(&again), shown(&settings), "{}", setting.flag);
    }
}

#[test]
fn passwords_and_secrets_are_neither_printed_nor_logged() {
    let text =
        "[clusters.a]\ndb = \"mysql://h:1?db=k&password=hunter2\"\n[clusters.a.secrets]\ng = \"hunter2\"\n";
    let settings = load(text, None).unwrap();
    assert_eq!(settings.broker.secrets.get("g").map(String::as_str), Some("hunter2"));
    assert!(settings.store_uri().contains("hunter2"));
    let shown = Settings::print(&settings) + &settings.lines().join("\n");
    assert!(!shown.contains("hunter2") && shown.contains("password=***\""), "{shown}");
}

#[test]
fn every_cluster_of_the_sample_is_right() {
    let clusters =
        ["file_dev", "mmap_dev", "memory_dev", "mock_dev", "mysql_dev", "etcd_dev", "all_defaults"];
    for cluster in clusters {
        let settings = load(SAMPLE, Some(cluster)).unwrap();
        assert_eq!(settings.notes, Vec::<String>::new(), "{cluster}");
    }
    let all = load(SAMPLE, Some("none")).unwrap_err().to_string();
    assert!(
        all.ends_with("all_defaults, etcd_dev, file_dev, memory_dev, mmap_dev, mock_dev, mysql_dev"),
        "{all}"
    );
}

/// The sample's last cluster shows every key, commented out, with its default.
#[test]
fn the_sample_shows_every_key_with_its_default() {
    let (_, shown) = SAMPLE.split_once("[clusters.all_defaults]").unwrap();
    let entries: Vec<(&str, &str)> =
        shown.lines().filter_map(|line| line.trim().strip_prefix("# ")?.split_once(" = ")).collect();
    let is_shown = |key: &str| entries.iter().any(|(shown, _)| *shown == key);
    let mut text = "[registry.embedded]\nhosts = \"embedded://\"\n[clusters.a]\n".to_owned();
    for (key, value) in entries.iter().filter(|(_, value)| !value.contains("(not set)")) {
        if !key.starts_with(' ') {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    let settings = load(&text, None).unwrap();
    let default = Settings::default();
    for setting in SETTINGS {
        let shown = |settings| setting.kind.show_toml(settings);
        assert_eq!(shown(&settings), shown(&default), "{}", setting.flag);
        match setting.file {
            FileKey::Key(key, _) => assert!(is_shown(key), "{key} is not in conf/cluster.toml"),
            FileKey::Elsewhere(_) => assert!(is_shown("env")),
        }
    }
}
