//! What the registry tests share: bounded waits, and real servers that are stopped at the end.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses its part")]

pub mod backend;
pub mod http_server;
pub mod proxy;

use std::sync::Arc;

pub use kiteq_testkit::{Etcd, Log, PATIENCE, ZooKeeper, eventually};
use tokio::sync::watch;
use tokio::time::timeout;

/// Waits until what is watched satisfies `expected`.
pub async fn until<T>(
    watch: &mut watch::Receiver<Option<Arc<[T]>>>,
    what: &str,
    expected: impl Fn(&[T]) -> bool,
) -> Arc<[T]>
where
    T: std::fmt::Debug,
{
    let is_seen = |value: &Option<Arc<[T]>>| value.as_deref().is_some_and(&expected);
    let seen = timeout(PATIENCE, watch.wait_for(is_seen)).await.map(|seen| seen.map(|value| value.clone()));
    match seen {
        Ok(Ok(value)) => value.unwrap(),
        Ok(Err(_)) => panic!("{what}: the watch ended"),
        Err(_) => panic!("{what}: not seen in time; last known is {:?}", watch.borrow()),
    }
}
