//! `kiteq-bench backlog`

use std::sync::Arc;

use crate::cli::{BacklogArgs, threads};
use crate::commands::Verdict;
use crate::commands::consume::{GROUP_PREFIX, consumers, deliver_flow};
use crate::commands::produce::{publish_flow, report_session};
use crate::cpu::memory;
use crate::ledger::Ledger;
use crate::load::Load;
use crate::open_files;
use crate::phases::{Goal, Milestones, PhasePlan};
use crate::progress::Progress;
use crate::report::{Flow, Report};
use crate::run::Run;
use crate::signals::Signals;
use crate::stamp::STAMP_LEN;
use crate::target::Target;
use crate::units::names;
use crate::wire::session::{SessionPlan, run_session};

/// Fills and drains, and shows how both went and what the broker's memory was.
///
/// # Errors
/// When the broker is not there or goes away.
pub async fn run(args: BacklogArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    anyhow::ensure!(
        args.shape.size >= STAMP_LEN,
        "backlog needs bodies of at least {STAMP_LEN} bytes, which carry the message's number: --size {STAMP_LEN}"
    );
    let load = load(&args);
    let groups = names(&args.groups.groups, &format!("{GROUP_PREFIX}-backlog"));
    open_files::allow(load.connections + groups.len() * args.groups.consumers as usize)?;
    let target = Target::find(&args.target, &load.topics).await?;
    let ledger =
        args.verify.then(|| Arc::new(Ledger::new(fastrand::u64(1..), load.connections, groups.clone())));
    let mut backlog = Backlog { args, load, groups, target, ledger, report: Report::default() };
    backlog.note_memory("before");
    let mut expected = backlog.load.count.unwrap_or(0);
    let mut interrupted = false;
    let mut run_id = None;
    if !backlog.args.drain_only {
        let run = Run::new(backlog.ledger.clone());
        let filled = backlog.fill(&run, signals).await?;
        (expected, interrupted, run_id) = (filled.settled.acked, filled.interrupted, Some(run.run_id));
    }
    if !backlog.args.fill_only && !interrupted {
        backlog.drain(expected, run_id, signals).await?;
    }
    let Backlog { args, target, ledger, mut report, .. } = backlog;
    target.close().await;
    report.ledger = ledger.map(|ledger| ledger.balance(args.list_missing));
    let lost = report.ledger.as_ref().is_some_and(|balance| !balance.is_clean());
    super::publish(report, "backlog", &args.output)?;
    Ok(if lost { Verdict::Lost } else { Verdict::Fine })
}

fn load(args: &BacklogArgs) -> Load {
    Load {
        connections: args.shape.connections as usize,
        window: args.shape.window as usize,
        body_bytes: args.shape.size,
        rate: None,
        count: Some(args.count),
        transactions: 0.0,
        fly: false,
        topics: names(&args.topics, "bench-backlog"),
        message_types: vec!["bench".to_owned()],
        group: "bench-producer".to_owned(),
        secret: args.target.secret.clone(),
        threads: threads(args.shape.threads),
    }
}

struct Backlog {
    args: BacklogArgs,
    load: Load,
    groups: Vec<String>,
    target: Target,
    ledger: Option<Arc<Ledger>>,
    report: Report,
}

impl Backlog {
    /// Publishes everything while the groups are away.
    async fn fill(&mut self, run: &Arc<Run>, signals: &mut Signals) -> anyhow::Result<Milestones> {
        let (load, pid) = (&self.load, self.target.pid);
        self.target.bind(&self.args.groups, &self.groups, &load.topics, &load.message_types).await?;
        let plan = SessionPlan {
            producers: load.producer_plans(&self.target.addresses, run.run_id),
            consumers: Vec::new(),
            threads: load.threads,
        };
        let phases = PhasePlan {
            goal: Goal::Published,
            settle_timeout: self.args.settle_timeout,
            broker_pid: pid,
            ..PhasePlan::default()
        };
        let mut progress = Progress::new("backlog: fill", self.args.output.quiet);
        let (milestones, measured) = run_session(run, plan, phases, signals, &mut progress).await?;
        report_session(&mut self.report, &milestones, pid);
        let flow = publish_flow(&milestones, &measured, load);
        self.report.flows.push(Flow { name: "fill".to_owned(), ..flow });
        self.note_memory("when filled");
        Ok(milestones)
    }

    /// Lets the groups come back and receive what waits: `expected` messages each, of any run when `run_id` is not known.
    async fn drain(
        &mut self,
        expected: u64,
        run_id: Option<u64>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let run = Run::of(run_id, self.ledger.clone());
        let connections = self.args.groups.consumers as usize;
        let secret = &self.args.target.secret;
        let plan = SessionPlan {
            producers: Vec::new(),
            consumers: consumers(&self.target, &self.groups, connections, secret, run_id.is_none()),
            threads: self.load.threads,
        };
        let deliveries = expected * self.groups.len() as u64;
        let phases = PhasePlan {
            goal: Goal::Delivered(deliveries),
            settle_timeout: self.args.settle_timeout,
            broker_pid: self.target.pid,
            ..PhasePlan::default()
        };
        let mut progress = Progress::new("backlog: drain", self.args.output.quiet);
        let (milestones, measured) = run_session(&run, plan, phases, signals, &mut progress).await?;
        let mut drained = Report::default();
        report_session(&mut drained, &milestones, self.target.pid);
        let flow = deliver_flow(&milestones, &measured);
        self.report.flows.push(Flow { name: "drain".to_owned(), latency: None, ..flow });
        self.report.undelivered = Some(deliveries.saturating_sub(milestones.settled.delivered));
        self.report.foreign = milestones.settled.foreign;
        self.report.notes.append(&mut drained.notes);
        if self.args.drain_only {
            self.report.cpu = drained.cpu;
        } else if let Some(micros) = drained.cpu.broker_us_per_message {
            self.report.notes.push(format!("CPU of the broker for each message drained: {micros:.2} us"));
        }
        self.note_memory("when drained");
        Ok(())
    }

    fn note_memory(&mut self, when: &str) {
        if let Some(memory) = self.target.pid.and_then(memory) {
            self.report.broker_memory.push((when.to_owned(), memory));
        }
    }
}
