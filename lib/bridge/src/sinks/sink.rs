//! One sink: its connections, and what is known of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiteq_flume::{Batch, ConnectOptions, Connection, FlumeError};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::failure::classify;
use super::health::{Epoch, Health, State, Trouble};
use super::metrics::SinkMetrics;
use super::name::SinkAddress;
use super::stat::SinkStat;
use crate::config::SinksConfig;

/// A connection that has not been used for so long is closed.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// What all sinks have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) connect: ConnectOptions,
    pub(super) config: SinksConfig,
    /// Notified when anything changes that a waiting batch or the keeper may want to know.
    pub(super) changed: Notify,
    /// Notified when something has become due that the keeper has to do.
    pub(super) keeper: Notify,
}

#[derive(Debug)]
pub(super) struct Sink {
    address: SinkAddress,
    /// The address as text, in logs and metrics.
    name: String,
    common: Arc<Common>,
    metrics: SinkMetrics,
    is_local: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    health: Health,
    in_flight: usize,
    /// The one that was used last is at the end, and is used next: the others can become idle.
    idle: Vec<Idle>,
    /// The trouble that the log has told of, and since when, while the sink is not up.
    told: Option<(Trouble, Instant)>,
    last_error: Option<String>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Sink {
    pub(super) fn new(address: SinkAddress, common: Arc<Common>, metrics: SinkMetrics) -> Self {
        let config = &common.config;
        let inner = Inner {
            health: Health::new(config.backoff_min, config.backoff_max),
            in_flight: 0,
            idle: Vec::new(),
            told: None,
            last_error: None,
        };
        metrics.set_state(State::Up.name());
        Self {
            name: address.to_string(),
            address,
            common,
            metrics,
            is_local: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn address(&self) -> &SinkAddress {
        &self.address
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_local(&self) -> bool {
        self.is_local.load(Ordering::Relaxed)
    }

    pub(super) fn set_local(&self) {
        self.is_local.store(true, Ordering::Relaxed);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.lock().health.is_usable(now)
    }

    /// How many batches are in flight, when one more may be.
    pub(super) fn load(&self, now: Instant) -> Option<usize> {
        let inner = self.lock();
        let has_room = inner.in_flight < self.common.config.connections_per_sink;
        (has_room && inner.health.admits(now)).then_some(inner.in_flight)
    }

    /// Takes the place of one batch, if there is one.
    pub(super) fn take_slot(self: &Arc<Self>, now: Instant) -> Option<Slot> {
        let mut inner = self.lock();
        if inner.in_flight >= self.common.config.connections_per_sink || !inner.health.admits(now) {
            return None;
        }
        inner.in_flight += 1;
        let epoch = inner.health.begin(now);
        self.show(&inner, now);
        drop(inner);
        Some(Slot { sink: Arc::clone(self), epoch })
    }

    /// When something is due: the end of a pause, or a probe.
    pub(super) fn due(&self) -> Option<Instant> {
        self.lock().health.due()
    }

    /// Ends a pause that is over.
    pub(super) fn pass_time(&self, now: Instant) {
        let mut inner = self.lock();
        if inner.health.pass_time(now) {
            self.show(&inner, now);
            drop(inner);
            self.common.changed.notify_waiters();
        }
    }

    /// A probe, when one is due.
    pub(super) fn begin_probe(self: &Arc<Self>, now: Instant) -> Option<Probe> {
        let epoch = self.lock().health.begin_probe(now)?;
        Some(Probe { sink: Arc::clone(self), epoch })
    }

    /// Closes connections that have not been used for [`IDLE_MAX`], and those that the sink has closed.
    pub(super) fn close_idle(&self, now: Instant) {
        self.lock().idle.retain_mut(|idle| idle.since + IDLE_MAX > now && idle.connection.is_usable());
    }

    /// Closes every connection that is not in use.
    pub(super) fn close_all(&self) {
        self.lock().idle.clear();
    }

    pub(super) fn stat(&self, businesses: Vec<String>, now: Instant) -> SinkStat {
        let inner = self.lock();
        SinkStat {
            sink: self.name.clone(),
            businesses,
            local: self.is_local(),
            state: inner.health.state(now).name(),
            in_flight: inner.in_flight,
            connections: inner.idle.len() + inner.in_flight,
            batches: self.metrics.batches.get(),
            events: self.metrics.events.get(),
            failures: self.metrics.failures().collect(),
            last_error: inner.last_error.clone(),
        }
    }

    fn show(&self, inner: &Inner, now: Instant) {
        self.metrics.in_flight.set(i64::try_from(inner.in_flight).unwrap_or(i64::MAX));
        self.metrics.set_state(inner.health.state(now).name());
    }

    fn idle_connection(&self) -> Option<Connection> {
        let mut inner = self.lock();
        while let Some(mut idle) = inner.idle.pop() {
            if idle.connection.is_usable() {
                return Some(idle.connection);
            }
        }
        None
    }

    async fn connection(&self) -> Result<Connection, FlumeError> {
        match self.idle_connection() {
            Some(connection) => Ok(connection),
            None => Connection::connect(self.address.host(), self.address.port(), &self.common.connect).await,
        }
    }

    /// Brings a batch over a connection of the pool. Tells with a failure whether there was a connection.
    async fn append(&self, batch: &Batch) -> Result<(), (FlumeError, bool)> {
        let mut connection = self.connection().await.map_err(|error| (error, false))?;
        let outcome = connection.append_batch(batch).await;
        if outcome.as_ref().err().is_none_or(FlumeError::leaves_connection_usable) {
            self.lock().idle.push(Idle { connection, since: Instant::now() });
        }
        outcome.map_err(|error| (error, true))
    }

    fn taken(&self, batch: &Batch, took: Duration) {
        self.metrics.batches.inc();
        self.metrics.events.inc_by(batch.events() as u64);
        self.metrics.seconds.observe(took.as_secs_f64());
        let mut inner = self.lock();
        let is_news = inner.health.taken();
        if let Some((_, since)) = inner.told.take() {
            let after = since.elapsed();
            inner.last_error = None;
            drop(inner);
            tracing::info!(sink = self.name, ?after, "sink takes batches again");
        }
        if is_news {
            self.common.changed.notify_waiters();
            self.common.keeper.notify_one();
        }
    }

    fn not_taken(&self, epoch: Epoch, error: &FlumeError, is_connected: bool) {
        let (reason, trouble) = classify(error, is_connected);
        self.metrics.failed(reason);
        let now = Instant::now();
        let mut inner = self.lock();
        inner.last_error = Some(error.to_string());
        if trouble == Trouble::Dead {
            // They lead to the same dead end.
            inner.idle.clear();
        }
        let Some(pause) = inner.health.troubled(epoch, trouble, now) else { return };
        let is_told = inner.told.is_some_and(|(told, _)| told == trouble);
        let since = inner.told.map_or(now, |(_, since)| since);
        inner.told = Some((trouble, since));
        drop(inner);
        match (is_told, trouble) {
            (true, _) => {
                tracing::debug!(sink = self.name, reason, %error, ?pause, "sink still takes no batch");
            }
            (false, Trouble::Full) => {
                tracing::warn!(sink = self.name, reason, %error, ?pause,
                    "sink does not take batches now; others get them, and it is tried again");
            }
            (false, Trouble::Dead) => {
                tracing::warn!(sink = self.name, reason, %error, ?pause,
                    "sink is set aside; others get its batches, and it is probed");
            }
        }
        self.common.changed.notify_waiters();
        self.common.keeper.notify_one();
    }
}

/// The place of one batch at a sink. Dropping it gives the place back; the connection of a batch that is given up on its
/// way is closed.
#[derive(Debug)]
pub(super) struct Slot {
    sink: Arc<Sink>,
    epoch: Epoch,
}

impl Slot {
    pub(super) fn sink(&self) -> &Arc<Sink> {
        &self.sink
    }

    /// Brings a batch to the sink. An error has been counted and logged, and the sink has its pause.
    pub(super) async fn send(self, batch: &Batch) -> Result<(), FlumeError> {
        let began = Instant::now();
        match self.sink.append(batch).await {
            Ok(()) => {
                self.sink.taken(batch, began.elapsed());
                Ok(())
            }
            Err((error, is_connected)) => {
                self.sink.not_taken(self.epoch, &error, is_connected);
                Err(error)
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.sink.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.health.end(self.epoch);
        self.sink.show(&inner, Instant::now());
        drop(inner);
        self.sink.common.changed.notify_waiters();
    }
}

/// A question to a sink that is aside, whether it answers again.
#[derive(Debug)]
pub(super) struct Probe {
    sink: Arc<Sink>,
    epoch: Epoch,
}

impl Probe {
    /// Sends a batch without events. Any answer in Flume's protocol will do: whether the sink takes events is found out with
    /// events.
    pub(super) async fn run(self, empty: &Batch) {
        let outcome = self.sink.append(empty).await;
        let answered = matches!(outcome, Ok(()) | Err((FlumeError::Status { .. }, _)));
        let now = Instant::now();
        let mut inner = self.sink.lock();
        if let Err((error, is_connected)) = &outcome
            && !answered
        {
            let (reason, _) = classify(error, *is_connected);
            self.sink.metrics.failed(reason);
            inner.last_error = Some(error.to_string());
            tracing::debug!(sink = self.sink.name, reason, %error, "sink does not answer yet");
        }
        inner.health.probed(self.epoch, answered, now);
        self.sink.show(&inner, now);
        drop(inner);
        self.sink.common.changed.notify_waiters();
        self.sink.common.keeper.notify_one();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.sink.lock().health.unprobed(self.epoch);
    }
}

#[cfg(test)]
mod tests {
    use kiteq_flume::{Answer, BatchBuilder, Handler, Incoming, Protocol, Server, ServerOptions, Status};
    use kiteq_testkit::eventually;
    use prometheus_client::registry::Registry;

    use super::super::metrics::SinksMetrics;
    use super::*;

    struct Willing;

    impl Handler for Willing {
        async fn handle(&self, _incoming: Incoming) -> Answer {
            Answer::Status(Status::Ok)
        }
    }

    fn sink(port: u16) -> Arc<Sink> {
        let common = Common {
            connect: ConnectOptions::default(),
            config: SinksConfig::default(),
            changed: Notify::new(),
            keeper: Notify::new(),
        };
        let address = SinkAddress::from_node(&format!("127.0.0.1_{port}")).unwrap();
        let metrics = SinksMetrics::register(&mut Registry::default()).of("sink");
        Arc::new(Sink::new(address, Arc::new(common), metrics))
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_closed_when_nobody_uses_it_or_the_sink_has_closed_it() {
        let server = Server::bind("127.0.0.1:0", ServerOptions::default()).await.unwrap();
        let sink = sink(server.local_addr().unwrap().port());
        let serve = tokio::spawn(server.run(Arc::new(Willing)));
        let empty = BatchBuilder::new(Protocol::Compact, 1000).finish();
        let connections = |sink: &Sink| sink.stat(Vec::new(), Instant::now()).connections;
        for _ in 0..3 {
            sink.take_slot(Instant::now()).unwrap().send(&empty).await.unwrap();
            assert_eq!(connections(&sink), 1);
        }
        sink.close_idle(Instant::now() + IDLE_MAX / 2);
        assert_eq!(connections(&sink), 1);
        sink.close_idle(Instant::now() + IDLE_MAX * 2);
        assert_eq!(connections(&sink), 0);

        sink.take_slot(Instant::now()).unwrap().send(&empty).await.unwrap();
        assert_eq!(connections(&sink), 1);
        serve.abort();
        eventually("what the sink has closed is closed", async || {
            sink.close_idle(Instant::now());
            (connections(&sink) == 0).then_some(())
        })
        .await;
    }
}
