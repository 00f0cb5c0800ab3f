//! A timer with microsecond resolution: tokio's own counts in milliseconds, which an open loop would show as latency.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// One timerfd.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    set_for_ns: Option<u64>,
}

impl Alarm {
    /// Creates the timer. Must run within a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no timer.
    pub fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[allow(
            unsafe_code,
            reason = "the safe constructor for anything but sockets and pipes is gone from tokio"
        )]
        // SAFETY: the descriptor was just created, `AsyncFd` owns it, and nothing here closes or replaces it.
        let timer = unsafe { AsyncFd::register(timer) }?;
        Ok(Self { timer, set_for_ns: None })
    }

    /// Ready once the monotonic clock has reached `at_ns`.
    ///
    /// # Errors
    /// When the timer cannot be set or read.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at_ns: u64) -> Poll<io::Result<()>> {
        // Zero would switch the timer off.
        let at_ns = at_ns.max(1);
        if self.set_for_ns != Some(at_ns) {
            let at =
                Timespec { tv_sec: (at_ns / 1_000_000_000) as i64, tv_nsec: (at_ns % 1_000_000_000) as i64 };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
            timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
            self.set_for_ns = Some(at_ns);
        }
        loop {
            let mut ready = ready!(self.timer.poll_read_ready(cx))?;
            let mut expirations = [0; 8];
            match rustix::io::read(self.timer.get_ref(), &mut expirations) {
                Ok(_) => {
                    self.set_for_ns = None;
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now_ns;

    #[tokio::test]
    async fn it_rings_at_the_time_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        for delay_ns in [0, 300_000, 2_000_000] {
            let at_ns = now_ns() + delay_ns;
            std::future::poll_fn(|cx| alarm.poll_at(cx, at_ns)).await.unwrap();
            assert!(now_ns() >= at_ns);
        }
    }

    #[tokio::test]
    async fn setting_it_again_replaces_the_time() {
        let mut alarm = Alarm::new().unwrap();
        let far_ns = now_ns() + 3_600_000_000_000;
        std::future::poll_fn(|cx| {
            assert!(alarm.poll_at(cx, far_ns).is_pending());
            Poll::Ready(())
        })
        .await;
        let soon_ns = now_ns();
        std::future::poll_fn(|cx| alarm.poll_at(cx, soon_ns)).await.unwrap();
    }
}
