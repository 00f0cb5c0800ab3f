//! The way out: settle what is in flight, within a deadline, then close.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::CloseError;
use crate::in_flight::GiveUp;
use crate::shared::Shared;
use crate::sync::{lock, read};

/// What closing takes beyond its deadline at most: the last bytes leave, tasks end.
const GOODBYE_MAX: Duration = Duration::from_secs(3);

impl Shared {
    /// Waits for `is_over`, looked at whenever something is settled. False when the deadline came first.
    pub(crate) async fn wait_until_settled(&self, deadline: Instant, is_over: impl Fn() -> bool) -> bool {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // From here on nothing is missed, also before the first poll.
            settled.as_mut().enable();
            if is_over() {
                return true;
            }
            if timeout_at(deadline, settled).await.is_err() {
                return is_over();
            }
        }
    }

    pub(crate) async fn close(&self, patience: Duration) -> Result<(), CloseError> {
        let deadline = Instant::now() + patience;
        self.deaf.store(true, Ordering::Release);
        let unanswered = || self.consumer.as_ref().map_or(0, |consumer| consumer.unfinished());
        // Handlers may still publish, so publishing ends after them.
        self.wait_until_settled(deadline, || unanswered() == 0).await;
        self.closed.store(true, Ordering::Release);
        self.wait_until_settled(deadline, || self.is_settled()).await;
        let left = CloseError { deliveries: unanswered(), publishes: self.unacked() };
        self.stop.cancel();
        self.tasks.close();
        if timeout_at(Instant::now() + GOODBYE_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "closed the client with tasks that do not end");
        }
        self.abandon();
        if left == (CloseError { deliveries: 0, publishes: 0 }) { Ok(()) } else { Err(left) }
    }

    fn is_settled(&self) -> bool {
        let links_are = lock(&self.links).values().all(|link| !link.is_ready() || link.is_settled());
        links_are && self.unacked() == 0
    }

    /// Messages that somebody waits for.
    fn unacked(&self) -> usize {
        let sent: usize = lock(&self.links).values().map(|link| link.unacked().len()).sum();
        let parked: usize = read(&self.routes).values().map(|route| route.parked().len()).sum();
        sent + parked
    }

    /// Ends every wait for a receipt that will not come.
    pub(crate) fn abandon(&self) {
        for link in lock(&self.links).values() {
            for message in link.unacked() {
                message.give_up(GiveUp::Closed);
            }
        }
        for route in read(&self.routes).values() {
            for message in route.parked() {
                message.give_up(GiveUp::Closed);
            }
        }
    }
}
