//! One TCP connection to a broker, from its handshake to its end.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kiteq_protocol::frame::{BODY_BYTES_MAX, put_frame};
use kiteq_protocol::scan::{Fields, Value};
use kiteq_protocol::{Command, Frame, FrameDecoder, FrameError, MessageError, MessageKind, pb};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::consumer::Job;
use crate::in_flight::{GiveUp, Outgoing};
use crate::link::{Answer, Link, SessionNumber};
use crate::settings::Settings;
use crate::shared::Shared;

/// So many bytes are asked of the socket at a time.
const READ_BYTES: usize = 128 << 10;
/// A read buffer with less room than this is replaced before the next read.
const READ_BYTES_MIN: usize = 16 << 10;
/// The opaque of CONN_META, which is alone on its connection.
const HANDSHAKE_OPAQUE: u32 = 1;
/// A connection is broken when this many heartbeats in a row have no answer.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// How long the last bytes may take to leave, and the broker to close its side.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within {} ms", after.as_millis())]
    Timeout { after: Duration },
    #[error("the broker refused this client: {feedback}")]
    Refused { feedback: String },
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker sends what is not a frame: {0}")]
    Frame(#[from] FrameError),
    #[error("the broker sends a frame with cmd {cmd:#04x} that cannot be read: {reason}")]
    Body { cmd: u8, reason: MessageError },
    #[error("the broker answered the handshake with cmd {cmd:#04x}")]
    Handshake { cmd: u8 },
    #[error("{HEARTBEATS_MISSED_MAX} heartbeats have no answer")]
    Silent,
}

/// Connects and presents this client. What the broker sent after its answer is in the buffer.
pub(crate) async fn connect(
    address: &str,
    settings: &Settings,
) -> Result<(TcpStream, BytesMut), SessionError> {
    let limit = settings.connect_timeout;
    let late = |_| SessionError::Timeout { after: limit };
    let connected = timeout(limit, TcpStream::connect(address)).await.map_err(late)?;
    let mut stream = connected.map_err(SessionError::Connect)?;
    stream.set_nodelay(true).map_err(SessionError::Connect)?;
    let buffer = timeout(limit, present(&mut stream, settings)).await.map_err(late)??;
    Ok((stream, buffer))
}

async fn present(stream: &mut TcpStream, settings: &Settings) -> Result<BytesMut, SessionError> {
    let meta = pb::ConnMeta {
        group_id: settings.group.as_ref().to_owned(),
        secret_key: settings.secret.clone(),
        warmingup_sec: Some(i32::try_from(settings.warm_up.as_secs()).unwrap_or(i32::MAX)),
    };
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, settings.dialect, Command::ConnMeta, HANDSHAKE_OPAQUE, &meta);
    stream.write_all_buf(&mut buffer).await?;
    let mut decoder = FrameDecoder::speaking(settings.dialect, BODY_BYTES_MAX);
    let frame = loop {
        if let Some(frame) = decoder.decode(&mut buffer)? {
            break frame;
        }
        buffer.reserve(READ_BYTES_MIN);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(SessionError::Closed);
        }
    };
    if frame.cmd != Command::ConnAuth as u8 {
        return Err(SessionError::Handshake { cmd: frame.cmd });
    }
    // CONN_AUTH has its status in field 1 and its feedback in field 2.
    let body = |reason| SessionError::Body { cmd: frame.cmd, reason };
    match status_and_feedback(&frame.body, 1, 2).map_err(body)? {
        (true, _) => Ok(buffer),
        (false, feedback) => {
            Err(SessionError::Refused { feedback: String::from_utf8_lossy(&feedback).into_owned() })
        }
    }
}

/// Reads a bool and a string field of a reply. Each has its default, true and empty, where it is absent.
fn status_and_feedback(
    body: &Bytes,
    status_number: u32,
    feedback_number: u32,
) -> Result<(bool, Bytes), MessageError> {
    let (mut status, mut feedback) = (true, Bytes::new());
    for field in Fields::of(body) {
        let field = field?;
        match field.value {
            Value::Varint(value) if field.number == status_number => status = value != 0,
            Value::Bytes(bytes) if field.number == feedback_number && !status => {
                feedback = body.slice_ref(bytes);
            }
            _ => {}
        }
    }
    Ok((status, feedback))
}

