//! Follows the brokers of one topic.

use kiteq_zookeeper::{Client, Error, Listing, list, resync};

use super::Shared;
use super::tree::server;
use crate::nodes::addresses;

/// Reads the brokers of `topic` and waits until they change or it is time to read them afresh.
pub(super) async fn follow(client: &Client, shared: &Shared, topic: &str) -> Result<(), Error> {
    let (names, changes) = match list(client, &server(topic)).await? {
        Listing::Missing(changes) => (Vec::new(), changes),
        Listing::Children(names, changes) => (names, changes),
    };
    shared.brokers.set(topic, addresses(topic, names));
    tokio::select! {
        _ = changes.changed() => {}
        () = resync() => {}
    }
    Ok(())
}
