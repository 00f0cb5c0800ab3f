//! The engine on `kiteq-client`: what applications link, with its reconnects and re-sends. It survives restarts of the
//! broker, and shows what an application gets; the lean engine shows what a broker can do.

mod consumer;
mod producer;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kiteq_client::Client;
use kiteq_registry::Registry;
use tokio::task::JoinSet;

use crate::load::Load;
use crate::phases::{Milestones, PhasePlan, run_phases};
use crate::progress::Progress;
use crate::run::{Measured, Run};
use crate::signals::Signals;

/// The brokers must be connected within this time at the start.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// At the end clients may take so long to settle their last acks.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A publish may wait so long for its ack: longer than any restart of a broker should take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(120);
/// A broker that is being restarted is looked for at least this often.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// What to do when they are not.
const NOT_READY: &str = "no broker can be reached. Start one (`kiteq`, which listens on 127.0.0.1:13800), or say where it is with \
                         --registry URI or --broker HOST:PORT";

/// What the engine does.
pub struct ClientPlan {
    /// Where brokers are found. Closed at the end.
    pub registry: Arc<dyn Registry>,
    /// What producers do; each connection is a client.
    pub load: Load,
    /// Consumer groups; their bindings are published already.
    pub groups: Vec<String>,
    /// Clients of each group.
    pub consumers: usize,
}

/// Runs `plan`. The numbers of producers and connections in `phases` are set here.
///
/// # Errors
/// When a client cannot start.
pub async fn run_client_session(
    run: &Arc<Run>,
    plan: ClientPlan,
    phases: PhasePlan,
    signals: &mut Signals,
    progress: &mut Progress,
) -> anyhow::Result<(Milestones, Measured)> {
    let mut consumers = Vec::new();
    for (group_index, group) in plan.groups.iter().enumerate() {
        for _ in 0..plan.consumers {
            consumers.push(consumer::start(run, &plan, group_index, group).await?);
        }
    }
    let mut producers = JoinSet::new();
    for index in 0..plan.load.connections {
        let client = builder(&plan, &plan.load.group)
            .topics(plan.load.topics.clone())
            .window(plan.load.window)
            .publish_timeout(PUBLISH_TIMEOUT)
            .on_check(async |_| kiteq_client::Verdict::Commit)
            .build()
            .await?;
        client.ready(READY_TIMEOUT).await.context(NOT_READY)?;
        producers.spawn(producer::run(Arc::clone(run), client, plan.load.clone(), index));
    }
    let phases = PhasePlan { producers: producers.len(), connections: producers.len(), ..phases };
    let milestones = run_phases(run, &phases, signals, progress).await;
    let mut measured = Measured::default();
    while let Some(finished) = producers.join_next().await {
        measured.merge(&finished??);
    }
    for consumer in consumers {
        measured.merge(&consumer.finish(CLOSE_TIMEOUT).await);
    }
    plan.registry.close().await;
    Ok((milestones, measured))
}

fn builder(plan: &ClientPlan, group: &str) -> kiteq_client::ClientBuilder {
    Client::builder(Arc::clone(&plan.registry), group)
        .secret(plan.load.secret.clone())
        .reconnect_backoff(Duration::from_millis(50), RECONNECT_MAX)
}
