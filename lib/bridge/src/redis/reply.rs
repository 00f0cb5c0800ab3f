//! Replies (RESP 2), read from a buffer that may not hold all of one yet.

use crate::redis::error::{RedisError, Refusal};

/// The longest line: an error or a status. Bulk strings are not lines.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Arrays in arrays of ordinary replies.
const DEPTH_MAX: usize = 4;

/// The first line of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head<'a> {
    Status(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    /// This many bytes and a line end follow; none for a nil.
    Bulk(Option<usize>),
    /// This many replies follow; none for a nil.
    Array(Option<usize>),
}

/// The first line at the start of `bytes` and its length; nothing when it is not complete.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, RedisError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let Some(end) = line_end(bytes)? else { return Ok(None) };
    let line = &bytes[1..end];
    let head = match kind {
        b'+' => Head::Status(line),
        b'-' => Head::Error(line),
        b':' => Head::Integer(integer(line)?),
        b'$' => Head::Bulk(count(line)?),
        b'*' => Head::Array(count(line)?),
        other => {
            return Err(RedisError::Protocol { reason: format!("a reply starts with byte {other:#04x}") });
        }
    };
    Ok(Some((head, end + 2)))
}

/// How many bytes a bulk string has and how many its first line, when that line is at the start of `bytes` and short, as it is for
/// elements; [`head`] reads whatever this does not. It returns in registers what a [`Head`] would be read back from memory.
#[inline(always)]
pub(crate) fn short_bulk(bytes: &[u8]) -> Option<(usize, usize)> {
    const LINE: usize = 10;
    let line: &[u8; LINE] = bytes.first_chunk()?;
    if line[0] != b'$' {
        return None;
    }
    let mut len = 0;
    for at in 1..LINE - 1 {
        let digit = line[at].wrapping_sub(b'0');
        if digit > 9 {
            return (at > 1 && line[at..].starts_with(b"\r\n")).then_some((len, at + 2));
        }
        len = len * 10 + usize::from(digit);
    }
    None
}

fn line_end(bytes: &[u8]) -> Result<Option<usize>, RedisError> {
    let looked_at = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match looked_at.iter().position(|&byte| byte == b'\r') {
        Some(end) if end + 1 == bytes.len() => Ok(None),
        Some(end) if bytes[end + 1] == b'\n' => Ok(Some(end)),
        Some(end) => Err(RedisError::Protocol { reason: format!("a reply's line is broken at byte {end}") }),
        None if looked_at.len() == LINE_BYTES_MAX => Err(RedisError::Protocol {
            reason: format!("a reply's line has more than {LINE_BYTES_MAX} bytes"),
        }),
        None => Ok(None),
    }
}

fn integer(line: &[u8]) -> Result<i64, RedisError> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or_else(|| RedisError::Protocol {
        reason: format!("{:?} is no number", String::from_utf8_lossy(line)),
    })
}

fn count(line: &[u8]) -> Result<Option<usize>, RedisError> {
    // Written out: this is run for every element.
    let mut value: usize = 0;
    for &byte in line {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || value > (1 << 40) {
            return if line == b"-1" {
                Ok(None)
            } else {
                Err(RedisError::Protocol {
                    reason: format!("{:?} is no length", String::from_utf8_lossy(line)),
                })
            };
        }
        value = value * 10 + usize::from(digit);
    }
    if line.is_empty() {
        return Err(RedisError::Protocol { reason: "a length is missing".to_owned() });
    }
    Ok(Some(value))
}

/// Whether the line end after a bulk string is there.
pub(crate) fn skip_crlf(bytes: &[u8]) -> Result<(), RedisError> {
    if bytes.starts_with(b"\r\n") {
        Ok(())
    } else {
        Err(RedisError::Protocol { reason: "a bulk string is longer than announced".to_owned() })
    }
}

/// A whole reply of an ordinary command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(Refusal),
    Integer(i64),
    Nil,
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
}

