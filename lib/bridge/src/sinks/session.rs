//! What is done in each ZooKeeper session, and after each loss of the connection: everything is read and checked again.

use std::future::Future;
use std::sync::Arc;

use kiteq_zookeeper::{
    Backoff, Client, Error, Listing, SessionState, ask, list, make, make_ephemeral, resync,
};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::directory::{Shared, marks, sinks};
use super::peers;

/// Keeps a session until it is stopped.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    tokio::select! {
        () = shared.sessions.run(|client| serve(client, Arc::clone(&shared))) => {}
        () = stop.cancelled() => {}
    }
    shared.alive.send_replace(None);
    shared.sessions.close();
}

/// Does what is wanted while there is a connection, until the session ends.
async fn serve(client: Client, shared: Arc<Shared>) {
    let mut states = client.state_watcher();
    let mut state = states.state();
    while !state.is_terminated() {
        if state != SessionState::SyncConnected {
            state = states.changed().await;
            continue;
        }
        let mut upkeep = start(&client, &shared);
        let ended = tokio::select! {
            changed = states.changed() => {
                state = changed;
                None
            }
            ended = upkeep.join_next() => ended,
        };
        // Waited for, so that nothing of before is published after this.
        upkeep.shutdown().await;
        shared.alive.send_replace(None);
        if let Some(ended) = ended {
            tracing::error!(?ended, "what keeps up with ZooKeeper has ended; the session begins anew");
            return;
        }
        if !state.is_terminated() && state != SessionState::SyncConnected {
            tracing::warn!(zookeeper = shared.sessions.cluster(), %state,
                "connection to ZooKeeper is lost; the last known sinks stand");
        }
    }
}

fn start(client: &Client, shared: &Arc<Shared>) -> JoinSet<()> {
    let mut upkeep = JoinSet::new();
    for business in &shared.config.businesses {
        upkeep.spawn(keep_marked(client.clone(), Arc::clone(shared), business.clone()));
        upkeep.spawn(follow_sinks(client.clone(), Arc::clone(shared), business.clone()));
    }
    upkeep.spawn(peers::follow(client.clone(), Arc::clone(shared)));
    upkeep
}

/// Does the same again and again, with pauses while it fails.
pub(super) async fn again<A>(what: &str, mut attempt: impl FnMut() -> A)
where
    A: Future<Output = Result<(), Error>>,
{
    let mut backoff = Backoff::new();
    let mut is_told = false;
    loop {
        match attempt().await {
            Ok(()) => {
                backoff.reset();
                is_told = false;
            }
            Err(error) => {
                match error {
                    // The end of a connection or a session has its own line in the log.
                    Error::ConnectionLoss | Error::SessionExpired | Error::ClientClosed => {}
                    _ if is_told => {}
                    error => {
                        is_told = true;
                        tracing::warn!(%error, "{what} cannot be kept up in ZooKeeper; it is tried again");
                    }
                }
                sleep(backoff.delay()).await;
            }
        }
    }
}

/// Keeps our mark in a business, also when somebody deletes it.
async fn keep_marked(client: Client, shared: Arc<Shared>, business: String) {
    let directory = marks(&business);
    again("our mark", || async {
        let mark = shared.config.mark.as_str();
        make_ephemeral(&client, &directory, mark).await?;
        let (stat, changed) = ask(client.check_and_watch_stat(&format!("{directory}/{mark}"))).await?;
        if stat.is_some() {
            tokio::select! {
                _ = changed.changed() => {}
                () = resync() => {}
            }
        }
        Ok(())
    })
    .await;
}

/// Follows the sinks of a business, and makes its node when it is missing.
async fn follow_sinks(client: Client, shared: Arc<Shared>, business: String) {
    let directory = sinks(&business);
    again("the sinks of a business", || async {
        match list(&client, &directory).await? {
            Listing::Missing(_) => {
                shared.set_sinks(&business, Vec::new());
                tracing::info!(
                    business,
                    "business is not in ZooKeeper; its node is made, and sinks are waited for"
                );
                make(&client, &directory).await
            }
            Listing::Children(names, changed) => {
                shared.set_sinks(&business, names);
                tokio::select! {
                    _ = changed.changed() => {}
                    () = resync() => {}
                }
                Ok(())
            }
        }
    })
    .await;
}