/// Serves an authenticated connection until it breaks (the error) or its link is stopped, having written everything.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    session: SessionNumber,
    socket: &TcpStream,
    buffer: BytesMut,
) -> Result<(), SessionError> {
    let pulse = Pulse::default();
    let mut chunk = BytesMut::new();
    let broken = {
        let reader = Reader { shared, link, session, pulse: &pulse, found: Found::default() };
        tokio::select! {
            error = reader.run(socket, buffer) => Some(error),
            error = write_frames(shared, link, socket, &mut chunk) => Some(error),
            error = keep(shared, link, &pulse) => Some(error),
            () = link.stop.cancelled() => None,
        }
    };
    match broken {
        Some(error) => Err(error),
        None => {
            let _ = timeout(GOODBYE_TIMEOUT, say_goodbye(link, socket, chunk)).await;
            Ok(())
        }
    }
}

/// Writes what is left and waits for the broker to close its side: closing first, with its bytes unread, would reset the
/// connection and could take the last acks with it.
async fn say_goodbye(link: &Link, socket: &TcpStream, mut chunk: BytesMut) -> io::Result<()> {
    write_all(socket, &mut chunk).await?;
    while link.take_out(&mut chunk) {
        write_all(socket, &mut chunk).await?;
    }
    socket2::SockRef::from(socket).shutdown(Shutdown::Write)?;
    let mut ignored = BytesMut::new();
    while read_some(socket, &mut ignored).await? > 0 {
        ignored.clear();
    }
    Ok(())
}

