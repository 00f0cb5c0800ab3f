//! What this machine can do with the same frames: the figures that a broker's are compared with.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::bare::server::{BareServer, Mode};
use crate::latency::LatencySummary;
use crate::load::{Load, MIB};
use crate::phases::PhasePlan;
use crate::progress::Progress;
use crate::run::Run;
use crate::signals::Signals;
use crate::wire::session::{SessionPlan, run_session};

/// How the limits are measured.
#[derive(Debug, Clone)]
pub struct LimitsPlan {
    /// The same frames, connections and window as the run that is compared.
    pub load: Load,
    /// For each of the measurements.
    pub duration: Duration,
    /// Where the append modes put their file.
    pub dir: PathBuf,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// Messages a second.
    pub messages_per_second: f64,
    /// Mebibytes of bodies a second.
    pub mib_per_second: f64,
    /// From the publish to its ack.
    pub publish_to_ack: LatencySummary,
}

/// All of them. The bare server runs within this process, on threads of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Frames are acked and forgotten.
    pub echo: Limit,
    /// Every frame is appended to a file before its batch is acked.
    pub append: Limit,
    /// The same, and the file is synced (fdatasync) before the batch is acked.
    pub append_sync: Limit,
    /// Echo with one message at a time on one connection: the round trip.
    pub round_trip: Limit,
}

/// Not measured: connections and caches get going.
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures all of them, one after the other.
///
/// # Errors
/// When the server cannot be started or the directory not be written.
pub async fn measure_limits(plan: &LimitsPlan, signals: &mut Signals, quiet: bool) -> anyhow::Result<Limits> {
    let one = Load { connections: 1, window: 1, threads: 1, ..plan.load.clone() };
    Ok(Limits {
        echo: measure(plan, &plan.load, Mode::Echo, signals, quiet).await?,
        append: measure(plan, &plan.load, Mode::Append, signals, quiet).await?,
        append_sync: measure(plan, &plan.load, Mode::AppendSync, signals, quiet).await?,
        round_trip: measure(plan, &one, Mode::Echo, signals, quiet).await?,
    })
}

/// Measures one mode of the bare server.
///
/// # Errors
/// When the server cannot be started or the directory not be written.
pub async fn measure(
    plan: &LimitsPlan,
    load: &Load,
    mode: Mode,
    signals: &mut Signals,
    quiet: bool,
) -> anyhow::Result<Limit> {
    let server = BareServer::start(mode, &plan.dir).map_err(|error| {
        anyhow::anyhow!("the bare server cannot write to {}: {error}; pass another --dir", plan.dir.display())
    })?;
    let run = Run::new(None);
    // Transactions and fly are a broker's matter: the bare server takes plain publishes.
    let load = Load { rate: None, transactions: 0.0, count: None, ..load.clone() };
    let session = SessionPlan {
        producers: load.producer_plans(&[server.address().to_string()], run.run_id),
        consumers: Vec::new(),
        threads: load.threads,
    };
    let phases = PhasePlan { duration: Some(plan.duration), warm_up: WARM_UP, ..PhasePlan::default() };
    let mut progress = Progress::new(label(mode), quiet);
    let (milestones, measured) = run_session(&run, session, phases, signals, &mut progress).await?;
    anyhow::ensure!(!milestones.interrupted, "interrupted");
    let seconds = (milestones.published.at_ns - milestones.begin.at_ns) as f64 / 1e9;
    let messages = (milestones.published.acked - milestones.begin.acked) as f64;
    let publish_to_ack = measured.publish.summary();
    Ok(Limit {
        messages_per_second: messages / seconds,
        mib_per_second: messages * load.body_bytes as f64 / MIB / seconds,
        publish_to_ack: publish_to_ack.ok_or_else(|| anyhow::anyhow!("the bare server acked nothing"))?,
    })
}

fn label(mode: Mode) -> &'static str {
    match mode {
        Mode::Echo => "limits: echo",
        Mode::Append => "limits: append",
        Mode::AppendSync => "limits: append + fdatasync",
    }
}
