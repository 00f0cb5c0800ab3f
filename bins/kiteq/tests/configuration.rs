//! What the real binary says to flags and configurations, right and wrong ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fs;

use support::{Ended, Kiteq, run, run_in};

/// A refusal is one line that begins with the program's name, and exit code 2.
fn assert_refused(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("kiteq: "), "{ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "{part:?} is missing: {ended:?}");
    }
}

#[test]
fn help_and_version_are_printed() {
    for flag in ["--help", "-help", "-h"] {
        let ended = run(&[flag]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains("--bind"), "{}", ended.stdout);
    }
    let version = run(&["--version"]);
    assert_eq!(version.stdout, format!("kiteq {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_flags_are_refused_on_one_line() {
    assert_refused(&run(&["-bnd=127.0.0.1:1"]), &["--bnd", "--bind", "--help"]);
    assert_refused(&run(&["-bind=nowhere"]), &["--bind", "127.0.0.1:13800"]);
    assert_refused(&run(&["-clusterName=dev"]), &["-configPath=FILE"]);
    assert_refused(&run(&["-configPath=absent.toml"]), &["absent.toml", "cannot be read", "--config=FILE"]);
}

#[test]
fn a_wrong_file_is_refused_with_its_line_and_check_lists_everything() {
    let directory = tempfile::tempdir().unwrap();
    let file = "[clusters.dev]\ndeliverSeconds = 5\ndeliveryFirst = 1\n";
    fs::write(directory.path().join("cluster.toml"), file).unwrap();
    let ended = run_in(directory.path(), &["-configPath=cluster.toml"]);
    assert_refused(&ended, &["cluster.toml:2", "deliverSeconds", "deliverySeconds", "1 more"]);
    let checked = run_in(directory.path(), &["-configPath=cluster.toml", "--check"]);
    assert_eq!((checked.code, checked.stderr.lines().count()), (Some(2), 2), "{checked:?}");
    assert!(
        checked.stderr.contains("cluster.toml:3: clusters.dev.deliveryFirst: expected true or false"),
        "{checked:?}"
    );
}

#[test]
fn check_says_that_a_right_configuration_is_right() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conf/cluster.toml");
    let config = format!("--config={sample}");
    let ended = run(&[&config, "--cluster=memory_dev", "--check"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "configuration is right\n"), "{ended:?}");
    let wrong = run(&[&config, "-clusterName=production", "--check"]);
    assert_refused(&wrong, &["production", "memory_dev, mmap_dev"]);
}

#[test]
fn the_printed_configuration_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["-bind=127.0.0.1:1", "-pport=2", "-db=memory://", "--print-config"];
    let printed = run_in(directory.path(), &flags);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    fs::write(directory.path().join("cluster.toml"), &printed.stdout).unwrap();
    let again = run_in(directory.path(), &["--config=cluster.toml", "--print-config"]);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&again.stdout), values(&printed.stdout));
    assert!(again.stdout.contains("# cluster.toml:"), "{}", again.stdout);
}

#[test]
fn retired_keys_are_said_once_in_the_log() {
    let file = "[clusters.dev]\nlogxml = \"./conf/log.xml\"\nmaxDeliverWorkers = 8000\ndb = \"memory://\"\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.toml");
    fs::write(&path, file).unwrap();
    let kiteq = Kiteq::ready(&[&format!("-configPath={}", path.display())]);
    let ended = kiteq.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (line, key, instead) in [(2, "logxml", "logLevel"), (3, "maxDeliverWorkers", "deliveryWindow")] {
        let place = format!("cluster.toml:{line}: {key} ");
        let said: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(&place)).collect();
        assert!(said.len() == 1 && said.iter().all(|line| line.contains(instead)), "{ended:?}");
    }
}

#[test]
fn logs_go_to_files_too_and_can_be_json() {
    let mut kiteq = Kiteq::start(
        &["--bind=127.0.0.1:0", "--http=0", "--store=memory://", "--log-format=json", "-logPath=logs"],
        &[],
    );
    let line = kiteq.wait_for("ready: ");
    let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["level"], "INFO");
    kiteq.signal(rustix::process::Signal::INT);
    let path = kiteq.directory.path().join("logs/kiteq.log");
    let kept = fs::File::open(&path);
    let ended = kiteq.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut kept.unwrap(), &mut text).unwrap();
    assert!(text.contains("ready: ") && text.contains("kiteq has stopped"), "{text}");
}
