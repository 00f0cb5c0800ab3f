//! The lease that a broker's keys go with. It outlives connections, as long as it is renewed over one of them in time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tonic::Status;

use super::rpc::Rpc;

#[derive(Debug)]
pub(super) struct Lease {
    ttl: Duration,
    id: Mutex<Option<i64>>,
    /// Counts the leases that expired although they were wanted.
    losses: watch::Sender<u64>,
}

impl Lease {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, id: Mutex::default(), losses: watch::Sender::new(0) }
    }

    fn id(&self) -> MutexGuard<'_, Option<i64>> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when a lease has been lost.
    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Between two renewals.
    pub(super) fn interval(&self) -> Duration {
        self.ttl / 3
    }

    /// The lease, granted when there is none. Callers take turns.
    pub(super) async fn held(&self, rpc: &Rpc) -> Result<i64, Status> {
        if let Some(id) = *self.id() {
            return Ok(id);
        }
        let granted = rpc.grant(self.ttl).await?;
        *self.id() = Some(granted);
        Ok(granted)
    }

    /// Renews the lease, if there is one.
    pub(super) async fn renew(&self, rpc: &Rpc) -> Result<(), Status> {
        let known = *self.id();
        let Some(id) = known else { return Ok(()) };
        if !rpc.keep_alive(id, self.interval()).await? {
            self.lost(id);
        }
        Ok(())
    }

    /// etcd does not know this lease any more, and its keys are gone.
    pub(super) fn lost(&self, lost: i64) {
        let is_ours = self.id().take_if(|id| *id == lost).is_some();
        if is_ours {
            self.losses.send_modify(|count| *count += 1);
        }
    }

    /// Ends the lease and with it every key that goes with it.
    pub(super) async fn revoke(&self, rpc: &Rpc) -> Result<(), Status> {
        let known = *self.id();
        let Some(id) = known else { return Ok(()) };
        rpc.revoke(id).await?;
        self.id().take_if(|held| *held == id);
        Ok(())
    }
}
