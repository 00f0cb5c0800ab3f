//! Answers the requests of [`crate::http_api`], whichever server has read them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{EmbeddedRegistry, query};
use crate::error::RegistryError;
use crate::http_api::{
    BINDINGS_PATH, BROKERS_PATH, PRODUCERS_PATH, ProducerRequest, PublishReply, PublishRequest, WATCH_PATH,
    WatchReply, WatchRequest,
};
use crate::publication::{by_topic, check_topics};

const PREFIX: &str = "/registry/";
const WAIT_MAX: Duration = Duration::from_secs(30);

/// An answer, for the server that has read the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpReply {
    fn text(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n").into_bytes() }
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: 200, content_type: "application/json", body },
            Err(error) => Self::text(500, &error.to_string()),
        }
    }

    fn error(error: &RegistryError) -> Self {
        let status = match error {
            RegistryError::Uri { .. } => 400,
            RegistryError::Refused { .. } => 422,
            RegistryError::Content { .. } => 500,
            RegistryError::Unavailable { .. } => 503,
        };
        Self::text(status, &error.to_string())
    }
}

/// An answer to give instead of the one that was asked for.
type Early = HttpReply;

impl EmbeddedRegistry {
    /// Longest request body that is served; the HTTP server need not read further.
    pub const REQUEST_BYTES_MAX: usize = 1 << 20;

    /// Answers a request, or gives `None` when its path is not below `/registry/`. May wait for half a minute where the
    /// request asks for that, but not longer than the registry is open.
    ///
    /// # Cancel safety
    /// A publication that has begun is finished, whether or not its answer is awaited.
    pub async fn handle(
        &self,
        method: &str,
        path: &str,
        query: Option<&str>,
        body: &[u8],
    ) -> Option<HttpReply> {
        if !path.starts_with(PREFIX) {
            return None;
        }
        if body.len() > Self::REQUEST_BYTES_MAX {
            let text = format!(
                "the body is {} bytes long; at most {} are served",
                body.len(),
                Self::REQUEST_BYTES_MAX
            );
            return Some(HttpReply::text(413, &text));
        }
        Some(self.route(method, path, query, body).await.unwrap_or_else(|early| early))
    }

    async fn route(
        &self,
        method: &str,
        path: &str,
        query: Option<&str>,
        body: &[u8],
    ) -> Result<HttpReply, Early> {
        match (path, method) {
            (WATCH_PATH, "POST") => self.serve_watch(parse(body)?).await,
            (BINDINGS_PATH, "PUT") => self.serve_publish(parse(body)?).await,
            (BINDINGS_PATH, "GET") => self.serve_bindings(parameter(query, "topic")?.as_deref()),
            (BINDINGS_PATH, "DELETE") => {
                let group = required(parameter(query, "group")?, "group")?;
                self.serve_delete(group, parameter(query, "topic")?).await
            }
            (BROKERS_PATH, "GET") => {
                let topic = required(parameter(query, "topic")?, "topic")?;
                Ok(HttpReply::json(&self.shared.lock().brokers_of(&topic)))
            }
            (PRODUCERS_PATH, "PUT") => {
                self.note_producer(parse::<ProducerRequest>(body)?)
                    .map_err(|error| HttpReply::error(&error))?;
                Ok(self.accepted())
            }
            (PRODUCERS_PATH, "GET") => Ok(HttpReply::json(&self.shared.lock().producers)),
            (WATCH_PATH | BINDINGS_PATH | BROKERS_PATH | PRODUCERS_PATH, _) => {
                Err(HttpReply::text(405, &format!("{path} does not serve {method}")))
            }
            _ => Err(HttpReply::text(
                404,
                &format!(
                    "{path} is not known; there are {BINDINGS_PATH}, {BROKERS_PATH}, {PRODUCERS_PATH} and {WATCH_PATH}"
                ),
            )),
        }
    }

    fn accepted(&self) -> HttpReply {
        HttpReply::json(&PublishReply { registry: self.shared.lock().content.id.clone() })
    }

    async fn serve_publish(&self, request: PublishRequest) -> Result<HttpReply, Early> {
        let PublishRequest { group, bindings } = request;
        let topics =
            by_topic(&self.shared.place(), &group, &bindings).map_err(|error| HttpReply::error(&error))?;
        let changed = self.change(move |content| content.publish(&group, topics)).await;
        changed.map(|()| self.accepted()).map_err(|error| HttpReply::error(&error))
    }

    async fn serve_delete(&self, group: String, topic: Option<String>) -> Result<HttpReply, Early> {
        let deleted = self.change(move |content| content.delete(&group, topic.as_deref())).await;
        deleted.map(|count| HttpReply::json(&count)).map_err(|error| HttpReply::error(&error))
    }

    fn serve_bindings(&self, topic: Option<&str>) -> Result<HttpReply, Early> {
        let state = self.shared.lock();
        Ok(HttpReply::json(&topic.map_or_else(|| state.content.all(), |topic| state.content.of_topic(topic))))
    }

    async fn serve_watch(&self, request: WatchRequest) -> Result<HttpReply, Early> {
        let place = self.shared.place();
        for topics in [&request.brokers_of, &request.bindings_of] {
            check_topics(&place, topics).map_err(|error| HttpReply::error(&error))?;
        }
        let deadline = Instant::now() + Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let mut changes = self.shared.changes.subscribe();
        let mut waiting = None;
        loop {
            let open = changes.borrow_and_update().is_some();
            let reply = self.state_of(&request);
            if !open || reply.version != request.version || Instant::now() >= deadline {
                return Ok(HttpReply::json(&reply));
            }
            if waiting.is_none() {
                let refusal =
                    |_| HttpReply::text(429, "too many requests are waiting for a change; ask again later");
                waiting = Some(self.waiting.try_acquire().map_err(refusal)?);
            }
            // An elapsed deadline and a closed channel are both seen at the head of the loop.
            let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
        }
    }

    fn state_of(&self, request: &WatchRequest) -> WatchReply {
        let state = self.shared.lock();
        let brokers: BTreeMap<_, _> =
            request.brokers_of.iter().map(|topic| (topic.clone(), state.brokers_of(topic))).collect();
        let bindings: BTreeMap<_, _> =
            request.bindings_of.iter().map(|topic| (topic.clone(), state.content.of_topic(topic))).collect();
        let registry = state.content.id.clone();
        drop(state);
        // The version is the content's own hash: it outlives a restart, and a change elsewhere wakes nobody.
        let mut hasher = DefaultHasher::new();
        (&registry, &brokers, &bindings).hash(&mut hasher);
        WatchReply { registry, version: format!("{:016x}", hasher.finish()), brokers, bindings }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Early> {
    serde_json::from_slice(body)
        .map_err(|error| HttpReply::text(400, &format!("the body is not as expected: {error}")))
}

fn parameter(query: Option<&str>, name: &str) -> Result<Option<String>, Early> {
    query::value(query, name).map_err(|reason| HttpReply::text(400, &reason))
}

fn required(value: Option<String>, name: &str) -> Result<String, Early> {
    value.ok_or_else(|| HttpReply::text(400, &format!("query parameter {name:?} is missing")))
}
