//! What the commands around a bridge share: watching tasks, and showing a report.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::cli::OutputArgs;
use crate::counters::Counters;
use crate::progress::Progress;
use crate::signals::Signals;

/// How often progress is looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// What a run shows and when it ends.
pub(super) struct Pace {
    pub(super) label: &'static str,
    pub(super) duration: Option<Duration>,
    pub(super) quiet: bool,
}

/// Shows progress until all tasks have ended. After the duration, and at a signal, they are told to stop; another signal gives
/// them up.
///
/// # Errors
/// The first error of a task.
pub(super) async fn watch(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    counters: &Counters,
    stop: &CancellationToken,
    signals: &mut Signals,
    pace: Pace,
) -> anyhow::Result<()> {
    let mut progress = Progress::new(pace.label, pace.quiet);
    let over_at = pace.duration.map(|duration| Instant::now() + duration);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return Ok(()),
                Some(ended) => ended.context("a task panicked")??,
            },
            _ = tick.tick() => {
                progress.show(counters, 0);
                if over_at.is_some_and(|over_at| Instant::now() >= over_at) {
                    stop.cancel();
                }
            }
            () = signals.next() => {
                if stop.is_cancelled() {
                    tasks.abort_all();
                    anyhow::bail!("interrupted twice: some commands have no answer");
                }
                stop.cancel();
            }
        }
    }
}

/// Shows the report and writes it where it was asked for.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn publish<R: Display + Serialize>(
    command: &'static str,
    report: &R,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Written<'a, R> {
        command: &'static str,
        arguments: Vec<String>,
        #[serde(flatten)]
        report: &'a R,
    }
    print!("{report}");
    let Some(path) = &output.json else { return Ok(()) };
    let written = Written { command, arguments: std::env::args().skip(1).collect(), report };
    let json = serde_json::to_vec_pretty(&written)?;
    std::fs::write(path, json).with_context(|| format!("cannot write the result to {}", path.display()))
}
