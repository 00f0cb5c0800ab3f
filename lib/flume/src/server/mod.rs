//! The pieces of a source: accepts connections, decodes calls, and answers them as a [`Handler`] says.
//!
//! For tests and for the load tool's sink. Unlike Flume it keeps nothing.

mod session;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::event::EventBatch;
use crate::frame::FRAME_BYTES_MAX;
use crate::protocol::Protocol;
use crate::status::Status;
use crate::tls::TlsServerOptions;

/// How long accepting pauses after it failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server speaks, and its bounds.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The protocol of all its clients.
    pub protocol: Protocol,
    /// With TLS.
    pub tls: Option<TlsServerOptions>,
    /// A longer frame ends its connection.
    pub frame_bytes_max: usize,
    /// More connections wait in the system's queue until one ends.
    pub connections_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            protocol: Protocol::default(),
            tls: None,
            frame_bytes_max: FRAME_BYTES_MAX,
            connections_max: 1024,
        }
    }
}

/// A call, as it came.
#[derive(Debug)]
pub struct Incoming {
    /// Its events.
    pub events: EventBatch,
    /// Who sent it.
    pub peer: SocketAddr,
    /// Which connection it came over, counted from 1 in the order in which they were accepted.
    pub connection: u64,
}

/// What a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Status(Status),
    /// Nothing: the connection is closed instead.
    Drop,
    /// Nothing, ever. The connection stays open, and what else comes over it is read and not answered either.
    Silence,
}

/// Decides what happens to connections and calls.
pub trait Handler: Send + Sync + 'static {
    /// Whether a connection is served; else it is closed at once. They are counted from 1.
    fn accepts(&self, connection: u64) -> bool {
        let _ = connection;
        true
    }

    /// Decides about a call. The next one of the same connection waits for it; other connections do not.
    fn handle(&self, incoming: Incoming) -> impl Future<Output = Answer> + Send;
}

/// A listening server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    options: Arc<ServerOptions>,
}

impl Server {
    /// Listens. Nothing is accepted before [`Server::run`].
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(address: impl ToSocketAddrs, options: ServerOptions) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, options: Arc::new(options) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    ///
    /// # Cancel safety
    /// Dropping it is how it stops: the port and all connections are closed, and calls that are being handled are given up.
    pub async fn run<H: Handler>(self, handler: Arc<H>) {
        // Aborts its tasks when it is dropped.
        let mut sessions = JoinSet::new();
        let room = Arc::new(Semaphore::new(self.options.connections_max));
        let mut connection = 0;
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot accept connections: {error}; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            while sessions.try_join_next().is_some() {}
            connection += 1;
            if !handler.accepts(connection) {
                continue;
            }
            let session = session::Session {
                options: Arc::clone(&self.options),
                handler: Arc::clone(&handler),
                peer,
                connection,
            };
            sessions.spawn(async move {
                session.run(stream).await;
                drop(place);
            });
        }
    }
}
