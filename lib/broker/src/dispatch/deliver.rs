//! From lanes to connections.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use kiteq_protocol::message::HeaderView;
use kiteq_protocol::{Dialect, Framing, HeaderChanges, Payload};
use kiteq_store::{Loaded, StoreError};

use super::connections::{ConnectionId, Sending, WindowLimits};
use super::groups::RunLength;
use super::lane::{LaneId, Ready};
use super::table::{Marks, NOT_CACHED, Phase, Ticket};
use super::{Dispatcher, GroupId, MessageRef};

/// Deliveries from one lane before the group's next lane has its turn.
const QUANTUM: usize = 256;
/// Connections that share what comes in one turn, at least, where a group has so many.
const SPREAD_MIN: usize = 8;
/// Lanes served for one group in one turn.
const ROUNDS_MAX: usize = 64;
/// Tickets looked at for one connection at most that turn out not to be deliverable.
const LOOKS_MAX: usize = 1024;
/// Messages whose bodies are read back in one request.
const LOAD_BATCH: usize = 1024;
/// Bytes of bodies read back in one request; of a message from before a restart the average size is taken.
const LOAD_BATCH_BYTES: u64 = 4 << 20;
/// A lane with at least so many messages in front of its first uncached one asks for the next batch only later.
const LOAD_AHEAD: usize = 512;
/// A lane whose bodies cannot be read tries again after this.
const LOAD_RETRY: Duration = Duration::from_secs(1);

/// Why serving a lane ended.
enum Served {
    Empty,
    Throttled,
    Loading,
    NoConnection,
    QuantumUsed,
}

/// What a message at the front of a lane needs.
enum Turn {
    Deliver(Payload),
    /// Its group has it already, or it is gone.
    Skip,
    Expired,
    /// Its binding has vanished.
    Unbound,
    Load,
}

