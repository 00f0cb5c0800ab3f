//! Frames: the two framings that are in the field, told apart by a connection's first frame.
//!
//! | | header-only (Go client) | length-prefixed (Java client, older clients) |
//! |---|---|---|
//! | prefix | none | u32 = 19 + body length |
//! | header, 19 bytes | opaque u32, cmd u8, version i16, extension i64, body length i32 | the same |
//!
//! All integers are big-endian. A body is at most [`BODY_BYTES_MAX`] unless the decoder is told otherwise.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::command::Command;

/// Length of a frame header, in bytes.
pub const HEADER_LEN: usize = 19;
/// Length of the prefix of a length-prefixed frame, in bytes.
pub const PREFIX_LEN: usize = 4;
/// The largest body that the protocol allows: 2 MiB.
pub const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// So many bytes of a connection decide its framing.
pub const DETECT_LEN: usize = PREFIX_LEN + HEADER_LEN;

/// Which of the two framings a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Header and body, nothing before them.
    HeaderOnly,
    /// A u32 before the header counts header and body.
    LengthPrefixed,
}

/// How to speak to a peer: its framing, and the version that it put into its first frame and gets back in every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The framing.
    pub framing: Framing,
    /// The version field of every frame sent.
    pub version: i16,
}

impl Dialect {
    /// What the current Go client speaks.
    pub const GO: Self = Self { framing: Framing::HeaderOnly, version: 0 };
    /// What the Java client speaks.
    pub const JAVA: Self = Self { framing: Framing::LengthPrefixed, version: 2 };

    /// Bytes in front of a frame's body.
    #[must_use]
    pub fn overhead(self) -> usize {
        match self.framing {
            Framing::HeaderOnly => HEADER_LEN,
            Framing::LengthPrefixed => PREFIX_LEN + HEADER_LEN,
        }
    }
}

/// The header of a frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Correlates a reply with its request, per connection and direction.
    pub opaque: u32,
    /// What the body is.
    pub command: Command,
    /// Length of the body that follows, in bytes.
    pub body_len: usize,
}

impl FrameHeader {
    /// A header for a body of `body_len` bytes.
    #[must_use]
    pub fn new(command: Command, opaque: u32, body_len: usize) -> Self {
        Self { opaque, command, body_len }
    }

    /// Appends the header, with its prefix where the dialect has one. The body must follow.
    pub fn put(self, buf: &mut BytesMut, dialect: Dialect) {
        debug_assert!(self.body_len <= i32::MAX as usize, "a body of {} bytes", self.body_len);
        let mut header = [0; DETECT_LEN];
        header[..4].copy_from_slice(&((HEADER_LEN + self.body_len) as u32).to_be_bytes());
        header[4..8].copy_from_slice(&self.opaque.to_be_bytes());
        header[8] = self.command as u8;
        header[9..11].copy_from_slice(&dialect.version.to_be_bytes());
        header[19..23].copy_from_slice(&(self.body_len as i32).to_be_bytes());
        buf.put_slice(match dialect.framing {
            Framing::HeaderOnly => &header[PREFIX_LEN..],
            Framing::LengthPrefixed => &header,
        });
    }
}

/// Appends a whole frame whose body is a prost message.
pub fn put_frame(
    buf: &mut BytesMut,
    dialect: Dialect,
    command: Command,
    opaque: u32,
    body: &impl prost::Message,
) {
    let body_len = body.encoded_len();
    buf.reserve(dialect.overhead() + body_len);
    FrameHeader::new(command, opaque, body_len).put(buf, dialect);
    #[allow(clippy::expect_used, reason = "BytesMut grows: encoding into it cannot run out of room")]
    body.encode(buf).expect("BytesMut grows on demand");
}

/// A received frame. The command is still a byte: what to do with an unknown one is the receiver's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Correlates a reply with its request.
    pub opaque: u32,
    /// The command byte, see [`Command::from_byte`].
    pub cmd: u8,
    /// The body, a slice of what was read from the socket.
    pub body: Bytes,
}

/// Why a stream of bytes is not a stream of frames. The connection cannot be used any more after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not a CONN_META frame in either framing.
    #[error("not a KiteQ client: the connection does not start with CONN_META{}", guess(first))]
    NotKiteq {
        /// The first bytes received, zeros where fewer than eight had come.
        first: [u8; 8],
    },
    /// A body length below zero.
    #[error("frame with opaque {opaque}, cmd {cmd:#04x} announces a body of {body_len} bytes")]
    NegativeBody {
        /// The frame's opaque.
        opaque: u32,
        /// The frame's command byte.
        cmd: u8,
        /// The announced length.
        body_len: i32,
    },
    /// A body above the limit.
    #[error(
        "frame with opaque {opaque}, cmd {cmd:#04x} announces a body of {body_len} bytes, the limit is {body_bytes_max}"
    )]
    BodyTooLarge {
        /// The frame's opaque.
        opaque: u32,
        /// The frame's command byte.
        cmd: u8,
        /// The announced length.
        body_len: usize,
        /// The largest allowed body.
        body_bytes_max: usize,
    },
    /// The prefix of a length-prefixed frame contradicts its header.
    #[error(
        "length prefix {prefix} does not match 19 + body length {body_len} (opaque {opaque}, cmd {cmd:#04x})"
    )]
    PrefixMismatch {
        /// The frame's opaque.
        opaque: u32,
        /// The frame's command byte.
        cmd: u8,
        /// The prefix found.
        prefix: u32,
        /// The announced body length.
        body_len: usize,
    },
}

