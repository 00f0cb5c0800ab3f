//! What the HTTP handlers know about the broker.

use std::sync::Arc;

use kiteq_broker::Broker;
use kiteq_registry::Registry;
use kiteq_store::SharedStore;
use kiteq_telemetry::Stage;

/// A broker that serves, and what belongs to it.
pub(crate) struct Serving {
    pub(crate) broker: Broker,
    pub(crate) store: SharedStore,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) metrics: prometheus_client::registry::Registry,
}

/// How far the broker is.
pub(crate) type State = Stage<Serving>;

/// Whether messages can be published and delivered, or why not.
pub(crate) fn ready(state: &State) -> Result<(), String> {
    if state.is_stopping() {
        return Err("stopping: clients are asked to move to other brokers".to_owned());
    }
    state.serving()?.broker.ready()
}