/// Appends what the socket has to `buffer`, waiting for it; 0 at the end of the stream.
async fn read_some(socket: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
        buffer.reserve(READ_BYTES);
    }
    loop {
        socket.readable().await?;
        match socket.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Writes `chunk` and empties it.
///
/// # Cancel safety
/// What is left in `chunk` has not been written.
async fn write_all(socket: &TcpStream, chunk: &mut BytesMut) -> io::Result<()> {
    while !chunk.is_empty() {
        match socket.try_write(chunk) {
            Ok(written) => chunk.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Signs of life.
#[derive(Debug, Default)]
struct Pulse {
    heartbeats_unanswered: AtomicU32,
    /// The backlog is full and the socket is not read: silence means nothing.
    paused: AtomicBool,
}

/// Takes everything that is waiting, writes it in one go, and by then the next batch is there.
async fn write_frames(
    shared: &Shared,
    link: &Link,
    socket: &TcpStream,
    chunk: &mut BytesMut,
) -> SessionError {
    loop {
        while link.take_out(chunk) {
            if let Err(error) = write_all(socket, chunk).await {
                return error.into();
            }
        }
        shared.settled.notify_waiters();
        link.to_write.notified().await;
    }
}

/// What one read brought, sorted by what is to be done with it. The lists are emptied and used again.
#[derive(Debug, Default)]
struct Found {
    answers: Vec<(u32, Answer)>,
    jobs: Vec<Job>,
    taken: Vec<Arc<Outgoing>>,
}

struct Reader<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Arc<Link>,
    session: SessionNumber,
    pulse: &'a Pulse,
    found: Found,
}

impl Reader<'_> {
    async fn run(mut self, socket: &TcpStream, mut buffer: BytesMut) -> SessionError {
        match self.read(socket, &mut buffer).await {
            Ok(()) => SessionError::Closed,
            Err(error) => error,
        }
    }

    async fn read(&mut self, socket: &TcpStream, buffer: &mut BytesMut) -> Result<(), SessionError> {
        let mut decoder = FrameDecoder::speaking(self.link.dialect, BODY_BYTES_MAX);
        loop {
            let mut result = Ok(());
            loop {
                match decoder.decode(buffer) {
                    Ok(Some(frame)) => result = self.sort(frame),
                    Ok(None) => break,
                    Err(error) => result = Err(error.into()),
                }
                if result.is_err() {
                    break;
                }
            }
            // What came before a broken frame still counts.
            self.act().await;
            result?;
            while self.link.is_clogged() {
                self.link.drained.notified().await;
            }
            if read_some(socket, buffer).await? == 0 {
                return Ok(());
            }
            self.pulse.heartbeats_unanswered.store(0, Ordering::Relaxed);
        }
    }

    fn sort(&mut self, frame: Frame) -> Result<(), SessionError> {
        let Frame { opaque, cmd, body } = frame;
        match Command::from_byte(cmd) {
            Some(Command::StoreAck) => {
                let (status, feedback) =
                    status_and_feedback(&body, 2, 3).map_err(|reason| SessionError::Body { cmd, reason })?;
                self.found.answers.push((opaque, (!status).then_some(feedback)));
            }
            Some(Command::BytesMessage) => self.delivered(MessageKind::Bytes, opaque, body),
            Some(Command::StringMessage) => self.delivered(MessageKind::String, opaque, body),
            Some(Command::TxAck) => self.shared.answer_check(self.link, self.session, opaque, &body),
            Some(Command::Heartbeat) => {}
            Some(Command::ConnAuth | Command::ConnMeta | Command::DeliverAck) | None => {
                tracing::warn!(broker = %self.link.address, cmd, "ignored a frame that no broker should send");
            }
        }
        Ok(())
    }

    fn delivered(&mut self, kind: MessageKind, opaque: u32, frame_body: Bytes) {
        let (link, session) = (Arc::clone(self.link), self.session);
        self.found.jobs.push(Job { link, session, opaque, kind, frame_body });
    }

    async fn act(&mut self) {
        if !self.found.answers.is_empty() {
            for (message, feedback) in self.link.settle(&mut self.found.answers, &mut self.found.taken) {
                if !self.shared.move_elsewhere(&message, self.link) {
                    message.refused(&self.link.address, &String::from_utf8_lossy(&feedback));
                }
            }
            if self.link.has_no_slots_taken() {
                self.shared.settled.notify_waiters();
            }
        }
        if !self.found.jobs.is_empty() {
            self.pulse.paused.store(true, Ordering::Relaxed);
            self.shared.deliver(&mut self.found.jobs).await;
            self.pulse.paused.store(false, Ordering::Relaxed);
        }
    }
}

/// Sends heartbeats, and messages again whose ack is late.
async fn keep(shared: &Arc<Shared>, link: &Arc<Link>, pulse: &Pulse) -> SessionError {
    let settings = &shared.settings;
    let resend_after = settings.resend_after;
    let period = (resend_after / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
    let mut ticks = interval(period.min(settings.heartbeat_interval));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_heartbeat = Instant::now() + settings.heartbeat_interval;
    loop {
        let now = ticks.tick().await;
        let sweep = link.sweep(now.into_std(), resend_after);
        if !sweep.expired.is_empty() {
            for message in sweep.expired {
                message.give_up(GiveUp::Deadline("its broker has not answered"));
            }
            shared.settled.notify_waiters();
        }
        let is_paused = pulse.paused.load(Ordering::Relaxed);
        for (opaque, message) in sweep.late {
            // The ack may wait in a socket that is not read at the moment.
            if !is_paused && !shared.send_elsewhere(&message, link) {
                link.resend(opaque, &message);
            }
        }
        if now >= next_heartbeat {
            next_heartbeat = now + settings.heartbeat_interval;
            if is_paused {
                continue;
            }
            if pulse.heartbeats_unanswered.fetch_add(1, Ordering::Relaxed) >= HEARTBEATS_MISSED_MAX {
                return SessionError::Silent;
            }
            let opaque = link.next_opaque();
            let beat = pb::HeartBeat { version: i64::from(opaque) };
            link.post(None, |buf, dialect| put_frame(buf, dialect, Command::Heartbeat, opaque, &beat));
        }
    }
}
