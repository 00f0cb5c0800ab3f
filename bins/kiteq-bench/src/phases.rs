//! The phases of a run, whichever engine drives it: line up, warm up, measure, settle.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::clock::now_ns;
use crate::counters::Snapshot;
use crate::cpu::CpuWatch;
use crate::progress::Progress;
use crate::run::Run;
use crate::signals::Signals;

/// How often the end of a phase is looked for where nothing announces it.
const POLL_PERIOD: Duration = Duration::from_millis(20);

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Every producer has published its share.
    Published,
    /// So many messages have been received.
    Delivered(u64),
    /// Only its duration or a signal ends it.
    Forever,
}

/// What a run waits for, and how long.
#[derive(Debug, Clone)]
pub struct PhasePlan {
    /// Producers, each of which reports when it is done.
    pub producers: usize,
    /// Connections that line up before anybody starts.
    pub connections: usize,
    /// What ends it.
    pub goal: Goal,
    /// What ends it too.
    pub duration: Option<Duration>,
    /// What comes before this is not measured.
    pub warm_up: Duration,
    /// Groups that every acked message is to reach; 0 where nobody in this run receives.
    pub groups: u64,
    /// How long nothing may arrive before what is outstanding is given up.
    pub settle_timeout: Duration,
    /// The broker, where its CPU time can be read.
    pub broker_pid: Option<u32>,
}

impl Default for PhasePlan {
    fn default() -> Self {
        Self {
            producers: 0,
            connections: 0,
            goal: Goal::Forever,
            duration: None,
            warm_up: Duration::ZERO,
            groups: 0,
            settle_timeout: Duration::from_secs(10),
            broker_pid: None,
        }
    }
}

/// The run at the ends of its phases.
#[derive(Debug, Clone)]
pub struct Milestones {
    /// When the measurement began.
    pub begin: Snapshot,
    /// When publishing ended.
    pub published: Snapshot,
    /// When everything had settled.
    pub settled: Snapshot,
    /// When the last delivery came, ns of the monotonic clock; 0 without any.
    pub last_delivery_ns: u64,
    /// CPU time over begin..settled.
    pub cpu: CpuWatch,
    /// A refusal's text.
    pub first_refusal: Option<String>,
    /// A signal ended it.
    pub interrupted: bool,
}

/// Takes a run through its phases; at the end everybody is told to leave.
pub async fn run_phases(
    run: &Run,
    plan: &PhasePlan,
    signals: &mut Signals,
    progress: &mut Progress,
) -> Milestones {
    let mut phases = Phases { run, plan, signals, progress, interrupted: false };
    phases.line_up().await;
    let over_at = plan.duration.map(|duration| Instant::now() + plan.warm_up + duration);
    if !plan.warm_up.is_zero() {
        run.measure_from_ns.store(u64::MAX, Relaxed);
        run.go.cancel();
        phases.until(Some(Instant::now() + plan.warm_up)).await;
        run.measure_from_ns.store(now_ns(), Relaxed);
    }
    let mut cpu = CpuWatch::start(plan.broker_pid);
    let begin = run.counters.snapshot();
    // Without a warm-up the first message counts.
    run.go.cancel();
    phases.until(over_at).await;
    run.stop_publishing.cancel();
    let published = run.counters.snapshot();
    phases.settle().await;
    cpu.stop();
    let settled = run.counters.snapshot();
    let interrupted = phases.interrupted;
    run.leave.cancel();
    Milestones {
        begin,
        published,
        settled,
        last_delivery_ns: run.counters.last_delivery_ns.load(Relaxed),
        cpu,
        first_refusal: run.counters.first_refusal.get().cloned(),
        interrupted,
    }
}

struct Phases<'a> {
    run: &'a Run,
    plan: &'a PhasePlan,
    signals: &'a mut Signals,
    progress: &'a mut Progress,
    interrupted: bool,
}

impl Phases<'_> {
    /// Waits until everybody is connected.
    async fn line_up(&mut self) {
        let mut connected = self.run.connected.subscribe();
        tokio::select! {
            _ = connected.wait_for(|&connected| connected >= self.plan.connections) => {}
            () = self.run.leave.cancelled() => {}
            () = self.signals.next() => {
                self.interrupted = true;
                self.run.leave.cancel();
            }
        }
    }

    /// Waits for the goal, the given time or a signal, and shows progress meanwhile.
    async fn until(&mut self, over_at: Option<Instant>) {
        let (mut last, mut last_progress) = (self.run.counters.snapshot(), Instant::now());
        while !self.interrupted {
            let tick = Instant::now() + POLL_PERIOD;
            tokio::select! {
                () = sleep_until(over_at.map_or(tick, |over_at| over_at.min(tick))) => {}
                () = self.signals.next() => {
                    self.interrupted = true;
                    return;
                }
                () = self.run.leave.cancelled() => return,
            }
            self.progress.show(&self.run.counters, self.plan.groups);
            let now = self.run.counters.snapshot();
            if now.has_moved_since(&last) {
                (last, last_progress) = (now, Instant::now());
            }
            let stuck = matches!(self.plan.goal, Goal::Delivered(_))
                && last_progress.elapsed() >= self.plan.settle_timeout;
            if stuck || self.reached() || over_at.is_some_and(|over_at| Instant::now() >= over_at) {
                return;
            }
        }
    }

    fn reached(&self) -> bool {
        match self.plan.goal {
            Goal::Published => *self.run.producers_done.borrow() >= self.plan.producers,
            Goal::Delivered(count) => self.run.counters.delivered.load(Relaxed) >= count,
            Goal::Forever => false,
        }
    }

    /// Waits for outstanding acks and deliveries, as long as something still arrives now and then.
    async fn settle(&mut self) {
        let (mut last, mut last_progress) = (self.run.counters.snapshot(), Instant::now());
        while !self.is_settled() && last_progress.elapsed() < self.plan.settle_timeout {
            tokio::select! {
                () = sleep(POLL_PERIOD) => {}
                () = self.signals.next() => {
                    self.interrupted = true;
                    return;
                }
                () = self.run.leave.cancelled() => return,
            }
            self.progress.show(&self.run.counters, self.plan.groups);
            let now = self.run.counters.snapshot();
            if now.has_moved_since(&last) {
                (last, last_progress) = (now, Instant::now());
            }
        }
    }

    fn is_settled(&self) -> bool {
        if *self.run.producers_done.borrow() < self.plan.producers {
            return false;
        }
        let now = self.run.counters.snapshot();
        let enough = self.plan.producers == 0 || now.delivered >= now.acked * self.plan.groups;
        // Receipts may be repetitions, so the count is only the cheap half of the question.
        enough && self.run.ledger.as_ref().is_none_or(|ledger| self.plan.groups == 0 || ledger.missing() == 0)
    }
}
