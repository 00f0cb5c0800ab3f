//! A connection: commands are queued and written together, replies are read in their order.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::redis::{Address, RedisError, Reply, tls};

/// Room for what one read of the socket brings.
const READ_BYTES: usize = 256 << 10;
/// A buffer that a large element made larger than this is given back.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// The largest reply of a command other than a claim.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// What it takes to connect to a server, again and again.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) address: Address,
    pub(crate) timeout: Duration,
    pub(crate) tls: Option<TlsConnector>,
    /// Shown by CLIENT LIST.
    pub(crate) name: Arc<str>,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// An authenticated connection.
pub(crate) struct Connection {
    socket: Pin<Box<dyn Socket>>,
    inbound: BytesMut,
    outbound: Vec<u8>,
    timeout: Duration,
}

impl Dialer {
    /// Connects and says who we are.
    ///
    /// # Cancel safety
    /// Cancel safe: the connection is closed.
    pub(crate) async fn connect(&self) -> Result<Connection, RedisError> {
        let socket = self.socket().await?;
        let mut connection =
            Connection { socket, inbound: BytesMut::new(), outbound: Vec::new(), timeout: self.timeout };
        match self.introduce(&mut connection).await {
            Ok(()) => Ok(connection),
            Err(error) => Err(self.explain(error)),
        }
    }

    async fn socket(&self) -> Result<Pin<Box<dyn Socket>>, RedisError> {
        let Address { host, port, .. } = &self.address;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let step = "connecting";
        let ends_at = Instant::now() + self.timeout;
        let stream = timeout_at(ends_at, TcpStream::connect((name, *port)))
            .await
            .map_err(|_| RedisError::Timeout { step, timeout: self.timeout })?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| RedisError::Io { step, source })?;
        let Some(tls) = &self.tls else { return Ok(Box::pin(stream)) };
        let server = ServerName::try_from(name.to_owned()).map_err(|_| RedisError::Tls {
            reason: format!("{name:?} is no name that a certificate can carry"),
        })?;
        match timeout_at(ends_at, tls.connect(server, stream)).await {
            Ok(Ok(stream)) => Ok(Box::pin(stream)),
            Ok(Err(error)) => Err(RedisError::Tls {
                reason: tls::explain(&error).unwrap_or_else(|| format!("{error} ({})", tls::NOT_TLS)),
            }),
            // A server without TLS may take the greeting for the beginning of a command, and wait for the rest.
            Err(_) => {
                Err(RedisError::Tls { reason: format!("no answer in {:?} ({})", self.timeout, tls::NOT_TLS) })
            }
        }
    }

    /// Says more of what may happen to first words.
    fn explain(&self, error: RedisError) -> RedisError {
        match error {
            RedisError::Io { step, source } if self.tls.is_some() => match tls::explain(&source) {
                Some(reason) => RedisError::Tls { reason },
                None => RedisError::Io { step, source },
            },
            RedisError::Io { step, source } => RedisError::HungUp { step, source },
            other => other,
        }
    }

    async fn introduce(&self, connection: &mut Connection) -> Result<(), RedisError> {
        let Address { user, password, database, .. } = &self.address;
        if let Some(password) = password {
            let user = user.as_deref().filter(|user| !user.is_empty());
            let words: Vec<&[u8]> =
                [Some("AUTH"), user, Some(password)].into_iter().flatten().map(str::as_bytes).collect();
            connection.ask("AUTH", &words).await?;
        }
        if *database != 0 {
            connection.ask("SELECT", &[b"SELECT", database.to_string().as_bytes()]).await?;
        }
        // Only for people; a server that does not know the command is as good.
        match connection.ask("CLIENT", &[b"CLIENT", b"SETNAME", self.name.as_bytes()]).await {
            Err(RedisError::Refused { refusal, .. }) if refusal.turns_away() => {
                Err(RedisError::Refused { command: "CLIENT", refusal })
            }
            Err(RedisError::Refused { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Connection {
    /// Adds a command to what the next [`Connection::flush`] writes.
    pub(crate) fn queue(&mut self, words: &[&[u8]]) {
        self.queue_header(words.len());
        for word in words {
            self.queue_word(word);
        }
    }

    /// Announces a command of so many words, each of which is to be added.
    pub(crate) fn queue_header(&mut self, words: usize) {
        self.line(b'*', words);
    }

    /// Adds a word of the command that was announced.
    pub(crate) fn queue_word(&mut self, word: &[u8]) {
        self.line(b'$', word.len());
        self.outbound.extend_from_slice(word);
        self.outbound.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, kind: u8, number: usize) {
        self.outbound.push(kind);
        self.outbound.extend_from_slice(number.to_string().as_bytes());
        self.outbound.extend_from_slice(b"\r\n");
    }

    /// Writes what is queued.
    ///
    /// # Cancel safety
    /// Not cancel safe: the connection is of no use after.
    pub(crate) async fn flush(&mut self) -> Result<(), RedisError> {
        if self.outbound.is_empty() {
            return Ok(());
        }
        let step = "writing";
        let write = async {
            self.socket.write_all(&self.outbound).await?;
            self.socket.flush().await
        };
        match timeout(self.timeout, write).await {
            Ok(written) => written.map_err(|source| RedisError::Io { step, source })?,
            Err(_) => return Err(RedisError::Timeout { step, timeout: self.timeout }),
        }
        self.outbound.clear();
        self.outbound.shrink_to(BUFFER_BYTES_KEPT);
        Ok(())
    }

    /// What has been read and not consumed.
    pub(crate) fn inbound(&self) -> &[u8] {
        &self.inbound
    }

    /// Forgets the first `len` bytes of it.
    pub(crate) fn consume(&mut self, len: usize) {
        self.inbound.advance(len);
        if self.inbound.is_empty() && self.inbound.capacity() > BUFFER_BYTES_KEPT {
            self.inbound = BytesMut::new();
        }
    }

    /// Reads more, waiting for as long as it takes. `wanted` bytes in all are known to come.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn fill(&mut self, wanted: usize) -> Result<(), RedisError> {
        let missing = wanted.saturating_sub(self.inbound.len());
        self.inbound.reserve(missing.max(READ_BYTES));
        let step = "reading";
        match self.socket.read_buf(&mut self.inbound).await {
            Ok(0) => Err(RedisError::Io {
                step,
                source: io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up"),
            }),
            Ok(_) => Ok(()),
            Err(source) => Err(RedisError::Io { step, source }),
        }
    }

    /// The next reply, within the timeout.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn reply(&mut self) -> Result<Reply, RedisError> {
        let (step, timeout_after) = ("waiting for a reply", self.timeout);
        let read = async {
            loop {
                if let Some((reply, len)) = Reply::parse(&self.inbound)? {
                    self.consume(len);
                    return Ok(reply);
                }
                if self.inbound.len() > REPLY_BYTES_MAX {
                    return Err(RedisError::Protocol { reason: "a reply is too large".to_owned() });
                }
                self.fill(0).await?;
            }
        };
        timeout(timeout_after, read)
            .await
            .map_err(|_| RedisError::Timeout { step, timeout: timeout_after })?
    }

    /// One command and its reply; an error reply is an error.
    ///
    /// # Cancel safety
    /// Not cancel safe: the connection is of no use after.
    pub(crate) async fn ask(&mut self, command: &'static str, words: &[&[u8]]) -> Result<Reply, RedisError> {
        self.queue(words);
        self.flush().await?;
        match self.reply().await? {
            Reply::Error(refusal) => Err(RedisError::Refused { command, refusal }),
            reply => Ok(reply),
        }
    }
}
