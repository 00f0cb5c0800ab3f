//! One file for each subcommand: from its arguments to a report.

pub mod backlog;
mod bridge_run;
pub mod consume;
pub mod e2e;
pub mod flume_sink;
pub mod flume_verify;
pub mod limits;
pub mod produce;
pub mod redis_drain;
pub mod redis_fill;

use crate::cli::{Cli, Command, OutputArgs};
use crate::report::Report;
use crate::signals::Signals;

/// What a run that could be made found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is missing, or nothing was to be checked.
    Fine,
    /// Acked messages did not arrive.
    Lost,
}

/// Runs what the command line asks for.
///
/// # Errors
/// When the run could not be made.
pub async fn run(cli: Cli) -> anyhow::Result<Verdict> {
    let mut signals = Signals::listen()?;
    match cli.command {
        Command::Limits(args) => limits::run(args, &mut signals).await,
        Command::Produce(args) => produce::run(args, &mut signals).await,
        Command::Consume(args) => consume::run(args, &mut signals).await,
        Command::E2e(args) => e2e::run(args, &mut signals).await,
        Command::Backlog(args) => backlog::run(args, &mut signals).await,
        Command::RedisFill(args) => redis_fill::run(args, &mut signals).await,
        Command::RedisDrain(args) => redis_drain::run(args, &mut signals).await,
        Command::FlumeSink(args) => flume_sink::run(args, &mut signals).await,
        Command::FlumeVerify(args) => flume_verify::run(args).await,
    }
}

/// Shows the report and writes it where it was asked for.
fn publish(mut report: Report, command: &str, output: &OutputArgs) -> anyhow::Result<()> {
    report.command = command.to_owned();
    report.arguments = std::env::args().skip(1).collect();
    print!("{report}");
    output.json.as_deref().map_or(Ok(()), |path| report.write_json(path))
}
