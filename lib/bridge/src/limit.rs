//! Bounds that all queues share: bytes of batches, elements per second.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Bytes of batches that are being filled or sent.
#[derive(Debug)]
pub(crate) struct Budget {
    used_bytes: AtomicUsize,
    bytes_max: usize,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { used_bytes: AtomicUsize::new(0), bytes_max, freed: Notify::new() }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used_bytes() >= self.bytes_max
    }

    /// Replaces what somebody holds by what they hold now.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.used_bytes.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used_bytes.fetch_sub(before - now, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Wakes when somebody has given bytes back. One who looks at the budget after making this future misses nothing.
    pub(crate) fn freed(&self) -> impl Future<Output = ()> + '_ {
        self.freed.notified()
    }
}

/// What a rate limit lets pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// A token bucket of elements.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: Option<f64>,
    bucket: Mutex<(f64, Instant)>,
}

impl RateLimit {
    pub(crate) fn new(per_second: Option<u64>, now: Instant) -> Self {
        Self { per_second: per_second.map(|rate| rate as f64), bucket: Mutex::new((0.0, now)) }
    }

    /// How many of the wanted elements may be taken now; what is not taken after all is given back.
    pub(crate) fn take(&self, wanted: usize, now: Instant) -> usize {
        let Some(rate) = self.per_second else { return wanted };
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, filled_at) = &mut *bucket;
        let burst = (rate * BURST.as_secs_f64()).max(1.0);
        *tokens = (*tokens + rate * now.saturating_duration_since(*filled_at).as_secs_f64()).min(burst);
        *filled_at = now;
        let granted = (*tokens as usize).min(wanted);
        *tokens -= granted as f64;
        granted
    }

    pub(crate) fn give_back(&self, elements: usize) {
        if self.per_second.is_some() {
            self.bucket.lock().unwrap_or_else(PoisonError::into_inner).0 += elements as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_lets_so_many_pass() {
        let start = Instant::now();
        let limit = RateLimit::new(Some(1000), start);
        let mut passed = 0;
        for step in 1..=1000 {
            passed += limit.take(1000, start + Duration::from_millis(step * 10));
        }
        assert!((9_990..=10_000).contains(&passed), "{passed}");
        assert_eq!(limit.take(1000, start + Duration::from_secs(100)), 100, "a pause is not made up for");
        limit.give_back(40);
        assert_eq!(limit.take(1000, start + Duration::from_secs(100)), 40);
    }

    #[test]
    fn without_a_limit_all_pass() {
        assert_eq!(RateLimit::new(None, Instant::now()).take(7, Instant::now()), 7);
    }

    #[test]
    fn a_budget_counts_what_is_held() {
        let budget = Budget::new(100);
        budget.change(0, 120);
        assert!(budget.is_full());
        budget.change(120, 20);
        assert_eq!((budget.is_full(), budget.used_bytes()), (false, 20));
    }
}
