//! Accepts connections and serves routes on them.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{StatusCode, http};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Request, Response, Routes};
use crate::logging::panic_message;

/// How long the server waits after an accept that failed, for descriptors to become free, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections have, at the end, for the answers that they are writing.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Bounds on what clients can make the server hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once; further ones are closed at once.
    pub connections_max: usize,
    /// Bytes of a request's line and headers, at least 8 KiB; more is answered with 431 and a close.
    pub header_bytes_max: usize,
    /// Bytes of a request's body; more is answered with 413.
    pub body_bytes_max: usize,
    /// How long a connection may take for a request's headers, idle time before it included; then it is closed.
    pub header_timeout: Duration,
    /// How long it may take for the body; then the answer is 408.
    pub body_timeout: Duration,
    /// How long a handler may take; then the answer is 503. Longer than the longest long poll.
    pub handler_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            header_bytes_max: 16 << 10,
            body_bytes_max: 1 << 20,
            header_timeout: Duration::from_secs(90),
            body_timeout: Duration::from_secs(10),
            handler_timeout: Duration::from_secs(75),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for HTTP: {}", explain(source, address))]
pub struct HttpError {
    /// The address asked for.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: io::Error,
}

fn explain(error: &io::Error, address: &SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process has this port; stop it (ss -ltnp 'sport = :{}' shows it) or choose another port",
            address.port()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{error}; ports below 1024 need the right to bind them, choose one above")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{error}; no interface of this machine has the address {}", address.ip())
        }
        _ => error.to_string(),
    }
}

/// A server that runs until its token is cancelled.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Listens on `address` (port 0 takes a free one) and serves `routes` until `stop` is cancelled.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        address: SocketAddr,
        routes: Routes,
        stop: CancellationToken,
    ) -> Result<Self, HttpError> {
        Self::bind_with(address, routes, stop, HttpLimits::default()).await
    }

    /// [`HttpServer::bind`] with other limits.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind_with(
        address: SocketAddr,
        routes: Routes,
        stop: CancellationToken,
        limits: HttpLimits,
    ) -> Result<Self, HttpError> {
        let refuse = |source| HttpError { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let connections = Connections {
            permits: Arc::new(Semaphore::new(limits.connections_max)),
            tasks: TaskTracker::new(),
            shared: Arc::new(Shared { routes, limits, stop }),
        };
        let accepting = tokio::spawn(connections.accept_all(listener));
        Ok(Self { address, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped: nothing is accepted any more, and answers that were being written when the token was
    /// cancelled are written or were given up after a second.
    pub async fn stopped(self) {
        // The task neither panics nor is aborted; if it did, it would have stopped all the same.
        self.accepting.await.ok();
    }
}

struct Shared {
    routes: Routes,
    limits: HttpLimits,
    stop: CancellationToken,
}

struct Connections {
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    shared: Arc<Shared>,
}

impl Connections {
    async fn accept_all(self, listener: TcpListener) {
        let mut refused: u64 = 0;
        loop {
            let accepted = tokio::select! {
                () = self.shared.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.serve(stream, &mut refused),
                Err(error) => {
                    tracing::warn!("HTTP connections cannot be accepted right now: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        self.tasks.close();
        if timeout(CLOSE_GRACE, self.tasks.wait()).await.is_err() {
            tracing::debug!(left = self.tasks.len(), "HTTP connections left at the end");
        }
    }

    fn serve(&self, stream: TcpStream, refused: &mut u64) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            *refused += 1;
            // The first and then ever rarer ones: a flood must not become a flood of lines.
            if refused.is_power_of_two() {
                let limit = self.shared.limits.connections_max;
                tracing::warn!(refused = *refused, limit, "too many HTTP connections, closing further ones");
            }
            return;
        };
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            serve_connection(stream, shared).await;
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).ok();
    let service = {
        let shared = Arc::clone(&shared);
        service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(to_http(answer(&shared, request).await)) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_timeout)
        .max_buf_size(shared.limits.header_bytes_max.max(8 << 10))
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // A long poll would keep the connection open for long after the stop.
            timeout(CLOSE_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!("HTTP connection ended: {error}");
    }
}

async fn answer(shared: &Shared, request: http::Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let handler = match shared.routes.find(&head.method, head.uri.path()) {
        Ok(handler) => handler,
        Err(response) => return response,
    };
    let body = match read_body(body, &shared.limits).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let request = Request { method: head.method, path: path.clone(), query, body };
    // The handler is called inside the block, so that a panic before its first await is caught as well.
    let handling = AssertUnwindSafe(async move { handler(request).await }).catch_unwind();
    match timeout(shared.limits.handler_timeout, handling).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            tracing::error!(path, "HTTP handler panicked: {}", panic_message(&*panic));
            Response::text(500, "internal error, see the log\n")
        }
        Err(_) => Response::text(503, "no answer in time, try again later\n"),
    }
}

async fn read_body(body: Incoming, limits: &HttpLimits) -> Result<Bytes, Response> {
    let limited = Limited::new(body, limits.body_bytes_max).collect();
    match timeout(limits.body_timeout, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let limit = limits.body_bytes_max;
            Err(Response::text(413, format!("a body has at most {limit} bytes\n")))
        }
        Ok(Err(error)) => Err(Response::text(400, format!("the body cannot be read: {error}\n"))),
        Err(_) => Err(Response::text(408, "the body did not arrive in time\n")),
    }
}

fn to_http(response: Response) -> http::Response<Full<Bytes>> {
    let mut answer = http::Response::new(Full::new(response.body));
    *answer.status_mut() = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    answer
}
