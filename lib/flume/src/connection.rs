//! A connection to a source.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::batch::Batch;
use crate::envelope::{Reply, append_batch_head, read_reply};
use crate::error::FlumeError;
use crate::frame::{FrameError, FrameReader};
use crate::protocol::Protocol;
use crate::status::Status;
use crate::stream::Stream;
use crate::tls::TlsOptions;

/// How sources are spoken to.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// What the source is configured for.
    pub protocol: Protocol,
    /// With TLS, when the source is configured for it.
    pub tls: Option<TlsOptions>,
    /// For the connection and the TLS handshake together.
    pub connect_timeout: Duration,
    /// From the first byte of a request to the last one of its reply.
    pub request_timeout: Duration,
    /// A longer reply is an error. A status takes less than 50 bytes, an exception has a text.
    pub reply_bytes_max: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            protocol: Protocol::default(),
            tls: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            reply_bytes_max: 64 * 1024,
        }
    }
}

/// A connection to a source, for one request at a time.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: Stream,
    replies: FrameReader,
    protocol: Protocol,
    request_timeout: Duration,
    sequence: i32,
    /// Every request that began has its reply.
    in_step: bool,
}

impl Connection {
    /// Connects, and makes the TLS session when there is to be one.
    ///
    /// # Errors
    /// [`FlumeError::Connect`], or [`FlumeError::Timeout`] after the connect timeout.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn connect(host: &str, port: u16, options: &ConnectOptions) -> Result<Self, FlumeError> {
        let address = address(host, port);
        let Ok(connected) = timeout(options.connect_timeout, open(host, port, options)).await else {
            let timeout = options.connect_timeout;
            return Err(FlumeError::Timeout { address, what: "connecting", timeout });
        };
        let stream = connected.map_err(|source| FlumeError::Connect { address: address.clone(), source })?;
        Ok(Self {
            address,
            stream,
            replies: FrameReader::new(options.reply_bytes_max),
            protocol: options.protocol,
            request_timeout: options.request_timeout,
            sequence: 0,
            in_step: true,
        })
    }

    /// The `host:port` that it was made to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a batch and waits for the answer. `Ok` means that the whole batch is in the source's channel.
    ///
    /// # Errors
    /// After [`FlumeError::Status`] the connection can be used again, after any other error it must be dropped, and further
    /// requests fail with [`FlumeError::Closed`]. The source may have taken the batch in spite of the error.
    ///
    /// # Cancel safety
    /// Not cancel safe: the source may have got the batch or a part of it. A connection whose request was given up is no longer
    /// [usable](Self::is_usable), and its further requests fail.
    pub async fn append_batch(&mut self, batch: &Batch) -> Result<(), FlumeError> {
        if !self.in_step {
            return Err(FlumeError::Closed { address: self.address.clone() });
        }
        if batch.protocol() != self.protocol {
            let reason = format!("a {} batch for a {} connection", batch.protocol(), self.protocol);
            return Err(self.protocol_error(reason));
        }
        self.in_step = false;
        let reply = match timeout(self.request_timeout, self.exchange(batch)).await {
            Ok(reply) => reply?,
            Err(_) => {
                let (address, timeout) = (self.address.clone(), self.request_timeout);
                return Err(FlumeError::Timeout { address, what: "a request", timeout });
            }
        };
        match reply {
            Reply::Exception(message) => {
                Err(FlumeError::Exception { address: self.address.clone(), message })
            }
            Reply::Status(status) => {
                self.in_step = self.replies.is_empty();
                match status {
                    Status::Ok => Ok(()),
                    status => Err(FlumeError::Status { address: self.address.clone(), status }),
                }
            }
        }
    }

    /// Whether a request may be sent: no earlier one was given up, and, as far as the runtime has noticed, the other side has not
    /// closed the connection or sent anything that nobody asked for.
    pub fn is_usable(&mut self) -> bool {
        if self.in_step {
            let mut cx = Context::from_waker(Waker::noop());
            let mut byte = [0];
            let read = Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
            self.in_step = read.is_pending();
        }
        self.in_step
    }

    async fn exchange(&mut self, batch: &Batch) -> Result<Reply, FlumeError> {
        self.sequence = self.sequence.wrapping_add(1);
        let encoded = batch.encoded();
        let head = append_batch_head(self.protocol, self.sequence, batch.events(), encoded.len());
        let head = head.map_err(|error| self.protocol_error(error.to_string()))?;
        self.send(&head, encoded).await.map_err(|error| FlumeError::network(&self.address, error))?;
        let frame = match self.replies.next(&mut self.stream).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(FlumeError::Closed { address: self.address.clone() }),
            Err(FrameError::Io(error)) => return Err(FlumeError::network(&self.address, error)),
            Err(error @ FrameError::TooLarge { .. }) => {
                return Err(self.protocol_error(format!("garbage instead of a reply: {error}")));
            }
        };
        read_reply(self.protocol, self.sequence, &frame).map_err(|reason| self.protocol_error(reason))
    }

    /// Writes both parts, and notices while it waits that the other side closes its half: it would never answer.
    async fn send(&mut self, head: &[u8], encoded: &[u8]) -> io::Result<()> {
        let mut request = head.chain(encoded);
        let stream = &mut self.stream;
        while request.has_remaining() {
            let written = poll_fn(|cx| {
                let mut parts = [io::IoSlice::new(&[]); 2];
                let count = request.chunks_vectored(&mut parts);
                match Pin::new(&mut *stream).poll_write_vectored(cx, &parts[..count]) {
                    Poll::Pending => poll_interruption(stream, cx).map(Err),
                    written => written,
                }
            });
            match written.await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => request.advance(written),
            }
        }
        stream.flush().await
    }

    fn protocol_error(&self, reason: String) -> FlumeError {
        FlumeError::Protocol { address: self.address.clone(), reason }
    }
}

/// Ready when the other side closes or speaks before it has heard all of a request.
fn poll_interruption(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Error> {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    Pin::new(stream).poll_read(cx, &mut byte).map(|read| match read {
        Ok(()) if byte.filled().is_empty() => io::ErrorKind::UnexpectedEof.into(),
        Ok(()) => io::Error::new(io::ErrorKind::InvalidData, "an answer came before the request was sent"),
        Err(error) => error,
    })
}

async fn open(host: &str, port: u16, options: &ConnectOptions) -> io::Result<Stream> {
    let stream = TcpStream::connect((host, port)).await?;
    // A request is one write, and its answer is waited for.
    stream.set_nodelay(true)?;
    match &options.tls {
        None => Ok(Stream::Plain(stream)),
        Some(tls) => Ok(Stream::Tls(Box::new(tls.handshake(host, stream).await?.into()))),
    }
}

/// `host:port`, with an IPv6 address in brackets.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
