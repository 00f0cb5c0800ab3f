//! A sink's place in ZooKeeper: `/flume/{business}/{host}_{port}_SEQ`, ephemeral, made again in each session.

use std::time::Duration;

use kiteq_zookeeper::{Backoff, Client, Error, Sessions, make_sequential};

/// Where businesses are.
const ROOT: &str = "/flume";
/// A sink that dies is gone after so long.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// What is to be registered.
#[derive(Debug, Clone)]
pub struct Registration {
    /// ZooKeeper's servers, `host:port` each.
    pub zookeeper: Vec<String>,
    /// Businesses to take events of.
    pub businesses: Vec<String>,
    /// The host that bridges are to connect to.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Registration {
    /// Keeps the sink registered.
    ///
    /// # Cancel safety
    /// Dropping it closes the session, and with it the sink's nodes go.
    pub async fn keep(self) {
        let registration = &self;
        let sessions = Sessions::new(&self.zookeeper, SESSION_TIMEOUT);
        sessions.run(|client| registration.serve(client)).await;
    }

    async fn serve(&self, client: Client) {
        let mut backoff = Backoff::new();
        let mut state = client.state_watcher();
        let mut missing = self.businesses.clone();
        while !client.state().is_terminated() {
            missing = self.register(&client, missing).await;
            if missing.is_empty() {
                state.changed().await;
            } else {
                tokio::time::sleep(backoff.delay()).await;
            }
        }
    }

    /// Gives the businesses for which it could not be done now.
    async fn register(&self, client: &Client, businesses: Vec<String>) -> Vec<String> {
        let mut missing = Vec::new();
        for business in businesses {
            match self.register_one(client, &business).await {
                Ok(path) => tracing::info!(path, "sink is registered"),
                Err(error) => {
                    tracing::warn!(business, %error, "sink is not registered; it is tried again");
                    missing.push(business);
                }
            }
        }
        missing
    }

    async fn register_one(&self, client: &Client, business: &str) -> Result<String, Error> {
        make_sequential(client, &format!("{ROOT}/{business}"), &format!("{}_{}_", self.host, self.port)).await
    }
}
