//! A connection to a server: reaching it, presenting the group, reading frames in batches.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use kiteq_protocol::frame::{HEADER_LEN, put_frame};
use kiteq_protocol::{Command, pb};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::inbound::{BadLength, FrameView, frame_len, split_frame};
use crate::wire::template::DIALECT;

/// Reaching a server and its answer to CONN_META may take so long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No broker has more to say to CONN_META.
const AUTH_BYTES_MAX: usize = 64 * 1024;
/// Bytes that one read may bring.
const READ_BYTES: usize = 256 * 1024;

/// Why the engine stopped.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nobody listens there.
    #[error(
        "no broker at {address}: {reason}. Start one (`kiteq`, which listens on 127.0.0.1:13800), or say where it is with \
         --broker HOST:PORT or --registry URI"
    )]
    Connect {
        /// Where.
        address: String,
        /// Why.
        reason: io::Error,
    },
    /// The server did not let the group in.
    #[error("the broker at {address} refused group {group:?}: {feedback} (secrets are passed with --secret)")]
    Refused {
        /// Where.
        address: String,
        /// As whom.
        group: String,
        /// The broker's reason.
        feedback: String,
    },
    /// Something answers, but not as a broker does.
    #[error("what listens at {address} does not answer like a KiteQ broker: {reason}")]
    NotABroker {
        /// Where.
        address: String,
        /// What was received.
        reason: String,
    },
    /// The connection ended in the middle of a run.
    #[error(
        "the connection to {address} was lost: {reason}. The broker's log says why; for runs that survive restarts use \
         --engine client"
    )]
    Lost {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The system gave no timer.
    #[error("no timer: {0}")]
    Timer(io::Error),
}

/// Connects and presents the group.
///
/// # Errors
/// See [`WireError`].
pub async fn connect(address: &str, group: &str, secret: &str) -> Result<TcpStream, WireError> {
    let not_in_time = || io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s");
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let mut stream = connecting
        .unwrap_or_else(|_| Err(not_in_time()))
        .map_err(|reason| WireError::Connect { address: address.to_owned(), reason })?;
    stream.set_nodelay(true).map_err(|reason| WireError::Connect { address: address.to_owned(), reason })?;
    let mut hello = BytesMut::new();
    let meta =
        pb::ConnMeta { group_id: group.to_owned(), secret_key: secret.to_owned(), warmingup_sec: Some(0) };
    put_frame(&mut hello, DIALECT, Command::ConnMeta, 1, &meta);
    let answer = timeout(CONNECT_TIMEOUT, exchange_hello(&mut stream, &hello)).await;
    let answer = answer.unwrap_or_else(|_| Err(not_in_time().to_string()));
    let answer = answer.map_err(|reason| WireError::NotABroker { address: address.to_owned(), reason })?;
    if !answer.status {
        return Err(WireError::Refused {
            address: address.to_owned(),
            group: group.to_owned(),
            feedback: answer.feedback,
        });
    }
    Ok(stream)
}

/// Reads exactly the answer: what follows it, a waiting message perhaps, belongs to the engine.
async fn exchange_hello(stream: &mut TcpStream, hello: &[u8]) -> Result<pb::ConnAuthAck, String> {
    stream.write_all(hello).await.map_err(|error| error.to_string())?;
    let mut answer = vec![0; HEADER_LEN];
    let mut filled = 0;
    loop {
        match stream.read_exact(&mut answer[filled..]).await {
            Ok(_) => filled = answer.len(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err("it closed the connection".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        }
        let needed = match split_frame(&answer).map_err(|error| error.to_string())? {
            Some((frame, _)) if frame.cmd == Command::ConnAuth as u8 => {
                return pb::ConnAuthAck::decode(frame.body).map_err(|error| error.to_string());
            }
            Some((frame, _)) => {
                return Err(format!("its first frame has command {:#04x}, not CONN_AUTH", frame.cmd));
            }
            None => frame_len(&answer).unwrap_or(HEADER_LEN),
        };
        if needed > AUTH_BYTES_MAX {
            return Err(format!("its first frame has {needed} bytes"));
        }
        answer.resize(needed, 0);
    }
}

/// The read buffer that all connections of one thread share: a connection keeps only the incomplete end of a read.
pub type Scratch = Rc<RefCell<Vec<u8>>>;

/// A [`Scratch`] of the usual size.
#[must_use]
pub fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; 2 * READ_BYTES]))
}

/// Why a read did not bring frames.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer ended the connection.
    #[error("closed by the broker")]
    Closed,
    /// The system says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The stream cannot be understood.
    #[error(transparent)]
    BadLength(#[from] BadLength),
}

/// The reading half's state.
#[derive(Debug)]
pub struct Reader {
    /// The incomplete frame at the end of the previous read.
    carry: Vec<u8>,
    scratch: Scratch,
}

impl Reader {
    /// Nothing read yet.
    #[must_use]
    pub fn new(scratch: Scratch) -> Self {
        Self { carry: Vec::new(), scratch }
    }

    /// Reads once and hands every whole frame to `on_frame`.
    ///
    /// # Errors
    /// When the connection has ended or its bytes are not frames.
    pub fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        mut on_frame: impl FnMut(FrameView<'_>),
    ) -> Poll<Result<(), ReadError>> {
        let mut scratch = self.scratch.borrow_mut();
        let carried = self.carry.len();
        if scratch.len() < carried + READ_BYTES {
            scratch.resize(carried + READ_BYTES, 0);
        }
        let mut target = ReadBuf::new(&mut scratch[carried..carried + READ_BYTES]);
        ready!(Pin::new(stream).poll_read(cx, &mut target))?;
        let received = target.filled().len();
        if received == 0 {
            return Poll::Ready(Err(ReadError::Closed));
        }
        scratch[..carried].copy_from_slice(&self.carry);
        let mut rest = &scratch[..carried + received];
        while let Some((frame, after)) = split_frame(rest)? {
            on_frame(frame);
            rest = after;
        }
        self.carry.clear();
        self.carry.extend_from_slice(rest);
        Poll::Ready(Ok(()))
    }
}
