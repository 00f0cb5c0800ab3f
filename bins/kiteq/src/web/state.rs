//! What the HTTP handlers know about the broker.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use kiteq_broker::Broker;
use kiteq_registry::Registry;
use kiteq_store::SharedStore;

/// A broker that serves, and what belongs to it.
pub(crate) struct Serving {
    pub(crate) broker: Broker,
    pub(crate) store: SharedStore,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) metrics: prometheus_client::registry::Registry,
}

enum Phase {
    /// What is being done.
    Starting(&'static str),
    Serving(Arc<Serving>),
    Stopping(Arc<Serving>),
}

/// How far the service is.
pub(crate) struct State {
    phase: RwLock<Phase>,
    pub(crate) started: Instant,
}

impl State {
    pub(crate) fn new() -> Self {
        Self { phase: RwLock::new(Phase::Starting("the registry is being opened")), started: Instant::now() }
    }

    fn enter(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Says what is being done before the broker serves.
    pub(crate) fn starting(&self, what: &'static str) {
        self.enter(Phase::Starting(what));
    }

    /// From now on there is a broker.
    pub(crate) fn set_serving(&self, serving: &Arc<Serving>) {
        self.enter(Phase::Serving(Arc::clone(serving)));
    }

    /// From now on it is not ready any more, but still there to be asked.
    pub(crate) fn set_stopping(&self, serving: &Arc<Serving>) {
        self.enter(Phase::Stopping(Arc::clone(serving)));
    }

    /// The broker, or why there is none.
    pub(crate) fn serving(&self) -> Result<Arc<Serving>, String> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Starting(what) => Err(format!("starting: {what}")),
            Phase::Serving(serving) | Phase::Stopping(serving) => Ok(Arc::clone(serving)),
        }
    }

    /// Whether messages can be published and delivered, or why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if matches!(&*self.phase.read().unwrap_or_else(PoisonError::into_inner), Phase::Stopping(_)) {
            return Err("stopping: clients are asked to move to other brokers".to_owned());
        }
        self.serving()?.broker.ready()
    }
}
