//! `kiteq-bench e2e`

use std::sync::Arc;

use crate::cli::E2eArgs;
use crate::commands::Verdict;
use crate::commands::consume::{GROUP_PREFIX, consumers, deliver_flow};
use crate::commands::produce::{load, publish_flow, report_session, times};
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::report::Report;
use crate::signals::Signals;
use crate::target::Target;
use crate::units::names;
use crate::wire::session::{Goal, SessionPlan, run_session};
use crate::wire::workers::Run;

/// Publishes and receives, and shows how both went.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: E2eArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let load = load(&args.shape, &args.load, &args.target.secret, "bench-e2e");
    let groups = names(&args.groups.groups, &format!("{GROUP_PREFIX}-e2e"));
    let target = Target::find(&args.target, &load.topics).await?;
    let limits = super::limits::beside(&args.limits, &load, signals, args.output.quiet).await?;
    target.bind(&args.groups, &groups, &load.topics, &load.message_types).await?;
    let ledger = args
        .verify
        .verify
        .then(|| Arc::new(Ledger::new(fastrand::u64(1..), load.connections, groups.clone())));
    let run = Run::new(ledger.clone());
    let (duration, warm_up) = times(&args.load);
    let plan = SessionPlan {
        producers: load.producer_plans(&target.addresses, run.run_id),
        consumers: consumers(&target, &groups, args.groups.consumers as usize, &args.target.secret, false),
        threads: load.threads,
        goal: Goal::Published,
        duration,
        warm_up,
        groups: groups.len() as u64,
        settle_timeout: args.verify.settle_timeout,
        broker_pid: target.pid,
    };
    let mut progress = Progress::new("e2e", args.output.quiet);
    let outcome = run_session(&run, plan, signals, &mut progress).await?;
    let mut report = Report { limits, ..Report::default() };
    report_session(&mut report, &outcome, &load, target.pid);
    report.flows = vec![publish_flow(&outcome, &load), deliver_flow(&outcome)];
    let outstanding = |acked: u64, delivered: u64| (acked * groups.len() as u64).saturating_sub(delivered);
    report.backlog_at_end = Some(outstanding(outcome.published.acked, outcome.published.delivered));
    report.undelivered = Some(outstanding(outcome.settled.acked, outcome.settled.delivered));
    report.ledger = ledger.map(|ledger| ledger.balance(args.verify.list_missing));
    target.close().await;
    let lost = report.ledger.as_ref().is_some_and(|balance| !balance.is_clean());
    super::publish(report, "e2e", &args.output)?;
    Ok(if lost { Verdict::Lost } else { Verdict::Fine })
}
