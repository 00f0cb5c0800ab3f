//! Follows the brokers of one topic.

use kiteq_zookeeper::{Client, Error, Listing, list, resync};

use super::Shared;
use super::tree::server;
use crate::connect::with_port;

/// Brokers of one topic that are read; further ones are logged and ignored.
const BROKERS_MAX: usize = 1_000;

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

fn addresses(topic: &str, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| {
        let sound = with_port(name);
        if !sound {
            tracing::warn!(topic, node = name, "broker node is not host:port and is ignored");
        }
        sound
    });
    names.sort_unstable();
    if names.len() > BROKERS_MAX {
        tracing::warn!(
            topic,
            brokers = names.len(),
            limit = BROKERS_MAX,
            "too many brokers; the last are ignored"
        );
        names.truncate(BROKERS_MAX);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_no_addresses_are_left_out() {
        let names = ["b:2", "a:1", "nonsense", "c:0"].map(str::to_owned).to_vec();
        assert_eq!(addresses("trade", names), ["a:1", "b:2"]);
    }
}
