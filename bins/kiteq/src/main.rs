//! `kiteq`: the broker. Flags and configuration in, the library's parts wired and run until a signal, an exit code out.

mod cli;
mod open_files;
mod service;
mod settings;
mod web;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cli::Action;
use kiteq_telemetry::logging;
use settings::{ConfigErrors, Settings, Sources};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong flags or configuration.
const EXIT_USAGE: u8 = 2;
/// How long work on blocking threads may outlive everything else before the process ends all the same.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let is_ours = |(name, _): &(String, String)| name.starts_with("KITEQ_");
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(is_ours)
        .collect();
    match cli::parse(std::env::args_os(), variables) {
        Ok(Action::Run(sources)) => load(&sources).map_or_else(|errors| refuse(&errors), run),
        Ok(Action::Check(sources)) => check(&sources),
        Ok(Action::PrintConfig(sources)) => match Settings::load(&sources) {
            Ok(settings) => say(&settings.print()),
            Err(errors) => refuse(&errors),
        },
        Ok(Action::Say(text)) => say(&text),
        Err(reason) => refuse(&reason),
    }
}

/// Prints what was asked for. A reader that went away has read enough.
fn say(text: &str) -> ExitCode {
    std::io::stdout().lock().write_all(text.as_bytes()).ok();
    ExitCode::SUCCESS
}

fn refuse(reason: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("kiteq: {reason}");
    ExitCode::from(EXIT_USAGE)
}

fn load(sources: &Sources) -> Result<Settings, ConfigErrors> {
    let settings = Settings::load(sources)?;
    settings.check_store()?;
    Ok(settings)
}

/// Says all that is wrong, a line each.
fn check(sources: &Sources) -> ExitCode {
    match load(sources) {
        Ok(settings) => {
            let lines = settings.notes.iter().map(|note| format!("note: {note}\n"));
            say(&lines.chain(["configuration is right\n".to_owned()]).collect::<String>())
        }
        Err(ConfigErrors { errors }) => {
            for error in &errors {
                eprintln!("kiteq: {error}");
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn run(settings: Settings) -> ExitCode {
    let _guard = match logging::init(&settings.log) {
        Ok(guard) => guard,
        Err(error) => return refuse(&error),
    };
    tracing::info!("kiteq {} starts", env!("CARGO_PKG_VERSION"));
    settings.lines().iter().for_each(|line| tracing::info!("{line}"));
    settings.notes.iter().for_each(|note| tracing::warn!("{note}"));
    open_files::raise_limit(&settings.broker);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(
                "no threads can be started: {error}; raise the limits of this process (ulimit -u)"
            );
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(service::run(settings));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    match ended {
        Ok(()) => {
            tracing::info!("kiteq has stopped, nothing was left undone");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("kiteq failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
