//! `kiteq-bench consume`

use std::time::Duration;

use crate::cli::{ConsumeArgs, threads};
use crate::commands::Verdict;
use crate::commands::produce::report_session;
use crate::load::MIB;
use crate::open_files;
use crate::phases::{Goal, Milestones, PhasePlan};
use crate::progress::Progress;
use crate::report::{Flow, Report};
use crate::run::{Measured, Run};
use crate::signals::Signals;
use crate::target::Target;
use crate::units::names;
use crate::wire::consumer::ConsumerPlan;
use crate::wire::session::{SessionPlan, run_session};

/// The group names when only their number is given.
pub(super) const GROUP_PREFIX: &str = "bench-consumer";

/// Receives, and shows how that went.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: ConsumeArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let topics = names(&args.topics, "bench");
    let groups = names(&args.groups.groups, GROUP_PREFIX);
    open_files::allow(groups.len() * args.groups.consumers as usize)?;
    let target = Target::find(&args.target, &topics).await?;
    target.bind(&args.groups, &groups, &topics, &names(&args.types, "bench")).await?;
    let run = Run::new(None);
    let plan = SessionPlan {
        producers: Vec::new(),
        consumers: consumers(&target, &groups, args.groups.consumers as usize, &args.target.secret, true),
        threads: threads(args.threads),
    };
    let phases = PhasePlan {
        goal: args.count.map_or(Goal::Forever, Goal::Delivered),
        duration: args.duration,
        // Producers may come whenever they like.
        settle_timeout: Duration::MAX,
        broker_pid: target.pid,
        ..PhasePlan::default()
    };
    let mut progress = Progress::new("consume", args.output.quiet);
    let (milestones, measured) = run_session(&run, plan, phases, signals, &mut progress).await?;
    let mut report = Report::default();
    report_session(&mut report, &milestones, target.pid);
    report.flows.push(deliver_flow(&milestones, &measured));
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
pub(super) fn deliver_flow(milestones: &Milestones, measured: &Measured) -> Flow {
    let (begin, end) = (&milestones.begin, &milestones.settled);
    let until_ns = milestones.last_delivery_ns.max(begin.at_ns + 1);
    let seconds = (until_ns - begin.at_ns) as f64 / 1e9;
    Flow {
        name: "deliver".to_owned(),
        messages: end.delivered,
        messages_per_second: (end.delivered - begin.delivered) as f64 / seconds,
        mib_per_second: (end.delivered_bytes - begin.delivered_bytes) as f64 / MIB / seconds,
        latency_name: "end-to-end".to_owned(),
        latency: measured.end_to_end.summary(),
    }
}
