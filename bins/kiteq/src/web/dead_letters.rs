//! `/dlq`: what nobody could deliver, to be seen, delivered again, or deleted.
//!
//! | request | answer |
//! |---|---|
//! | `GET /dlq?after=ID&limit=N&bodies=true` | dead letters in the order of their ids, from the one after ID; `next` is the ID for the next page |
//! | `POST /dlq/replay?id=ID,ID` or `?all=true` | delivers them again to the groups that did not get them |
//! | `DELETE /dlq?id=ID,ID` or `?all=true` | deletes them for good |

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kiteq_broker::Broker;
use kiteq_protocol::message::HeaderView;
use kiteq_protocol::{MessageId, MessageKind};
use kiteq_store::{DeadLetter, DeadReason, StoreError};
use kiteq_telemetry::http::Method;
use kiteq_telemetry::{Request, Response, Routes};
use serde::Serialize;

use super::{State, starting};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;
/// Letters read, replayed or deleted at a time: each may carry a body of the largest size.
const AT_ONCE: usize = 16;
/// A page ends early once it carries so many bytes of bodies.
const PAGE_BODY_BYTES: usize = 8 << 20;
/// Letters that one request replays or deletes.
const IDS_MAX: usize = 10_000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    dead_letters: Vec<Letter>,
    /// Give it as `after` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Letter {
    message_id: String,
    kind: &'static str,
    topic: String,
    message_type: String,
    /// The publisher's.
    group_id: String,
    reason: &'static str,
    /// Unix seconds, like the other times.
    died_at: i64,
    /// The groups that did not get it.
    groups: Vec<String>,
    create_time: i64,
    expired_time: i64,
    deliver_limit: i32,
    body_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// For a body that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// What became of a request to replay or delete.
#[derive(Serialize)]
struct Done {
    /// Dead letters that it was done to.
    done: usize,
    /// Ids that are no dead letters.
    unknown: usize,
    /// Whether there may be more: ask again.
    more: bool,
}

type Answer<T> = Result<T, Response>;

pub(super) fn mount(routes: Routes, state: &State) -> Routes {
    let (of_list, of_replay, of_purge) = (state.clone(), state.clone(), state.clone());
    routes
        .get("/dlq", move |request| respond(of_list.clone(), request, Operation::List))
        .on(Method::DELETE, "/dlq", move |request| respond(of_purge.clone(), request, Operation::Purge))
        .on(Method::POST, "/dlq/replay", move |request| {
            respond(of_replay.clone(), request, Operation::Replay)
        })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    List,
    Replay,
    Purge,
}

async fn respond(state: State, request: Request, operation: Operation) -> Response {
    let serving = match state.serving() {
        Ok(serving) => serving,
        Err(reason) => return starting(&reason),
    };
    let answer = match operation {
        Operation::List => list(&serving.broker, &request).await,
        Operation::Replay | Operation::Purge => change(&serving.broker, &request, operation).await,
    };
    answer.unwrap_or_else(|refusal| refusal)
}

fn refuse(text: &str) -> Response {
    Response::text(400, format!("{text}\n"))
}

fn failed(error: &StoreError) -> Response {
    let status = if error.is_retryable() { 503 } else { 500 };
    Response::text(status, format!("{error}\n"))
}

fn parse_id(text: &str) -> Answer<MessageId> {
    text.trim().parse().map_err(|error| refuse(&format!("{text:?}: {error}")))
}

fn switch(request: &Request, name: &str) -> Answer<bool> {
    match request.parameter(name).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(refuse(&format!("{name} is true or false, not {other:?}"))),
    }
}

