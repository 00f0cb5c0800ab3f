//! `kiteq-bench limits`

use crate::cli::{LimitsArgs, ShapeArgs, WithLimitsArgs, threads};
use crate::commands::Verdict;
use crate::limits::{Limits, LimitsPlan, measure_limits};
use crate::load::Load;
use crate::open_files;
use crate::report::Report;
use crate::signals::Signals;

/// Measures the limits and shows them.
///
/// # Errors
/// When a server cannot be started.
pub async fn run(args: LimitsArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let plan = LimitsPlan { load: load(&args.shape), duration: args.duration, dir: args.dir };
    open_files::allow(plan.load.connections)?;
    let limits = measure_limits(&plan, signals, args.output.quiet).await?;
    let report = Report { limits: Some(limits), ..Report::default() };
    super::publish(report, "limits", &args.output)?;
    Ok(Verdict::Fine)
}

/// Measures the limits for a comparison, when that was asked for.
///
/// # Errors
/// When a server cannot be started.
pub async fn beside(
    args: &WithLimitsArgs,
    load: &Load,
    signals: &mut Signals,
    quiet: bool,
) -> anyhow::Result<Option<Limits>> {
    if !args.with_limits {
        return Ok(None);
    }
    let plan = LimitsPlan { load: load.clone(), duration: args.limits_duration, dir: args.dir.clone() };
    Ok(Some(measure_limits(&plan, signals, quiet).await?))
}

fn load(shape: &ShapeArgs) -> Load {
    Load {
        connections: shape.connections as usize,
        window: shape.window as usize,
        body_bytes: shape.size,
        rate: None,
        count: None,
        transactions: 0.0,
        fly: false,
        topics: vec!["bench".to_owned()],
        message_types: vec!["bench".to_owned()],
        group: "bench-producer".to_owned(),
        secret: String::new(),
        threads: threads(shape.threads),
    }
}
