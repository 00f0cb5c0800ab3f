//! The wall clock, as far as it can be believed.
//!
//! Expiry is given in wall-clock seconds, and a clock that jumps (a wrong NTP server, a resumed virtual machine) would
//! turn every waiting message into a dead letter at once. So wall time is carried on by the monotonic clock, follows the
//! system's clock while the two agree, and follows a jump only after the jump has stood for a while.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A system clock this far from where it should be has jumped.
const JUMP: i64 = 5;
/// A jump that stands for so long is believed.
const BELIEVE_AFTER: Duration = Duration::from_secs(300);

/// Wall-clock time that does not jump by accident.
#[derive(Debug)]
pub(crate) struct WallClock {
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// Wall time `unix_seconds` was believed at this instant.
    anchor: Instant,
    unix_seconds: i64,
    /// When the system clock was first seen away from where it should be.
    jumped_at: Option<Instant>,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                anchor: Instant::now(),
                unix_seconds: system_seconds(),
                jumped_at: None,
            }),
        }
    }

    /// Unix seconds.
    pub(crate) fn unix_seconds(&self) -> i64 {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.follow(Instant::now(), system_seconds())
    }
}

impl State {
    fn follow(&mut self, now: Instant, system: i64) -> i64 {
        let expected = self.unix_seconds + now.saturating_duration_since(self.anchor).as_secs() as i64;
        let off_by = system.saturating_sub(expected);
        if off_by.abs() <= JUMP {
            if self.jumped_at.take().is_some() {
                tracing::info!("the system clock is back where it should be");
            }
        } else {
            let jumped_at = *self.jumped_at.get_or_insert_with(|| {
                tracing::warn!(
                    off_by_seconds = off_by,
                    believed_after_seconds = BELIEVE_AFTER.as_secs(),
                    "the system clock jumped; expiry goes on by the old time until the jump has stood for a while"
                );
                now
            });
            if now.saturating_duration_since(jumped_at) < BELIEVE_AFTER {
                return expected;
            }
            tracing::warn!(off_by_seconds = off_by, "the system clock's jump is believed now");
            self.jumped_at = None;
        }
        (self.anchor, self.unix_seconds) = (now, system);
        system
    }
}

fn system_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_believed_only_after_it_has_stood() {
        let start = Instant::now();
        let mut state = State { anchor: start, unix_seconds: 1000, jumped_at: None };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(state.follow(at(10), 1012), 1012, "small differences are followed");
        assert_eq!(state.follow(at(20), 900_000), 1022, "a jump is not");
        assert_eq!(state.follow(at(319), 900_299), 1321);
        assert_eq!(state.follow(at(320), 900_300), 900_300, "it has stood for five minutes");
    }

    #[test]
    fn a_jump_that_is_taken_back_never_happened() {
        let start = Instant::now();
        let mut state = State { anchor: start, unix_seconds: 1000, jumped_at: None };
        assert_eq!(state.follow(start + Duration::from_secs(1), 5), 1001);
        assert_eq!(state.follow(start + Duration::from_secs(2), 1002), 1002);
        assert!(state.jumped_at.is_none());
    }
}
