//! A port that passes everything on to another one, until it dies or freezes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub struct Proxy {
    port: u16,
    connections: Arc<AtomicUsize>,
    is_frozen: watch::Sender<bool>,
    serve: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: &str) -> Self {
        Self::start_at("127.0.0.1:0", target).await
    }

    /// One with the address of one that was stopped.
    pub async fn start_at(address: &str, target: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let is_frozen = watch::Sender::new(false);
        let (counted, target, frozen) = (Arc::clone(&connections), target.to_owned(), is_frozen.subscribe());
        let serve = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                passing.spawn(pass(near_read, far_write, frozen.clone()));
                passing.spawn(pass(far_read, near_write, frozen.clone()));
            }
        });
        Self { port, connections, is_frozen, serve }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many connections have come so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Keeps every connection open and passes nothing on.
    pub fn freeze(self) -> Frozen {
        self.is_frozen.send_replace(true);
        Frozen(self)
    }

    /// Closes the port and every connection, and gives its address.
    pub async fn stop(mut self) -> String {
        self.serve.abort();
        let _ = (&mut self.serve).await;
        self.host()
    }
}

/// A proxy that passes nothing on.
pub struct Frozen(Proxy);

impl Frozen {
    pub fn thaw(&self) {
        self.0.is_frozen.send_replace(false);
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut is_frozen: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(bytes) = from.read(&mut buffer).await {
        if is_frozen.wait_for(|is_frozen| !*is_frozen).await.is_err() {
            return;
        }
        if bytes == 0 || to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

/// Closes the port and every connection.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.serve.abort();
    }
}