impl Reply {
    /// The reply at the start of `bytes` and its length; nothing when it is not complete.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, RedisError> {
        Self::parse_at(bytes, DEPTH_MAX)
    }

    fn parse_at(bytes: &[u8], depth: usize) -> Result<Option<(Self, usize)>, RedisError> {
        let Some((head, mut at)) = head(bytes)? else { return Ok(None) };
        let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
        let reply = match head {
            Head::Status(line) => Self::Status(text(line)),
            Head::Error(line) => Self::Error(Refusal(text(line))),
            Head::Integer(value) => Self::Integer(value),
            Head::Bulk(None) | Head::Array(None) => Self::Nil,
            Head::Bulk(Some(len)) => {
                if bytes.len() < at + len + 2 {
                    return Ok(None);
                }
                let value = bytes[at..at + len].to_vec();
                skip_crlf(&bytes[at + len..])?;
                at += len + 2;
                Self::Bulk(value)
            }
            Head::Array(Some(_)) if depth == 0 => {
                return Err(RedisError::Protocol { reason: "a reply is nested too deep".to_owned() });
            }
            Head::Array(Some(len)) => {
                let mut replies = Vec::new();
                for _ in 0..len {
                    let Some((reply, end)) = Self::parse_at(&bytes[at..], depth - 1)? else {
                        return Ok(None);
                    };
                    replies.push(reply);
                    at += end;
                }
                Self::Array(replies)
            }
        };
        Ok(Some((reply, at)))
    }

    /// Its number, if it is one.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// Its bytes as text, if it has some.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Status(text) => Some(text.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[u8] = b"*5\r\n+OK\r\n-ERR no\r\n:-42\r\n$3\r\na\r\n\r\n*1\r\n$-1\r\n";

    #[test]
    fn a_reply_is_read_once_all_of_it_is_there() {
        for end in 0..ALL.len() {
            assert_eq!(Reply::parse(&ALL[..end]).unwrap(), None, "{end}");
        }
        let (reply, len) = Reply::parse(ALL).unwrap().unwrap();
        assert_eq!(len, ALL.len());
        let expected = Reply::Array(vec![
            Reply::Status("OK".to_owned()),
            Reply::Error(Refusal("ERR no".to_owned())),
            Reply::Integer(-42),
            Reply::Bulk(b"a\r\n"[..3].to_vec()),
            Reply::Array(vec![Reply::Nil]),
        ]);
        assert_eq!(reply, expected);
    }

    #[test]
    fn the_short_way_reads_what_the_long_way_does_or_nothing() {
        let texts = ["$0", "$7", "$1234567", "$12345678", "$", "$-1", "$1x", "$1\r", "*3", "+OK", ":1"];
        for text in texts {
            for rest in ["\r\n", "\r\nabcdefgh", "\rabcdefghi", "abcdefghij"] {
                let bytes = [text, rest].concat();
                let long = head(bytes.as_bytes()).ok().flatten();
                if let Some((len, head_len)) = short_bulk(bytes.as_bytes()) {
                    assert_eq!(long, Some((Head::Bulk(Some(len)), head_len)), "{bytes:?}");
                }
            }
        }
        assert_eq!(short_bulk(b"$7\r\nabcdefg\r\n"), Some((7, 4)));
        assert_eq!(short_bulk(b"$1234567\r\n"), Some((1_234_567, 10)));
        assert_eq!(short_bulk(b"$7\r\nabc"), None, "the long way finds that there is more to come");
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let deep = b"*1\r\n".repeat(10);
        let long = [b"+".as_slice(), &[b'x'; LINE_BYTES_MAX]].concat();
        for bytes in
            [b"HTTP/1.1 400\r\n".as_slice(), b":x\r\n", b"$-2\r\n", b"$\r\n", b"+a\rb\r\n", &deep, &long]
        {
            assert!(
                Reply::parse(bytes).is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes[..10.min(bytes.len())])
            );
        }
    }
}
