//! A connection to Redis: RESP2, commands ahead of their answers.

use std::io;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::redis::Address;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 256 * 1024;
/// Redis's own limit of a string.
const STRING_BYTES_MAX: i64 = 512 << 20;

/// The beginning of an answer, which is all of it unless elements follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`
    Error(String),
    /// A number.
    Integer(i64),
    /// A string of this length, which is to be taken next.
    Bulk(usize),
    /// So many answers are to be taken next.
    Array(usize),
    /// Nothing.
    Nil,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buf: BytesMut,
}

/// Appends a command to `out`.
pub fn put_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    put_number(out, b'*', arguments.len());
    for argument in arguments {
        put_argument(out, argument);
    }
}

/// Appends an argument of a command, of which [`put_number`] with `*` has said how many there are.
pub fn put_argument(out: &mut Vec<u8>, argument: &[u8]) {
    put_number(out, b'$', argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// Appends a line of a mark and a number.
pub fn put_number(out: &mut Vec<u8>, mark: u8, number: usize) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(mark);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

impl Connection {
    /// Connects, says the password and selects the database.
    ///
    /// # Errors
    /// When the server is not there or does not let us in.
    pub async fn open(address: &Address) -> anyhow::Result<Self> {
        let what = || format!("cannot connect to Redis at {address}");
        let connected = timeout(CONNECT_TIMEOUT, Self::enter(address)).await;
        connected.with_context(what)?.with_context(what)
    }

    async fn enter(address: &Address) -> anyhow::Result<Self> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, buf: BytesMut::new() };
        match (&address.user, &address.password) {
            (Some(user), Some(password)) => {
                connection.demand_ok(&[b"AUTH", user.as_bytes(), password.as_bytes()]).await?;
            }
            (None, Some(password)) => connection.demand_ok(&[b"AUTH", password.as_bytes()]).await?,
            (_, None) => {}
        }
        connection.demand_ok(&[b"SELECT", address.database.to_string().as_bytes()]).await?;
        Ok(connection)
    }

    async fn demand_ok(&mut self, command: &[&[u8]]) -> anyhow::Result<()> {
        match self.call(command).await? {
            Reply::Simple(_) => Ok(()),
            other => bail!("it answered {other:?}"),
        }
    }

    /// Sends one command and gives the beginning of its answer.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn call(&mut self, command: &[&[u8]]) -> io::Result<Reply> {
        let mut out = Vec::new();
        put_command(&mut out, command);
        self.send(&out).await?;
        self.reply().await
    }

    /// Sends commands. Their answers are read with [`Connection::reply`], in the same order.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.stream.write_all(commands).await
    }

    /// The beginning of the next answer.
    ///
    /// # Errors
    /// When the connection breaks, or speaks something else.
    ///
    /// # Cancel safety
    /// Cancel safe: what has come of it is kept.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        let garbage = |line: &[u8]| {
            let text = format!("this is no answer of Redis: {}", line.escape_ascii());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let end = self.line_end().await?;
        let line = self.buf.split_to(end);
        self.buf.advance(2);
        let text = |line: &[u8]| String::from_utf8_lossy(&line[1..]).into_owned();
        let number = || std::str::from_utf8(&line[1..]).ok()?.parse::<i64>().ok();
        Ok(match line.first() {
            Some(b'+') => Reply::Simple(text(&line)),
            Some(b'-') => Reply::Error(text(&line)),
            Some(b':') => Reply::Integer(number().ok_or_else(|| garbage(&line))?),
            Some(mark @ (b'$' | b'*')) => match number() {
                Some(-1) => Reply::Nil,
                Some(len @ 0..=STRING_BYTES_MAX) if *mark == b'$' => Reply::Bulk(len as usize),
                Some(len @ 0..) if *mark == b'*' => Reply::Array(len as usize),
                _ => return Err(garbage(&line)),
            },
            _ => return Err(garbage(&line)),
        })
    }

    /// The string that [`Reply::Bulk`] announced.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn take(&mut self, len: usize) -> io::Result<Bytes> {
        while self.buf.len() < len + 2 {
            self.read_more(len + 2 - self.buf.len()).await?;
        }
        let string = self.buf.split_to(len).freeze();
        self.buf.advance(2);
        Ok(string)
    }

    /// Passes over the string that [`Reply::Bulk`] announced.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn skip(&mut self, len: usize) -> io::Result<()> {
        let mut left = len + 2;
        while left > self.buf.len() {
            left -= self.buf.len();
            self.buf.clear();
            self.read_more(0).await?;
        }
        self.buf.advance(left);
        Ok(())
    }

    async fn line_end(&mut self) -> io::Result<usize> {
        /// Error messages are the longest lines.
        const LINE_BYTES_MAX: usize = 64 * 1024;
        loop {
            if let Some(end) = self.buf.windows(2).position(|pair| pair == b"\r\n") {
                return Ok(end);
            }
            if self.buf.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line without an end: is this Redis?",
                ));
            }
            self.read_more(0).await?;
        }
    }

    async fn read_more(&mut self, missing: usize) -> io::Result<()> {
        self.buf.reserve(missing.max(READ_BYTES));
        match self.stream.read_buf(&mut self.buf).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_these_bytes() {
        let mut out = Vec::new();
        put_command(&mut out, &[b"RPUSH", b"q", &[b'x'; 120]]);
        let expected = [&b"*3\r\n$5\r\nRPUSH\r\n$1\r\nq\r\n$120\r\n"[..], &[b'x'; 120], b"\r\n"].concat();
        assert_eq!(out, expected);
        out.clear();
        put_number(&mut out, b'$', 0);
        assert_eq!(out, b"$0\r\n");
    }
}
