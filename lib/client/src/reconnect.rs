//! Keeps a broker connected: connects, serves, waits, and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::link::Link;
use crate::session::{SessionError, connect, serve};
use crate::shared::Shared;

/// Growing waits between attempts, with jitter so that many clients do not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), next: min }
    }

    /// The next wait: between half of the current step and all of it. Steps double up to the maximum.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        jitter(step)
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

fn jitter(step: Duration) -> Duration {
    step.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Runs until the link is stopped.
pub(crate) async fn keep_connected(shared: Arc<Shared>, link: Arc<Link>) {
    let settings = &shared.settings;
    let mut backoff = Backoff::new(settings.backoff_min, settings.backoff_max);
    let mut failures = 0u32;
    loop {
        let connected = tokio::select! {
            () = link.stop.cancelled() => return,
            connected = connect(&link.address, settings) => connected,
        };
        let error = match connected {
            Ok((stream, buffer)) => {
                let socket = Arc::new(stream);
                let session = link.open_session(Arc::clone(&socket));
                tracing::info!(broker = %link.address, group = %settings.group, "connected");
                shared.changed();
                let since = Instant::now();
                let end = serve(&shared, &link, session, &socket, buffer).await;
                shared.adopt(link.end_session());
                shared.changed();
                shared.settled.notify_waiters();
                let Err(error) = end else { return };
                // A broker that takes connections only to drop them is given more and more rest.
                if since.elapsed() >= settings.backoff_max {
                    backoff.reset();
                    failures = 0;
                }
                error
            }
            Err(error) => error,
        };
        failures += 1;
        let delay = rest(&shared, &link, &error, failures, &mut backoff);
        tokio::select! {
            () = link.stop.cancelled() => return,
            () = sleep(delay) => {}
        }
    }
}

/// Says what happened, the first time loudly, and how long to wait.
fn rest(
    shared: &Shared,
    link: &Link,
    error: &SessionError,
    failures: u32,
    backoff: &mut Backoff,
) -> Duration {
    let (broker, group) = (&link.address, &shared.settings.group);
    if let SessionError::Refused { feedback } = error {
        link.set_refusal(Some(feedback.as_str().into()));
        shared.changed();
        let delay = jitter(shared.settings.refused_retry);
        tracing::error!(%broker, %group, feedback, "refused by the broker: check the group's secret");
        return delay;
    }
    let delay = backoff.next_delay();
    let delay_ms = delay.as_millis() as u64;
    if failures == 1 {
        tracing::warn!(%broker, %error, delay_ms, "no connection; trying again");
    } else {
        tracing::debug!(%broker, %error, delay_ms, failures, "still no connection");
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(800));
        for step in [100, 200, 400, 800, 800] {
            let delay = backoff.next_delay();
            assert!(
                delay >= Duration::from_millis(step / 2) && delay <= Duration::from_millis(step),
                "{delay:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
