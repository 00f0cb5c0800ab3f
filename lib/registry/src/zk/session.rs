//! One session after another: whatever is wanted of ZooKeeper is done again in each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use zookeeper_client::{Client, Error};

use super::{Link, Shared, alive, bindings, brokers};
use crate::error::RegistryError;
use crate::retry::Backoff;

/// How often everything is read and checked afresh, in case a notice has been missed.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// A session that lasted so long was a good one: the next one is asked for without delay.
const LASTING: Duration = Duration::from_secs(5);

/// What a watched topic is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Bindings,
    Brokers,
}

/// Waits until it is time to read afresh; with jitter, so that topics do not come in step.
pub(super) async fn resync() {
    sleep(RESYNC_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
}

/// Keeps a session until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::new();
    let mut is_lost = false;
    loop {
        // All hosts are tried once before it fails; the next round is ours to time.
        let connector = Client::connector()
            .with_session_timeout(shared.session_timeout)
            .with_server_version(3, 4, 0)
            .with_fail_eagerly();
        match connector.connect(&shared.cluster).await {
            Ok(client) => {
                tracing::info!(registry = shared.cluster, session = %client.session_id(), "ZooKeeper session begins");
                is_lost = false;
                let began = Instant::now();
                shared.link.send_replace(Link::Up(client.clone()));
                serve(&client, &shared).await;
                let state = client.state();
                shared.link.send_replace(Link::Down(format!("session ended: {state}")));
                tracing::warn!(registry = shared.cluster, %state,
                    "ZooKeeper session has ended; what was last read stands, a new one follows");
                if began.elapsed() >= LASTING {
                    backoff.reset();
                }
            }
            Err(error) => {
                shared.link.send_replace(Link::Down(error.to_string()));
                if !is_lost {
                    tracing::warn!(registry = shared.cluster, %error,
                        "ZooKeeper cannot be reached; what was last read stands, and it is tried again");
                    is_lost = true;
                }
            }
        }
        sleep(backoff.delay()).await;
    }
}

/// Does in this session what is wanted, until it ends.
async fn serve(client: &Client, shared: &Arc<Shared>) {
    let mut state = client.state_watcher();
    let mut additions = (shared.bindings.additions(), shared.brokers.additions());
    let mut upkeep = JoinSet::new();
    upkeep.spawn(keep_registered(client.clone(), Arc::clone(shared)));
    upkeep.spawn(keep_published(client.clone(), Arc::clone(shared)));
    let mut readers = JoinSet::new();
    // Not a task: it must have ended when the session has.
    let mut living = std::pin::pin!(alive::follow(client, shared));
    let mut followed = HashSet::new();
    loop {
        additions.0.mark_unchanged();
        additions.1.mark_unchanged();
        let bindings = shared.bindings.names().into_iter().map(|topic| (Role::Bindings, topic));
        let brokers = shared.brokers.names().into_iter().map(|topic| (Role::Brokers, topic));
        for (role, topic) in bindings.chain(brokers) {
            if followed.insert((role, topic.clone())) {
                readers.spawn(follow(role, topic, client.clone(), Arc::clone(shared)));
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
