//! `kiteq-bench produce`

use std::time::Duration;

use crate::cli::{LoadArgs, ProduceArgs, ShapeArgs, threads};
use crate::commands::Verdict;
use crate::load::{Load, MIB};
use crate::open_files;
use crate::phases::{Goal, Milestones, PhasePlan};
use crate::progress::Progress;
use crate::report::{Cpu, Flow, Report};
use crate::run::{Measured, Run};
use crate::signals::Signals;
use crate::target::Target;
use crate::units::names;
use crate::wire::session::{SessionPlan, run_session};

/// Without a count, a run ends after this.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const WARM_UP_DEFAULT: Duration = Duration::from_secs(1);

/// Publishes, and shows how that went.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: ProduceArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let load = load(&args.shape, &args.load, &args.target.secret, "bench");
    open_files::allow(load.connections)?;
    let target = Target::find(&args.target, &load.topics).await?;
    let limits = super::limits::beside(&args.limits, &load, signals, args.output.quiet).await?;
    let run = Run::new(None);
    let (duration, warm_up) = times(&args.load);
    let plan = SessionPlan {
        producers: load.producer_plans(&target.addresses, run.run_id),
        consumers: Vec::new(),
        threads: load.threads,
    };
    let phases = PhasePlan {
        goal: Goal::Published,
        duration,
        warm_up,
        broker_pid: target.pid,
        ..PhasePlan::default()
    };
    let mut progress = Progress::new("produce", args.output.quiet);
    let (milestones, measured) = run_session(&run, plan, phases, signals, &mut progress).await?;
    let mut report =
        Report { limits, one_at_a_time: load.connections * load.window == 1, ..Report::default() };
    report_session(&mut report, &milestones, target.pid);
    report.flows.push(publish_flow(&milestones, &measured, &load));
    target.close().await;
    super::publish(report, "produce", &args.output)?;
    Ok(Verdict::Fine)
}

/// The load that the arguments describe; topics that are not named begin with `topic_prefix`.
pub(super) fn load(shape: &ShapeArgs, load: &LoadArgs, secret: &str, topic_prefix: &str) -> Load {
    Load {
        connections: shape.connections as usize,
        window: shape.window as usize,
        body_bytes: shape.size,
        rate: load.rate.map(|rate| rate as f64),
        count: load.count,
        transactions: load.transactions,
        fly: load.fly,
        topics: names(&load.topics, topic_prefix),
        message_types: names(&load.types, "bench"),
        group: load.group.clone(),
        secret: secret.to_owned(),
        threads: threads(shape.threads),
    }
}

/// Duration and warm-up of a run.
pub(super) fn times(load: &LoadArgs) -> (Option<Duration>, Duration) {
    let duration = load.duration.or(load.count.is_none().then_some(DURATION_DEFAULT));
    let default = if duration.is_some() { WARM_UP_DEFAULT } else { Duration::ZERO };
    (duration, load.warm_up.unwrap_or(default))
}

/// How publishing went.
pub(super) fn publish_flow(milestones: &Milestones, measured: &Measured, load: &Load) -> Flow {
    let (begin, end) = (&milestones.begin, &milestones.published);
    let seconds = (end.at_ns - begin.at_ns) as f64 / 1e9;
    let per_second = (end.acked - begin.acked) as f64 / seconds;
    Flow {
        name: "publish".to_owned(),
        messages: milestones.settled.acked,
        messages_per_second: per_second,
        mib_per_second: per_second * load.body_bytes as f64 / MIB,
        latency_name: "publish-to-ack".to_owned(),
        latency: measured.publish.summary(),
    }
}

/// What every kind of run reports beside its flows.
pub(super) fn report_session(report: &mut Report, milestones: &Milestones, pid: Option<u32>) {
    let (begin, end) = (&milestones.begin, &milestones.settled);
    report.refused += end.refused;
    report.first_refusal = report.first_refusal.take().or_else(|| milestones.first_refusal.clone());
    report.in_doubt += end.published - end.acked - end.refused;
    report.foreign += end.foreign;
    let (published, received) = (end.acked - begin.acked, end.delivered - begin.delivered);
    let messages = if published > 0 { published } else { received } as f64;
    let each =
        |seconds: Option<f64>| seconds.filter(|_| messages > 0.0).map(|seconds| seconds * 1e6 / messages);
    let [bench, broker] = milestones.cpu.whole().map(each);
    report.cpu = Cpu { bench_us_per_message: bench, broker_us_per_message: broker, broker_pid: pid };
    if milestones.interrupted {
        report.notes.push("ended by a signal".to_owned());
    }
}
