//! Everything that is made from a table, with a configuration of three settings in a flat file.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use kiteq_settings::{
    Action, Configuration, FileKey, Kind, Loaded, Program, RetiredKey, Setting, Sources, log_path, parse,
};
use kiteq_telemetry::LogConfig;

struct Kettle {
    stoves: Vec<String>,
    wait: Duration,
    log: LogConfig,
}

impl Default for Kettle {
    fn default() -> Self {
        let log = LogConfig::for_binary("kettle");
        Self { stoves: vec!["front".to_owned()], wait: Duration::from_millis(200), log }
    }
}

const TABLE: &[Setting<Kettle>] = &[
    Setting {
        flag: "stoves",
        aliases: &["stove"],
        file: FileKey::Key("stoves", &[]),
        heading: "Where",
        value_name: "A,B",
        help: "Stoves to stand on",
        kind: Kind::List {
            example: "[\"front\"]",
            set: |kettle, stoves| {
                kettle.stoves = stoves;
                Ok(())
            },
            get: |kettle| kettle.stoves.clone(),
        },
    },
    Setting {
        flag: "wait-time",
        aliases: &[],
        file: FileKey::Key("waitTime", &[]),
        heading: "How",
        value_name: "DURATION",
        help: "How long to wait",
        kind: Kind::Time {
            bare_seconds: false,
            range: (Duration::ZERO, Duration::from_secs(60)),
            set: |kettle, wait| kettle.wait = wait,
            get: |kettle| kettle.wait,
        },
    },
    log_path(&["logpath"]),
];

impl Configuration for Kettle {
    const PROGRAM: Program = Program {
        name: "kettle",
        version: "1.2.3",
        variable_prefix: "KETTLE_",
        about: "Boils water.",
        examples: "Examples:\n  kettle -stove=back",
    };
    const TABLE: &'static [Setting<Self>] = TABLE;
    const RETIRED: &'static [RetiredKey] = &[RetiredKey { key: "whistle", instead: "it sings by itself" }];

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn log_mut(&mut self) -> &mut LogConfig {
        &mut self.log
    }

    fn open_files(&self) -> (usize, &'static str) {
        (1, "stoves")
    }
}

fn action(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Action, String> {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse::<Kettle>(["kettle"].iter().chain(arguments).map(OsString::from), variables)
}

fn sources(arguments: &[&str], variables: &[(&str, &str)]) -> Sources {
    match action(arguments, variables).unwrap() {
        Action::Run(sources) => sources,
        other => panic!("expected a run, not {other:?}"),
    }
}

/// What becomes of a file with this text, and of flags and variables beside it.
fn load(text: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Loaded<Kettle>, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kettle.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources { file: Some(path), ..sources(arguments, variables) };
    Loaded::load(&sources).map_err(|errors| errors.to_string())
}

#[test]
fn a_flag_wins_over_its_variable_that_over_the_file_that_over_the_default() {
    let file = "waitTime = \"1s\"\n";
    let variables = [("KETTLE_WAIT_TIME", "2s")];
    for (loaded, milliseconds, origin) in [
        (load(file, &["-wait-time=3s"], &variables), 3000, "--wait-time"),
        (load(file, &[], &variables), 2000, "KETTLE_WAIT_TIME"),
        (load(file, &[], &[]), 1000, "kettle.toml:1"),
        (load("", &[], &[]), 200, "default"),
    ] {
        let loaded = loaded.unwrap();
        assert_eq!(loaded.wait.as_millis(), milliseconds);
        assert!(loaded.origin("wait-time").ends_with(origin), "{}", loaded.origin("wait-time"));
    }
}

#[test]
fn names_in_the_file_work_as_flags_and_the_file_comes_from_a_variable_too() {
    let sources = sources(&["-waitTime", "5s", "-stove=a,b"], &[("KETTLE_CONFIG", "x.toml")]);
    let flags = [("stoves", "a,b".to_owned()), ("wait-time", "5s".to_owned())];
    assert_eq!(sources.flags, flags);
    assert_eq!(sources.file, Some("x.toml".into()));
    let Ok(Action::Say(help)) = action(&["--help"], &[]) else { panic!("expected the help") };
    assert!(!help.contains("--cluster") && help.contains("KETTLE_WAIT_TIME"), "{help}");
    let refusal = action(&["-stoev=a"], &[]).unwrap_err();
    assert!(refusal.contains("--stove") && refusal.ends_with("kettle --help shows all flags"), "{refusal}");
}

#[test]
fn what_is_wrong_in_a_flat_file_is_said_with_its_line() {
    for (text, place, part) in [
        ("\nwaitTme = \"1s\"\n", ":2: ", "unknown key waitTme in the file; did you mean waitTime?"),
        ("waitTime = 5\n", ":1: waitTime: ", "a string with a duration"),
        ("stoves = \"front\"\n", ":1: stoves: ", "an array of strings, such as [\"front\"], not a string"),
        ("waitTime = \"2m\"\n", ":1: ", "must be from 0s to 1m, not 2m"),
        ("[kettle]\n", ":1: ", "known are stoves, waitTime, logPath"),
    ] {
        let refusal = load(text, &[], &[]).err().unwrap();
        assert!(refusal.contains(place) && refusal.contains(part), "{refusal}");
    }
}

#[test]
fn retired_keys_and_misspelled_variables_are_noted() {
    let loaded = load("whistle = true\n", &[], &[("KETTLE_WAIT_TMIE", "1s")]).unwrap();
    let [retired, misspelled] = loaded.notes.as_slice() else { panic!("two notes, not {:?}", loaded.notes) };
    assert!(
        retired.ends_with("kettle.toml:1: whistle means nothing any more: it sings by itself"),
        "{retired}"
    );
    assert!(
        misspelled.contains("KETTLE_WAIT_TMIE") && misspelled.contains("KETTLE_WAIT_TIME"),
        "{misspelled}"
    );
}

#[test]
fn the_printed_configuration_is_read_back_without_passwords() {
    let flags = ["-stove=redis://u:secret@h:1,back", "-wait-time=1500ms"];
    let printed = Kettle::print(&load("", &flags, &[]).unwrap());
    let expected = "\
# The effective configuration of kettle 1.2.3. Saved to a file it can be used with
# kettle --config=FILE; behind each value stands where it comes from.

# Where
stoves = [\"redis://u:***@h:1\", \"back\"]  # --stoves

# How
waitTime = \"1500ms\"  # --wait-time

# Logging
# logPath is not set
";
    assert_eq!(printed, expected);
    assert_eq!(load(&printed, &[], &[]).unwrap().wait, Duration::from_millis(1500));
}

#[test]
fn the_log_says_where_things_are_and_what_is_not_the_default() {
    assert_eq!(load("", &[], &[]).unwrap().lines(), ["stoves = front (default)"]);
    let lines = load("", &["-wait-time=1s"], &[]).unwrap().lines();
    assert_eq!(lines, ["stoves = front (default)", "wait-time = 1s (--wait-time)"]);
}