async fn list(broker: &Broker, request: &Request) -> Answer<Response> {
    let mut after = request.parameter("after").as_deref().map(parse_id).transpose()?;
    let with_bodies = switch(request, "bodies")?;
    let limit = match request.parameter("limit").map(|text| text.parse()) {
        None => PAGE_DEFAULT,
        Some(Ok(limit)) if (1..=PAGE_MAX).contains(&limit) => limit,
        Some(_) => return Err(refuse(&format!("limit is a number from 1 to {PAGE_MAX}"))),
    };
    let mut dead_letters = Vec::new();
    let mut body_bytes = 0;
    while dead_letters.len() < limit && body_bytes < PAGE_BODY_BYTES {
        let wanted = AT_ONCE.min(limit - dead_letters.len());
        let read = broker.dead_letters(after, wanted).await.map_err(|error| failed(&error))?;
        let is_last = read.len() < wanted;
        after = read.last().map_or(after, |letter| Some(letter.id));
        if with_bodies {
            body_bytes += read.iter().map(|letter| letter.payload.len()).sum::<usize>();
        }
        dead_letters.extend(read.iter().map(|letter| show(letter, with_bodies)));
        if is_last {
            after = None;
            break;
        }
    }
    Ok(Response::pretty_json(200, &Page { dead_letters, next: after.map(|id| id.to_string()) }))
}

fn show(letter: &DeadLetter, with_body: bool) -> Letter {
    // What is in the store was a message once; a header that cannot be read is shown as an empty one.
    let header = HeaderView::parse(letter.payload.header()).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let body = with_body.then(|| std::str::from_utf8(&letter.payload.body));
    Letter {
        message_id: letter.id.to_string(),
        kind: match letter.kind {
            MessageKind::Bytes => "bytes",
            MessageKind::String => "string",
        },
        topic: text(header.topic),
        message_type: text(header.message_type),
        group_id: text(header.publish_group),
        reason: reason(letter.reason),
        died_at: letter.died_at,
        groups: letter.groups.iter().map(|group| text(group)).collect(),
        create_time: header.created_at,
        expired_time: header.expires_at,
        deliver_limit: header.deliver_limit,
        body_bytes: letter.payload.body.len(),
        body: body.and_then(Result::ok).map(str::to_owned),
        body_base64: body.filter(Result::is_err).map(|_| BASE64.encode(&letter.payload.body)),
    }
}

fn reason(reason: DeadReason) -> &'static str {
    match reason {
        DeadReason::DeliverLimit => "deliver limit reached",
        DeadReason::Expired => "expired",
        DeadReason::NoVerdict => "no verdict from its producer",
        DeadReason::Unreadable => "could not be read back",
    }
}

async fn change(broker: &Broker, request: &Request, operation: Operation) -> Answer<Response> {
    let done = match (request.parameter("id"), switch(request, "all")?) {
        (Some(ids), false) => {
            let ids = ids.split(',').map(parse_id).collect::<Answer<Vec<_>>>()?;
            change_these(broker, &ids, operation).await?
        }
        (None, true) => change_all(broker, operation).await?,
        _ => return Err(refuse("give ?id=ID or ?id=ID,ID or ?all=true; GET /dlq lists the ids")),
    };
    let Done { done: count, unknown, more } = done;
    tracing::info!(?operation, done = count, unknown, more, "dead letters changed over HTTP");
    let status = if count == 0 && unknown > 0 { 404 } else { 200 };
    Ok(Response::pretty_json(status, &done))
}

async fn change_these(broker: &Broker, ids: &[MessageId], operation: Operation) -> Answer<Done> {
    if ids.len() > IDS_MAX {
        return Err(refuse(&format!("at most {IDS_MAX} ids at once")));
    }
    let mut done = 0;
    for some in ids.chunks(AT_ONCE) {
        let changed = match operation {
            Operation::Replay => broker.replay(some.to_vec()).await,
            Operation::Purge | Operation::List => broker.purge(some.to_vec()).await,
        };
        done += changed.map_err(|error| failed(&error))?;
    }
    Ok(Done { done, unknown: ids.len().saturating_sub(done), more: false })
}

/// From the first one on, as many as one request may change.
async fn change_all(broker: &Broker, operation: Operation) -> Answer<Done> {
    let mut total = Done { done: 0, unknown: 0, more: true };
    let mut after = None;
    while total.done + total.unknown < IDS_MAX {
        let read = broker.dead_letters(after, AT_ONCE).await.map_err(|error| failed(&error))?;
        let ids: Vec<MessageId> = read.iter().map(|letter| letter.id).collect();
        let changed = change_these(broker, &ids, operation).await?;
        total.done += changed.done;
        total.unknown += changed.unknown;
        after = ids.last().copied();
        if ids.len() < AT_ONCE {
            total.more = false;
            break;
        }
    }
    Ok(total)
}
