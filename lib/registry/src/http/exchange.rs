//! One HTTP request and its answer, over a connection of their own.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::RegistryError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for an answer beyond what the server was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Sends `body` to `path` of `host` and reads the answer. A refusal carries the server's words.
pub(super) async fn exchange<T: DeserializeOwned>(
    host: &str,
    method: Method,
    path: &'static str,
    body: &impl Serialize,
    wait: Duration,
) -> Result<T, RegistryError> {
    let unavailable = |reason: String| RegistryError::Unavailable { place: format!("http://{host}"), reason };
    let body = serde_json::to_vec(body).map_err(|error| unavailable(error.to_string()))?;
    let answered = timeout(CONNECT_TIMEOUT + wait + ANSWER_TIMEOUT, send(host, method, path, body));
    let (status, answer) = answered
        .await
        .map_err(|_| unavailable("no answer in time".to_owned()))?
        .map_err(|error| unavailable(error.to_string()))?;
    if status.is_success() {
        return serde_json::from_slice(&answer)
            .map_err(|error| unavailable(format!("its answer is not that of a registry: {error}")));
    }
    let words: String = String::from_utf8_lossy(&answer).trim().chars().take(300).collect();
    let reason = format!("HTTP status {status}: {words}");
    // 404 is what a port answers that is no broker's, or not yet: it may become one. 429 asks for patience.
    if status.is_client_error() && status.as_u16() != 404 && status.as_u16() != 429 {
        return Err(RegistryError::Refused { place: format!("http://{host}"), reason });
    }
    Err(unavailable(reason))
}

type SendError = Box<dyn std::error::Error + Send + Sync>;

async fn send(
    host: &str,
    method: Method,
    path: &'static str,
    body: Vec<u8>,
) -> Result<(hyper::StatusCode, Bytes), SendError> {
    let stream =
        timeout(CONNECT_TIMEOUT, TcpStream::connect(host)).await.map_err(|_| "no connection in time")??;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let mut answered = pin!(async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?;
        Ok((status, body.to_bytes()))
    });
    tokio::select! {
        biased;
        outcome = &mut answered => outcome,
        // The connection may end before its last bytes are taken from it; why it ended is in the outcome.
        _ = connection => answered.await,
    }
}
