//! The command line, in two forms: `--log-level debug` and, as existing installations write it, `-log-level=debug`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, value_parser};

use crate::{Configuration, FileKey, Kind, Setting, Sources};

const CONFIG: &str = "config";
const CHECK: &str = "check";
const PRINT: &str = "print-config";

/// What to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Run the service.
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
pub fn parse<C: Configuration>(
    arguments: impl IntoIterator<Item = OsString>,
    variables: BTreeMap<String, String>,
) -> Result<Action, String> {
    let arguments = arguments.into_iter().map(two_dashes);
    let matches = match command::<C>().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Action::Say(error.render().to_string())),
        Err(error) => return Err(one_line::<C>(&error.render().to_string())),
    };
    let flag = |setting: &Setting<C>| Some((setting.flag, matches.get_one::<String>(setting.flag)?.clone()));
    let file = matches.get_one::<PathBuf>(CONFIG).cloned();
    let section = C::SECTION.and_then(|section| {
        let chosen = matches.get_one::<String>(section.flag).cloned();
        chosen.or_else(|| variables.get(&variable::<C>(section.flag)).cloned())
    });
    let sources = Sources {
        file: file.or_else(|| variables.get(&variable::<C>(CONFIG)).map(PathBuf::from)),
        section,
        flags: C::TABLE.iter().filter_map(flag).collect(),
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

/// The environment variable of a flag that is no setting.
fn variable<C: Configuration>(flag: &str) -> String {
    format!("{}{}", C::PROGRAM.variable_prefix, flag.to_uppercase())
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

/// The command line that is understood.
#[must_use]
pub fn command<C: Configuration>() -> Command {
    let program = C::PROGRAM;
    let mut command = Command::new(program.name)
        .version(program.version)
        .about(program.about)
        .after_long_help(program.examples)
        .after_help("--help explains each flag and shows examples.")
        .args_override_self(true)
        .max_term_width(110)
        .arg(chooser::<C>(CONFIG, "configPath", "FILE", "Configuration file (TOML)", value_parser!(PathBuf)));
    if let Some(section) = C::SECTION {
        let parser = value_parser!(String);
        command = command.arg(chooser::<C>(section.flag, section.alias, "NAME", section.help, parser));
    }
    command = command
        .arg(action(CHECK, "Check flags and configuration, say what is wrong, and exit"))
        .arg(action(PRINT, "Print the effective configuration and where each value comes from, and exit"));
    let default = C::default();
    C::TABLE.iter().fold(command, |command, setting| command.arg(argument(setting, &default)))
}

fn chooser<C: Configuration>(
    name: &'static str,
    alias: &'static str,
    value_name: &'static str,
    help: &'static str,
    parser: ValueParser,
) -> Arg {
    let variable = variable::<C>(name);
    Arg::new(name)
        .long(name)
        .visible_alias(alias)
        .value_name(value_name)
        .value_parser(parser)
        .help_heading("Configuration")
        .help(help)
        .long_help(format!("{help}\n[env: {variable}]"))
}

fn action(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help_heading("Configuration").help(help)
}

fn argument<C: Configuration>(setting: &'static Setting<C>, default: &C) -> Arg {
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
        FileKey::Key(key, _) if key != setting.flag && !setting.aliases.contains(&key) => argument.alias(key),
        _ => argument,
    };
    match setting.kind {
        Kind::Switch { .. } => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => argument,
    }
}

/// What clap says in a paragraph, on one line.
fn one_line<C: Configuration>(text: &str) -> String {
    let mut parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| {
            !line.is_empty() && !line.starts_with("Usage:") && !line.starts_with("For more information")
        })
        .map(|line| line.trim_start_matches("error: ").trim_start_matches("tip: "))
        .collect();
    let advice = format!("{} --help shows all flags", C::PROGRAM.name);
    parts.push(&advice);
    parts.join("; ")
}
