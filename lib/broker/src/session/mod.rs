//! One connection: frames in, events and publishes out.

pub(crate) mod outbound;
mod presence;
pub(crate) mod publish;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::reply::DeliverAckView;
use kiteq_protocol::{
    Command, Dialect, Frame, FrameDecoder, FrameError, Framing, MessageError, MessageId, MessageKind, pb,
    reply,
};
use kiteq_store::Verdict;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::dispatch::Event;
use crate::dispatch::connections::{Ack, ConnectionId, IdEnd, NewConnection};
use crate::shared::{NAME_BYTES_MAX, Shared};
use outbound::Outbound;
use presence::Presence;
use publish::{PublishBatch, take_budget};

/// A read buffer starts with this and shrinks back to it.
const READ_BYTES_MIN: usize = 8 << 10;
/// A read buffer of a busy connection.
const READ_BYTES_MAX: usize = 256 << 10;
/// The largest CONN_META: a stranger must not make the broker hold more.
const HANDSHAKE_BYTES_MAX: usize = 16 << 10;
/// How long the last answers to a closing connection may take to be written.
const CLOSE_WRITE_MAX: Duration = Duration::from_secs(2);
/// How long, and for how many bytes, a connection that broke the protocol is read on while its last answer reaches the peer.
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 8 << 20;
/// Share of the publish budget that one verdict takes while it is on its way into the store.
const VERDICT_BYTES: usize = 256;
const UNAUTHORIZED: &str = "Unauthorized,Connection broken!";

/// Why a session ends before its peer closes the connection.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a {what} body does not decode: {reason}")]
    Body { what: &'static str, reason: String },
    #[error("command {cmd:#04x} is not part of the protocol")]
    UnknownCommand { cmd: u8 },
    #[error("group {group:?} was refused: {reason}")]
    Refused { group: String, reason: &'static str },
    #[error("nothing but {bytes} bytes within {seconds} s: not a whole CONN_META")]
    HandshakeTimeout { bytes: usize, seconds: u64 },
    #[error("nothing was received for {seconds} s; clients send heartbeats more often than that")]
    Idle { seconds: u64 },
    #[error("it does not read its answers: {limit} bytes have been waiting for {seconds} s")]
    NotReading { limit: usize, seconds: u64 },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl SessionError {
    /// Whether the peer is to blame, rather than the network or the clock.
    fn is_protocol_error(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Idle { .. })
    }
}

/// Serves one connection until it ends.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    id: ConnectionId,
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY cannot be set");
    }
    let stream = Arc::new(stream);
    let outbound = Arc::new(Outbound::new(stream.clone(), shared.metrics.bytes_sent.clone()));
    let mut session = Session {
        shared: shared.clone(),
        id,
        peer,
        stream,
        buf: BytesMut::with_capacity(READ_BYTES_MIN),
        read_bytes: READ_BYTES_MIN,
        decoder: FrameDecoder::detecting(HANDSHAKE_BYTES_MAX),
        outbound: outbound.clone(),
        group: None,
        presence: None,
        batch: PublishBatch::new(),
        acks: Vec::new(),
        verdicts: Vec::new(),
    };
    let handshake = tokio::select! {
        handshake = session.handshake() => handshake,
        () = stop.cancelled() => return,
    };
    let dialect = session.decoder.dialect().unwrap_or(Dialect::GO);
    let mut writer = tokio::spawn(writer::write_queued(outbound.clone()));
    let ended = match handshake {
        Ok(false) => Ok(()),
        Ok(true) => tokio::select! {
            ended = session.run(dialect) => ended,
            () = stop.cancelled() => Ok(()),
            _ = &mut writer => Ok(()),
        },
        Err(error) => {
            session.answer_stranger();
            Err(error)
        }
    };
    drop(session.presence.take());
    let broke_protocol = ended.as_ref().is_err_and(SessionError::is_protocol_error);
    match ended {
        Ok(()) => tracing::debug!(%peer, group = session.group, "connection closed"),
        Err(error) if error.is_protocol_error() => {
            shared.metrics.protocol_errors.inc();
            tracing::warn!(%peer, group = session.group, %error, "connection closed because of what it sent");
        }
        Err(error) => tracing::info!(%peer, group = session.group, %error, "connection lost"),
    }
    outbound.close();
    if !writer.is_finished() && tokio::time::timeout(CLOSE_WRITE_MAX, &mut writer).await.is_err() {
        writer.abort();
    }
    if broke_protocol {
        tokio::select! {
            () = linger(outbound.stream()) => {}
            () = stop.cancelled() => {}
        }
    }
    // Others may still hold the socket for a moment; the peer must not wait for them.
    let _ = socket2::SockRef::from(outbound.stream()).shutdown(std::net::Shutdown::Both);
}

