//! The open loop: when every message is to be sent, whatever the server does.
//!
//! A closed loop stops sending while the server stalls, and so never sees the stall's length; here a message's latency
//! counts from the time at which it was to be sent, so the stall shows in every message that it held up.

/// The send times of one connection's messages: evenly spaced from a start.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start_ns: u64,
    messages_per_second: f64,
    next: u64,
}

impl Schedule {
    /// `rate_total` messages a second over `connections`, of which this is the `index`-th. The connections take turns, so that
    /// together they are evenly spaced too.
    #[must_use]
    pub fn new(start_ns: u64, rate_total: f64, connections: usize, index: usize) -> Self {
        let phase_ns = (index as f64 * 1e9 / rate_total) as u64;
        Self { start_ns: start_ns + phase_ns, messages_per_second: rate_total / connections as f64, next: 0 }
    }

    /// When the next message is to be sent.
    #[must_use]
    pub fn next_at_ns(&self) -> u64 {
        self.start_ns + (self.next as f64 * 1e9 / self.messages_per_second) as u64
    }

    /// Takes the next message if its time has come, and gives that time.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let at_ns = self.next_at_ns();
        (at_ns <= now_ns).then(|| {
            self.next += 1;
            at_ns
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &mut Schedule, now_ns: u64) -> Vec<u64> {
        std::iter::from_fn(|| schedule.take_due(now_ns)).collect()
    }

    #[test]
    fn messages_are_evenly_spaced_from_the_start() {
        let mut schedule = Schedule::new(1_000, 1e6, 1, 0);
        assert!(due(&mut schedule, 999).is_empty());
        assert_eq!(due(&mut schedule, 3_500), [1_000, 2_000, 3_000]);
        assert_eq!(schedule.next_at_ns(), 4_000);
    }

    #[test]
    fn a_stall_does_not_move_the_intended_times() {
        let mut schedule = Schedule::new(0, 1e3, 1, 0);
        assert_eq!(due(&mut schedule, 0), [0]);
        // Nothing is asked for 5 ms: all five are due, each at its own time.
        assert_eq!(due(&mut schedule, 5_000_000), [1, 2, 3, 4, 5].map(|millis| millis * 1_000_000));
    }

    #[test]
    fn connections_take_turns() {
        let mut all: Vec<u64> =
            (0..4).flat_map(|index| due(&mut Schedule::new(0, 4e6, 4, index), 2_000)).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 250, 500, 750, 1_000, 1_250, 1_500, 1_750, 2_000]);
    }

    #[test]
    fn the_rate_holds_over_a_long_time() {
        let mut schedule = Schedule::new(0, 333_333.0, 1, 0);
        schedule.next = 333_333 * 3600 * 24;
        let day_ns = 24 * 3600 * 1_000_000_000u64;
        assert!(schedule.next_at_ns().abs_diff(day_ns) < 1_000);
    }
}
