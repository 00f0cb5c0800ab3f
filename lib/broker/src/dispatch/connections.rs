//! Connections as the dispatcher sees them: a window of unanswered deliveries each.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kiteq_protocol::{Dialect, Framing, MessageKind, Payload};

use super::groups::GroupId;
use super::lane::LaneId;
use super::table::Ticket;
use crate::session::outbound::{Delivery, Outbound, Pace};

/// Names a connection for as long as the broker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What a session tells the dispatcher when its peer has presented itself.
#[derive(Debug)]
pub(crate) struct NewConnection {
    pub(crate) id: ConnectionId,
    pub(crate) group: Bytes,
    pub(crate) dialect: Dialect,
    pub(crate) warm_up: Duration,
    pub(crate) outbound: Arc<Outbound>,
}

/// A delivery that has not been answered, or not in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) ticket: Ticket,
    pub(crate) lane: LaneId,
    pub(crate) attempts: u16,
    state: FlightState,
    sent_at: Instant,
    bytes: u32,
    id_end: IdEnd,
}

/// The end of a message id's text. An answer whose end is another one is not for this delivery: a client that has connected
/// again may still answer what it was sent before, and opaques start at 1 on every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdEnd([u8; 8]);

impl IdEnd {
    pub(crate) fn of(message_id: &[u8]) -> Self {
        Self(message_id.last_chunk().copied().unwrap_or_default())
    }
}

/// A consumer's answer to one delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ack {
    pub(crate) opaque: u32,
    pub(crate) id_end: IdEnd,
    pub(crate) is_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlightState {
    Out,
    /// Failed by time; the answer may still come.
    TimedOut,
    Answered,
}

/// What an answer was for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answered {
    /// A delivery that was out.
    InTime(InFlight),
    /// A delivery that had failed by time.
    Late(InFlight),
    /// Nothing that is known.
    Unknown,
}

/// Delivery opaques run from 1 up to this; those of transaction checks are above it.
const DELIVERY_OPAQUE_MAX: u32 = 0x3fff_ffff;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) group: GroupId,
    pub(crate) dialect: Dialect,
    pub(crate) outbound: Arc<Outbound>,
    connected_at: Instant,
    warm_up: Duration,
    /// Deliveries in the order of their opaques, the oldest that may still be answered first.
    flights: VecDeque<InFlight>,
    first_opaque: u32,
    next_check_opaque: u32,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Share of work given so far, weighed: the connection with the least is next among equals.
    given: f64,
    /// Deliveries that go out at the end of the turn.
    staged: Vec<Delivery>,
    /// Whether it stands in its group's list of connections that may have room.
    pub(crate) is_open: bool,
}

/// Answers that come later than so many deliveries after theirs are not recognised any more.
const LATE_ANSWERS_MAX: usize = 4096;

impl Connection {
    fn new(new: NewConnection, group: GroupId, given: f64) -> Self {
        Self {
            group,
            dialect: new.dialect,
            outbound: new.outbound,
            connected_at: Instant::now(),
            warm_up: new.warm_up,
            flights: VecDeque::new(),
            first_opaque: 1,
            next_check_opaque: DELIVERY_OPAQUE_MAX,
            in_flight: 0,
            in_flight_bytes: 0,
            given,
            staged: Vec::new(),
            is_open: true,
        }
    }

    /// The share of work that this connection should get, from almost 0 while it is cold to 1.
    fn weight(&self, now: Instant) -> f64 {
        if self.warm_up.is_zero() {
            return 1.0;
        }
        let warm =
            now.saturating_duration_since(self.connected_at).as_secs_f64() / self.warm_up.as_secs_f64();
        warm.clamp(0.001, 1.0)
    }

    /// Deliveries that may be added, given the limits of a fully warm connection. A window in bytes is exceeded by at
    /// most one message, so that a message larger than the window can be delivered at all.
    fn room(&self, limits: WindowLimits, now: Instant) -> usize {
        if !self.has_byte_room(limits.bytes) || self.outbound.unsent_bytes() >= limits.bytes {
            return 0;
        }
        let window = (limits.deliveries as f64 * self.weight(now)).ceil() as usize;
        window.max(1).saturating_sub(self.in_flight)
    }

