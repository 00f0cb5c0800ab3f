//! Token buckets: the receive limit and the watermarks.

use std::time::{Duration, Instant};

/// Holds at most `burst` permits and gains `per_second` of them each second. It starts full.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    per_second: f64,
    burst: f64,
    permits: f64,
    refilled_at: Instant,
}

impl TokenBucket {
    /// A bucket that is full at `now`; it holds one permit at least.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second: f64::from(per_second.max(1)), burst, permits: burst, refilled_at: now }
    }

    /// The bucket of a binding: half a second's worth of burst.
    pub(crate) fn for_watermark(per_second: u32, now: Instant) -> Self {
        Self::new(per_second, per_second / 2, now)
    }

    /// Permits a second.
    pub(crate) fn per_second(&self) -> u32 {
        self.per_second as u32
    }

    /// Takes up to `wanted` permits and says how many it took.
    pub(crate) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.permits = (self.permits + elapsed * self.per_second).min(self.burst);
        self.refilled_at = now;
        let taken = (self.permits as usize).min(wanted);
        self.permits -= taken as f64;
        taken
    }

    /// Gives back permits that were taken and not used.
    pub(crate) fn give_back(&mut self, unused: usize) {
        self.permits = (self.permits + unused as f64).min(self.burst);
    }

    /// How long after its last use the bucket has a permit again.
    pub(crate) fn next_permit_in(&self) -> Duration {
        Duration::from_secs_f64(((1.0 - self.permits) / self.per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::for_watermark(1000, start);
        assert_eq!(bucket.take(10_000, start), 500);
        assert_eq!(bucket.take(1, start), 0);
        let later = start + Duration::from_millis(100);
        assert_eq!(bucket.take(10_000, later), 100);
        bucket.give_back(40);
        assert_eq!(bucket.take(10_000, later), 40);
        assert!(bucket.next_permit_in() <= Duration::from_millis(1));
    }

    #[test]
    fn a_tiny_watermark_still_lets_one_through() {
        let start = Instant::now();
        let mut bucket = TokenBucket::for_watermark(1, start);
        assert_eq!(bucket.take(5, start), 1);
        assert_eq!(bucket.take(5, start + Duration::from_millis(999)), 0);
        assert_eq!(bucket.take(5, start + Duration::from_millis(1001)), 1);
    }
}
