//! What the registry tests share: bounded waits, and real servers that are stopped at the end.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod backend;
pub mod http_server;
pub mod log;
pub mod proxy;
pub mod zookeeper;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than anything here takes; a test that needs it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

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

/// Runs `attempt` until it gives a value.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tried = timeout(PATIENCE, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tried.await.unwrap_or_else(|_| panic!("{what}: not in time"))
}
