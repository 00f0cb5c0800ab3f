//! `kiteq-bench redis-fill`

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::bridge::RedisFillArgs;
use crate::clock::now_ns;
use crate::commands::Verdict;
use crate::commands::bridge_run::{Pace, publish, watch};
use crate::counters::Snapshot;
use crate::flume::element::ElementShape;
use crate::flume::journal::Journal;
use crate::format::count;
use crate::load::MIB;
use crate::redis::fill::{Fill, FillPlan, fill};
use crate::report::{Flow, flows_table};
use crate::signals::Signals;

/// Elements that are pushed when nothing says how many.
const COUNT_DEFAULT: u64 = 100_000;

/// What was pushed.
#[derive(Debug, Serialize)]
pub struct FillReport {
    /// The run's id, in every element and in the ledger.
    pub run: String,
    /// How it went.
    pub flows: Vec<Flow>,
    /// Elements that Redis took.
    pub pushed: u64,
    /// Of these, elements that are made to become dead letters.
    pub dead_letters_expected: u64,
    /// Elements that Redis refused.
    pub refused: u64,
    /// Its first error.
    pub first_refusal: Option<String>,
    /// Elements whose answer was lost.
    pub in_doubt: u64,
}

impl fmt::Display for FillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", flows_table(&self.flows))?;
        writeln!(
            f,
            "\nrun {}: pushed {}, of these made to become dead letters {}; refused {}, in doubt {}",
            self.run,
            count(self.pushed),
            count(self.dead_letters_expected),
            count(self.refused),
            count(self.in_doubt)
        )?;
        self.first_refusal.iter().try_for_each(|text| writeln!(f, "first refusal: {text}"))
    }
}

/// Pushes, and shows how that went.
///
/// # Errors
/// When a server is not there or stays away, or the ledger cannot be written.
pub async fn run(args: RedisFillArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let journal = args.ledger.as_deref().map(Journal::open).transpose()?;
    let fill_of_run = Fill::new(plan(&args), journal);
    let mut tasks = JoinSet::new();
    let begin_ns = now_ns();
    let begin = fill_of_run.counters.snapshot();
    let addresses = args.queue.redis.iter().cycle();
    for (index, address) in addresses.take(fill_of_run.plan.connections).enumerate() {
        tasks.spawn(fill(Arc::clone(&fill_of_run), address.clone(), index, begin_ns));
    }
    let pace = Pace { label: "redis-fill", duration: args.duration, quiet: args.output.quiet };
    watch(&mut tasks, &fill_of_run.counters, &fill_of_run.stop, signals, pace).await?;
    let report = report(&fill_of_run, &begin, &fill_of_run.counters.snapshot());
    let is_refused = report.refused > 0;
    publish("redis-fill", &report, &args.output)?;
    Ok(if is_refused { Verdict::Lost } else { Verdict::Fine })
}

fn plan(args: &RedisFillArgs) -> FillPlan {
    let queue = &args.queue;
    FillPlan {
        queue: queue.queuename.clone(),
        shape: ElementShape {
            businesses: args.businesses.clone(),
            log_type: args.log_type,
            sizes: args.size.clone(),
            malformed: args.malformed,
            unroutable: args.unroutable,
            compress: args.compress,
        },
        per_command: queue.per_command as usize,
        ahead: queue.ahead as usize,
        count: args.count.or(args.duration.is_none().then_some(COUNT_DEFAULT)),
        rate: args.rate,
        connections: queue.redis.len() * queue.connections as usize,
        reconnect_timeout: args.reconnect_timeout,
    }
}

fn report(fill: &Fill, begin: &Snapshot, end: &Snapshot) -> FillReport {
    let seconds = (end.at_ns - begin.at_ns).max(1) as f64 / 1e9;
    let flow = Flow {
        name: "push".to_owned(),
        messages: end.acked,
        messages_per_second: end.acked as f64 / seconds,
        mib_per_second: end.acked_bytes as f64 / MIB / seconds,
        latency_name: "push-to-answer".to_owned(),
        latency: fill.latencies().summary(),
    };
    FillReport {
        run: format!("{:016x}", fill.run_id),
        flows: vec![flow],
        pushed: end.acked,
        dead_letters_expected: fill.dead(),
        refused: end.refused,
        first_refusal: fill.counters.first_refusal.get().cloned(),
        in_doubt: end.in_doubt,
    }
}
