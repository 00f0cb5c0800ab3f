//! `/stat`: how the broker is, for people and small scripts. Dashboards use /metrics.

use kiteq_telemetry::{Response, Routes};
use serde::Serialize;

use super::state::ready;
use super::{Serving, State, starting};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stat {
    version: &'static str,
    uptime_seconds: u64,
    /// `yes`, or why not.
    ready: String,
    address: String,
    advertised: String,
    registry: String,
    store: Store,
    /// Only where the store may hold more messages than the broker knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    residency: Option<Residency>,
    groups: Vec<Group>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    uri: String,
    messages: u64,
    dead_letters: u64,
    payload_bytes: u64,
    disk_bytes: u64,
}

/// What the broker knows of the messages that it owns in the store. The groups' backlogs count only these.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Residency {
    resident: usize,
    resident_max: usize,
    /// Of the store's messages, those that the broker does not know at the moment.
    in_store_alone: u64,
    shelves: usize,
    pages: u64,
    paged: u64,
    shelved: u64,
    gone: u64,
}

/// How one group stands with one topic.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    topic: String,
    group: String,
    backlog: usize,
    in_flight: usize,
    delayed: usize,
    connections: usize,
}

pub(super) fn mount(routes: Routes, state: &State) -> Routes {
    let state = state.clone();
    routes.get("/stat", move |_| {
        let answer = match state.serving() {
            Ok(serving) => Response::pretty_json(200, &stat(&state, &serving)),
            Err(reason) => starting(&reason),
        };
        std::future::ready(answer)
    })
}

fn stat(state: &State, serving: &Serving) -> Stat {
    let held = serving.broker.store_stats();
    let groups = serving.broker.lanes().into_iter().map(|lane| Group {
        topic: lane.topic,
        group: lane.group,
        backlog: lane.backlog,
        in_flight: lane.in_flight,
        delayed: lane.delayed,
        connections: lane.connections,
    });
    let residency = serving.broker.residency().map(|known| Residency {
        resident: known.resident,
        resident_max: known.resident_max,
        in_store_alone: held.messages.saturating_sub(known.resident as u64),
        shelves: known.shelves,
        pages: known.pages,
        paged: known.paged,
        shelved: known.shelved,
        gone: known.gone,
    });
    Stat {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.uptime().as_secs(),
        ready: ready(state).err().unwrap_or_else(|| "yes".to_owned()),
        address: serving.broker.address().to_string(),
        advertised: serving.broker.advertised().to_owned(),
        registry: serving.registry.describe(),
        store: Store {
            uri: serving.store.describe(),
            messages: held.messages,
            dead_letters: held.dead_letters,
            payload_bytes: held.payload_bytes,
            disk_bytes: held.disk_bytes,
        },
        residency,
        groups: groups.collect(),
    }
}
