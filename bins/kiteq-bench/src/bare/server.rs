//! The bare server: a thread for each connection, which reads a batch, appends it if told to, and acks it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::BytesMut;
use kiteq_protocol::frame::put_frame;
use kiteq_protocol::reply::put_store_ack;
use kiteq_protocol::{Command, pb};

use crate::bare::journal::Journal;
use crate::wire::inbound::{FrameView, leading_id, split_frame};
use crate::wire::template::DIALECT;

/// Bytes that one read may bring.
const READ_BYTES: usize = 512 * 1024;
/// What a broker says when it has stored a message.
const FEEDBACK: &str = "Store Result true Cost:0";
/// The threads do little: a small stack lets thousands of connections be.
const STACK_BYTES: usize = 128 * 1024;

/// What is done with a batch before it is acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Echo,
    /// Every frame is appended to a file.
    Append,
    /// Every frame is appended to a file, and the file is synced (fdatasync).
    AppendSync,
}

/// A running server on a free port of the loopback interface. Stops when dropped.
#[derive(Debug)]
pub struct BareServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    mode: Mode,
    journal: Option<Journal>,
    stopping: AtomicBool,
    connections: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl BareServer {
    /// Starts the server; its file, where the mode needs one, is created in `dir`.
    ///
    /// # Errors
    /// When the port or the file cannot be had.
    pub fn start(mode: Mode, dir: &Path) -> io::Result<Self> {
        let journal = match mode {
            Mode::Echo => None,
            Mode::Append => Some(Journal::create(dir, false)?),
            Mode::AppendSync => Some(Journal::create(dir, true)?),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            mode,
            journal,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let for_acceptor = Arc::clone(&shared);
        let acceptor = spawn("bare-accept", move || accept(&listener, &for_acceptor))?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, thread) in connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        if shared.stopping.load(SeqCst) {
            return;
        }
        let (Ok(handle), Ok(())) = (stream.try_clone(), stream.set_nodelay(true)) else {
            continue;
        };
        let for_connection = Arc::clone(shared);
        // A client that is not served sees its connection close, and says so.
        let served = spawn("bare-serve", move || {
            if let Err(error) = serve(stream, &for_connection) {
                tracing::debug!(%error, "bare server: connection ended");
            }
        });
        if let Ok(thread) = served {
            shared.connections.lock().unwrap_or_else(PoisonError::into_inner).push((handle, thread));
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    let mut replies = BytesMut::new();
    loop {
        let received = stream.read(&mut buffer[filled..])?;
        if received == 0 {
            return Ok(());
        }
        filled += received;
        let mut rest = &buffer[..filled];
        while let Some((frame, after)) =
            split_frame(rest).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
        {
            answer(frame, &mut replies);
            rest = after;
        }
        let batch_len = filled - rest.len();
        if batch_len > 0 {
            if let Some(journal) = &shared.journal {
                let position = journal.append(&buffer[..batch_len])?;
                if shared.mode == Mode::AppendSync {
                    journal.sync(position)?;
                }
            }
            stream.write_all(&replies)?;
            replies.clear();
            buffer.copy_within(batch_len..filled, 0);
            filled -= batch_len;
        }
        if filled == buffer.len() {
            buffer.resize(2 * buffer.len(), 0);
        }
    }
}

fn answer(frame: FrameView<'_>, replies: &mut BytesMut) {
    match Command::from_byte(frame.cmd) {
        Some(Command::BytesMessage | Command::StringMessage) => {
            let id = leading_id(frame.body);
            let status = id.is_some();
            let feedback = if status { FEEDBACK } else { "Invalid MessageId For UUID!" };
            let id = id.map_or(&[][..], |id| id);
            put_store_ack(replies, DIALECT, frame.opaque, id, status, feedback);
        }
        Some(Command::ConnMeta) => {
            let welcome = pb::ConnAuthAck { status: true, feedback: "Auth Succ".to_owned() };
            put_frame(replies, DIALECT, Command::ConnAuth, frame.opaque, &welcome);
        }
        Some(Command::Heartbeat) => {
            let beat = pb::HeartBeat { version: 0 };
            put_frame(replies, DIALECT, Command::Heartbeat, frame.opaque, &beat);
        }
        _ => {}
    }
}
