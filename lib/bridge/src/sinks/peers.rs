//! Follows the marks of all bridges.
//!
//! Bridges may share a queue and drain for different businesses, so the marks below every business count: one who is not among
//! ours is alive all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use kiteq_zookeeper::{Client, Error, Listing, ask, list, resync};

use super::directory::{ALL_MARKS, Shared, marks};
use super::session::again;

/// Reads the marks and follows their changes, for as long as it is polled.
pub(super) async fn follow(client: Client, shared: Arc<Shared>) {
    again("the marks of other bridges", || async {
        Peers { client: &client, marks: BTreeMap::new(), changes: FuturesUnordered::new() }
            .follow(&shared)
            .await
    })
    .await;
}

struct Peers<'a> {
    client: &'a Client,
    /// By business.
    marks: BTreeMap<String, BTreeSet<String>>,
    /// The name of a business whose marks have changed.
    changes: FuturesUnordered<BoxFuture<'static, String>>,
}

impl Peers<'_> {
    /// Until it is time to read everything afresh.
    async fn follow(mut self, shared: &Shared) -> Result<(), Error> {
        let mut resync = std::pin::pin!(resync());
        let mut businesses_changed = futures_util::future::ready(()).boxed();
        loop {
            tokio::select! {
                () = &mut businesses_changed => {
                    businesses_changed = self.read_businesses().await?;
                }
                Some(business) = self.changes.next() => self.read(business).await?,
                () = &mut resync => return Ok(()),
            }
            let alive: BTreeSet<String> = self.marks.values().flatten().cloned().collect();
            shared.alive.send_if_modified(|known| {
                let is_news = known.as_deref() != Some(&alive);
                if is_news {
                    *known = Some(Arc::new(alive));
                }
                is_news
            });
        }
    }

    /// Reads which businesses there are, and the marks of those that are new.
    async fn read_businesses(&mut self) -> Result<BoxFuture<'static, ()>, Error> {
        // A server may lag behind the others of its ensemble: it answers this when it has caught up.
        ask(self.client.sync(ALL_MARKS)).await?;
        let (names, changed) = match list(self.client, ALL_MARKS).await? {
            Listing::Missing(made) => (Vec::new(), made),
            Listing::Children(names, changed) => (names, changed),
        };
        for name in names {
            if !self.marks.contains_key(&name) {
                self.read(name).await?;
            }
        }
        Ok(changed.changed().map(|_| ()).boxed())
    }

    /// Reads the marks of a business and watches them. A business that is gone is forgotten.
    async fn read(&mut self, business: String) -> Result<(), Error> {
        match list(self.client, &marks(&business)).await? {
            Listing::Missing(_) => {
                self.marks.remove(&business);
            }
            Listing::Children(names, changed) => {
                self.marks.insert(business.clone(), names.into_iter().collect());
                self.changes.push(changed.changed().map(|_| business).boxed());
            }
        }
        Ok(())
    }
}
