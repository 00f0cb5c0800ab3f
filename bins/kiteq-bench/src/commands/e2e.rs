//! `kiteq-bench e2e`

use std::sync::Arc;

use crate::cli::{E2eArgs, Engine};
use crate::client_engine::{ClientPlan, run_client_session};
use crate::commands::Verdict;
use crate::commands::consume::{GROUP_PREFIX, consumers, deliver_flow};
use crate::commands::produce::{load, publish_flow, report_session, times};
use crate::counters::Snapshot;
use crate::ledger::Ledger;
use crate::open_files;
use crate::phases::{Goal, PhasePlan};
use crate::progress::Progress;
use crate::report::Report;
use crate::run::Run;
use crate::signals::Signals;
use crate::stamp::STAMP_LEN;
use crate::target::Target;
use crate::units::names;
use crate::wire::session::{SessionPlan, run_session};

/// Publishes and receives, and shows how both went.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: E2eArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let load = load(&args.shape, &args.load, &args.target.secret, "bench-e2e");
    let groups = names(&args.groups.groups, &format!("{GROUP_PREFIX}-e2e"));
    open_files::allow(load.connections + groups.len() * args.groups.consumers as usize)?;
    let target = Target::find(&args.target, &load.topics).await?;
    let limits = super::limits::beside(&args.limits, &load, signals, args.output.quiet).await?;
    target.bind(&args.groups, &groups, &load.topics, &load.message_types).await?;
    anyhow::ensure!(
        !args.verify.verify || load.body_bytes >= STAMP_LEN,
        "--verify needs bodies of at least {STAMP_LEN} bytes, which carry the message's number: --size {STAMP_LEN}"
    );
    let ledger = args
        .verify
        .verify
        .then(|| Arc::new(Ledger::new(fastrand::u64(1..), load.connections, groups.clone())));
    let run = Run::new(ledger.clone());
    let (duration, warm_up) = times(&args.load);
    let phases = PhasePlan {
        goal: Goal::Published,
        duration,
        warm_up,
        groups: groups.len() as u64,
        settle_timeout: args.verify.settle_timeout,
        broker_pid: target.pid,
        ..PhasePlan::default()
    };
    let engine = args.verify.engine.unwrap_or(if args.verify.verify { Engine::Client } else { Engine::Wire });
    let mut progress = Progress::new("e2e", args.output.quiet);
    let (milestones, measured) = match engine {
        Engine::Wire => {
            let connections = args.groups.consumers as usize;
            let plan = SessionPlan {
                producers: load.producer_plans(&target.addresses, run.run_id),
                consumers: consumers(&target, &groups, connections, &args.target.secret, false),
                threads: load.threads,
            };
            run_session(&run, plan, phases, signals, &mut progress).await?
        }
        Engine::Client => {
            let plan = ClientPlan {
                registry: target.client_registry().await?,
                load: load.clone(),
                groups: groups.clone(),
                consumers: args.groups.consumers as usize,
            };
            run_client_session(&run, plan, phases, signals, &mut progress).await?
        }
    };
    let mut report =
        Report { limits, one_at_a_time: load.connections * load.window == 1, ..Report::default() };
    report_session(&mut report, &milestones, target.pid);
    report.flows = vec![publish_flow(&milestones, &measured, &load), deliver_flow(&milestones, &measured)];
    if load.body_bytes < STAMP_LEN {
        report.notes.push("bodies below 32 bytes carry no send time: no end-to-end latency".to_owned());
    }
    let outstanding = |at: &Snapshot| (at.acked * groups.len() as u64).saturating_sub(at.delivered);
    report.backlog_at_end = Some(outstanding(&milestones.published));
    report.undelivered = Some(outstanding(&milestones.settled));
    report.ledger = ledger.map(|ledger| ledger.balance(args.verify.list_missing));
    target.close().await;
    let lost = report.ledger.as_ref().is_some_and(|balance| !balance.is_clean());
    super::publish(report, "e2e", &args.output)?;
    Ok(if lost { Verdict::Lost } else { Verdict::Fine })
}
