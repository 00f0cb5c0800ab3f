//! A running bridge.

use kiteq_telemetry::Shutdown;
use prometheus_client::registry::Registry;

use crate::config::BridgeConfig;
use crate::error::StartError;
use crate::stat::{Stat, StopReport};

/// A running bridge: it drains its queues until its [`Shutdown`] is triggered.
#[derive(Debug)]
pub struct Bridge {
    mark: String,
}

impl Bridge {
    /// Starts to drain. Servers that are away are waited for; their absence shows in [`Bridge::ready`].
    ///
    /// # Errors
    /// A setting that has no meaning.
    ///
    /// # Cancel safety
    /// Not cancel safe: tasks that were started go on until `shutdown` is triggered.
    pub async fn start(
        config: BridgeConfig,
        _metrics: &mut Registry,
        _shutdown: &Shutdown,
    ) -> Result<Self, StartError> {
        let mark = format!("{}_{}:{}", config.host_name, config.instance, std::process::id());
        Ok(Self { mark })
    }

    /// Whether it can do its job: every queue is being drained, and ZooKeeper is known.
    ///
    /// # Errors
    /// What is in the way, for people.
    pub fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    /// How it is doing.
    #[must_use]
    pub fn stat(&self) -> Stat {
        Stat { mark: self.mark.clone(), queues: Vec::new(), businesses: Vec::new(), pipeline_bytes: 0 }
    }

    /// Waits until everything that was claimed is settled or put back, within the drain timeout. The `shutdown` given
    /// at the start is triggered if it has not been yet.
    ///
    /// # Cancel safety
    /// Not cancel safe: what is not put back yet stays in its claims, for the next start.
    pub async fn stop(self) -> StopReport {
        StopReport::default()
    }
}
