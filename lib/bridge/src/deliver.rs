//! What the pipeline needs of the outside, besides Redis.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use kiteq_flume::Batch;
use tokio::sync::watch;

/// No sink of the business took the batch. Some of it may have arrived all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no sink takes batches of this business")]
pub struct Undeliverable;

/// Brings batches to sinks. Clones are handles to the same.
pub trait Deliver: Clone + Send + Sync + 'static {
    /// Sends a batch; Ok once a sink has said that it has all of it.
    ///
    /// # Errors
    /// No sink took it, for as long as it was worth trying.
    ///
    /// # Cancel safety
    /// A batch whose future is dropped may have been sent.
    fn deliver(
        &self,
        business: &str,
        batch: &Batch,
    ) -> impl Future<Output = Result<(), Undeliverable>> + Send;

    /// Whether a sink of the business may take batches now.
    fn availability(&self, business: &str) -> watch::Receiver<bool>;
}

/// The marks `{host}_{instance}:{pid}` of the bridges that are alive; nothing while that is not known.
pub type AliveMarks = Option<Arc<BTreeSet<String>>>;
