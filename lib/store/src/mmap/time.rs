//! The time, read once for a batch.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, on a clock that never jumps and on the one that people set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since some fixed moment.
    pub(crate) monotonic: Duration,
    pub(crate) unix_seconds: i64,
}

/// Where moments come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            monotonic: self.started.elapsed(),
            unix_seconds: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs() as i64),
        }
    }
}
