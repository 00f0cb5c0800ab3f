//! Decoded events: places in the frame that they came in.

use std::ops::Range;

use bytes::Bytes;

/// A part of a frame. Frames are far shorter than 4 GiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The `len` bytes that end at `end`.
    pub(crate) fn before(end: usize, len: usize) -> Self {
        Self { start: (end - len) as u32, end: end as u32 }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Where an event's body is, and where its headers end in the batch's list of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventSpans {
    pub(crate) body: Span,
    pub(crate) headers_end: u32,
}

/// Events of one call, in order. They borrow from the frame, which the batch keeps.
#[derive(Debug, Clone)]
pub struct EventBatch {
    pub(crate) frame: Bytes,
    /// Of all events, one after the other: key, value.
    pub(crate) headers: Vec<(Span, Span)>,
    pub(crate) events: Vec<EventSpans>,
}

impl EventBatch {
    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// An event of the batch.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<EventRef<'_>> {
        let spans = self.events.get(index)?;
        let begin = index.checked_sub(1).map_or(0, |before| self.events[before].headers_end);
        let headers = &self.headers[begin as usize..spans.headers_end as usize];
        Some(EventRef { frame: &self.frame, body: spans.body, headers })
    }

    /// All events, in order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EventRef<'_>> {
        let mut begin = 0;
        self.events.iter().map(move |spans| {
            let headers = &self.headers[begin..spans.headers_end as usize];
            begin = spans.headers_end as usize;
            EventRef { frame: &self.frame, body: spans.body, headers }
        })
    }
}

/// An event.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    frame: &'a Bytes,
    body: Span,
    headers: &'a [(Span, Span)],
}

impl<'a> EventRef<'a> {
    /// Its body.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.frame[self.body.range()]
    }

    /// Its body as a part of the frame that lives on its own, and keeps the whole frame in memory.
    #[must_use]
    pub fn body_shared(&self) -> Bytes {
        self.frame.slice(self.body.range())
    }

    /// Its headers, in the order in which they came.
    #[inline]
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        Headers { frame: self.frame, spans: self.headers.iter() }
    }

    /// The value of a header; of several with that key the last one, as in Flume's map.
    #[inline]
    #[must_use]
    pub fn header(&self, key: &[u8]) -> Option<&'a [u8]> {
        // Where it is inlined the key's length is known, and comparing takes no call.
        let (_, value) = self.headers.iter().rev().find(|(of, _)| &self.frame[of.range()] == key)?;
        Some(&self.frame[value.range()])
    }
}

/// The headers of an event: keys and values.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    frame: &'a Bytes,
    spans: std::slice::Iter<'a, (Span, Span)>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.spans.next()?;
        Some((&self.frame[key.range()], &self.frame[value.range()]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.spans.size_hint()
    }
}
