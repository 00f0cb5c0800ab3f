//! Closures in the order of the calls, whichever database answers first.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::mailbox::lock;

type Closure = Box<dyn FnOnce() + Send>;

/// Keeps answers back until all earlier ones have been given.
#[derive(Default)]
pub(super) struct Order {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The call that the first of `waiting` belongs to.
    first: u64,
    waiting: VecDeque<Option<Closure>>,
    /// Somebody runs closures now; whoever adds one leaves it to them.
    is_running: bool,
}

impl Order {
    /// The place of a call that is made now.
    pub(super) fn next(&self) -> u64 {
        let mut state = lock(&self.state);
        state.waiting.push_back(None);
        state.first + state.waiting.len() as u64 - 1
    }

    /// The call with this place is answered: runs its closure when all earlier ones have run.
    pub(super) fn answer(&self, place: u64, closure: Closure) {
        {
            let mut state = lock(&self.state);
            let index = (place - state.first) as usize;
            state.waiting[index] = Some(closure);
            if std::mem::replace(&mut state.is_running, true) {
                return;
            }
        }
        // A closure that panics must not keep the later ones from running.
        struct Running<'a>(&'a Order);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                // Otherwise `take` has done it, and somebody else may run by now.
                if std::thread::panicking() {
                    lock(&self.0.state).is_running = false;
                }
            }
        }
        let _running = Running(self);
        while let Some(closure) = self.take() {
            closure();
        }
    }

    fn take(&self) -> Option<Closure> {
        let mut state = lock(&self.state);
        let ready = state.waiting.front_mut().and_then(Option::take);
        if ready.is_some() {
            state.waiting.pop_front();
            state.first += 1;
        } else {
            // Before the lock is free: what is answered from now on finds nobody running.
            state.is_running = false;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn answers_wait_for_earlier_ones() {
        let order = Order::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let places: Vec<u64> = (0..4).map(|_| order.next()).collect();
        let say = |number: u64| -> Closure {
            let heard = heard.clone();
            Box::new(move || lock(&heard).push(number))
        };
        for index in [2usize, 1, 3] {
            order.answer(places[index], say(index as u64));
            assert!(lock(&heard).is_empty());
        }
        order.answer(places[0], say(0));
        assert_eq!(*lock(&heard), [0, 1, 2, 3]);
        let place = order.next();
        order.answer(place, say(4));
        assert_eq!(lock(&heard).len(), 5);
    }
}
