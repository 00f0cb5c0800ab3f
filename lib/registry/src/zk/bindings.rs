//! Follows the binding nodes of one topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use kiteq_zookeeper::{Client, Error, Listing, OneshotWatcher, Stat, ask, list, resync};

use super::Shared;
use super::tree::subscribers;
use crate::binding::Binding;
use crate::nodes::{BIND_SUFFIX, GROUPS_MAX, parse};

/// Nodes that are read at a time.
const READS_AT_ONCE: usize = 32;

/// What is known of one binding node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The transaction and the time of its last change: the same ones mean the same data.
    changed: (i64, i64),
    /// Its bindings. When its data is malformed these are the last well-formed ones.
    bindings: Vec<Binding>,
}

/// Binding nodes by name.
pub(super) type Nodes = BTreeMap<String, Node>;

/// A node's name, once it has changed.
type Change = BoxFuture<'static, String>;

/// Reads the binding nodes of `topic` and follows their changes, until it is time to read all of them afresh.
pub(super) async fn follow(client: &Client, shared: &Arc<Shared>, topic: &str) -> Result<(), Error> {
    let directory = subscribers(topic);
    let mut reader = Reader {
        client,
        topic,
        nodes: shared.known_nodes(topic),
        changes: FuturesUnordered::new(),
        watched: BTreeSet::new(),
    };
    let mut is_first = true;
    let mut children_changed = futures_util::future::ready(()).boxed();
    let mut resync = std::pin::pin!(resync());
    loop {
        tokio::select! {
            () = &mut children_changed => match list(client, &directory).await? {
                Listing::Missing(made) => return missing(shared, topic, made).await,
                Listing::Children(names, changed) => {
                    let mut names = binding_nodes(topic, names);
                    reader.nodes.retain(|name, _| names.contains(name));
                    names.retain(|name| is_first || !reader.nodes.contains_key(name));
                    reader.read(&names).await?;
                    children_changed = changed.changed().map(|_| ()).boxed();
                    is_first = false;
                }
            },
            Some(name) = reader.changes.next() => {
                reader.watched.remove(&name);
                reader.read(&[name]).await?;
            }
            () = &mut resync => return Ok(()),
        }
        shared.set_bindings(topic, &reader.nodes);
    }
}

/// Nobody has bound anything to this topic. Waits until somebody may have.
async fn missing(shared: &Shared, topic: &str, made: OneshotWatcher) -> Result<(), Error> {
    shared.set_bindings(topic, &Nodes::new());
    tokio::select! {
        _ = made.changed() => {}
        () = resync() => {}
    }
    Ok(())
}

fn binding_nodes(topic: &str, mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| name.ends_with(BIND_SUFFIX));
    if names.len() > GROUPS_MAX {
        tracing::warn!(
            topic,
            groups = names.len(),
            limit = GROUPS_MAX,
            "too many groups; the last ones are ignored"
        );
        names.sort_unstable();
        names.truncate(GROUPS_MAX);
    }
    names
}

/// The binding nodes of one topic, while they are followed.
struct Reader<'a> {
    client: &'a Client,
    topic: &'a str,
    nodes: Nodes,
    changes: FuturesUnordered<Change>,
    /// The nodes in `changes`, each there once: one that is deleted and made again is watched as before.
    watched: BTreeSet<String>,
}

impl Reader<'_> {
    /// Reads nodes and watches them. One that is gone by now is left out.
    async fn read(&mut self, names: &[String]) -> Result<(), Error> {
        let directory = subscribers(self.topic);
        let client = self.client;
        let reads =
            names.iter().cloned().map(|name| read_one(client.clone(), format!("{directory}/{name}"), name));
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some((name, read)) = reads.try_next().await? {
            match read {
                Some((data, stat, watcher)) => {
                    self.take(&name, &data, (stat.mzxid, stat.mtime));
                    if self.watched.insert(name.clone()) {
                        self.changes.push(watcher.changed().map(|_| name).boxed());
                    }
                }
                None => {
                    self.nodes.remove(&name);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str, data: &[u8], changed: (i64, i64)) {
        let known = self.nodes.get(name);
        if known.is_some_and(|node| node.changed == changed) {
            return;
        }
        let last = known.map(|node| node.bindings.clone()).unwrap_or_default();
        let bindings = parse(self.topic, name, data).unwrap_or(last);
        self.nodes.insert(name.to_owned(), Node { changed, bindings });
    }
}

type Read = (Vec<u8>, Stat, OneshotWatcher);

async fn read_one(client: Client, path: String, name: String) -> Result<(String, Option<Read>), Error> {
    match ask(client.get_and_watch_data(&path)).await {
        Ok(read) => Ok((name, Some(read))),
        Err(Error::NoNode) => Ok((name, None)),
        Err(error) => Err(error),
    }
}

/// The bindings of all nodes, in the order of their names.
pub(super) fn flatten(nodes: &Nodes) -> Vec<Binding> {
    nodes.values().flat_map(|node| node.bindings.iter().cloned()).collect()
}
