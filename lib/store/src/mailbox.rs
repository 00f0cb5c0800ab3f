//! How calls reach the thread that does the work.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Work that waits for one thread, which takes all of it at once: batches form by themselves while the thread is busy.
///
/// It has no bound of its own: what is queued is bounded by the callers, as the crate documentation says.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    /// The thread sleeps: whoever brings work must wake it.
    waiting: bool,
    /// The thread is to look, whether there is work or not.
    woken: bool,
    ended: bool,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There is work.
    Items,
    /// There is none, and the time is up.
    TimedOut,
    /// There is none, and there will never be any.
    Ended,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { items: Vec::new(), waiting: false, woken: false, ended: false }),
            arrived: Condvar::new(),
        }
    }

    /// Queues one piece of work, or gives it back when nobody will take it any more.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.ended {
            return Err(item);
        }
        state.items.push(item);
        if std::mem::take(&mut state.waiting) {
            drop(state);
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Queues one piece of work and lets the thread sleep: the caller does the work, or calls [`Mailbox::wake`].
    pub(crate) fn push_quietly(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.ended {
            return Err(item);
        }
        state.items.push(item);
        Ok(())
    }

    /// Ends the thread's present or next wait.
    pub(crate) fn wake(&self) {
        let mut state = lock(&self.state);
        state.woken = true;
        if std::mem::take(&mut state.waiting) {
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Swaps what waits into `items`, which must be empty, without waiting; says whether there was anything.
    pub(crate) fn take_now(&self, items: &mut Vec<T>) -> bool {
        debug_assert!(items.is_empty(), "what was taken before is done");
        let mut state = lock(&self.state);
        std::mem::swap(&mut state.items, items);
        !items.is_empty()
    }

    /// Swaps everything that waits into `items`, which must be empty; sleeps while there is nothing.
    pub(crate) fn take(&self, items: &mut Vec<T>, timeout: Option<Duration>) -> Taken {
        let taken = self.wait(timeout);
        if taken == Taken::Items {
            self.take_now(items);
        }
        taken
    }

    /// Sleeps until there is something to take or to look at.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Taken {
        let mut state = lock(&self.state);
        loop {
            if !state.items.is_empty() || std::mem::take(&mut state.woken) {
                return Taken::Items;
            }
            if state.ended {
                return Taken::Ended;
            }
            state.waiting = true;
            match timeout {
                None => state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let (woken, result) =
                        self.arrived.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner);
                    state = woken;
                    if result.timed_out() && state.items.is_empty() && !state.ended {
                        state.waiting = false;
                        return Taken::TimedOut;
                    }
                }
            }
        }
    }

    /// No work is accepted from now on; what waits is still taken.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.arrived.notify_all();
    }
}

/// Locks a mutex whose data is consistent at every point where a holder could panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_waits_is_taken_at_once_and_in_order() {
        let mailbox = Mailbox::new();
        for number in 0..5 {
            mailbox.push(number).unwrap();
        }
        let mut items = Vec::new();
        assert_eq!(mailbox.take(&mut items, None), Taken::Items);
        assert_eq!(items, [0, 1, 2, 3, 4]);
        items.clear();
        assert_eq!(mailbox.take(&mut items, Some(Duration::from_millis(1))), Taken::TimedOut);
    }

    #[test]
    fn an_ended_mailbox_gives_out_what_waits_and_takes_nothing() {
        let mailbox = Mailbox::new();
        mailbox.push(1).unwrap();
        mailbox.end();
        assert_eq!(mailbox.push(2), Err(2));
        let mut items = Vec::new();
        assert_eq!(mailbox.take(&mut items, None), Taken::Items);
        items.clear();
        assert_eq!(mailbox.take(&mut items, None), Taken::Ended);
    }

    #[test]
    fn a_sleeping_thread_is_woken() {
        let mailbox = std::sync::Arc::new(Mailbox::new());
        let taker = std::thread::spawn({
            let mailbox = mailbox.clone();
            move || {
                let mut items = Vec::new();
                let taken = mailbox.take(&mut items, None);
                (taken, items)
            }
        });
        mailbox.push(7).unwrap();
        assert_eq!(taker.join().unwrap(), (Taken::Items, vec![7]));
    }
}
