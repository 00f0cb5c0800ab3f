//! `kiteq-bench consume`

use std::time::Duration;

use crate::cli::{ConsumeArgs, threads};
use crate::commands::Verdict;
use crate::load::MIB;
use crate::progress::Progress;
use crate::report::{Cpu, Flow, Report};
use crate::signals::Signals;
use crate::target::Target;
use crate::units::names;
use crate::wire::consumer::ConsumerPlan;
use crate::wire::session::{Goal, SessionOutcome, SessionPlan, run_session};
use crate::wire::workers::Run;

/// The group names when only their number is given.
pub(super) const GROUP_PREFIX: &str = "bench-consumer";

/// Receives, and shows how that went.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: ConsumeArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let topics = names(&args.topics, "bench");
    let groups = names(&args.groups.groups, GROUP_PREFIX);
    let target = Target::find(&args.target, &topics).await?;
    target.bind(&args.groups, &groups, &topics, &names(&args.types, "bench")).await?;
    let run = Run::new(None);
    let plan = SessionPlan {
        producers: Vec::new(),
        consumers: consumers(&target, &groups, args.groups.consumers as usize, &args.target.secret, true),
        threads: threads(args.threads),
        goal: args.count.map_or(Goal::Forever, Goal::Delivered),
        duration: args.duration,
        warm_up: Duration::ZERO,
        groups: 0,
        settle_timeout: Duration::ZERO,
        broker_pid: target.pid,
    };
    let mut progress = Progress::new("consume", args.output.quiet);
    let outcome = run_session(&run, plan, signals, &mut progress).await?;
    let mut report = Report::default();
    report.flows.push(deliver_flow(&outcome));
    report.cpu = cpu_per_delivery(&outcome, target.pid);
    target.close().await;
    super::publish(report, "consume", &args.output)?;
    Ok(Verdict::Fine)
}

/// One plan for each consumer connection of every group; the brokers take turns.
pub(super) fn consumers(
    target: &Target,
    groups: &[String],
    connections: usize,
    secret: &str,
    any_run: bool,
) -> Vec<ConsumerPlan> {
    // A group is reached through every broker that has messages for it.
    let connections = connections.max(target.addresses.len());
    let plan = |group_index: usize, address: &String| ConsumerPlan {
        address: address.clone(),
        secret: secret.to_owned(),
        group: groups[group_index].clone(),
        group_index,
        any_run,
    };
    (0..groups.len())
        .flat_map(|group| {
            target.addresses.iter().cycle().take(connections).map(move |address| plan(group, address))
        })
        .collect()
}

/// How receiving went, from the first moment to the last delivery.
pub(super) fn deliver_flow(outcome: &SessionOutcome) -> Flow {
    let (begin, end) = (&outcome.begin, &outcome.settled);
    let until_ns = outcome.last_delivery_ns.max(begin.at_ns + 1);
    let seconds = (until_ns - begin.at_ns) as f64 / 1e9;
    Flow {
        name: "deliver".to_owned(),
        messages: end.delivered,
        messages_per_second: (end.delivered - begin.delivered) as f64 / seconds,
        mib_per_second: (end.delivered_bytes - begin.delivered_bytes) as f64 / MIB / seconds,
        latency_name: "end-to-end".to_owned(),
        latency: outcome.measured.end_to_end.summary(),
    }
}

/// CPU time where nothing is published.
pub(super) fn cpu_per_delivery(outcome: &SessionOutcome, pid: Option<u32>) -> Cpu {
    let received = (outcome.settled.delivered - outcome.begin.delivered) as f64;
    let each =
        |seconds: Option<f64>| seconds.filter(|_| received > 0.0).map(|seconds| seconds * 1e6 / received);
    let [bench, broker] = outcome.cpu.whole().map(each);
    Cpu { bench_us_per_message: bench, broker_us_per_message: broker, broker_pid: pid }
}
