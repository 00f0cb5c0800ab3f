//! `kiteq-bench produce`

use std::time::Duration;

use crate::cli::{LoadArgs, ProduceArgs, ShapeArgs, threads};
use crate::commands::Verdict;
use crate::load::{Load, MIB};
use crate::progress::Progress;
use crate::report::{Cpu, Flow, Report};
use crate::signals::Signals;
use crate::target::Target;
use crate::units::names;
use crate::wire::session::{Goal, SessionOutcome, SessionPlan, run_session};
use crate::wire::workers::Run;

/// Without a count, a run ends after this.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const WARM_UP_DEFAULT: Duration = Duration::from_secs(1);
/// Waiting for outstanding acks ends when none has come for so long.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes, and shows how that went.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: ProduceArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let load = load(&args.shape, &args.load, &args.target.secret, "bench");
    let target = Target::find(&args.target, &load.topics).await?;
    let limits = super::limits::beside(&args.limits, &load, signals, args.output.quiet).await?;
    let run = Run::new(None);
    let (duration, warm_up) = times(&args.load);
    let plan = SessionPlan {
        producers: load.producer_plans(&target.addresses, run.run_id),
        consumers: Vec::new(),
        threads: load.threads,
        goal: Goal::Published,
        duration,
        warm_up,
        groups: 0,
        settle_timeout: ACK_TIMEOUT,
        broker_pid: target.pid,
    };
    let mut progress = Progress::new("produce", args.output.quiet);
    let outcome = run_session(&run, plan, signals, &mut progress).await?;
    let mut report = Report { limits, ..Report::default() };
    report_session(&mut report, &outcome, &load, target.pid);
    report.flows.push(publish_flow(&outcome, &load));
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
pub(super) fn publish_flow(outcome: &SessionOutcome, load: &Load) -> Flow {
    let (begin, end) = (&outcome.begin, &outcome.published);
    let seconds = (end.at_ns - begin.at_ns) as f64 / 1e9;
    let per_second = (end.acked - begin.acked) as f64 / seconds;
    Flow {
        name: "publish".to_owned(),
        messages: outcome.settled.acked,
        messages_per_second: per_second,
        mib_per_second: per_second * load.body_bytes as f64 / MIB,
        latency_name: "publish-to-ack".to_owned(),
        latency: outcome.measured.publish.summary(),
    }
}

/// What every kind of run reports of its producers.
pub(super) fn report_session(report: &mut Report, outcome: &SessionOutcome, load: &Load, pid: Option<u32>) {
    report.refused += outcome.settled.refused;
    report.first_refusal = report.first_refusal.take().or_else(|| outcome.first_refusal.clone());
    report.in_doubt += outcome.settled.published - outcome.settled.acked - outcome.settled.refused;
    report.foreign += outcome.settled.foreign;
    let published = (outcome.settled.acked - outcome.begin.acked) as f64;
    let received = (outcome.settled.delivered - outcome.begin.delivered) as f64;
    let messages = if published > 0.0 { published } else { received };
    let each =
        |seconds: Option<f64>| seconds.filter(|_| messages > 0.0).map(|seconds| seconds * 1e6 / messages);
    let [bench, broker] = outcome.cpu.whole().map(each);
    report.cpu = Cpu { bench_us_per_message: bench, broker_us_per_message: broker, broker_pid: pid };
    if outcome.interrupted {
        report.notes.push("ended by a signal".to_owned());
    }
    if load.body_bytes < crate::stamp::STAMP_LEN {
        report.notes.push("bodies below 32 bytes carry no send time: no end-to-end latency".to_owned());
    }
}
