//! The whole of a binary's `main`: from the command line to the exit code.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use kiteq_telemetry::{logging, open_files};

use crate::cli::{self, Action};
use crate::{ConfigErrors, Configuration, Loaded, Sources};

/// Wrong flags or configuration.
const EXIT_USAGE: u8 = 2;
/// How long work on blocking threads may outlive everything else before the process ends all the same.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// Reads the configuration, sets up logging, runs `service` to its end, and says how it ended.
///
/// The exit code is 0 when the service ended without an error or there was only something to print, 1 when it failed, and
/// 2 for wrong flags or a wrong configuration.
pub fn main<C, F, E>(service: impl FnOnce(C) -> F) -> ExitCode
where
    C: Configuration,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let is_ours = |(name, _): &(String, String)| name.starts_with(C::PROGRAM.variable_prefix);
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(is_ours)
        .collect();
    match cli::parse::<C>(std::env::args_os(), variables) {
        Ok(Action::Run(sources)) => {
            load::<C>(&sources).map_or_else(|errors| refuse::<C>(&errors), |loaded| run(loaded, service))
        }
        Ok(Action::Check(sources)) => check::<C>(&sources),
        Ok(Action::PrintConfig(sources)) => match Loaded::load(&sources) {
            Ok(loaded) => say(&C::print(&loaded)),
            Err(errors) => refuse::<C>(&errors),
        },
        Ok(Action::Say(text)) => say(&text),
        Err(reason) => refuse::<C>(&reason),
    }
}

/// Prints what was asked for. A reader that went away has read enough.
fn say(text: &str) -> ExitCode {
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    ExitCode::SUCCESS
}

fn refuse<C: Configuration>(reason: &dyn Display) -> ExitCode {
    eprintln!("{}: {reason}", C::PROGRAM.name);
    ExitCode::from(EXIT_USAGE)
}

fn load<C: Configuration>(sources: &Sources) -> Result<Loaded<C>, ConfigErrors> {
    let loaded = Loaded::load(sources)?;
    C::check_to_run(&loaded)?;
    Ok(loaded)
}

/// Says all that is wrong, a line each.
fn check<C: Configuration>(sources: &Sources) -> ExitCode {
    match load::<C>(sources) {
        Ok(loaded) => {
            let lines = loaded.notes.iter().map(|note| format!("note: {note}\n"));
            say(&lines.chain(["configuration is right\n".to_owned()]).collect::<String>())
        }
        Err(ConfigErrors { errors }) => {
            for error in &errors {
                refuse::<C>(error);
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn run<C, F, E>(loaded: Loaded<C>, service: impl FnOnce(C) -> F) -> ExitCode
where
    C: Configuration,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let _guard = match logging::init(loaded.log()) {
        Ok(guard) => guard,
        Err(error) => return refuse::<C>(&error),
    };
    let name = C::PROGRAM.name;
    tracing::info!("{name} {} starts", C::PROGRAM.version);
    loaded.lines().iter().for_each(|line| tracing::info!("{line}"));
    loaded.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let (files, bounded_by) = loaded.open_files();
    open_files::raise_limit(files, bounded_by);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(
                "no threads can be started: {error}; raise the limits of this process (ulimit -u)"
            );
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(service(loaded.into_values()));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    match ended {
        Ok(()) => {
            tracing::info!("{name} has stopped, nothing was left undone");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{name} failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
