//! A broker's HTTP port, as far as the registry goes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kiteq_registry::EmbeddedRegistry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Serves an embedded registry until it is stopped or dropped.
pub struct HttpServer {
    pub address: SocketAddr,
    accept: tokio::task::JoinHandle<()>,
}

impl HttpServer {
    /// Listens on `address`; port 0 takes a free one.
    pub async fn start(registry: Arc<EmbeddedRegistry>, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let registry = Arc::clone(&registry);
                connections.spawn(async move {
                    let service = hyper::service::service_fn(|request| answer(&registry, request));
                    let builder = hyper::server::conn::http1::Builder::new();
                    // A client that goes away in the middle is not this server's failure.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, accept }
    }

    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the port and every connection.
    pub async fn stop(mut self) -> SocketAddr {
        self.accept.abort();
        let ended = (&mut self.accept).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn answer(
    registry: &EmbeddedRegistry,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let reply = registry.handle(head.method.as_str(), head.uri.path(), head.uri.query(), &body).await;
    let response = match reply {
        Some(reply) => Response::builder()
            .status(reply.status)
            .header("content-type", reply.content_type)
            .body(Full::new(Bytes::from(reply.body))),
        None => Response::builder().status(404).body(Full::new(Bytes::from_static(b"not found"))),
    };
    Ok(response.unwrap())
}
