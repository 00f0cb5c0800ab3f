//! One session after another.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::Client;

use crate::backoff::Backoff;

/// How long a session outlives its connection, unless the caller wants another time. A server bounds what it grants.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// How often everything is read and checked afresh, in case a notice has been missed.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// A session that lasted so long was a good one: the next one is asked for without delay.
const LASTING: Duration = Duration::from_secs(5);
/// Longest wait of a caller for a session.
const SESSION_WAIT: Duration = Duration::from_secs(15);

/// Waits until it is time to read afresh; with jitter, so that readers do not come in step.
///
/// # Cancel safety
/// Cancel safe; it begins anew.
pub async fn resync() {
    sleep(RESYNC_INTERVAL.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
}

/// Whether there is a session.
#[derive(Debug, Clone)]
pub enum Link {
    /// The first one has not been tried to its end.
    Unknown,
    /// There is one, though its connection may be away.
    Up(Client),
    /// There is none, for this reason.
    Down(String),
}

/// The sessions with one ensemble.
#[derive(Debug)]
pub struct Sessions {
    cluster: String,
    timeout: Duration,
    link: watch::Sender<Link>,
}

impl Sessions {
    /// Sessions with the servers at `hosts` (`host:port`), which need not be reachable yet. Nothing happens before
    /// [`Sessions::run`].
    #[must_use]
    pub fn new(hosts: &[String], timeout: Duration) -> Self {
        Self { cluster: hosts.join(","), timeout, link: watch::Sender::new(Link::Unknown) }
    }

    /// `host:port[,host:port]`.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Follows whether there is a session.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// The session, once it is known whether there is one.
    ///
    /// # Errors
    /// Why there is none; a later call may succeed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn client(&self) -> Result<Client, String> {
        let mut link = self.link.subscribe();
        let known = timeout(SESSION_WAIT, link.wait_for(|link| !matches!(link, Link::Unknown))).await;
        Err(match known {
            Ok(Ok(link)) => match &*link {
                Link::Up(client) => return Ok(client.clone()),
                Link::Down(reason) => reason.clone(),
                Link::Unknown => "not connected yet".to_owned(),
            },
            Ok(Err(_)) => "closed".to_owned(),
            Err(_) => "no session in time".to_owned(),
        })
    }

    /// Keeps a session and calls `serve` in each, for ever: a session is over when `serve` returns.
    ///
    /// # Cancel safety
    /// Dropping it closes the session.
    pub async fn run<F, S>(&self, mut serve: F)
    where
        F: FnMut(Client) -> S,
        S: Future<Output = ()>,
    {
        let mut backoff = Backoff::new();
        let mut is_lost = false;
        loop {
            // All hosts are tried once before it fails; the next round is ours to time.
            let connector = Client::connector()
                .with_session_timeout(self.timeout)
                .with_server_version(3, 4, 0)
                .with_fail_eagerly();
            match connector.connect(&self.cluster).await {
                Ok(client) => {
                    tracing::info!(zookeeper = self.cluster, session = %client.session_id(), "ZooKeeper session begins");
                    is_lost = false;
                    let began = Instant::now();
                    self.link.send_replace(Link::Up(client.clone()));
                    serve(client.clone()).await;
                    let state = client.state();
                    self.link.send_replace(Link::Down(format!("session ended: {state}")));
                    tracing::warn!(zookeeper = self.cluster, %state,
                        "ZooKeeper session has ended; what was last read stands, a new one follows");
                    if began.elapsed() >= LASTING {
                        backoff.reset();
                    }
                }
                Err(error) => {
                    self.link.send_replace(Link::Down(error.to_string()));
                    if !is_lost {
                        tracing::warn!(zookeeper = self.cluster, %error,
                            "ZooKeeper cannot be reached; what was last read stands, and it is tried again");
                        is_lost = true;
                    }
                }
            }
            sleep(backoff.delay()).await;
        }
    }

    /// Says that there will be no further session. Whoever runs [`Sessions::run`] ends that first.
    pub fn close(&self) {
        self.link.send_replace(Link::Down("closed".to_owned()));
    }
}