impl Dispatcher {
    pub(super) fn deliver(&mut self) {
        if self.is_draining {
            return;
        }
        let now = Instant::now();
        let unix_seconds = self.around.clock.unix_seconds();
        let mut dirty = std::mem::take(&mut self.dirty);
        for group in dirty.drain(..) {
            self.groups.get_mut(group).is_dirty = false;
            if self.groups.get(group).is_online() {
                self.serve_group(group, now, unix_seconds);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn serve_group(&mut self, group: GroupId, now: Instant, unix_seconds: i64) {
        let mut rounds = ROUNDS_MAX;
        while let Some(&lane) = self.groups.get(group).active.front() {
            if rounds == 0 {
                self.mark_dirty(group);
                return;
            }
            rounds -= 1;
            match self.serve_lane(lane, group, now, unix_seconds) {
                Served::QuantumUsed => self.groups.get_mut(group).active.rotate_left(1),
                Served::NoConnection => {
                    self.groups.get_mut(group).is_blocked = true;
                    self.blocked.push(group);
                    return;
                }
                ended => {
                    self.groups.get_mut(group).active.pop_front();
                    let entry = self.lanes.get_mut(lane);
                    entry.is_active = false;
                    match ended {
                        Served::Throttled => self.throttled.push(lane),
                        Served::Loading => {
                            entry.is_loading = true;
                            self.loading.push(lane);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn serve_lane(&mut self, lane: LaneId, group: GroupId, now: Instant, unix_seconds: i64) -> Served {
        let mut quantum = QUANTUM;
        self.load_ahead(lane);
        // What came in one turn goes to so many connections at least, however fast the group is.
        let spread = self.lanes.get(lane).ready.len() / SPREAD_MIN;
        while quantum > 0 {
            let waiting = self.lanes.get(lane).ready.len();
            if waiting == 0 {
                return Served::Empty;
            }
            let Some((connection, room)) = self.choose_connection(group, now) else {
                return Served::NoConnection;
            };
            // A deep lane is dealt out in runs, and so is one of a fast group.
            let entry = self.groups.get(group);
            let run = (waiting / (2 * entry.connections.len())).max(spread.min(entry.run.get()));
            let run = room.min(quantum).min(run.clamp(1, RunLength::MAX));
            let permits = self.lanes.get_mut(lane).take_permits(run, now);
            if permits == 0 {
                return Served::Throttled;
            }
            let mut unused = permits;
            let ended = self.deal(lane, connection, &mut unused, now, unix_seconds);
            self.lanes.get_mut(lane).give_back_permits(unused);
            quantum = quantum.saturating_sub(permits.max(1));
            if let Some(ended) = ended {
                return ended;
            }
        }
        Served::QuantumUsed
    }

    fn choose_connection(&mut self, group: GroupId, now: Instant) -> Option<(ConnectionId, usize)> {
        let limits = self.window_limits();
        let group = self.groups.get_mut(group);
        self.connections.least_loaded(&mut group.open, &mut group.cursor, limits, now)
    }

    fn window_limits(&self) -> WindowLimits {
        let config = &self.around.config;
        WindowLimits { deliveries: config.delivery_window, bytes: config.outbound_bytes_max }
    }

    /// Gives up to `permits` messages from the front of a lane to one connection, and counts `permits` down.
    fn deal(
        &mut self,
        lane: LaneId,
        connection: ConnectionId,
        permits: &mut usize,
        now: Instant,
        unix_seconds: i64,
    ) -> Option<Served> {
        let mut looks = LOOKS_MAX;
        while *permits > 0 {
            if looks == 0 {
                return Some(Served::QuantumUsed);
            }
            looks -= 1;
            let Some(ready) = self.lanes.get(lane).ready.front().copied() else { return Some(Served::Empty) };
            let turn = self.turn_of(lane, ready, unix_seconds);
            if matches!(turn, Turn::Load) {
                self.request_load(lane, 0);
                return Some(Served::Loading);
            }
            self.lanes.get_mut(lane).ready.pop_front();
            match turn {
                Turn::Skip | Turn::Load => {}
                Turn::Expired => self.give_up_expired(ready.ticket(), lane),
                Turn::Unbound => self.lanes.get_mut(lane).parked.push(ready),
                Turn::Deliver(payload) => {
                    *permits -= 1;
                    self.send(lane, connection, ready, payload, now);
                    // The connection's window in bytes is checked once for a run, so large bodies end it.
                    if *permits > 0 && !self.has_byte_room(connection) {
                        return None;
                    }
                }
            }
        }
        None
    }

    fn has_byte_room(&mut self, connection: ConnectionId) -> bool {
        let limit = self.around.config.outbound_bytes_max;
        self.connections.get_mut(connection).is_some_and(|connection| connection.has_byte_room(limit))
    }

    fn turn_of(&mut self, lane: LaneId, ready: Ready, unix_seconds: i64) -> Turn {
        let Some(entry) = self.table.find(ready.ticket()) else { return Turn::Skip };
        let Some(route) = self.routes.get(entry.route) else { return Turn::Skip };
        let Some(position) = route.position_of(lane).filter(|&position| entry.owed.contains(position)) else {
            return Turn::Skip;
        };
        if entry.is_expired(unix_seconds) {
            return Turn::Expired;
        }
        if route.members[position].unbound_since.is_some() {
            return Turn::Unbound;
        }
        match self.bodies.get(entry.cached) {
            Some(payload) => Turn::Deliver(payload.clone()),
            None => Turn::Load,
        }
    }

    fn send(
        &mut self,
        lane: LaneId,
        mut connection_id: ConnectionId,
        ready: Ready,
        payload: Payload,
        now: Instant,
    ) {
        let ticket = ready.ticket();
        let frame_bytes_max = self.around.config.length_prefixed_frame_bytes_max;
        let frame_bytes = Dialect::JAVA.overhead() + payload.len();
        if frame_bytes > frame_bytes_max
            && self.is_length_prefixed(connection_id)
            && let Some(other) = self.header_only_peer(lane, now)
        {
            connection_id = other;
        }
        let Some(entry) = self.table.find(ticket) else { return };
        let Some(connection) = self.connections.get_mut(connection_id) else { return };
        let payload =
            if entry.marks.has(Marks::COMMITTED_BY_VERDICT) { as_committed(payload) } else { payload };
        if connection.dialect.framing == Framing::LengthPrefixed && frame_bytes > frame_bytes_max {
            tracing::warn!(
                connection = connection_id.0,
                frame_bytes,
                frame_bytes_max,
                "a length-prefixed client cannot receive so large a message; this attempt counts as failed"
            );
            self.attempt_failed(ticket, lane, ready.attempts);
            return;
        }
        entry.in_flight = entry.in_flight.saturating_add(1);
        let sending = Sending { ticket, lane, attempts: ready.attempts, kind: entry.kind, payload };
        if connection.stage(sending, now) {
            self.staged.push(connection_id);
        }
        self.lanes.get_mut(lane).in_flight += 1;
        self.around.metrics.deliveries_started.inc();
    }

    fn is_length_prefixed(&mut self, connection: ConnectionId) -> bool {
        let connection = self.connections.get_mut(connection);
        connection.is_some_and(|connection| connection.dialect.framing == Framing::LengthPrefixed)
    }

    /// A connection of the lane's group that takes frames of any size, and has room.
    fn header_only_peer(&self, lane: LaneId, now: Instant) -> Option<ConnectionId> {
        let limits = self.window_limits();
        let peers = &self.groups.get(self.lanes.get(lane).group).connections;
        self.connections.header_only_with_room(peers, limits, now)
    }

    /// Asks for bodies further back before the front has run out of them.
    fn load_ahead(&mut self, lane: LaneId) {
        let Some(ready) = self.lanes.get(lane).ready.get(LOAD_AHEAD).copied() else { return };
        if self.needs_load(ready.ticket()) {
            self.request_load(lane, LOAD_AHEAD);
        }
    }

    fn needs_load(&mut self, ticket: Ticket) -> bool {
        self.table.find(ticket).is_some_and(|entry| {
            entry.cached == NOT_CACHED && ticket.message.slot().is_some() && !entry.marks.has(Marks::LOADING)
        })
    }

    /// Asks the store for the bodies that are missing from position `from` of a lane on.
    fn request_load(&mut self, lane: LaneId, from: usize) {
        let held = self.around.store.stats();
        let average = (held.payload_bytes / held.messages.max(1)).max(1);
        let mut index = from;
        let mut asked_bytes = 0;
        while asked_bytes < LOAD_BATCH_BYTES && index < from + LOAD_BATCH {
            let Some(ready) = self.lanes.get(lane).ready.get(index).copied() else { break };
            index += 1;
            if self.needs_load(ready.ticket()) {
                let size_kib = self.table.find(ready.ticket()).map_or(0, |entry| u64::from(entry.size_kib));
                asked_bytes += if size_kib == 0 { average } else { size_kib << 10 };
                self.ask_for_body(ready.ticket());
            }
        }
    }

    /// Asks the store for one body; it comes back as [`super::Event::Loaded`].
    pub(super) fn ask_for_body(&mut self, ticket: Ticket) {
        if let Some(entry) = self.table.find(ticket) {
            entry.marks.set(Marks::LOADING);
            self.for_store.load.push(ticket);
        }
    }

    pub(super) fn on_loaded(&mut self, loaded: Vec<(Ticket, Result<Loaded, StoreError>)>) {
        let mut failed = false;
        for (ticket, result) in loaded {
            let Some(entry) = self.table.find(ticket) else { continue };
            entry.marks.clear(Marks::LOADING);
            if entry.phase == Phase::Owed && entry.owed.is_empty() {
                self.finish(ticket.message);
                continue;
            }
            match result {
                Ok(loaded) if entry.phase == Phase::Prepared => {
                    if loaded.committed_elsewhere {
                        entry.marks.set(Marks::COMMITTED_BY_VERDICT);
                        self.route(ticket, Some(loaded.payload));
                    } else {
                        self.ask_producer(ticket, &loaded.payload);
                    }
                }
                Ok(loaded) => {
                    if entry.cached == NOT_CACHED {
                        entry.cached = self.bodies.insert(loaded.payload);
                    }
                }
                Err(StoreError::Gone) => {
                    self.forget_gone(ticket.message);
                    self.suspect_lost();
                }
                // Its producer rolled it back meanwhile, and the slot may be another's by now.
                Err(_) if entry.phase == Phase::Prepared => {}
                Err(error @ StoreError::Corrupt { .. }) => self.give_up_unreadable(ticket.message, &error),
                Err(error) => {
                    if !failed {
                        tracing::warn!(%error, "a waiting message cannot be read back now; its lane waits and tries again");
                    }
                    failed = true;
                }
            }
        }
        let retry_at = Instant::now() + LOAD_RETRY;
        for lane in std::mem::take(&mut self.loading) {
            let entry = self.lanes.get_mut(lane);
            entry.is_loading = false;
            if failed {
                entry.throttled_until = Some(retry_at);
                self.throttled.push(lane);
            } else {
                self.activate(lane);
            }
        }
    }

    pub(super) fn release_throttled(&mut self, now: Instant) {
        if self.throttled.is_empty() {
            return;
        }
        for lane in std::mem::take(&mut self.throttled) {
            let entry = self.lanes.get_mut(lane);
            if entry.throttled_until.is_some_and(|until| until > now) {
                self.throttled.push(lane);
            } else {
                entry.throttled_until = None;
                self.activate(lane);
            }
        }
    }

    pub(super) fn release_retries(&mut self, now: Instant) {
        let now_ms = self.millis(now);
        while let Some(std::cmp::Reverse(retry)) = self.retries.peek().copied() {
            if retry.due_ms > now_ms {
                break;
            }
            self.retries.pop();
            let lane = self.lanes.get_mut(retry.lane);
            lane.delayed -= 1;
            if self.waits_for_nobody(retry.lane, retry.ready) {
                self.drop_for_group(retry.ready.ticket(), retry.lane);
                continue;
            }
            self.lanes.get_mut(retry.lane).ready.push_front(retry.ready);
            self.activate(retry.lane);
        }
    }

    /// Whether a message does not wait for its group, which is away.
    fn waits_for_nobody(&self, lane: LaneId, ready: Ready) -> bool {
        let is_online = self.groups.get(self.lanes.get(lane).group).is_online();
        !is_online && self.owed_member(ready.ticket(), lane).is_some_and(|member| !member.persistent)
    }

    pub(super) fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.started).as_millis() as u64
    }

    /// Drops the body of a message from the cache: its turn is not near any more.
    pub(super) fn uncache(&mut self, message: MessageRef) {
        if message.slot().is_some()
            && let Some(entry) = self.table.get_mut(message)
        {
            self.bodies.remove(&mut entry.cached);
        }
    }
}

/// The payload with commit=true in its header; a commit by verdict leaves the stored header as it was published.
fn as_committed(payload: Payload) -> Payload {
    if HeaderView::parse(payload.header()).is_ok_and(|view| view.committed) {
        return payload;
    }
    let committed = HeaderChanges { committed: Some(true), ..HeaderChanges::default() };
    payload.with_header(committed, &mut BytesMut::new()).unwrap_or(payload)
}
