//! What can be set about a client, with its defaults.

use std::sync::Arc;
use std::time::Duration;

use kiteq_protocol::Dialect;
use kiteq_protocol::frame::BODY_BYTES_MAX;

/// A message takes one place in a window, and one more for each of these many bytes beyond the first.
pub(crate) const PLACE_BYTES: usize = 64 * 1024;

/// Everything that [`ClientBuilder`](crate::ClientBuilder) sets; the meaning of each is documented there.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) group: Arc<str>,
    pub(crate) secret: String,
    pub(crate) warm_up: Duration,
    pub(crate) dialect: Dialect,
    pub(crate) window: usize,
    pub(crate) resend_after: Duration,
    pub(crate) publish_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) refused_retry: Duration,
    pub(crate) concurrency: usize,
    pub(crate) backlog: usize,
    pub(crate) decompressed_bytes_max: usize,
    pub(crate) outcomes_max: usize,
    pub(crate) outcomes_kept_for: Duration,
    pub(crate) leave_timeout: Duration,
}

impl Settings {
    pub(crate) fn new(group: &str) -> Self {
        Self {
            group: group.into(),
            secret: String::new(),
            warm_up: Duration::ZERO,
            dialect: Dialect::GO,
            window: 1024,
            resend_after: Duration::from_secs(3),
            publish_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(10),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            refused_retry: Duration::from_secs(30),
            concurrency: 64,
            backlog: 1024,
            decompressed_bytes_max: 8 * BODY_BYTES_MAX,
            outcomes_max: 100_000,
            outcomes_kept_for: Duration::from_secs(3600),
            leave_timeout: Duration::from_secs(10),
        }
    }
}

/// Places that a message of `len` bytes takes in a window of `window` places. This bounds the bytes behind a window as
/// well as the messages, with one counter.
pub(crate) fn places(len: usize, window: usize) -> u32 {
    (1 + len / PLACE_BYTES).min(window) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_takes_more_places_but_never_more_than_there_are() {
        assert_eq!(places(0, 8), 1);
        assert_eq!(places(1024, 8), 1);
        assert_eq!(places(PLACE_BYTES, 8), 2);
        assert_eq!(places(BODY_BYTES_MAX, 1024), 33);
        assert_eq!(places(BODY_BYTES_MAX, 8), 8);
    }
}
