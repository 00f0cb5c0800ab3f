//! Elements: what a queue holds, and the event that becomes of one.

mod body;
mod fast;
mod inflate;
mod marks;
mod parse;
mod scan;
#[cfg(test)]
mod tests;

use kiteq_flume::{BatchBuilder, Protocol, SharedHeaders};

pub(crate) use body::put_tail;
pub(crate) use inflate::Inflater;
pub(crate) use parse::{Decoder, Element};

/// Why an element becomes a dead letter. The label is the metric's and the letter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// It is not JSON, which is UTF-8.
    NotJson,
    /// It is JSON, but a field is missing or of the wrong type.
    WrongShape,
    /// Neither its business nor the default one is served.
    NoRoute,
    /// It does not fit a frame.
    TooLarge,
    /// It is not raw DEFLATE, or ends early.
    BrokenDeflate,
    /// Inflated it is larger than it may be.
    InflatedTooLarge,
}

impl Reason {
    pub(crate) const ALL: [Self; 6] = [
        Self::NotJson,
        Self::WrongShape,
        Self::NoRoute,
        Self::TooLarge,
        Self::BrokenDeflate,
        Self::InflatedTooLarge,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::WrongShape => "wrong_shape",
            Self::NoRoute => "no_route",
            Self::TooLarge => "too_large",
            Self::BrokenDeflate => "broken_deflate",
            Self::InflatedTooLarge => "inflated_too_large",
        }
    }
}

/// An element that does not become an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: Reason,
    /// For people: what and where.
    pub(crate) detail: String,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// An element's event body, for fuzzing: decoding takes any bytes.
#[doc(hidden)]
#[must_use]
pub fn event_body(bytes: &[u8]) -> Option<Vec<u8>> {
    let _ = Inflater::new(1 << 16).inflate(bytes);
    let mut decoder = Decoder::default();
    let element = decoder.decode(bytes).ok()?;
    Some(whole_body(&element))
}

fn whole_body(element: &Element<'_>) -> Vec<u8> {
    let mut tail = b"of the one before".to_vec();
    element.write_tail(&mut tail);
    element.body(&tail).concat()
}

/// How many of these elements become events, for measuring what decoding costs.
#[doc(hidden)]
#[must_use]
pub fn decode_elements(elements: &[Vec<u8>]) -> usize {
    let mut decoder = Decoder::default();
    elements.iter().filter(|bytes| decoder.decode(bytes).is_ok()).count()
}

/// The same with their events put into a batch, as a drain does it for one business.
#[doc(hidden)]
#[must_use]
pub fn batch_elements(elements: &[Vec<u8>], bytes: usize) -> usize {
    let mut decoder = Decoder::default();
    let mut batch = BatchBuilder::in_memory(Protocol::Compact, usize::MAX, Vec::with_capacity(bytes));
    // One business, so what is known of it is so from the first.
    let headers = SharedHeaders::new(Protocol::Compact, &[(b"businessName", b"location3")], b"type");
    let mut tail = Vec::new();
    put_tail(&mut tail, b"location", b"3");
    for bytes in elements {
        let Ok(element) = decoder.decode(bytes) else { continue };
        // A batch of that size takes any element.
        let _ = batch.push_sharing(&headers, &element.kind, &element.body(&tail));
    }
    batch.finish().events()
}
