//! Follows the living brokers, and forgets them whenever a change could pass unseen.

use std::convert::Infallible;

use kiteq_zookeeper::{Backoff, Client, Error, Listing, SessionState, ask, list, resync};
use tokio::time::sleep;

use super::Shared;
use super::tree::ALIVE_SERVERS;
use crate::alive::Teller;

/// Tells who lives, in this session, once somebody has asked.
pub(super) async fn follow(client: &Client, shared: &Shared) -> Infallible {
    let alive = shared.alive.wanted().await;
    let mut state = client.state_watcher();
    let mut backoff = Backoff::new();
    loop {
        // While the connection is away the server may drop other sessions, and let them in again, without our knowing.
        if state.state() != SessionState::SyncConnected {
            alive.forget();
            state.changed().await;
            continue;
        }
        let followed = tokio::select! {
            biased;
            _ = state.changed() => {
                alive.forget();
                continue;
            }
            followed = read_and_wait(client, &alive) => followed,
        };
        match followed {
            Ok(()) => backoff.reset(),
            Err(error) => {
                alive.forget();
                tracing::debug!(%error, "living brokers cannot be read now");
                sleep(backoff.delay()).await;
            }
        }
    }
}

/// Reads the living brokers and waits until they change or it is time to read them afresh.
async fn read_and_wait(client: &Client, alive: &Teller<'_>) -> Result<(), Error> {
    // A server may lag behind the others of its ensemble: it answers this when it has caught up.
    ask(client.sync(ALIVE_SERVERS)).await?;
    let (names, changes) = match list(client, ALIVE_SERVERS).await? {
        Listing::Missing(changes) => (Vec::new(), changes),
        Listing::Children(names, changes) => (names, changes),
    };
    alive.tell(names);
    tokio::select! {
        _ = changes.changed() => {}
        () = resync() => {}
    }
    Ok(())
}
