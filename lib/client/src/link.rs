//! The client's side of one broker, shared by everybody who sends to it; it outlives its TCP connections.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use kiteq_protocol::Dialect;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::Refusal;
use crate::in_flight::Outgoing;
use crate::settings::{PLACE_BYTES, Settings};
use crate::slots::Slots;
use crate::sync::lock;

/// Write buffers that grew beyond this in a burst are given back.
const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// A message is not repeated on a connection that has more than this still to write: it has not got the first copy yet.
const RESEND_BACKLOG_MAX: usize = 256 << 10;
/// Answers to deliveries and checks that may wait for the socket, beyond the messages of a full window. Above it nothing is
/// read that would ask for more.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// After so many resend periods nobody waits for the answer to a copy any more, and its slot is used again.
const FORGET_AFTER_RESENDS: u32 = 10;

/// Connections are numbered per link; an answer must go over the one that brought the question.
pub(crate) type SessionNumber = u64;

/// One broker.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) dialect: Dialect,
    /// Free places for unacked messages. A message's places are forgotten when it takes a slot, added back when it
    /// leaves it.
    pub(crate) window: Semaphore,
    window_places: usize,
    ready: AtomicBool,
    /// Vanished from the registry: to be closed once nothing is in flight.
    pub(crate) leaving: AtomicBool,
    refused: Mutex<Option<Arc<str>>>,
    line: Mutex<Line>,
    /// Wakes the writer.
    pub(crate) to_write: Notify,
    /// Wakes a reader that waits for answers to be written.
    pub(crate) drained: Notify,
    /// Deliveries of the current connections that have not been answered.
    pub(crate) deliveries: AtomicUsize,
    /// Counts requests that are not messages: heartbeats and verdicts.
    requests: AtomicU32,
    pub(crate) stop: CancellationToken,
}

#[derive(Debug)]
struct Line {
    session: SessionNumber,
    /// The current connection.
    socket: Option<Arc<TcpStream>>,
    out: BytesMut,
    /// The writer holds bytes that are not in the socket yet, and looks here again when they are.
    writing: bool,
    slots: Slots,
}

impl Line {
    /// Writes without waking the writer: for a message that is alone and whose sender waits for its ack, so that nothing
    /// will come to be batched with it. What the socket does not take, and any error, is left to the writer.
    fn write_now(&mut self) {
        if let (Some(socket), false) = (&self.socket, self.writing)
            && let Ok(written) = socket.try_write(&self.out)
        {
            self.out.advance(written);
        }
    }
}

/// What [`Link::sweep`] found.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Their deadline has passed.
    pub(crate) expired: Vec<Arc<Outgoing>>,
    /// Unanswered for so long that another copy is due, with their opaques here.
    pub(crate) late: Vec<(u32, Arc<Outgoing>)>,
}

/// A broker's answer to a message: `None` is an ack, `Some` a refusal in its words.
pub(crate) type Answer = Option<Bytes>;

impl Link {
    pub(crate) fn new(address: &str, settings: &Settings, stop: CancellationToken) -> Self {
        let line = Line {
            session: 0,
            socket: None,
            out: BytesMut::new(),
            writing: false,
            slots: Slots::new(settings.window),
        };
        Self {
            address: address.into(),
            group: Arc::clone(&settings.group),
            dialect: settings.dialect,
            window: Semaphore::new(settings.window),
            window_places: settings.window,
            ready: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            refused: Mutex::new(None),
            line: Mutex::new(line),
            to_write: Notify::new(),
            drained: Notify::new(),
            deliveries: AtomicUsize::new(0),
            requests: AtomicU32::new(0),
            stop,
        }
    }

    /// Whether there is an authenticated connection.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// An opaque, not zero, for a request that is not a message.
    pub(crate) fn next_opaque(&self) -> u32 {
        self.requests.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
    }

    /// Taken places of the window.
    pub(crate) fn load(&self) -> usize {
        self.window_places.saturating_sub(self.window.available_permits())
    }

    /// Why the broker does not let this client in, when that is so.
    pub(crate) fn refusal(&self) -> Option<Arc<str>> {
        lock(&self.refused).clone()
    }

    pub(crate) fn set_refusal(&self, feedback: Option<Arc<str>>) {
        *lock(&self.refused) = feedback;
    }

    /// A connection is up.
    pub(crate) fn open_session(&self, socket: Arc<TcpStream>) -> SessionNumber {
        let mut line = lock(&self.line);
        line.session += 1;
        line.socket = Some(socket);
        line.writing = false;
        line.out.clear();
        let session = line.session;
        drop(line);
        self.set_refusal(None);
        self.ready.store(true, Ordering::Release);
        session
    }

    /// The connection is gone. Returns the messages that must be sent over another one.
    pub(crate) fn end_session(&self) -> Vec<Arc<Outgoing>> {
        self.ready.store(false, Ordering::Release);
        let mut line = lock(&self.line);
        line.socket = None;
        line.out = BytesMut::new();
        line.writing = false;
        let mut messages = line.slots.take_all();
        drop(line);
        self.free_places(&messages);
        messages.retain(|message| message.copy_lost());
        messages
    }

    fn free_places(&self, messages: &[Arc<Outgoing>]) {
        let places: usize = messages.iter().map(|message| message.places as usize).sum();
        if places > 0 {
            self.window.add_permits(places);
        }
    }

    /// Sends `message` if there is room in the window right now.
    pub(crate) fn try_send(&self, message: &Arc<Outgoing>) -> bool {
        match self.window.try_acquire_many(message.places) {
            Ok(places) => {
                places.forget();
                self.send(message)
            }
            Err(_) => false,
        }
    }