/// Ends the broker's half of a connection and reads on until the peer ends its own: bytes that nobody reads would make the
/// kernel reset the connection, and the peer might lose the answer that tells it what it did wrong.
async fn linger(stream: &TcpStream) {
    if socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    let read_on = async {
        let mut scrap = vec![0; READ_BYTES_MIN];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut scrap) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_MAX, read_on).await;
}

struct Session {
    shared: Arc<Shared>,
    id: ConnectionId,
    peer: SocketAddr,
    stream: Arc<TcpStream>,
    buf: BytesMut,
    /// How much to make room for before the next read.
    read_bytes: usize,
    decoder: FrameDecoder,
    outbound: Arc<Outbound>,
    /// The peer's group, once it is let in.
    group: Option<String>,
    /// There while the dispatcher knows the connection.
    presence: Option<Presence>,
    batch: PublishBatch,
    acks: Vec<Ack>,
    verdicts: Vec<(MessageId, Verdict)>,
}

impl Session {
    /// Reads more bytes; `false` at the end of the stream.
    async fn read(&mut self) -> std::io::Result<bool> {
        self.buf.reserve(self.read_bytes);
        let read = loop {
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.buf) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => break read?,
            }
        };
        self.shared.metrics.bytes_received.inc_by(read as u64);
        // Room follows the traffic, so that thousands of quiet connections cost little.
        self.read_bytes = if read >= self.read_bytes {
            (self.read_bytes * 2).min(READ_BYTES_MAX)
        } else if read < self.read_bytes / 4 {
            (self.read_bytes / 2).max(READ_BYTES_MIN)
        } else {
            self.read_bytes
        };
        Ok(read > 0)
    }

    /// Waits for CONN_META and lets the peer in; `false` when it has gone without a word.
    async fn handshake(&mut self) -> Result<bool, SessionError> {
        let limit = self.shared.config.handshake_timeout;
        let deadline = tokio::time::Instant::now() + limit;
        let frame = loop {
            if let Some(frame) = self.decoder.decode(&mut self.buf)? {
                break frame;
            }
            match tokio::time::timeout_at(deadline, self.read()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) if self.buf.is_empty() => return Ok(false),
                Ok(Ok(false)) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {
                    return Err(SessionError::HandshakeTimeout {
                        bytes: self.buf.len(),
                        seconds: limit.as_secs(),
                    });
                }
            }
        };
        let dialect = self.decoder.dialect().unwrap_or(Dialect::GO);
        let meta = decode::<pb::ConnMeta>("CONN_META", &frame)?;
        let verdict = self.check_secret(&meta);
        let feedback = verdict.err().unwrap_or("Auth Succ");
        self.reply_auth(dialect, frame.opaque, verdict.is_ok(), feedback);
        if let Err(reason) = verdict {
            return Err(SessionError::Refused { group: meta.group_id, reason });
        }
        let warm_up = Duration::from_secs(u64::try_from(meta.warmingup_sec()).unwrap_or(0));
        tracing::info!(peer = %self.peer, group = meta.group_id, ?dialect, ?warm_up, "client connected");
        self.decoder.limit_bodies(self.shared.config.body_bytes_max);
        self.outbound.speak(dialect);
        self.shared.inbox.push(Event::Connected(NewConnection {
            id: self.id,
            group: meta.group_id.clone().into(),
            dialect,
            warm_up,
            outbound: self.outbound.clone(),
        }));
        self.presence = Some(Presence::new(self.shared.inbox.clone(), self.id, self.outbound.clone()));
        self.group = Some(meta.group_id);
        Ok(true)
    }

    fn check_secret(&self, meta: &pb::ConnMeta) -> Result<(), &'static str> {
        if meta.group_id.is_empty() || meta.group_id.len() > NAME_BYTES_MAX {
            return Err("GroupId must have 1 to 255 bytes");
        }
        let secrets = &self.shared.config.secrets;
        if secrets.is_empty() {
            return Ok(());
        }
        match secrets.get(&meta.group_id) {
            None => Err("Unknown GroupId"),
            Some(secret) if is_equal(secret.as_bytes(), meta.secret_key.as_bytes()) => Ok(()),
            Some(_) => Err("Invalid SecretKey"),
        }
    }

    fn reply_auth(&mut self, dialect: Dialect, opaque: u32, status: bool, feedback: &str) {
        let ack = pb::ConnAuthAck { status, feedback: feedback.to_owned() };
        put_frame(&mut self.batch.replies, dialect, Command::ConnAuth, opaque, &ack);
        self.outbound.push_frames(&mut self.batch.replies);
    }

    /// Answers a peer that speaks KiteQ but did not start with CONN_META. Its first frame is still in the buffer.
    fn answer_stranger(&mut self) {
        if self.decoder.dialect().is_some() {
            return;
        }
        let is_command = |at: usize| self.buf.get(at).is_some_and(|&byte| Command::from_byte(byte).is_some());
        let opaque_at = |at: usize| {
            let bytes = self.buf.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_be_bytes)
        };
        if is_command(4) {
            self.reply_auth(Dialect::GO, opaque_at(0), false, UNAUTHORIZED);
        } else if is_command(8) && self.buf[0] == 0 {
            let version = i16::from_be_bytes([
                self.buf.get(9).copied().unwrap_or(0),
                self.buf.get(10).copied().unwrap_or(0),
            ]);
            let dialect = Dialect { framing: Framing::LengthPrefixed, version };
            self.reply_auth(dialect, opaque_at(4), false, UNAUTHORIZED);
        }
    }

    async fn run(&mut self, dialect: Dialect) -> Result<(), SessionError> {
        let idle = self.shared.config.idle_timeout;
        let reply_limit = self.shared.config.outbound_bytes_max;
        loop {
            self.batch.begin(self.shared.clock.unix_seconds());
            let taken = self.take_frames(dialect);
            // What came before a broken frame is good.
            self.send_on(dialect).await;
            taken?;
            if tokio::time::timeout(idle, self.outbound.room_for_replies(reply_limit)).await.is_err() {
                return Err(SessionError::NotReading { limit: reply_limit, seconds: idle.as_secs() });
            }
            match tokio::time::timeout(idle, self.read()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(SessionError::Idle { seconds: idle.as_secs() }),
            }
        }
    }

    fn take_frames(&mut self, dialect: Dialect) -> Result<(), SessionError> {
        loop {
            match self.decoder.decode(&mut self.buf) {
                Ok(Some(frame)) => self.on_frame(dialect, &frame)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.answer_bad_frame(dialect, &error);
                    return Err(error.into());
                }
            }
        }
    }

    /// Tells a publisher why its connection is closed, where its frame says that it is one.
    fn answer_bad_frame(&mut self, dialect: Dialect, error: &FrameError) {
        if let Some((opaque, cmd)) = error.request()
            && MessageKind::from_byte(cmd).is_some()
        {
            self.shared.metrics.publish_refused("frame");
            reply::put_store_ack(&mut self.batch.replies, dialect, opaque, b"", false, &error.to_string());
        }
    }

    fn on_frame(&mut self, dialect: Dialect, frame: &Frame) -> Result<(), SessionError> {
        let Some(command) = Command::from_byte(frame.cmd) else {
            return Err(SessionError::UnknownCommand { cmd: frame.cmd });
        };
        match command {
            Command::BytesMessage => self.on_publish(dialect, frame, MessageKind::Bytes)?,
            Command::StringMessage => self.on_publish(dialect, frame, MessageKind::String)?,
            Command::DeliverAck => {
                let ack =
                    DeliverAckView::parse(&frame.body).map_err(|error| body_error("DELIVER_ACK", &error))?;
                let id_end = IdEnd::of(ack.message_id);
                self.acks.push(Ack { opaque: frame.opaque, id_end, is_done: ack.status });
            }
            Command::TxAck => self.on_verdict(frame)?,
            Command::Heartbeat => {
                let heartbeat = decode::<pb::HeartBeat>("HEARTBEAT", frame)?;
                put_frame(&mut self.batch.replies, dialect, Command::Heartbeat, frame.opaque, &heartbeat);
            }
            Command::ConnMeta => {
                let meta = decode::<pb::ConnMeta>("CONN_META", frame)?;
                let is_same = self.group.as_deref() == Some(meta.group_id.as_str());
                let reason = "A connection keeps its GroupId";
                self.reply_auth(dialect, frame.opaque, is_same, if is_same { "Auth Succ" } else { reason });
                if !is_same {
                    return Err(SessionError::Refused { group: meta.group_id, reason });
                }
            }
            Command::ConnAuth | Command::StoreAck => {
                tracing::debug!(peer = %self.peer, ?command, "a client sent what only brokers send; ignored");
            }
        }
        Ok(())
    }

    fn on_publish(&mut self, dialect: Dialect, frame: &Frame, kind: MessageKind) -> Result<(), SessionError> {
        let added = self.batch.add(&self.shared, &self.outbound, dialect, frame.opaque, kind, &frame.body);
        added.map_err(|error| body_error("message", &error))
    }

    fn on_verdict(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let packet = decode::<pb::TxAckPacket>("TX_ACK", frame)?;
        let verdict = match packet.status {
            1 => Verdict::Commit,
            2 => Verdict::Rollback,
            _ => return Ok(()),
        };
        match packet.header.message_id.parse() {
            Ok(id) => self.verdicts.push((id, verdict)),
            Err(error) => tracing::warn!(peer = %self.peer, %error, "a verdict for no message; ignored"),
        }
        Ok(())
    }

    /// Sends on what one read has brought.
    async fn send_on(&mut self, dialect: Dialect) {
        if !self.acks.is_empty() {
            let acks = std::mem::take(&mut self.acks);
            self.shared.inbox.push(Event::Acks { connection: self.id, acks });
        }
        self.batch.submit(&self.shared, &self.outbound, dialect).await;
        if !self.verdicts.is_empty() {
            let verdicts = std::mem::take(&mut self.verdicts);
            let Some(budget) = take_budget(&self.shared, verdicts.len() * VERDICT_BYTES).await else {
                return;
            };
            let inbox = self.shared.inbox.clone();
            let started = Instant::now();
            let metrics = self.shared.metrics.clone();
            self.shared.store.decide(
                verdicts,
                Box::new(move |outcomes| {
                    metrics.appended(outcomes.len(), started.elapsed());
                    inbox.push(Event::Decided(outcomes));
                    drop(budget);
                }),
            );
        }
    }
}

fn decode<T: prost::Message + Default>(what: &'static str, frame: &Frame) -> Result<T, SessionError> {
    T::decode(frame.body.clone()).map_err(|error| SessionError::Body { what, reason: error.to_string() })
}

fn body_error(what: &'static str, error: &MessageError) -> SessionError {
    SessionError::Body { what, reason: error.to_string() }
}

/// Compares without telling by its duration where two secrets differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}
