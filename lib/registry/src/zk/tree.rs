//! The tree that existing brokers and clients share, and the single operations on it.
//!
//! | path | kind | data |
//! |---|---|---|
//! | `/kiteq/server/{topic}/{host:port}` | ephemeral | empty |
//! | `/kiteq/alive_servers/{host:port}` | ephemeral | empty |
//! | `/kiteq/all_servers/{host:port}` | persistent | empty |
//! | `/kiteq/pub/{topic}/{group}/{host}` | persistent | empty |
//! | `/kiteq/sub/{topic}/{group}-bind` | persistent | JSON array of bindings |

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, OneshotWatcher};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());

pub(super) const ALIVE_SERVERS: &str = "/kiteq/alive_servers";
pub(super) const ALL_SERVERS: &str = "/kiteq/all_servers";

/// What the names of binding nodes end with.
pub(super) const BIND_SUFFIX: &str = "-bind";

/// Longest wait for one answer. A request that is made while the connection is away waits for its return.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn server(topic: &str) -> String {
    format!("/kiteq/server/{topic}")
}

pub(super) fn publishers(topic: &str) -> String {
    format!("/kiteq/pub/{topic}")
}

pub(super) fn subscribers(topic: &str) -> String {
    format!("/kiteq/sub/{topic}")
}

/// Waits for an answer, but not for ever.
pub(super) async fn ask<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(Error::Timeout))
}

/// Makes a persistent node and those above it.
pub(super) async fn make(client: &Client, path: &str) -> Result<(), Error> {
    ask(client.mkdir(path, &PERSISTENT)).await
}

/// Deletes a node if it is there.
pub(super) async fn delete(client: &Client, path: &str) -> Result<(), Error> {
    match ask(client.delete(path, None)).await {
        Err(Error::NoNode) => Ok(()),
        other => other,
    }
}

/// Makes an ephemeral node of this session. One that an earlier session has left is deleted first: it would vanish
/// with that session.
pub(super) async fn make_ephemeral(client: &Client, directory: &str, name: &str) -> Result<(), Error> {
    let path = format!("{directory}/{name}");
    match ask(client.check_stat(&path)).await? {
        Some(stat) if stat.ephemeral_owner == client.session_id().0 => return Ok(()),
        Some(_) => delete(client, &path).await?,
        None => make(client, directory).await?,
    }
    ask(client.create(&path, b"", &EPHEMERAL)).await.map(|_| ())
}

/// Gives a persistent node its data. What is there already is not written again, so that nobody is woken for nothing.
pub(super) async fn write(client: &Client, directory: &str, name: &str, data: &[u8]) -> Result<(), Error> {
    let path = format!("{directory}/{name}");
    match ask(client.get_data(&path)).await {
        Ok((known, _)) if known == data => Ok(()),
        Ok(_) => ask(client.set_data(&path, data, None)).await.map(|_| ()),
        Err(Error::NoNode) => {
            make(client, directory).await?;
            match ask(client.create(&path, data, &PERSISTENT)).await {
                Err(Error::NodeExists) => ask(client.set_data(&path, data, None)).await.map(|_| ()),
                created => created.map(|_| ()),
            }
        }
        Err(error) => Err(error),
    }
}

/// The children of a node, and what changes when they do; or what changes when the node is made.
pub(super) enum Listing {
    Missing(OneshotWatcher),
    Children(Vec<String>, OneshotWatcher),
}

pub(super) async fn list(client: &Client, path: &str) -> Result<Listing, Error> {
    loop {
        match ask(client.list_and_watch_children(path)).await {
            Ok((children, changes)) => return Ok(Listing::Children(children, changes)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        // It may be made in between: then its children can be listed.
        if let (None, changes) = ask(client.check_and_watch_stat(path)).await? {
            return Ok(Listing::Missing(changes));
        }
    }
}
