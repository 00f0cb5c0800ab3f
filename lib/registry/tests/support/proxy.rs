//! A port that passes everything on to another one, until it dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub struct Proxy {
    port: u16,
    connections: Arc<AtomicUsize>,
    serve: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, target) = (Arc::clone(&connections), target.to_owned());
        let serve = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(&target).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                passing.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
        Self { port, connections, serve }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many connections have come so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Closes the port and every connection.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.serve.abort();
    }
}