    /// Sends `message`, whose places the caller has taken from the window and forgotten. False, with the places given
    /// back, when there is no connection.
    pub(crate) fn send(&self, message: &Arc<Outgoing>) -> bool {
        message.copy_sent();
        let now = Instant::now();
        let mut line = lock(&self.line);
        let is_open = line.socket.is_some();
        let opaque = if is_open { line.slots.insert(Arc::clone(message), now) } else { None };
        let Some(opaque) = opaque else {
            drop(line);
            message.copy_not_sent();
            self.window.add_permits(message.places as usize);
            return false;
        };
        message.put(&mut line.out, self.dialect, opaque, &self.group);
        if message.intent.awaited && line.slots.len() == 1 {
            line.write_now();
        }
        self.wake_writer(&line);
        true
    }

    /// Sends a message again that waits under `opaque` here.
    pub(crate) fn resend(&self, opaque: u32, message: &Outgoing) {
        let mut line = lock(&self.line);
        if line.socket.is_some() && line.slots.holds(opaque) && line.out.len() <= RESEND_BACKLOG_MAX {
            message.copy_repeated();
            message.put(&mut line.out, self.dialect, opaque, &self.group);
            self.wake_writer(&line);
        }
    }

    /// Appends frames, if the connection is up and, where `session` is given, still that one.
    pub(crate) fn post(
        &self,
        session: Option<SessionNumber>,
        put: impl FnOnce(&mut BytesMut, Dialect),
    ) -> bool {
        let mut line = lock(&self.line);
        if line.socket.is_none() || session.is_some_and(|session| session != line.session) {
            return false;
        }
        put(&mut line.out, self.dialect);
        self.wake_writer(&line);
        true
    }

    fn wake_writer(&self, line: &Line) {
        if !line.writing && !line.out.is_empty() {
            self.to_write.notify_one();
        }
    }

    /// Swaps what is waiting to be written with the writer's empty buffer. False when nothing is.
    pub(crate) fn take_out(&self, chunk: &mut BytesMut) -> bool {
        if chunk.capacity() > BUFFER_BYTES_KEPT {
            *chunk = BytesMut::new();
        }
        let mut line = lock(&self.line);
        line.writing = !line.out.is_empty();
        if line.writing {
            std::mem::swap(&mut line.out, chunk);
            self.drained.notify_one();
        }
        line.writing
    }

    /// Whether the broker asks for answers faster than it reads them.
    pub(crate) fn is_clogged(&self) -> bool {
        lock(&self.line).out.len() > self.window_places * PLACE_BYTES + ANSWER_BYTES_MAX
    }

    /// Settles the messages that a broker has answered; empties both lists. `taken` lends the memory. Returns those that the
    /// broker only refuses because it stops, with its words.
    pub(crate) fn settle(
        &self,
        answers: &mut Vec<(u32, Answer)>,
        taken: &mut Vec<Arc<Outgoing>>,
    ) -> Vec<(Arc<Outgoing>, Bytes)> {
        let mut line = lock(&self.line);
        answers.retain(|(opaque, _)| match line.slots.take(*opaque) {
            Some(message) => {
                taken.push(message);
                true
            }
            None => false,
        });
        drop(line);
        // Places first: whoever the answers wake can then submit without waiting.
        self.free_places(taken);
        let mut to_move = Vec::new();
        for ((_, answer), message) in answers.drain(..).zip(taken.drain(..)) {
            match answer {
                None => message.acked(&self.address),
                Some(feedback) => {
                    let words = String::from_utf8_lossy(&feedback);
                    if Refusal::from_feedback(&words) == Refusal::Stopping {
                        to_move.push((message, feedback));
                    } else {
                        message.refused(&self.address, &words);
                    }
                }
            }
        }
        to_move
    }

    /// Looks for messages whose answer is late.
    pub(crate) fn sweep(&self, now: Instant, resend_after: Duration) -> Sweep {
        let mut sweep = Sweep::default();
        let mut forgotten = Vec::new();
        let mut line = lock(&self.line);
        for (opaque, occupant) in line.slots.iter_mut() {
            let message = &occupant.message;
            if message.is_done() {
                if now.duration_since(occupant.first_sent) >= resend_after * FORGET_AFTER_RESENDS {
                    forgotten.push(opaque);
                }
            } else if now >= message.deadline {
                sweep.expired.push(Arc::clone(message));
            } else if now.duration_since(occupant.last_sent) >= resend_after {
                occupant.last_sent = now;
                sweep.late.push((opaque, Arc::clone(message)));
            }
        }
        let forgotten: Vec<_> = forgotten.into_iter().filter_map(|opaque| line.slots.take(opaque)).collect();
        drop(line);
        self.free_places(&forgotten);
        sweep
    }

    /// Messages that somebody still waits for.
    pub(crate) fn unacked(&self) -> Vec<Arc<Outgoing>> {
        let mut line = lock(&self.line);
        let occupants = line.slots.iter_mut().map(|(_, occupant)| &occupant.message);
        occupants.filter(|message| !message.is_done()).cloned().collect()
    }

    /// Whether nothing waits for an answer or for the socket.
    pub(crate) fn is_settled(&self) -> bool {
        self.deliveries.load(Ordering::Acquire) == 0 && self.unacked().is_empty() && {
            let line = lock(&self.line);
            line.out.is_empty() && !line.writing
        }
    }

    /// Whether no slot is taken, a cheap hint that [`Self::is_settled`] is worth asking.
    pub(crate) fn has_no_slots_taken(&self) -> bool {
        lock(&self.line).slots.len() == 0
    }
}
