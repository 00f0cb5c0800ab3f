//! One run of the engine from connecting to the last delivery.

use std::sync::Arc;

use crate::phases::{Milestones, PhasePlan, run_phases};
use crate::progress::Progress;
use crate::run::{Measured, Run};
use crate::signals::Signals;
use crate::wire::connection::WireError;
use crate::wire::consumer::{ConsumerPlan, consume};
use crate::wire::producer::{ProducerPlan, produce};
use crate::wire::workers::Workers;

/// What a run does.
#[derive(Debug, Clone)]
pub struct SessionPlan {
    /// One for each producer connection.
    pub producers: Vec<ProducerPlan>,
    /// One for each consumer connection.
    pub consumers: Vec<ConsumerPlan>,
    /// Threads of the engine.
    pub threads: usize,
}

/// Runs `plan`. The numbers of producers and connections in `phases` are set here.
///
/// # Errors
/// The first connection's error.
pub async fn run_session(
    run: &Arc<Run>,
    plan: SessionPlan,
    phases: PhasePlan,
    signals: &mut Signals,
    progress: &mut Progress,
) -> Result<(Milestones, Measured), WireError> {
    let producers = plan.producers.len();
    let connections = producers + plan.consumers.len();
    let workers = start_workers(run, plan)?;
    let phases = PhasePlan { producers, connections, ..phases };
    let milestones = run_phases(run, &phases, signals, progress).await;
    Ok((milestones, join(workers).await?))
}

fn start_workers(run: &Arc<Run>, plan: SessionPlan) -> Result<Workers, WireError> {
    let (threads, connections) = (plan.threads, plan.producers.len() + plan.consumers.len());
    let plan = Arc::new(plan);
    let task = move |local, index: usize| {
        let plan = Arc::clone(&plan);
        async move {
            match index.checked_sub(plan.producers.len()) {
                None => produce(local, plan.producers[index].clone()).await,
                Some(consumer) => consume(local, plan.consumers[consumer].clone()).await,
            }
        }
    };
    Workers::start(run, threads, connections, task).map_err(WireError::Timer)
}

async fn join(workers: Workers) -> Result<Measured, WireError> {
    match tokio::task::spawn_blocking(|| workers.join()).await {
        Ok(result) => result,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}
