//! `kiteq-bench redis-drain`

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::bridge::RedisDrainArgs;
use crate::commands::Verdict;
use crate::commands::bridge_run::{Pace, publish, watch};
use crate::counters::Counters;
use crate::load::MIB;
use crate::redis::drain::{DrainPlan, drain};
use crate::report::{Flow, flows_table};
use crate::signals::Signals;

/// What was taken.
#[derive(Debug, Serialize)]
pub struct DrainReport {
    /// How it went, up to the last element.
    pub flows: Vec<Flow>,
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", flows_table(&self.flows))
    }
}

/// Takes everything, and shows how fast.
///
/// # Errors
/// When a server is not there.
pub async fn run(args: RedisDrainArgs, signals: &mut Signals) -> anyhow::Result<Verdict> {
    let queue = &args.queue;
    let plan = DrainPlan {
        queue: queue.queuename.clone(),
        per_command: queue.per_command as usize,
        ahead: queue.ahead as usize,
    };
    let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
    let begin = counters.snapshot();
    let mut tasks = JoinSet::new();
    for address in queue.redis.iter().cycle().take(queue.redis.len() * queue.connections as usize) {
        tasks.spawn(drain(address.clone(), plan.clone(), Arc::clone(&counters), stop.clone()));
    }
    let pace = Pace { label: "redis-drain", duration: args.duration, quiet: args.output.quiet };
    watch(&mut tasks, &counters, &stop, signals, pace).await?;
    let end = counters.snapshot();
    let until_ns = counters.last_delivery_ns.load(std::sync::atomic::Ordering::Relaxed);
    let seconds = until_ns.saturating_sub(begin.at_ns).max(1) as f64 / 1e9;
    let flow = Flow {
        name: "pop".to_owned(),
        messages: end.delivered,
        messages_per_second: end.delivered as f64 / seconds,
        mib_per_second: end.delivered_bytes as f64 / MIB / seconds,
        latency_name: String::new(),
        latency: None,
    };
    publish("redis-drain", &DrainReport { flows: vec![flow] }, &args.output)?;
    Ok(Verdict::Fine)
}
