//! One connection after another, to one endpoint after another: whatever is wanted of etcd is kept up over each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kiteq_zookeeper::Backoff;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::known::Known;
use super::rpc::{Rpc, failed};
use super::tree::history;
use super::watches::{End, Watches};
use super::{Failure, Link, Shared};
use crate::error::RegistryError;

/// Longest time until a new connection has proved that it is one to a working majority.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// How often it is checked that the broker's keys are there, in case somebody has deleted them.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a good one: the next one is tried without delay.
const LASTING: Duration = Duration::from_secs(5);

/// Keeps a connection until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut known = Known::default();
    let mut backoff = Backoff::new();
    let mut host = fastrand::usize(..shared.options.hosts.len());
    let mut log = StateLog::default();
    loop {
        match open_any(&shared, &mut host, &mut known).await {
            Ok(rpc) => {
                shared.link.send_replace(Link::Up(rpc.clone()));
                let place = format!("{} at {}", shared.place(), shared.options.hosts[host]);
                let reason = log.of_connection(&place, serve(&rpc, &shared, &mut known)).await;
                shared.link.send_replace(Link::Down(shared.unavailable(reason)));
                if !log.is_failing() {
                    backoff.reset();
                }
            }
            Err(error) => {
                log.unusable(&shared.place(), &error);
                shared.link.send_replace(Link::Down(error));
            }
        }
        host = (host + 1) % shared.options.hosts.len();
        sleep(backoff.delay()).await;
    }
}

/// One line for each change of state: connections that fail soon in the same way count as one.
#[derive(Debug, Default)]
struct StateLog {
    is_unusable: bool,
    /// Why the last connection ended soon.
    failure: Option<End>,
}

impl StateLog {
    fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    fn unusable(&mut self, registry: &str, error: &RegistryError) {
        if !std::mem::replace(&mut self.is_unusable, true) {
            tracing::warn!(registry, %error, "etcd cannot be used; what was last read stands, and it is tried again");
        }
    }

    /// Follows a connection to its end.
    async fn of_connection(&mut self, registry: &str, serve: impl Future<Output = End>) -> End {
        let mut serve = std::pin::pin!(serve);
        if !self.is_failing() || self.is_unusable {
            self.begins(registry);
        }
        let mut lasting = false;
        let reason = loop {
            tokio::select! {
                reason = &mut serve => break reason,
                () = sleep(LASTING), if !lasting => {
                    lasting = true;
                    if self.failure.take().is_some() {
                        self.begins(registry);
                    }
                }
            }
        };
        if self.failure.as_ref() != Some(&reason) {
            tracing::warn!(
                registry,
                reason,
                "etcd connection has ended; what was last read stands, a new one follows"
            );
        }
        self.failure = (!lasting).then(|| reason.clone());
        reason
    }

    fn begins(&mut self, registry: &str) {
        tracing::info!(registry, "etcd connection begins");
        self.is_unusable = false;
    }
}

/// Tries every endpoint once, from `host` on, where it leaves the one that works.
async fn open_any(shared: &Shared, host: &mut usize, known: &mut Known) -> Result<Rpc, RegistryError> {
    let mut failure: Option<RegistryError> = None;
    for _ in 0..shared.options.hosts.len() {
        let name = &shared.options.hosts[*host];
        let opened = timeout(OPEN_TIMEOUT, open(shared, name, known)).await.unwrap_or_else(|_| {
            Err(shared.unavailable(format!("{name} has not answered within {OPEN_TIMEOUT:?}")))
        });
        match opened {
            Ok(rpc) => return Ok(rpc),
            // A refusal says more than a host that is merely away.
            Err(error) => match &failure {
                Some(known) if !known.is_retryable() => {}
                _ => failure = Some(error),
            },
        }
        *host = (*host + 1) % shared.options.hosts.len();
    }
    Err(failure.unwrap_or_else(|| shared.unavailable("no endpoint".to_owned())))
}

/// Connects, and finds out what of the past is still true.
async fn open(shared: &Shared, host: &str, known: &mut Known) -> Result<Rpc, RegistryError> {
    let rpc = Rpc::connect(&shared.options, host).await?;
    let at = || format!("{} at {host}", shared.place());
    let now = history(&rpc).await.map_err(|status| failed(at(), &status))?;
    if !known.continues(now) {
        tracing::warn!(
            registry = shared.place(),
            host,
            "etcd has lost what it held; everything is read and written afresh"
        );
        shared.published.lock().await.clear();
    }
    let losses = shared.lease.losses();
    shared.lease.renew(&rpc).await.map_err(|status| failed(at(), &status))?;
    if losses.has_changed().unwrap_or(false) {
        tracing::warn!(
            registry = shared.place(),
            "the broker's lease has expired meanwhile; it registers again"
        );
        known.forget();
    }
    Ok(rpc)
}

