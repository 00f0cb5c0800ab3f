//! What is done in each session: everything that is wanted of ZooKeeper, again.

use std::collections::HashSet;
use std::sync::Arc;

use kiteq_zookeeper::{Backoff, Client, Error, resync};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Shared, alive, bindings, brokers};
use crate::error::RegistryError;

/// What a watched topic is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Bindings,
    Brokers,
}

/// Keeps a session until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    shared.sessions.run(|client| serve(client, Arc::clone(&shared))).await;
}

/// Does in this session what is wanted, until it ends.
async fn serve(client: Client, shared: Arc<Shared>) {
    let mut state = client.state_watcher();
    let mut additions = (shared.bindings.additions(), shared.brokers.additions());
    let mut upkeep = JoinSet::new();
    upkeep.spawn(keep_registered(client.clone(), Arc::clone(&shared)));
    upkeep.spawn(keep_published(client.clone(), Arc::clone(&shared)));
    let mut readers = JoinSet::new();
    // Not a task: it must have ended when the session has.
    let mut living = std::pin::pin!(alive::follow(&client, &shared));
    let mut followed = HashSet::new();
    loop {
        additions.0.mark_unchanged();
        additions.1.mark_unchanged();
        let bindings = shared.bindings.names().into_iter().map(|topic| (Role::Bindings, topic));
        let brokers = shared.brokers.names().into_iter().map(|topic| (Role::Brokers, topic));
        for (role, topic) in bindings.chain(brokers) {
            if followed.insert((role, topic.clone())) {
                readers.spawn(follow(role, topic, client.clone(), Arc::clone(&shared)));
            }
        }
        if client.state().is_terminated() {
            return;
        }
        tokio::select! {
            _ = state.changed() => {}
            never = &mut living => match never {},
            Ok(()) = additions.0.changed() => {}
            Ok(()) = additions.1.changed() => {}
            Some(ended) = readers.join_next() => match ended {
                Ok(unwatched) => {
                    followed.remove(&unwatched);
                }
                Err(error) => {
                    tracing::error!(%error, "reader of a topic failed; the session begins anew");
                    return;
                }
            },
            Some(ended) = upkeep.join_next() => {
                tracing::error!(?ended, "upkeep failed; the session begins anew");
                return;
            }
        }
    }
}

/// Follows a topic until nobody watches it any more, and says which one that was.
async fn follow(role: Role, topic: String, client: Client, shared: Arc<Shared>) -> (Role, String) {
    let mut backoff = Backoff::new();
    loop {
        let (followed, watched) = match role {
            Role::Bindings => {
                (bindings::follow(&client, &shared, &topic).await, shared.bindings.contains(&topic))
            }
            Role::Brokers => {
                (brokers::follow(&client, &shared, &topic).await, shared.brokers.contains(&topic))
            }
        };
        match followed {
            _ if !watched => {
                if role == Role::Bindings {
                    shared.nodes().remove(&topic);
                }
                return (role, topic);
            }
            Ok(()) => backoff.reset(),
            Err(error) => {
                report(&error, &topic);
                sleep(backoff.delay()).await;
            }
        }
    }
}

/// A lost connection has its own line in the log; anything else is news.
fn report(error: &Error, topic: &str) {
    match error {
        Error::ConnectionLoss | Error::SessionExpired | Error::ClientClosed | Error::Timeout => {
            tracing::debug!(%error, topic, "topic cannot be read now");
        }
        _ => tracing::warn!(%error, topic, "topic cannot be read; it is tried again"),
    }
}

/// Registers the broker as often as that is called for, and checks now and then that it stays so.
async fn keep_registered(client: Client, shared: Arc<Shared>) {
    let mut wanted = shared.broker.subscribe();
    let mut backoff = Backoff::new();
    let mut logged = false;
    loop {
        wanted.mark_unchanged();
        let outcome = shared.register_in(&client).await;
        let is_done = outcome.is_ok();
        log_change(outcome, &mut logged, "broker is not registered; it is tried again");
        let pause = async {
            if is_done {
                backoff.reset();
                resync().await;
            } else {
                sleep(backoff.delay()).await;
            }
        };
        tokio::select! {
            () = pause => {}
            Ok(()) = wanted.changed() => {}
        }
    }
}

/// Publishes what has not been published yet.
async fn keep_published(client: Client, shared: Arc<Shared>) {
    let mut outbox = shared.outbox.changes();
    let mut backoff = Backoff::new();
    let mut logged = false;
    loop {
        outbox.mark_unchanged();
        let outcome = shared.publish_in(&client).await;
        let is_done = outcome.is_ok();
        log_change(outcome, &mut logged, "not everything is published; it is tried again");
        let pause = async {
            if is_done {
                backoff.reset();
                std::future::pending::<()>().await;
            } else {
                sleep(backoff.delay()).await;
            }
        };
        tokio::select! {
            () = pause => {}
            Ok(()) = outbox.changed() => {}
        }
    }
}

fn log_change(outcome: Result<(), RegistryError>, logged: &mut bool, words: &str) {
    match outcome {
        Ok(()) => *logged = false,
        Err(error) if !*logged => {
            tracing::warn!(%error, "{words}");
            *logged = true;
        }
        Err(_) => {}
    }
}
