//! How long to wait before the next attempt at something that failed.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// Doubling waits with jitter, so that many clients of one server do not come back in step.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// From a tenth of a second up to five seconds.
    #[must_use]
    pub fn new() -> Self {
        Self::between(FIRST, LAST)
    }

    /// From `first` up to `last`.
    #[must_use]
    pub fn between(first: Duration, last: Duration) -> Self {
        Self { first, last: last.max(first), next: first }
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Between half of the current step and all of it; the step doubles, up to the last one.
    pub fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.last);
        step.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again() {
        let mut backoff = Backoff::new();
        assert!(backoff.delay() <= FIRST);
        for _ in 0..20 {
            assert!(backoff.delay() <= LAST);
        }
        assert!(backoff.delay() >= LAST / 2);
        backoff.reset();
        assert!(backoff.delay() <= FIRST);
    }
}
