//! The registry over HTTP: what a broker with an embedded registry serves and what [`HttpRegistry`](crate::HttpRegistry)
//! asks. Bodies are JSON; an error is one line of plain text.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /registry/watch` | [`WatchRequest`] | [`WatchReply`], as soon as its version differs from the request's, or after `waitMs` |
//! | `PUT /registry/bindings` | [`PublishRequest`] | [`PublishReply`] |
//! | `PUT /registry/producers` | [`ProducerRequest`] | [`PublishReply`] |
//! | `GET /registry/brokers?topic=T` | – | the addresses of the brokers of the topic |
//! | `GET /registry/bindings[?topic=T]` | – | the bindings, of one topic or all |
//! | `GET /registry/producers` | – | the producers noted since the broker's start |
//! | `DELETE /registry/bindings?group=G[&topic=T]` | – | how many bindings were deleted |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Binding;

pub(crate) const WATCH_PATH: &str = "/registry/watch";
pub(crate) const BINDINGS_PATH: &str = "/registry/bindings";
pub(crate) const BROKERS_PATH: &str = "/registry/brokers";
pub(crate) const PRODUCERS_PATH: &str = "/registry/producers";

/// Asks for the state of topics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WatchRequest {
    /// Topics whose brokers are wanted.
    #[serde(default)]
    pub(crate) brokers_of: Vec<String>,
    /// Topics whose bindings are wanted.
    #[serde(default)]
    pub(crate) bindings_of: Vec<String>,
    /// The version of the last answer to the same topics; empty at first.
    #[serde(default)]
    pub(crate) version: String,
    /// How long the answer may be held back while it would carry the same version. Bounded by the server.
    #[serde(default)]
    pub(crate) wait_ms: u64,
}

/// The state of the topics of a [`WatchRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatchReply {
    /// Which registry this is: another one has none of what the client published.
    pub(crate) registry: String,
    /// Names this state; opaque to the client.
    pub(crate) version: String,
    /// Addresses by topic.
    pub(crate) brokers: BTreeMap<String, Vec<String>>,
    /// Bindings by topic.
    pub(crate) bindings: BTreeMap<String, Vec<Binding>>,
}

/// Replaces the bindings of a group in the topics that are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishRequest {
    pub(crate) group: String,
    pub(crate) bindings: Vec<Binding>,
}

/// Notes a producer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProducerRequest {
    pub(crate) group: String,
    pub(crate) host: String,
    pub(crate) topics: Vec<String>,
}

/// Says which registry has accepted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishReply {
    pub(crate) registry: String,
}
