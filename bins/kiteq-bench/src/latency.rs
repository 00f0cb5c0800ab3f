//! Latency histograms: nanoseconds in, microseconds out.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clock::now_ns;

/// Longer latencies count as this: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Two significant digits (within 1%) keep a histogram small enough for the first-level caches.
const SIGNIFICANT_DIGITS: u8 = 2;

/// A histogram of latencies that also knows its exact maximum.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
    max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "the bounds are constants that a test covers")]
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS).expect("valid bounds");
        Self { histogram, max_ns: 0 }
    }
}

/// What a report says of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencySummary {
    /// How many latencies there are.
    pub count: u64,
    /// Half of them are at most this.
    pub p50_us: f64,
    /// 99% of them are at most this.
    pub p99_us: f64,
    /// 99.9% of them are at most this.
    pub p999_us: f64,
    /// The largest.
    pub max_us: f64,
}

impl Latencies {
    /// Adds `count` messages that took `latency_ns` each.
    pub fn record(&mut self, latency_ns: u64, count: u64) {
        self.histogram.saturating_record_n(latency_ns.clamp(1, LATENCY_NS_MAX), count);
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so addition cannot fail.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok());
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The quantiles of a report; `None` when nothing was recorded.
    #[must_use]
    pub fn summary(&self) -> Option<LatencySummary> {
        let quantile = |quantile| self.histogram.value_at_quantile(quantile).min(self.max_ns) as f64 / 1e3;
        (!self.histogram.is_empty()).then(|| LatencySummary {
            count: self.histogram.len(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: self.max_ns as f64 / 1e3,
        })
    }
}

/// Adds runs of equal latencies at once: the messages of one batch have one send time and one arrival.
#[derive(Debug)]
pub struct RunRecorder<'a> {
    latencies: &'a mut Latencies,
    now_ns: Option<u64>,
    sent_at_ns: u64,
    count: u64,
}

impl<'a> RunRecorder<'a> {
    /// Everything recorded arrives when the first of it is recorded.
    #[must_use]
    pub fn new(latencies: &'a mut Latencies) -> Self {
        Self { latencies, now_ns: None, sent_at_ns: 0, count: 0 }
    }

    /// Everything recorded arrived at `now_ns`.
    #[must_use]
    pub fn at(latencies: &'a mut Latencies, now_ns: u64) -> Self {
        Self { latencies, now_ns: Some(now_ns), sent_at_ns: 0, count: 0 }
    }

    /// One message that was to be sent at `sent_at_ns`.
    pub fn record(&mut self, sent_at_ns: u64) {
        if self.now_ns.is_none() {
            self.now_ns = Some(now_ns());
        }
        if sent_at_ns != self.sent_at_ns {
            self.flush();
            self.sent_at_ns = sent_at_ns;
        }
        self.count += 1;
    }

    fn flush(&mut self) {
        if self.count > 0 {
            let now_ns = self.now_ns.unwrap_or(self.sent_at_ns);
            self.latencies.record(now_ns.saturating_sub(self.sent_at_ns), self.count);
            self.count = 0;
        }
    }
}

impl Drop for RunRecorder<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_percent_and_the_maximum_is_exact() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        for micros in 1..=1000 {
            latencies.record(micros * 1000, 1);
        }
        let summary = latencies.summary().unwrap();
        assert_eq!((summary.count, summary.max_us), (1000, 1000.0));
        for (got, expected) in [(summary.p50_us, 500.0), (summary.p99_us, 990.0), (summary.p999_us, 999.0)] {
            assert!((got - expected).abs() / expected < 0.01, "{got} is not {expected}");
        }
    }

    #[test]
    fn runs_count_every_message() {
        let mut latencies = Latencies::default();
        let mut recorder = RunRecorder::at(&mut latencies, 5_000);
        for sent_at_ns in [1_000, 1_000, 2_000, 1_000] {
            recorder.record(sent_at_ns);
        }
        drop(recorder);
        let mut other = Latencies::default();
        other.record(9_000, 2);
        latencies.merge(&other);
        let summary = latencies.summary().unwrap();
        assert_eq!((summary.count, summary.max_us), (6, 9.0));
    }

    #[test]
    fn absurd_latencies_do_not_panic() {
        let mut latencies = Latencies::default();
        latencies.record(0, 1);
        latencies.record(u64::MAX, 1);
        assert_eq!(latencies.summary().unwrap().count, 2);
    }
}
