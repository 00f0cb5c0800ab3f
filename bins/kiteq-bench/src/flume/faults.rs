//! What a sink does wrong on request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kiteq_flume::Status;

/// Which faults, and how often. Zero is never.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Each batch waits so long.
    pub delay: Duration,
    /// Every so many batches are answered with `fail_with` and not taken.
    pub fail_every: u64,
    /// FAILED, ERROR or UNKNOWN.
    pub fail_with: Status,
    /// Every so many batches their connection is closed, and they are not taken.
    pub drop_every: u64,
    /// Every so many batches their connection is closed although they are taken: they come again.
    pub lose_answer_every: u64,
    /// Every so many connections are closed at once.
    pub refuse_every: u64,
    /// When batches begin to be neither taken nor answered, from the start.
    pub stall_after: Duration,
    /// How long that lasts.
    pub stall_for: Duration,
}

/// What happens to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is taken.
    None,
    /// It is not taken, and that is said.
    Fail,
    /// It is not taken, and the connection closed.
    Drop,
    /// It is taken, and the connection closed.
    LoseAnswer,
    /// It is not taken, and nothing is said.
    Stall,
}

/// Counts, and decides.
#[derive(Debug)]
pub struct FaultPlan {
    faults: Faults,
    begun: Instant,
    batches: AtomicU64,
    /// Batches that were not simply taken.
    made: AtomicU64,
}

impl FaultPlan {
    /// A plan that begins now.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self { faults, begun: Instant::now(), batches: AtomicU64::new(0), made: AtomicU64::new(0) }
    }

    /// Which faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// How many batches met one.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Relaxed)
    }

    /// Whether a connection, counted from 1, is served.
    #[must_use]
    pub fn accepts(&self, connection: u64) -> bool {
        !is_due(connection, self.faults.refuse_every)
    }

    /// What happens to the next batch.
    pub fn next(&self) -> Fault {
        let batch = self.batches.fetch_add(1, Relaxed) + 1;
        let faults = &self.faults;
        let fault = match self.begun.elapsed().checked_sub(faults.stall_after) {
            Some(since) if since < faults.stall_for => Fault::Stall,
            _ if is_due(batch, faults.drop_every) => Fault::Drop,
            _ if is_due(batch, faults.lose_answer_every) => Fault::LoseAnswer,
            _ if is_due(batch, faults.fail_every) => Fault::Fail,
            _ => return Fault::None,
        };
        self.made.fetch_add(1, Relaxed);
        fault
    }
}

fn is_due(number: u64, every: u64) -> bool {
    every > 0 && number.is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Faults = Faults {
        delay: Duration::ZERO,
        fail_every: 0,
        fail_with: Status::Failed,
        drop_every: 0,
        lose_answer_every: 0,
        refuse_every: 0,
        stall_after: Duration::ZERO,
        stall_for: Duration::ZERO,
    };

    #[test]
    fn faults_come_as_often_as_they_were_asked_for() {
        let plan = FaultPlan::new(Faults { fail_every: 3, drop_every: 4, refuse_every: 2, ..NONE });
        let faults: Vec<_> = (0..6).map(|_| plan.next()).collect();
        use Fault::{Drop, Fail, None};
        assert_eq!(faults, [None, None, Fail, Drop, None, Fail]);
        assert_eq!(plan.made(), 3);
        assert_eq!([1, 2, 3, 4].map(|connection| plan.accepts(connection)), [true, false, true, false]);
        assert_eq!(FaultPlan::new(NONE).next(), None);
    }

    #[test]
    fn a_stall_ends() {
        let hour = Duration::from_secs(3600);
        assert_eq!(FaultPlan::new(Faults { stall_for: hour, ..NONE }).next(), Fault::Stall);
        let later = Faults { stall_after: hour, stall_for: hour, ..NONE };
        assert_eq!(FaultPlan::new(later).next(), Fault::None);
        let mut over = FaultPlan::new(Faults { stall_for: Duration::from_secs(1), ..NONE });
        over.begun = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        assert_eq!(over.next(), Fault::None);
    }
}
