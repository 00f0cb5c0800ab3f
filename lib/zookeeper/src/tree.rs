//! The operations on a tree.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error, OneshotWatcher};

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const EPHEMERAL: CreateOptions<'static> = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
const EPHEMERAL_SEQUENTIAL: CreateOptions<'static> =
    CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

/// Largest node that is read or written: what a ZooKeeper server takes by default, less the request around it.
pub const NODE_BYTES_MAX: usize = 1_000_000;

/// Longest wait for one answer. A request that is made while the connection is away waits for its return.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for an answer, but not for ever.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn ask<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(Error::Timeout))
}

/// Makes a persistent node and those above it.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn make(client: &Client, path: &str) -> Result<(), Error> {
    ask(client.mkdir(path, &PERSISTENT)).await
}

/// Deletes a node if it is there.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn delete(client: &Client, path: &str) -> Result<(), Error> {
    match ask(client.delete(path, None)).await {
        Err(Error::NoNode) => Ok(()),
        other => other,
    }
}

/// Makes an ephemeral node of this session. One that an earlier session has left is deleted first: it would vanish
/// with that session.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn make_ephemeral(client: &Client, directory: &str, name: &str) -> Result<(), Error> {
    let path = format!("{directory}/{name}");
    match ask(client.check_stat(&path)).await? {
        Some(stat) if stat.ephemeral_owner == client.session_id().0 => return Ok(()),
        Some(_) => delete(client, &path).await?,
        None => make(client, directory).await?,
    }
    ask(client.create(&path, b"", &EPHEMERAL)).await.map(|_| ())
}

/// Makes an ephemeral node of this session whose name is `prefix` and a number that grows, and gives its path.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn make_sequential(client: &Client, directory: &str, prefix: &str) -> Result<String, Error> {
    make(client, directory).await?;
    let path = format!("{directory}/{prefix}");
    let (_, sequence) = ask(client.create(&path, b"", &EPHEMERAL_SEQUENTIAL)).await?;
    Ok(format!("{path}{sequence}"))
}

/// Gives a persistent node its data. What is there already is not written again, so that nobody is woken for nothing.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn write(client: &Client, directory: &str, name: &str, data: &[u8]) -> Result<(), Error> {
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
#[derive(Debug)]
pub enum Listing {
    /// There is no such node.
    Missing(OneshotWatcher),
    /// The names of its children.
    Children(Vec<String>, OneshotWatcher),
}

/// The children of a node, or that there is no such node, and a watch on either.
///
/// # Errors
/// What ZooKeeper said, or [`Error::Timeout`] after [`ANSWER_TIMEOUT`].
pub async fn list(client: &Client, path: &str) -> Result<Listing, Error> {
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