/// Does over this connection what is wanted, until it ends.
async fn serve(rpc: &Rpc, shared: &Arc<Shared>, known: &mut Known) -> End {
    let losses = shared.lease.losses();
    let end = follow(rpc, shared, known).await;
    // Whoever has been away for so long reads everything afresh.
    if losses.has_changed().unwrap_or(false) {
        known.forget();
    }
    end
}

async fn follow(rpc: &Rpc, shared: &Arc<Shared>, known: &mut Known) -> End {
    let mut additions = (shared.bindings.additions(), shared.brokers.additions());
    let mut upkeep = JoinSet::new();
    upkeep.spawn(keep_registered(rpc.clone(), Arc::clone(shared)));
    upkeep.spawn(keep_published(rpc.clone(), Arc::clone(shared)));
    upkeep.spawn(keep_lease(rpc.clone(), Arc::clone(shared)));
    let (requests, responses) = rpc.watch();
    let mut responses = std::pin::pin!(responses);
    let mut watches = Watches::new(rpc, shared, known, requests);
    watches.follow_wanted();
    loop {
        let is_telling = watches.is_telling();
        let step = tokio::select! {
            response = responses.next() => match response {
                Some(Ok(response)) => watches.take(&response),
                Some(Err(status)) => Err(failed(shared.place(), &status).to_string()),
                None => Err("the server has ended the stream of watches".to_owned()),
            },
            step = watches.step() => step,
            teller = shared.alive.wanted(), if !is_telling => {
                watches.follow_alive(teller);
                Ok(())
            }
            Ok(()) = additions.0.changed() => {
                watches.follow_wanted();
                Ok(())
            }
            Ok(()) = additions.1.changed() => {
                watches.follow_wanted();
                Ok(())
            }
            Some(ended) = upkeep.join_next() => Err(ended.unwrap_or_else(|error| format!("upkeep failed: {error}"))),
        };
        if let Err(end) = step {
            return end;
        }
    }
}

/// Renews the lease in time. Ends when that fails.
async fn keep_lease(rpc: Rpc, shared: Arc<Shared>) -> End {
    let mut losses = shared.lease.losses();
    let mut ticks = interval(shared.lease.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = losses.changed() => return "the broker's lease has expired; it registers again".to_owned(),
        }
        if let Err(status) = shared.lease.renew(&rpc).await {
            return format!("the broker's lease cannot be renewed: {}", failed(shared.place(), &status));
        }
    }
}

/// Registers the broker as often as that is called for, and checks now and then that it stays so. Ends when etcd cannot be
/// reached.
async fn keep_registered(rpc: Rpc, shared: Arc<Shared>) -> End {
    let mut wanted = shared.broker.subscribe();
    let mut upkeep = Upkeep::new("broker is not registered; it is tried again");
    loop {
        wanted.mark_unchanged();
        let pause = match upkeep.pause(shared.register_in(&rpc).await, CHECK_INTERVAL) {
            Ok(pause) => pause,
            Err(end) => return end,
        };
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = wanted.changed() => {}
        }
    }
}

/// Publishes what has not been published yet. Ends when etcd cannot be reached.
async fn keep_published(rpc: Rpc, shared: Arc<Shared>) -> End {
    let mut outbox = shared.outbox.changes();
    let mut upkeep = Upkeep::new("not everything is published; it is tried again");
    loop {
        outbox.mark_unchanged();
        let pause = match upkeep.pause(shared.publish_in(&rpc).await, Duration::MAX) {
            Ok(pause) => pause,
            Err(end) => return end,
        };
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = outbox.changed() => {}
        }
    }
}

/// How a task goes on after an attempt.
struct Upkeep {
    backoff: Backoff,
    is_logged: bool,
    words: &'static str,
}

impl Upkeep {
    fn new(words: &'static str) -> Self {
        Self { backoff: Backoff::new(), is_logged: false, words }
    }

    /// How long to wait: `when_done` after a success. An error when another connection is needed.
    fn pause(&mut self, outcome: Result<(), Failure>, when_done: Duration) -> Result<Duration, End> {
        match outcome {
            Ok(()) => {
                self.backoff.reset();
                self.is_logged = false;
                Ok(when_done)
            }
            Err(failure) if failure.is_of_connection => Err(failure.error.to_string()),
            Err(failure) => {
                if !std::mem::replace(&mut self.is_logged, true) {
                    tracing::warn!(error = %failure.error, "{}", self.words);
                }
                Ok(self.backoff.delay())
            }
        }
    }
}