impl FrameError {
    /// Opaque and command byte of the offending frame, where they are known.
    #[must_use]
    pub fn request(&self) -> Option<(u32, u8)> {
        match *self {
            Self::NotKiteq { .. } => None,
            Self::NegativeBody { opaque, cmd, .. }
            | Self::BodyTooLarge { opaque, cmd, .. }
            | Self::PrefixMismatch { opaque, cmd, .. } => Some((opaque, cmd)),
        }
    }
}

fn guess(first: &[u8; 8]) -> &'static str {
    match first {
        [0x16, 0x03, ..] => " (it looks like TLS: this port speaks plain KiteQ)",
        [b'G', b'E', b'T', b' ', ..]
        | [b'P', b'O', b'S', b'T', ..]
        | [b'H', b'E', b'A', b'D', ..]
        | [b'P', b'U', b'T', b' ', ..] => " (it looks like HTTP: the HTTP port is another one, see -pport)",
        _ => "",
    }
}

/// Cuts a stream of bytes into frames, many per read, without copying bodies.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    dialect: Option<Dialect>,
    body_bytes_max: usize,
}

impl FrameDecoder {
    /// A decoder that learns the peer's dialect from its first frame, which must be CONN_META: the broker's side.
    #[must_use]
    pub fn detecting(body_bytes_max: usize) -> Self {
        Self { dialect: None, body_bytes_max }
    }

    /// A decoder for a peer whose dialect is known: the client's side.
    #[must_use]
    pub fn speaking(dialect: Dialect, body_bytes_max: usize) -> Self {
        Self { dialect: Some(dialect), body_bytes_max }
    }

    /// Sets the largest body of the frames that follow.
    pub fn limit_bodies(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max;
    }

    /// The peer's dialect, once it is known.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Takes the next whole frame off the front of `buf`; `None` when more bytes are needed.
    ///
    /// After `None`, `buf` has room reserved for the rest of the frame that it starts with.
    ///
    /// # Errors
    /// See [`FrameError`]. The stream cannot be resynchronised: close the connection.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let dialect = match self.dialect {
            Some(dialect) => dialect,
            None => match detect(buf)? {
                Some(dialect) => *self.dialect.insert(dialect),
                None => return Ok(None),
            },
        };
        let overhead = dialect.overhead();
        let Some((prefix, mut header)) =
            buf.get(..overhead).map(|bytes| bytes.split_at(overhead - HEADER_LEN))
        else {
            return Ok(None);
        };
        let opaque = header.get_u32();
        let cmd = header.get_u8();
        header.advance(2 + 8);
        let body_len = header.get_i32();
        let Ok(body_len) = usize::try_from(body_len) else {
            return Err(FrameError::NegativeBody { opaque, cmd, body_len });
        };
        if body_len > self.body_bytes_max {
            return Err(FrameError::BodyTooLarge {
                opaque,
                cmd,
                body_len,
                body_bytes_max: self.body_bytes_max,
            });
        }
        if let Ok(prefix) = prefix.try_into().map(u32::from_be_bytes)
            && prefix as usize != HEADER_LEN + body_len
        {
            return Err(FrameError::PrefixMismatch { opaque, cmd, prefix, body_len });
        }
        let frame_len = overhead + body_len;
        if buf.len() < frame_len {
            buf.reserve(frame_len - buf.len());
            return Ok(None);
        }
        let mut frame = buf.split_to(frame_len);
        frame.advance(overhead);
        Ok(Some(Frame { opaque, cmd, body: frame.freeze() }))
    }
}

/// Decides the dialect from a connection's first [`DETECT_LEN`] bytes, and refuses as soon as neither can match.
fn detect(buf: &[u8]) -> Result<Option<Dialect>, FrameError> {
    let conn_meta = Command::ConnMeta as u8;
    let could_be = |index: usize| buf.get(index).is_none_or(|&byte| byte == conn_meta);
    let refuse = || {
        let mut first = [0; 8];
        let len = buf.len().min(8);
        first[..len].copy_from_slice(&buf[..len]);
        Err(FrameError::NotKiteq { first })
    };
    let Some(mut first) = buf.get(..DETECT_LEN) else {
        return if could_be(4) || could_be(8) { Ok(None) } else { refuse() };
    };
    let version_at = |offset: usize| i16::from_be_bytes([buf[offset], buf[offset + 1]]);
    let prefix = i64::from(first.get_u32());
    first.advance(DETECT_LEN - PREFIX_LEN - 4);
    if buf[8] == conn_meta && prefix == HEADER_LEN as i64 + i64::from(first.get_i32()) {
        Ok(Some(Dialect { framing: Framing::LengthPrefixed, version: version_at(9) }))
    } else if buf[4] == conn_meta {
        Ok(Some(Dialect { framing: Framing::HeaderOnly, version: version_at(5) }))
    } else {
        refuse()
    }
}
