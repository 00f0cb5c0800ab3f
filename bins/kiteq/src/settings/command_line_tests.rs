//! The command line in both its forms.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use kiteq_settings::{Action, Sources};

use super::Settings;

fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variables: BTreeMap<String, String>,
) -> Result<Action, String> {
    kiteq_settings::parse::<Settings>(arguments, variables)
}

fn sources(arguments: &[&str]) -> Sources {
    let arguments = ["kiteq"].iter().chain(arguments).map(OsString::from);
    match parse(arguments, BTreeMap::new()).unwrap() {
        Action::Run(sources) => sources,
        other => panic!("expected a run, not {other:?}"),
    }
}

fn refusal(arguments: &[&str]) -> String {
    let arguments = ["kiteq"].iter().chain(arguments).map(OsString::from);
    parse(arguments, BTreeMap::new()).unwrap_err()
}

#[test]
fn the_command_is_well_formed() {
    kiteq_settings::command::<Settings>().debug_assert();
}

#[test]
fn existing_installations_flags_are_read() {
    let sources = sources(&[
        "-clusterName=dev",
        "-configPath=conf/cluster.toml",
        "-bind=172.30.3.124:13800",
        "-pport=13801",
        "-db=mock://kiteq",
        "-topics=trade,feed",
        "-zkhost=localhost:2181",
        "-logPath=/tmp/logs",
    ]);
    assert_eq!(sources.section.as_deref(), Some("dev"));
    assert_eq!(sources.file, Some(PathBuf::from("conf/cluster.toml")));
    let flags: Vec<(&str, &str)> =
        sources.flags.iter().map(|(flag, value)| (*flag, value.as_str())).collect();
    let expected = [
        ("bind", "172.30.3.124:13800"),
        ("http", "13801"),
        ("store", "mock://kiteq"),
        ("registry", "localhost:2181"),
        ("topics", "trade,feed"),
        ("log-path", "/tmp/logs"),
    ];
    assert_eq!(flags, expected);
}

#[test]
fn all_four_forms_mean_the_same() {
    for arguments in
        [&["-bind=1.2.3.4:5"][..], &["-bind", "1.2.3.4:5"], &["--bind=1.2.3.4:5"], &["--bind", "1.2.3.4:5"]]
    {
        assert_eq!(sources(arguments).flags, [("bind", "1.2.3.4:5".to_owned())]);
    }
    let sources = sources(&["-deliveryFirst", "--deliveryWindow=5", "--http=1", "-pport=2"]);
    let expected = [("http", "2"), ("delivery-first", "true"), ("delivery-window", "5")];
    assert_eq!(sources.flags, expected.map(|(flag, value)| (flag, value.to_owned())));
}

#[test]
fn an_unknown_flag_is_refused_with_the_nearest_on_one_line() {
    for argument in ["-bnd=1.2.3.4:5", "--bnd=1.2.3.4:5"] {
        let refusal = refusal(&[argument]);
        assert!(refusal.contains("--bind") && refusal.contains("--help"), "{refusal}");
        assert!(!refusal.contains('\n'), "{refusal}");
    }
    assert!(refusal(&["extra"]).contains("extra"));
    assert!(refusal(&["--bind"]).contains("--bind"));
}

#[test]
fn the_help_teaches_with_examples_and_shows_where_else_a_value_can_stand() {
    for flag in ["--help", "-help"] {
        let Ok(Action::Say(help)) = parse(["kiteq", flag].map(OsString::from), BTreeMap::new()) else {
            panic!("expected the help");
        };
        for part in [
            "Examples:",
            "KITEQ_DELIVERY_WINDOW",
            "[file: deliveryWindow]",
            "[default: 512]",
            "-zkhost=localhost:2181",
        ] {
            assert!(help.contains(part), "{part} is missing:\n{help}");
        }
    }
}
