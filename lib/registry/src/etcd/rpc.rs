//! Calls to one etcd server: each bounded in time, each with the caller's token, which is renewed when etcd forgets it.

use std::future::{Future, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::api::auth_client::AuthClient;
use super::api::kv_client::KvClient;
use super::api::lease_client::LeaseClient;
use super::api::watch_client::WatchClient;
use super::api::{
    AuthenticateRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, RangeRequest,
    RangeResponse, TxnRequest, WatchRequest, WatchResponse,
};
use super::options::{Credentials, Options, causes};
use crate::error::RegistryError;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is taken: a page of binding nodes of the largest size, with room.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Watch requests that wait for the connection; further ones wait with their sender.
const WATCH_REQUESTS_MAX: usize = 64;

/// A connection to one server.
#[derive(Debug, Clone)]
pub(super) struct Rpc {
    channel: Channel,
    access: Arc<Access>,
}

#[derive(Debug)]
struct Access {
    credentials: Option<Credentials>,
    token: Mutex<Option<AsciiMetadataValue>>,
    /// Held while a token is asked for, so that many refused calls ask once.
    renewal: tokio::sync::Mutex<()>,
}

impl Rpc {
    /// Connects to `host` and gets a token, if there are credentials.
    pub(super) async fn connect(options: &Options, host: &str) -> Result<Self, RegistryError> {
        let place = || format!("{} at {host}", options.place());
        let channel = options
            .endpoint(host)
            .await?
            .connect()
            .await
            .map_err(|error| RegistryError::Unavailable { place: place(), reason: causes(&error) })?;
        let access = Access {
            credentials: options.credentials.clone(),
            token: Mutex::default(),
            renewal: tokio::sync::Mutex::default(),
        };
        let rpc = Self { channel, access: Arc::new(access) };
        rpc.authenticate(None).await.map_err(|status| failed(place(), &status))?;
        Ok(rpc)
    }

    fn token(&self) -> Option<AsciiMetadataValue> {
        self.access.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gets a new token, unless another one than `stale` is there by now.
    async fn authenticate(&self, stale: Option<&AsciiMetadataValue>) -> Result<(), Status> {
        let Some(credentials) = &self.access.credentials else { return Ok(()) };
        let _renewal = self.access.renewal.lock().await;
        if self.token().as_ref() != stale {
            return Ok(());
        }
        let Credentials { name, password } = credentials.clone();
        let request = Request::new(AuthenticateRequest { name, password });
        let token = match within(AuthClient::new(self.channel.clone()).authenticate(request)).await {
            Ok(response) => response.token,
            // Nobody is asked for a password, so the one that is given does not matter.
            Err(status) if status.message().contains("authentication is not enabled") => return Ok(()),
            Err(status) => return Err(status),
        };
        let token = AsciiMetadataValue::try_from(token)
            .map_err(|_| Status::internal("the token that etcd gave is no text"))?;
        *self.access.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    /// Makes a call; once more with a new token when etcd does not know the old one any more.
    async fn ask<M: Clone, T, Answer>(
        &self,
        message: M,
        call: impl Fn(Channel, Request<M>) -> Answer,
    ) -> Result<T, Status>
    where
        Answer: Future<Output = Result<Response<T>, Status>>,
    {
        let token = self.token();
        match within(call(self.channel.clone(), with_token(message.clone(), token.clone()))).await {
            Err(status) if is_of_token(&status) && self.access.credentials.is_some() => {
                self.authenticate(token.as_ref()).await?;
                within(call(self.channel.clone(), with_token(message, self.token()))).await
            }
            outcome => outcome,
        }
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.ask(request, |channel, request| async move {
            KvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX).range(request).await
        })
        .await
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<(), Status> {
        let answer =
            self.ask(request, |channel, request| async move { KvClient::new(channel).txn(request).await });
        answer.await.map(|_| ())
    }

    /// A new lease.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<i64, Status> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let answer = self
            .ask(LeaseGrantRequest { ttl }, |channel, request| async move {
                LeaseClient::new(channel).lease_grant(request).await
            })
            .await?;
        Ok(answer.id)
    }

    /// Ends a lease, and deletes every key of it in the same revision. One that is gone already is well.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Status> {
        let answer = self.ask(LeaseRevokeRequest { id }, |channel, request| async move {
            LeaseClient::new(channel).lease_revoke(request).await
        });
        match answer.await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    /// Keeps a lease for another term. Answers whether it is there still.
    pub(super) async fn keep_alive(&self, id: i64, wait: Duration) -> Result<bool, Status> {
        let kept = timeout(wait, async {
            let answers = self.ask(LeaseKeepAliveRequest { id }, |channel, request: Request<_>| async move {
                let request = request.map(|message| stream::once(ready(message)));
                LeaseClient::new(channel).lease_keep_alive(request).await
            });
            answers.await?.message().await
        });
        let answer = kept.await.unwrap_or_else(|_| Err(late(wait)))?;
        Ok(answer.is_some_and(|answer| answer.ttl > 0))
    }

    /// Opens a stream of watches. The server's first word comes with the answer to the first request.
    ///
    /// A server that has no leader ends it: it would show nothing new, and not say so.
    pub(super) fn watch(
        &self,
    ) -> (mpsc::Sender<WatchRequest>, impl Stream<Item = Result<WatchResponse, Status>> + Send + use<>) {
        let (requests, mut receiver) = mpsc::channel(WATCH_REQUESTS_MAX);
        let outgoing = stream::poll_fn(move |context| receiver.poll_recv(context));
        let mut request = with_token(outgoing, self.token());
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let opened = async move { client.watch(request).await.map(Response::into_inner) };
        (requests, stream::once(opened).try_flatten())
    }
}

fn with_token<M>(message: M, token: Option<AsciiMetadataValue>) -> Request<M> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    timeout(ANSWER_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(late(ANSWER_TIMEOUT)))
        .map(Response::into_inner)
}

fn late(wait: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {wait:?}"))
}

/// Whether a call was refused for its token alone.
fn is_of_token(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}

/// Whether another server, or this one on another connection, may do better.
pub(super) fn is_of_connection(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
            | Code::Unauthenticated
    )
}

/// The error for callers. `place` is where it happened.
pub(super) fn failed(place: String, status: &Status) -> RegistryError {
    let reason = match status.message() {
        // What a transport fails with is behind the status.
        "" | "transport error" => {
            std::error::Error::source(status).map_or_else(|| status.to_string(), causes)
        }
        message if message.contains("user name is empty") => {
            format!("{message}; expected etcd://user:password@host:port")
        }
        message => message.to_owned(),
    };
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
            RegistryError::Refused { place, reason }
        }
        _ => RegistryError::Unavailable { place, reason },
    }
}
