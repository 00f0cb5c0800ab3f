//! Bounded waits.

use std::time::Duration;

/// Longer than anything here takes; a test that needs it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `attempt` until it gives a value.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let tried = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tried.await.unwrap_or_else(|_| panic!("{what}: not in time"))
}
