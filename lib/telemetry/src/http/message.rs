//! What a handler gets and gives.

use bytes::Bytes;
use hyper::Method;
use serde::Serialize;

/// One request, read completely.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path as it was sent, percent escapes included.
    pub path: String,
    /// What follows the `?` as it was sent; empty when there is none.
    pub query: String,
    /// The body, within [`crate::HttpLimits::body_bytes_max`].
    pub body: Bytes,
}

impl Request {
    /// The first value of a query parameter, decoded. An escape that is none stays as it is.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }
}

/// Undoes percent escapes and `+` for a space.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push(high * 16 + low);
                rest = &tail[2..];
            }
            None => {
                decoded.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status, 200 to 599.
    pub status: u16,
    /// The content type.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// An answer of any type.
    #[must_use]
    pub fn with_type(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into() }
    }

    /// A value as JSON that people can read.
    #[must_use]
    pub fn pretty_json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut text) => {
                text.push(b'\n');
                Self::json(status, text)
            }
            Err(error) => Self::text(500, format!("the answer cannot be written: {error}\n")),
        }
    }

    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self::with_type(status, "text/plain; charset=utf-8", body)
    }

    /// JSON that is text already.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::with_type(status, "application/json", body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Request {
        Request { method: Method::GET, path: "/dlq".to_owned(), query: query.to_owned(), body: Bytes::new() }
    }

    #[test]
    fn parameters_are_decoded() {
        let request = request("after=a%20b+c&limit=10&flag&after=second");
        assert_eq!(request.parameter("after").as_deref(), Some("a b c"));
        assert_eq!(request.parameter("limit").as_deref(), Some("10"));
        assert_eq!(request.parameter("flag").as_deref(), Some(""));
        assert_eq!(request.parameter("absent"), None);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for (query, value) in [("a=%", "%"), ("a=%4", "%4"), ("a=%zz", "%zz"), ("a=%41%", "A%")] {
            assert_eq!(request(query).parameter("a").as_deref(), Some(value));
        }
        assert_eq!(request("a=%ff").parameter("a").as_deref(), Some("\u{fffd}"));
    }
}
