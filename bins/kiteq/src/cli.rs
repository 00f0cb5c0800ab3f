//! The command line, in two forms: `--delivery-window 256` and, as existing installations write it, `-bind=IP:PORT`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::settings::kind::Kind;
use crate::settings::table::{FileKey, SETTINGS, Setting};
use crate::settings::{Settings, Sources};

const CONFIG: &str = "config";
const CLUSTER: &str = "cluster";
const CHECK: &str = "check";
const PRINT: &str = "print-config";

const ABOUT: &str = "KiteQ: a message broker. Without any flag it serves all topics on 127.0.0.1:13800, keeps messages \
                     and bindings below ./data, and needs nothing beside it.";

const EXAMPLES: &str = "\
Examples:
  kiteq
      Everything by default: clients on 127.0.0.1:13800, HTTP on 127.0.0.1:13801, data below ./data
  kiteq --bind 10.0.0.5:13800 --registry zk://zk1:2181,zk2:2181 --topics trade,feed --data-dir /var/lib/kiteq
      One broker of a cluster that finds itself through ZooKeeper
  kiteq -clusterName=memory_dev -configPath=conf/cluster.toml -bind=10.0.0.5:13800 -pport=13801 -logPath=/var/log/kiteq
      A cluster of a configuration file, with the flags of existing installations
  kiteq -bind=172.30.3.124:13800 -pport=13801 -db=\"mock://kiteq\" -topics=trade,feed -zkhost=localhost:2181
      No file at all
  kiteq --config conf/cluster.toml --cluster memory_dev --check
      Say whether a configuration is right, and exit
  curl http://127.0.0.1:13801/readyz
      Ask a running broker whether it can do its job; there are /healthz, /metrics, /stat and /dlq as well

Every flag can be written -flag=VALUE, -flag VALUE, --flag=VALUE and --flag VALUE.
A flag wins over its environment variable, that over the file, that over the default.
SIGTERM or SIGINT stops the broker: it leaves the registry, lets clients move away, finishes what is in flight.
A second one ends it at once. Exit codes: 0 all done, 1 failed or something left undone, 2 wrong flags or configuration.";

/// What to do.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Run the broker.
    Run(Sources),
    /// Check the configuration and exit.
    Check(Sources),
    /// Print the effective configuration and exit.
    PrintConfig(Sources),
    /// Print this text and exit.
    Say(String),
}

/// Reads the command line; `arguments` begins with the program's name.
///
/// # Errors
/// What is wrong with it, on one line.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variables: BTreeMap<String, String>,
) -> Result<Action, String> {
    let arguments = arguments.into_iter().map(two_dashes);
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Action::Say(error.render().to_string())),
        Err(error) => return Err(one_line(&error.render().to_string())),
    };
    let flag = |setting: &Setting| Some((setting.flag, matches.get_one::<String>(setting.flag)?.clone()));
    let sources = Sources {
        file: path_of(&matches, &variables),
        cluster: text_of(&matches, CLUSTER).or_else(|| variables.get("KITEQ_CLUSTER").cloned()),
        flags: SETTINGS.iter().filter_map(flag).collect(),
        variables,
    };
    Ok(if matches.get_flag(CHECK) {
        Action::Check(sources)
    } else if matches.get_flag(PRINT) {
        Action::PrintConfig(sources)
    } else {
        Action::Run(sources)
    })
}

fn text_of(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn path_of(matches: &ArgMatches, variables: &BTreeMap<String, String>) -> Option<PathBuf> {
    let flag = matches.get_one::<PathBuf>(CONFIG).cloned();
    flag.or_else(|| variables.get("KITEQ_CONFIG").map(PathBuf::from))
}

/// Turns `-flag` and `-flag=value` into the two-dash form; `-h` and `-V` stay.
fn two_dashes(argument: OsString) -> OsString {
    let is_long = argument.to_str().and_then(|text| text.strip_prefix('-')).is_some_and(|name| {
        let end = name.find('=').unwrap_or(name.len());
        end > 1 && name.starts_with(|first: char| first.is_ascii_alphabetic())
    });
    if !is_long {
        return argument;
    }
    let mut long = OsString::from("-");
    long.push(argument);
    long
}

fn command() -> Command {
    let version = env!("CARGO_PKG_VERSION");
    let command = Command::new("kiteq")
        .version(version)
        .about(ABOUT)
        .after_long_help(EXAMPLES)
        .after_help("--help explains each flag and shows examples.")
        .args_override_self(true)
        .max_term_width(110)
        .arg(chooser(CONFIG, "configPath", "FILE", "Configuration file (TOML)", value_parser!(PathBuf)))
        .arg(chooser(
            CLUSTER,
            "clusterName",
            "NAME",
            "Cluster in the file, when it has several",
            value_parser!(String),
        ))
        .arg(action(CHECK, "Check flags and configuration, say what is wrong, and exit"))
        .arg(action(PRINT, "Print the effective configuration and where each value comes from, and exit"));
    let default = Settings::default();
    SETTINGS.iter().fold(command, |command, setting| command.arg(argument(setting, &default)))
}

fn chooser(
    name: &'static str,
    alias: &'static str,
    value_name: &'static str,
    help: &'static str,
    parser: ValueParser,
) -> Arg {
    let variable = name.to_uppercase();
    Arg::new(name)
        .long(name)
        .visible_alias(alias)
        .value_name(value_name)
        .value_parser(parser)
        .help_heading("Configuration")
        .help(help)
        .long_help(format!("{help}\n[env: KITEQ_{variable}]"))
}

fn action(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help_heading("Configuration").help(help)
}

fn argument(setting: &'static Setting, default: &Settings) -> Arg {
    let mut facts =
        vec![format!("[env: {}]", setting.variable()), format!("[file: {}]", setting.file_name())];
    let range = setting.kind.show_range();
    if !range.is_empty() {
        facts.push(format!("[range: {range}]"));
    }
    let value = setting.kind.show_text(default).unwrap_or_else(|| "none".to_owned());
    facts.push(format!("[default: {value}]"));
    let argument = Arg::new(setting.flag)
        .long(setting.flag)
        .visible_aliases(setting.aliases)
        .value_name(setting.value_name)
        .help_heading(setting.heading)
        .help(setting.help)
        .long_help(format!("{}\n{}", setting.help, facts.join(" ")));
    let argument = match setting.file {
        // The name in the file works as a flag too, for those who know the one and guess the other.
        FileKey::Cluster(key, _) if key != setting.flag && !setting.aliases.contains(&key) => {
            argument.alias(key)
        }
        _ => argument,
    };
    match setting.kind {
        Kind::Switch { .. } => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    }
}

/// What clap says in a paragraph, on one line.
fn one_line(text: &str) -> String {
    let mut parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| {
            !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more information")
        })
        .map(|line| line.trim_start_matches("error: ").trim_start_matches("tip: "))
        .collect();
    parts.push("kiteq --help shows all flags");
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        command().debug_assert();
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
        assert_eq!(sources.cluster.as_deref(), Some("dev"));
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
        for arguments in [
            &["-bind=1.2.3.4:5"][..],
            &["-bind", "1.2.3.4:5"],
            &["--bind=1.2.3.4:5"],
            &["--bind", "1.2.3.4:5"],
        ] {
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
}
