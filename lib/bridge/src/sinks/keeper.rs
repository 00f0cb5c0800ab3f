//! Keeps the sinks: follows the directory, ends pauses, probes, closes what is idle, and says which businesses have sinks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::directory::SinksWatch;
use super::locality::Locality;
use super::sink::Sink;

/// How often idle connections are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: SinksWatch,
    pub(super) locality: Locality,
    pub(super) stop: CancellationToken,
}

impl Keeper {
    /// Runs until it is stopped. Everything that it has begun ends with it.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Probes, and look-ups of hosts: one each per sink at most.
        let mut errands = JoinSet::new();
        let mut swept = Instant::now();
        let mut is_directory_open = true;
        self.apply(&mut errands);
        loop {
            let mut woken = std::pin::pin!(shared.common.keeper.notified());
            woken.as_mut().enable();
            let now = Instant::now();
            let due = self.tend(now, &mut swept, &mut errands);
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = self.directory.changed(), if is_directory_open => {
                    // What was last read stands.
                    is_directory_open = changed.is_ok();
                    self.apply(&mut errands);
                }
                () = woken => {}
                () = sleep_until(due) => {}
                Some(ended) = errands.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "an errand to a sink panicked; please report it");
                    }
                }
            }
        }
        errands.shutdown().await;
        shared.sinks().values().for_each(|sink| sink.close_all());
    }

    /// Does what is due, and says when there is more to do.
    fn tend(&self, now: Instant, swept: &mut Instant, errands: &mut JoinSet<()>) -> Instant {
        let sinks = self.shared.sinks().clone();
        if *swept + SWEEP_INTERVAL <= now {
            *swept = now;
            sinks.values().for_each(|sink| sink.close_idle(now));
            self.shared.drop_idle_leavers();
        }
        let mut due = *swept + SWEEP_INTERVAL;
        for sink in sinks.values() {
            sink.pass_time(now);
            if let Some(probe) = sink.begin_probe(now) {
                let shared = Arc::clone(&self.shared);
                errands.spawn(async move { probe.run(&shared.empty).await });
            }
            due = sink.due().map_or(due, |next| next.min(due));
        }
        for route in self.shared.routes.values() {
            due = route.refresh(now).map_or(due, |next| next.min(due));
        }
        due
    }

    /// Makes the sinks agree with the directory.
    fn apply(&mut self, errands: &mut JoinSet<()>) {
        let directory = Arc::clone(&self.directory.borrow_and_update());
        let wanted: BTreeSet<_> = directory.values().flatten().collect();
        let mut sinks = self.shared.sinks();
        for address in wanted.into_iter().filter(|address| !sinks.contains_key(address)).collect::<Vec<_>>() {
            let metrics = self.shared.metrics.of(&address.to_string());
            let sink = Arc::new(Sink::new(address.clone(), Arc::clone(&self.shared.common), metrics));
            sinks.insert(address.clone(), Arc::clone(&sink));
            tracing::info!(sink = sink.name(), "sink has come");
            let locality = self.locality.clone();
            errands.spawn(async move {
                if locality.contains(sink.address().host()).await {
                    sink.set_local();
                }
            });
        }
        for (business, route) in &self.shared.routes {
            let named = directory.get(business).into_iter().flatten();
            route.set_sinks(named.filter_map(|address| sinks.get(address).cloned()).collect());
        }
        drop(sinks);
        self.shared.drop_idle_leavers();
        self.shared.common.changed.notify_waiters();
    }
}