    /// Whether the window has room in bytes.
    pub(crate) fn has_byte_room(&self, limit: usize) -> bool {
        self.in_flight_bytes < limit
    }

    /// Stages one delivery; says whether it is the first of the turn.
    pub(crate) fn stage(&mut self, sending: Sending, now: Instant) -> bool {
        let opaque = add_opaque(self.first_opaque, self.flights.len());
        let bytes = sending.payload.len();
        self.flights.push_back(InFlight {
            ticket: sending.ticket,
            lane: sending.lane,
            attempts: sending.attempts,
            state: FlightState::Out,
            sent_at: now,
            bytes: bytes as u32,
            id_end: IdEnd::of(sending.payload.message_id()),
        });
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        self.given += 1.0 / self.weight(now);
        self.staged.push(Delivery { opaque, kind: sending.kind, payload: sending.payload });
        self.staged.len() == 1
    }

    /// Hands what is staged to the session.
    pub(crate) fn flush(&mut self, pace: Pace) {
        if !self.staged.is_empty() {
            self.outbound.push_deliveries(std::mem::take(&mut self.staged), pace);
        }
    }

    /// A fresh opaque for a transaction check.
    pub(crate) fn check_opaque(&mut self) -> u32 {
        self.next_check_opaque =
            if self.next_check_opaque >= 0x7fff_ffff { DELIVERY_OPAQUE_MAX } else { self.next_check_opaque }
                + 1;
        self.next_check_opaque
    }

    /// When the delivery went out that an answer is for.
    pub(crate) fn sent_at(&self, ack: Ack) -> Option<Instant> {
        self.position_of(ack).map(|position| self.flights[position].sent_at)
    }

    /// Where the delivery stands that an answer is for.
    fn position_of(&self, ack: Ack) -> Option<usize> {
        let position = opaque_distance(self.first_opaque, ack.opaque);
        (self.flights.get(position)?.id_end == ack.id_end).then_some(position)
    }

    /// Takes an answer.
    pub(crate) fn answer(&mut self, ack: Ack) -> Answered {
        let Some(position) = self.position_of(ack) else { return Answered::Unknown };
        let flight = &mut self.flights[position];
        let taken = *flight;
        flight.state = FlightState::Answered;
        let answered = match taken.state {
            FlightState::Out => {
                self.landed(taken.bytes);
                Answered::InTime(taken)
            }
            FlightState::TimedOut => Answered::Late(taken),
            FlightState::Answered => Answered::Unknown,
        };
        self.forget_answered();
        answered
    }

    fn landed(&mut self, bytes: u32) {
        self.in_flight -= 1;
        self.in_flight_bytes -= bytes as usize;
    }

    fn forget_answered(&mut self) {
        while let Some(front) = self.flights.front() {
            let forget = match front.state {
                FlightState::Out => false,
                FlightState::Answered => true,
                FlightState::TimedOut => self.flights.len() > LATE_ANSWERS_MAX,
            };
            if !forget {
                break;
            }
            self.flights.pop_front();
            self.first_opaque = add_opaque(self.first_opaque, 1);
        }
    }

    /// Takes the deliveries that were sent before `deadline` and have not been answered.
    pub(crate) fn time_out(&mut self, sent_before: Instant, timed_out: &mut Vec<InFlight>) {
        if self.in_flight == 0 {
            return;
        }
        let before = timed_out.len();
        for flight in &mut self.flights {
            if flight.sent_at >= sent_before {
                break;
            }
            if flight.state == FlightState::Out {
                flight.state = FlightState::TimedOut;
                timed_out.push(*flight);
            }
        }
        for flight in &timed_out[before..] {
            self.landed(flight.bytes);
        }
        self.forget_answered();
    }

    /// Everything that is still out, when the connection is gone.
    pub(crate) fn into_flights(self) -> impl Iterator<Item = InFlight> {
        self.flights.into_iter().filter(|flight| flight.state == FlightState::Out)
    }
}

