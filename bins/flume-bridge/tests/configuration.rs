//! What the real binary says to flags and configurations, right and wrong ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::fs;

use kiteq_testkit::Ended;
use support::BRIDGE;

const SAMPLE: &str = concat!("--config=", env!("CARGO_MANIFEST_DIR"), "/../../conf/flume-bridge.toml");

/// A refusal is one line that begins with the program's name, and exit code 2.
fn assert_refused(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("flume-bridge: "), "{ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "{part:?} is missing: {ended:?}");
    }
}

#[test]
fn help_teaches_and_version_is_printed() {
    for flag in ["--help", "-help"] {
        let ended = BRIDGE.run(&[flag]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        for part in
            ["Examples:", "-queuename=user-log", "FLUME_BRIDGE_BATCH_AGE", "[default: 200ms]", "/stat"]
        {
            assert!(ended.stdout.contains(part), "{part:?} is missing:\n{}", ended.stdout);
        }
    }
    let version = BRIDGE.run(&["--version"]);
    assert_eq!(version.stdout, format!("flume-bridge {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_flags_are_refused_on_one_line() {
    assert_refused(&BRIDGE.run(&["-queuenam=q"]), &["--queuenam", "--queuename", "--help"]);
    assert_refused(&BRIDGE.run(&["-redis=nowhere"]), &["--redis", "HOST:PORT"]);
    assert_refused(&BRIDGE.run(&[]), &["--queues: is not set", "-queuename=user-log"]);
    assert_refused(&BRIDGE.run(&["-configPath=absent.toml"]), &["absent.toml", "cannot be read"]);
}

#[test]
fn a_wrong_file_is_refused_with_its_line_and_check_lists_everything() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("bridge.toml"), "queues = [\"q\"]\nbatchAgee = \"1s\"\nsinkTls = 1\n")
        .unwrap();
    let ended = BRIDGE.run_in(directory.path(), &["--config=bridge.toml"]);
    assert_refused(&ended, &["bridge.toml:2: ", "batchAgee", "did you mean batchAge?", "1 more"]);
    let checked = BRIDGE.run_in(directory.path(), &["--config=bridge.toml", "--check"]);
    assert_eq!((checked.code, checked.stderr.lines().count()), (Some(2), 2), "{checked:?}");
    assert!(checked.stderr.contains("bridge.toml:3: sinkTls: expected true or false"), "{checked:?}");
}

#[test]
fn the_sample_is_right_and_what_is_printed_can_be_used() {
    let checked = BRIDGE.run(&[SAMPLE, "--check"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(0), "configuration is right\n"), "{checked:?}");
    let directory = tempfile::tempdir().unwrap();
    let printed = BRIDGE.run_in(directory.path(), &[SAMPLE, "-pport=1", "--print-config"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    fs::write(directory.path().join("bridge.toml"), &printed.stdout).unwrap();
    let again = BRIDGE.run_in(directory.path(), &["--config=bridge.toml", "--print-config"]);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&again.stdout), values(&printed.stdout));
    assert!(again.stdout.contains("# bridge.toml:"), "{}", again.stdout);
}
