//! One line in the log when a server's state changes, and the pauses between attempts.

use std::time::Duration;

use crate::redis::{Address, RedisError, Refusal};

/// Pause after the first failure; doubled with each that follows.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Whether something works, as far as the log has been told.
#[derive(Debug)]
pub(crate) struct Outage {
    host: String,
    what: &'static str,
    queue: String,
    pause: Duration,
    /// What the log was told last; nothing while all is well.
    told: Option<String>,
    /// Whether somebody else tells of connections to the same server.
    only_refusals: bool,
}

impl Outage {
    pub(crate) fn new(address: &Address, what: &'static str, queue: &str) -> Self {
        Self {
            host: address.to_string(),
            what,
            queue: queue.to_owned(),
            pause: PAUSE_MIN,
            told: None,
            only_refusals: false,
        }
    }

    /// The same, silent about the connection itself and what is said to whoever connects.
    pub(crate) fn of_refusals(address: &Address, what: &'static str, queue: &str) -> Self {
        Self { only_refusals: true, ..Self::new(address, what, queue) }
    }

    /// It failed. Gives the time to wait before another attempt.
    pub(crate) fn failed(&mut self, error: &RedisError) -> Duration {
        if matches!(error, RedisError::Refused { refusal, .. } if refusal.wants_scripts()) {
            // A server that was restarted: the scripts are given to it on the next connection.
            return PAUSE_MIN;
        }
        let is_ours = match error {
            RedisError::Refused { refusal, .. } => !refusal.is_for_everybody(),
            _ => false,
        };
        if is_ours || !self.only_refusals {
            self.tell(error.to_string());
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause / 2 + pause.mul_f64(fastrand::f64() / 2.0)
    }

    /// It was refused for a reason of its own; other things go on.
    pub(crate) fn refused(&mut self, command: &str, refusal: &Refusal) {
        self.tell(format!("{command}: {refusal}"));
    }

    fn tell(&mut self, reason: String) {
        if self.told.as_ref() != Some(&reason) {
            let Self { host, what, queue, .. } = self;
            tracing::warn!(redis = %host, %queue, "{what} {queue} waits: {reason}");
            self.told = Some(reason);
        }
    }

    /// It works.
    pub(crate) fn over(&mut self) {
        self.pause = PAUSE_MIN;
        if self.told.take().is_some() {
            let Self { host, what, queue, .. } = self;
            tracing::info!(redis = %host, %queue, "{what} {queue} goes on");
        }
    }

    /// Why it does not work.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.told.as_deref()
    }
}
