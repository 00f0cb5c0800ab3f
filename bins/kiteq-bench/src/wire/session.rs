//! One run of the engine from connecting to the last delivery, with its phases: line up, warm up, measure, settle.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::clock::now_ns;
use crate::cpu::CpuWatch;
use crate::progress::Progress;
use crate::signals::Signals;
use crate::wire::connection::WireError;
use crate::wire::consumer::{ConsumerPlan, consume};
use crate::wire::counters::Snapshot;
use crate::wire::producer::{ProducerPlan, produce};
use crate::wire::workers::{Measured, Run, Workers};

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

/// What a run does.
#[derive(Debug, Clone)]
pub struct SessionPlan {
    /// One for each producer connection.
    pub producers: Vec<ProducerPlan>,
    /// One for each consumer connection.
    pub consumers: Vec<ConsumerPlan>,
    /// Threads of the engine.
    pub threads: usize,
    /// What ends it.
    pub goal: Goal,
    /// What ends it too.
    pub duration: Option<Duration>,
    /// What comes before this is not measured.
    pub warm_up: Duration,
    /// Groups that every acked message is to reach; 0 where nobody in this run receives.
    pub groups: u64,
    /// At the end, how long nothing may arrive before what is outstanding is given up.
    pub settle_timeout: Duration,
    /// The broker, where its CPU time can be read.
    pub broker_pid: Option<u32>,
}

/// What a run brought.
#[derive(Debug, Clone)]
pub struct SessionOutcome {
    /// When the measurement began.
    pub begin: Snapshot,
    /// When publishing ended.
    pub published: Snapshot,
    /// When everything had settled.
    pub settled: Snapshot,
    /// When the last delivery came, ns of the monotonic clock; 0 without any.
    pub last_delivery_ns: u64,
    /// Latencies.
    pub measured: Measured,
    /// CPU time over begin..settled.
    pub cpu: CpuWatch,
    /// A refusal's text.
    pub first_refusal: Option<String>,
    /// A signal ended it.
    pub interrupted: bool,
}

/// Runs `plan`.
///
/// # Errors
/// The first connection's error.
pub async fn run_session(
    run: &Arc<Run>,
    plan: SessionPlan,
    signals: &mut Signals,
    progress: &mut Progress,
) -> Result<SessionOutcome, WireError> {
    let producers = plan.producers.len();
    let connections = producers + plan.consumers.len();
    let workers = start_workers(run, &plan)?;
    let mut session = Session { run, plan: &plan, workers: &workers, signals, progress, interrupted: false };
    let settled = session.phases(connections).await;
    let interrupted = session.interrupted;
    run.leave.cancel();
    let measured = join(workers).await?;
    let (begin, published, settled, cpu) = settled;
    Ok(SessionOutcome {
        begin,
        published,
        settled,
        last_delivery_ns: run.counters.last_delivery_ns.load(Relaxed),
        measured,
        cpu,
        first_refusal: run.counters.first_refusal.get().cloned(),
        interrupted,
    })
}

fn start_workers(run: &Arc<Run>, plan: &SessionPlan) -> Result<Workers, WireError> {
    let plans = Arc::new((plan.producers.clone(), plan.consumers.clone()));
    let connections = plans.0.len() + plans.1.len();
    let task = move |local, index: usize| {
        let plans = Arc::clone(&plans);
        async move {
            match index.checked_sub(plans.0.len()) {
                None => produce(local, plans.0[index].clone()).await,
                Some(consumer) => consume(local, plans.1[consumer].clone()).await,
            }
        }
    };
    Workers::start(run, plan.threads, connections, task).map_err(WireError::Timer)
}

async fn join(workers: Workers) -> Result<Measured, WireError> {
    match tokio::task::spawn_blocking(|| workers.join()).await {
        Ok(result) => result,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

struct Session<'a> {
    run: &'a Arc<Run>,
    plan: &'a SessionPlan,
    workers: &'a Workers,
    signals: &'a mut Signals,
    progress: &'a mut Progress,
    interrupted: bool,
}

impl Session<'_> {
    async fn phases(&mut self, connections: usize) -> (Snapshot, Snapshot, Snapshot, CpuWatch) {
        let mut connected = self.run.connected.subscribe();
        tokio::select! {
            _ = connected.wait_for(|&connected| connected >= connections) => {}
            () = self.run.leave.cancelled() => {}
            () = self.signals.next() => self.run.leave.cancel(),
        }
        self.run.measure_from_ns.store(u64::MAX, Relaxed);
        self.run.go.cancel();
        let over_at = self.plan.duration.map(|duration| Instant::now() + self.plan.warm_up + duration);
        if !self.plan.warm_up.is_zero() {
            self.until(Some(Instant::now() + self.plan.warm_up)).await;
        }
        self.run.measure_from_ns.store(now_ns(), Relaxed);
        let mut cpu = CpuWatch::start(self.plan.broker_pid);
        let begin = self.run.counters.snapshot();
        self.until(over_at).await;
        self.run.stop_publishing.cancel();
        let published = self.run.counters.snapshot();
        cpu.lap();
        self.settle().await;
        cpu.stop();
        let settled = self.run.counters.snapshot();
        (begin, published, settled, cpu)
    }

    /// Waits for the goal, the given time or a signal, and shows progress meanwhile.
    async fn until(&mut self, over_at: Option<Instant>) {
        if self.interrupted {
            return;
        }
        let far = Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600);
        loop {
            let tick = Instant::now() + POLL_PERIOD;
            tokio::select! {
                () = sleep_until(tick.min(over_at.unwrap_or(far))) => {}
                () = self.signals.next() => {
                    self.interrupted = true;
                    return;
                }
                () = self.run.leave.cancelled() => return,
            }
            self.progress.show(&self.run.counters, self.plan.groups);
            if over_at.is_some_and(|over_at| Instant::now() >= over_at) || self.reached() {
                return;
            }
        }
    }

    fn reached(&self) -> bool {
        match self.plan.goal {
            Goal::Published => *self.run.producers_done.borrow() >= self.plan.producers.len(),
            Goal::Delivered(count) => self.run.counters.delivered.load(Relaxed) >= count,
            Goal::Forever => self.workers.is_finished(),
        }
    }

    /// Waits for outstanding acks and deliveries, as long as something still arrives now and then.
    async fn settle(&mut self) {
        let mut last = self.run.counters.snapshot();
        let mut last_progress = Instant::now();
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
            if (now.acked, now.refused, now.delivered) != (last.acked, last.refused, last.delivered) {
                last = now;
                last_progress = Instant::now();
            }
        }
    }

    fn is_settled(&self) -> bool {
        let now = self.run.counters.snapshot();
        let acks = *self.run.producers_done.borrow() >= self.plan.producers.len();
        let deliveries = self.plan.producers.is_empty() || now.delivered >= now.acked * self.plan.groups;
        acks && deliveries
    }
}
