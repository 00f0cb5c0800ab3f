//! One business in one drain: the batch that is being filled, and the elements that wait for a sink.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiteq_flume::{Batch, BatchBuilder, Protocol, PushError, SharedHeaders};
use tokio::sync::watch;

use crate::config::{BatchConfig, SinkProtocol};
use crate::drain::claims::{Slot, Spans};
use crate::drain::memory::BatchMemory;
use crate::element::Element;

const BUSINESS_NAME: &[u8] = b"businessName";
const TYPE: &[u8] = b"type";

/// A batch on its way, with the elements that are in it.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) lane: usize,
    pub(crate) batch: Batch,
    pub(crate) spans: Spans,
    /// When its first element was claimed.
    pub(crate) claimed_at: Instant,
    pub(crate) full_at: Instant,
}

/// What a batch may be.
#[derive(Debug, Clone)]
pub(crate) struct BatchLimits {
    protocol: Protocol,
    events_max: usize,
    bytes_max: usize,
    age_max: Duration,
    frame_bytes_max: usize,
}

impl BatchLimits {
    pub(crate) fn new(batch: &BatchConfig, protocol: SinkProtocol) -> Self {
        Self {
            protocol: match protocol {
                SinkProtocol::Compact => Protocol::Compact,
                SinkProtocol::Binary => Protocol::Binary,
            },
            events_max: batch.events_max,
            bytes_max: batch.bytes_max,
            age_max: batch.age_max,
            frame_bytes_max: batch.frame_bytes_max,
        }
    }
}

/// What became of an element that was offered to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    /// The batch has no room for it; an empty one has.
    Full,
    /// No batch has.
    TooLarge,
}

pub(crate) struct Lane {
    pub(crate) name: Arc<str>,
    place: usize,
    limits: BatchLimits,
    /// Of the events of this very business.
    headers: SharedHeaders,
    /// Without memory while nothing is in it.
    builder: BatchBuilder,
    /// What the batch before took: the next is likely to take as much.
    bytes_before: usize,
    spans: Spans,
    claimed_at: Instant,
    begun_at: Instant,
    availability: watch::Receiver<bool>,
    /// As it was when looked at last.
    pub(crate) is_available: bool,
    /// Elements to be parked; nothing in them is being written.
    pub(crate) to_park: Spans,
    /// The same without a claim to park them from.
    pub(crate) to_park_values: Vec<Vec<u8>>,
    /// When parking may be tried again, after the bound was met.
    pub(crate) park_after: Option<Instant>,
    /// Whether parked elements may be in Redis.
    pub(crate) may_have_parked: bool,
}

impl Lane {
    pub(crate) fn new(
        name: &str,
        place: usize,
        limits: &BatchLimits,
        availability: watch::Receiver<bool>,
        now: Instant,
    ) -> Self {
        let is_available = *availability.borrow();
        Self {
            name: name.into(),
            place,
            headers: SharedHeaders::new(limits.protocol, &[(BUSINESS_NAME, name.as_bytes())], TYPE),
            builder: BatchBuilder::new(limits.protocol, limits.frame_bytes_max),
            limits: limits.clone(),
            bytes_before: 0,
            spans: Spans::default(),
            claimed_at: now,
            begun_at: now,
            is_available,
            availability,
            to_park: Spans::default(),
            to_park_values: Vec::new(),
            park_after: None,
            may_have_parked: true,
        }
    }

    /// Looks whether there are sinks.
    pub(crate) fn look(&mut self) {
        self.is_available = *self.availability.borrow();
    }

    /// Bytes of the batch that is being filled.
    pub(crate) fn bytes(&self) -> usize {
        if self.builder.is_empty() { 0 } else { self.builder.frame_bytes() }
    }

    /// When the batch has to go, if there is one.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        (!self.builder.is_empty()).then(|| self.begun_at + self.limits.age_max)
    }

    /// Whether the batch has reached a bound.
    pub(crate) fn is_full(&self) -> bool {
        self.builder.events() >= self.limits.events_max || self.builder.body_bytes() >= self.limits.bytes_max
    }

    /// Puts an element into the batch. `business` is the name in its event where that is not this one's; `tail` is added to its body.
    #[inline]
    pub(crate) fn offer(
        &mut self,
        element: &Element<'_>,
        business: Option<&[u8]>,
        tail: &[u8],
        place: (Slot, u32),
        memory: &mut BatchMemory,
    ) -> Offered {
        let body = element.body(tail);
        if self.builder.is_empty() {
            self.begin(memory);
        } else {
            let bytes: usize = body.iter().map(|part| part.len()).sum();
            if self.builder.body_bytes() + bytes > self.limits.bytes_max {
                return Offered::Full;
            }
        }
        let pushed = match business {
            None => self.builder.push_sharing(&self.headers, &element.kind, &body),
            Some(business) => push_of_other(&mut self.builder, business, &element.kind, &body),
        };
        match pushed {
            Ok(()) => {
                self.spans.add(place.0, place.1);
                Offered::Taken
            }
            Err(PushError::Full) => Offered::Full,
            Err(PushError::TooLarge) => Offered::TooLarge,
        }
    }

    #[inline(never)]
    fn begin(&mut self, memory: &mut BatchMemory) {
        let memory = memory.take(self.bytes_before);
        self.builder = BatchBuilder::in_memory(self.limits.protocol, self.limits.frame_bytes_max, memory);
    }

    /// Notes when the batch began, if the element that was just put in is its first.
    #[inline]
    pub(crate) fn began(&mut self, claimed_at: impl FnOnce() -> Instant, now: Instant) {
        if self.builder.events() == 1 {
            (self.claimed_at, self.begun_at) = (claimed_at(), now);
        }
    }

    /// Takes the batch, if anything is in it, and begins a new one.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Parcel> {
        if self.builder.is_empty() {
            return None;
        }
        self.bytes_before = self.builder.frame_bytes();
        let next = BatchBuilder::new(self.limits.protocol, self.limits.frame_bytes_max);
        let batch = std::mem::replace(&mut self.builder, next).finish();
        let spans = std::mem::take(&mut self.spans);
        Some(Parcel { lane: self.place, batch, spans, claimed_at: self.claimed_at, full_at: now })
    }
}

/// An event of a business that this one stands for. Not a part of its caller, which is run for most elements.
#[inline(never)]
fn push_of_other(
    builder: &mut BatchBuilder,
    business: &[u8],
    kind: &[u8],
    body: &[&[u8]],
) -> Result<(), PushError> {
    builder.push(&[(BUSINESS_NAME, business), (TYPE, kind)], body)
}
