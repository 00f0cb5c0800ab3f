//! The one way in which a service stops: a token, the names of what still runs, a deadline, and a logged outcome.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::Instrument;

use crate::logging::panic_message;

/// What a panic in a task means for the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// The service cannot do its job without it: a panic stops the service with an error.
    Essential,
    /// It serves one client or one request: a panic is logged and costs no one else anything.
    Expendable,
}

/// How a service ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Tasks that were still running at the deadline, and how many of each name.
    pub unfinished: Vec<(String, usize)>,
}

impl Outcome {
    /// Whether everything that was begun was finished.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failure.is_none() && self.unfinished.is_empty()
    }

    /// Everything that went wrong, `others` included, as one error; `Ok` when nothing did.
    ///
    /// # Errors
    /// What failed, then `others`, then the tasks that did not end.
    pub fn into_result(self, others: impl IntoIterator<Item = String>) -> Result<(), String> {
        let unfinished =
            self.unfinished.into_iter().map(|(name, count)| format!("{count} x {name} did not end"));
        let problems: Vec<String> = self.failure.into_iter().chain(others).chain(unfinished).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<Arc<str>, usize>,
    triggered: bool,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    state: Mutex<State>,
    task_ended: Notify,
}

/// Stops a service, and knows what of it still runs. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

impl Shutdown {
    /// Nothing runs yet, nothing is stopped.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancelled once the service is to stop.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.inner.token
    }

    /// Waits until the service is to stop.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.inner.token.cancelled()
    }

    /// Whether the service is to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// Asks the service to stop, for a reason that is no failure. Only the first reason is logged.
    pub fn trigger(&self, reason: &str) {
        if !std::mem::replace(&mut self.state().triggered, true) {
            tracing::info!(reason, "stopping");
        }
        self.inner.token.cancel();
    }

    /// Stops the service because it cannot do its job. The first failure is the one in the [`Outcome`].
    pub fn fail(&self, failure: impl Into<String>) {
        let failure = failure.into();
        tracing::error!("stopping after a failure: {failure}");
        let mut state = self.state();
        state.triggered = true;
        state.failure.get_or_insert(failure);
        drop(state);
        self.inner.token.cancel();
    }

    /// The first failure so far.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Runs a task under a name: its log lines carry it, its panics are logged and treated by `importance`, and
    /// [`Shutdown::finish`] waits for it. The task itself watches [`Shutdown::token`] and ends when it is cancelled.
    pub fn spawn<F>(&self, name: impl Into<Arc<str>>, importance: Importance, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = Running::new(self, name.into());
        let span = tracing::info_span!("task", name = &*running.name);
        let body = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                running.panicked(importance, panic_message(&*panic));
            }
        };
        tokio::spawn(body.instrument(span))
    }

    /// Names of the tasks that run now, and how many of each.
    #[must_use]
    pub fn running(&self) -> Vec<(String, usize)> {
        self.state().running.iter().map(|(name, &count)| (name.to_string(), count)).collect()
    }

    /// Waits until every task has ended, for at most `deadline`, and logs how it went. The service is told to stop if it
    /// has not been yet. Tasks that are left are named; they end with the runtime.
    ///
    /// # Cancel safety
    /// Cancel safe; it may be called again.
    pub async fn finish(&self, deadline: Duration) -> Outcome {
        self.state().triggered = true;
        self.inner.token.cancel();
        let begun = Instant::now();
        let in_time = tokio::time::timeout(deadline, self.all_ended()).await.is_ok();
        let unfinished = if in_time { Vec::new() } else { self.running() };
        let outcome = Outcome { failure: self.failure(), unfinished };
        if outcome.unfinished.is_empty() {
            tracing::debug!(took = ?begun.elapsed(), "all tasks have ended");
        } else {
            tracing::error!(?deadline, "still running at the deadline: {}", list(&outcome.unfinished));
        }
        outcome
    }

    async fn all_ended(&self) {
        loop {
            // Created before the look at the state, so that an end between the look and the wait is not missed.
            let ended = self.inner.task_ended.notified();
            if self.state().running.is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// `session (3), dispatch (1)`.
fn list(tasks: &[(String, usize)]) -> String {
    tasks.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")
}

/// Counts a task while it lives, whichever way it ends.
struct Running {
    shutdown: Shutdown,
    name: Arc<str>,
}

impl Running {
    fn new(shutdown: &Shutdown, name: Arc<str>) -> Self {
        *shutdown.state().running.entry(Arc::clone(&name)).or_default() += 1;
        Self { shutdown: shutdown.clone(), name }
    }

    fn panicked(&self, importance: Importance, message: &str) {
        match importance {
            Importance::Essential => {
                self.shutdown.fail(format!("task {} panicked: {message}; please report it", self.name));
            }
            Importance::Expendable => {
                tracing::error!("task {} panicked: {message}; everything else goes on", self.name);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.shutdown.state();
        if let Some(count) = state.running.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.running.remove(&self.name);
            }
        }
        drop(state);
        self.shutdown.inner.task_ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn tasks_that_obey_the_token_end_cleanly() {
        let shutdown = Shutdown::new();
        for _ in 0..3 {
            let token = shutdown.token().clone();
            shutdown.spawn("session", Importance::Expendable, async move { token.cancelled().await });
        }
        assert_eq!(shutdown.running(), [("session".to_owned(), 3)]);
        shutdown.trigger("test");
        let outcome = shutdown.finish(LONG).await;
        assert!(outcome.is_clean(), "{outcome:?}");
        assert!(shutdown.running().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_named() {
        let shutdown = Shutdown::new();
        shutdown.spawn("deaf", Importance::Essential, pending());
        let outcome = shutdown.finish(SOON).await;
        assert_eq!(outcome.unfinished, [("deaf".to_owned(), 1)]);
        assert!(!outcome.is_clean());
    }

    #[tokio::test]
    async fn a_panic_in_an_essential_task_stops_the_service_with_its_name() {
        let shutdown = Shutdown::new();
        shutdown.spawn("dispatch", Importance::Essential, async { panic!("out of cheese") });
        shutdown.cancelled().await;
        let outcome = shutdown.finish(LONG).await;
        let failure = outcome.failure.unwrap();
        assert!(failure.contains("dispatch") && failure.contains("out of cheese"), "{failure}");
    }

    #[tokio::test]
    async fn a_panic_in_an_expendable_task_stops_nothing() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn("session", Importance::Expendable, async { panic!("one client's") });
        task.await.unwrap();
        assert!(!shutdown.is_cancelled());
        assert!(shutdown.finish(LONG).await.is_clean());
    }

    #[tokio::test]
    async fn an_aborted_task_is_no_longer_counted() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn("session", Importance::Expendable, pending());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(shutdown.running().is_empty());
    }

    #[tokio::test]
    async fn the_first_failure_is_the_outcome() {
        let shutdown = Shutdown::new();
        shutdown.fail("first");
        shutdown.fail("second");
        assert_eq!(shutdown.finish(LONG).await.failure.as_deref(), Some("first"));
    }
}