/// One message on its way to one connection.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) ticket: Ticket,
    pub(crate) lane: LaneId,
    pub(crate) attempts: u16,
    pub(crate) kind: MessageKind,
    pub(crate) payload: Payload,
}

/// What a fully warm connection may have unanswered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    pub(crate) deliveries: usize,
    pub(crate) bytes: usize,
}

fn add_opaque(opaque: u32, by: usize) -> u32 {
    ((u64::from(opaque) - 1 + by as u64) % u64::from(DELIVERY_OPAQUE_MAX)) as u32 + 1
}

fn opaque_distance(from: u32, to: u32) -> usize {
    if to == 0 || to > DELIVERY_OPAQUE_MAX {
        return usize::MAX;
    }
    ((u64::from(to) + u64::from(DELIVERY_OPAQUE_MAX) - u64::from(from)) % u64::from(DELIVERY_OPAQUE_MAX))
        as usize
}

/// In a large group, so many connections are compared for each choice.
const CANDIDATES: usize = 16;

/// All connections that have presented themselves.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    by_id: HashMap<ConnectionId, Connection>,
}

impl Connections {
    pub(crate) fn add(&mut self, new: NewConnection, group: GroupId, peers: &[ConnectionId]) {
        // A newcomer starts level with its peers: it has no claim to what was given before it came.
        let given = peers
            .iter()
            .filter_map(|peer| self.by_id.get(peer))
            .map(|peer| peer.given)
            .fold(f64::INFINITY, f64::min);
        let given = if given.is_finite() { given } else { 0.0 };
        self.by_id.insert(new.id, Connection::new(new, group, given));
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.by_id.remove(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionId, &mut Connection)> {
        self.by_id.iter_mut().map(|(&id, connection)| (id, connection))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Unanswered deliveries of all connections.
    pub(crate) fn in_flight(&self) -> usize {
        self.by_id.values().map(|connection| connection.in_flight).sum()
    }

    /// The least loaded of `open` that has room, and how much room: fewest unanswered deliveries for its weight, and among
    /// equals the one that was given least. The search starts at `cursor`, which it moves; those without room are taken out
    /// of `open`, so that a large group that is nearly full is not searched again and again.
    pub(crate) fn least_loaded(
        &mut self,
        open: &mut Vec<ConnectionId>,
        cursor: &mut usize,
        limits: WindowLimits,
        now: Instant,
    ) -> Option<(ConnectionId, usize)> {
        let mut best: Option<(f64, f64, ConnectionId, usize)> = None;
        let mut candidates = 0;
        while candidates < CANDIDATES.min(open.len()) {
            if *cursor >= open.len() {
                *cursor = 0;
            }
            let id = open[*cursor];
            let connection = self.by_id.get_mut(&id);
            let room = connection.as_ref().map_or(0, |connection| connection.room(limits, now));
            let Some(connection) = connection.filter(|_| room > 0) else {
                open.swap_remove(*cursor);
                if let Some(connection) = self.by_id.get_mut(&id) {
                    connection.is_open = false;
                }
                continue;
            };
            let load = connection.in_flight as f64 / connection.weight(now);
            if best.is_none_or(|(least, given, ..)| (load, connection.given) < (least, given)) {
                best = Some((load, connection.given, id, room));
            }
            *cursor += 1;
            candidates += 1;
        }
        best.map(|(_, _, id, room)| (id, room))
    }

    /// The one of `peers` with the fewest unanswered deliveries among those that speak the header-only framing and have
    /// room.
    pub(crate) fn header_only_with_room(
        &self,
        peers: &[ConnectionId],
        limits: WindowLimits,
        now: Instant,
    ) -> Option<ConnectionId> {
        let able = peers
            .iter()
            .filter_map(|&id| Some((id, self.by_id.get(&id)?)))
            .filter(|(_, peer)| peer.dialect.framing == Framing::HeaderOnly && peer.room(limits, now) > 0);
        able.min_by_key(|(_, peer)| peer.in_flight).map(|(id, _)| id)
    }
}
