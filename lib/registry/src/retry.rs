//! How long to wait before the next attempt at something that failed.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// Doubling waits with jitter, so that many clients of one registry do not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Between half of the current step and all of it; the step doubles, up to five seconds.
    pub(crate) fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LAST);
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
