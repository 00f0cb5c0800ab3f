//! What a producer connection has to write: a block of ready-made publish frames, and small frames between them.

use bytes::{Buf, BytesMut};

use crate::wire::template::{Places, Template, Variation};

/// A block of frames that is filled from the front, written, and filled again. Topics take turns cell by cell.
#[derive(Debug)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Start of every cell, and the end of the last.
    edges: Vec<usize>,
    places: Vec<Places>,
    filled: usize,
    written_bytes: usize,
    one_template: bool,
    extra: BytesMut,
    /// Part of `extra` is on its way: nothing else may be written before the rest of it.
    extra_begun: bool,
}

impl Outbox {
    /// A block of about `budget_bytes` and `cells` frames, whichever is less, in whole rounds of `templates`: the
    /// n-th frame pushed is always of template n modulo their number.
    #[must_use]
    pub fn new(templates: &[Template], cells: usize, budget_bytes: usize) -> Self {
        let mut outbox = Self {
            bytes: Vec::new(),
            edges: vec![0],
            places: Vec::new(),
            filled: 0,
            written_bytes: 0,
            one_template: templates.len() == 1,
            extra: BytesMut::new(),
            extra_begun: false,
        };
        loop {
            for template in templates {
                outbox.bytes.extend_from_slice(template.bytes());
                outbox.edges.push(outbox.bytes.len());
                outbox.places.push(template.places());
            }
            if outbox.bytes.len() >= budget_bytes || outbox.places.len() >= cells || templates.is_empty() {
                return outbox;
            }
        }
    }

    /// Frames that can be added now.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.extra.is_empty() { self.places.len() - self.filled } else { 0 }
    }

    /// Adds the next frame. [`Outbox::room`] must not be zero.
    pub fn push(&mut self, variation: Variation) {
        let (start, end) = (self.edges[self.filled], self.edges[self.filled + 1]);
        self.places[self.filled].patch(&mut self.bytes[start..end], variation);
        self.filled += 1;
    }

    /// Adds a frame that is not a publish.
    pub fn push_extra(&mut self, frame: &[u8]) {
        self.extra.extend_from_slice(frame);
    }

    /// What to write next; empty when there is nothing.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        let block = &self.bytes[self.written_bytes..self.edges[self.filled]];
        if block.is_empty() || self.extra_begun { &self.extra } else { block }
    }

    /// Notes that so many bytes of [`Outbox::pending`] have been written.
    pub fn advance(&mut self, written_bytes: usize) {
        if self.extra_begun || self.written_bytes == self.edges[self.filled] {
            self.extra.advance(written_bytes);
            self.extra_begun = !self.extra.is_empty();
            return;
        }
        self.written_bytes += written_bytes;
        let all_written = self.written_bytes == self.edges[self.filled];
        // One template starts over at once, which keeps the block's front in the cache; several go on to the block's
        // end first, or the topics at its front would get more than their share.
        if all_written && (self.one_template || self.filled == self.places.len()) {
            self.filled = 0;
            self.written_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::MessageNumber;
    use crate::wire::inbound::split_frame;
    use crate::wire::template::MessageShape;

    fn templates(topics: &[&str]) -> Vec<Template> {
        let shape = |topic: &&str| MessageShape {
            topic: (*topic).to_owned(),
            message_type: "t".to_owned(),
            group: "g".to_owned(),
            body_bytes: 100,
            fly: false,
            run_id: 1,
            clock_tag: 1,
        };
        topics.iter().map(|topic| Template::new(&shape(topic))).collect()
    }

    fn variation(opaque: u32) -> Variation {
        let number = MessageNumber(u64::from(opaque));
        Variation { opaque, number, sent_at_ns: 1, created_at: 1_700_000_000, commit: true }
    }

    /// Writes everything in pieces of `piece` bytes and gives the opaques that arrive.
    fn drain(outbox: &mut Outbox, piece: usize, stream: &mut Vec<u8>) -> Vec<u32> {
        while !outbox.pending().is_empty() {
            let part = &outbox.pending()[..piece.min(outbox.pending().len())];
            stream.extend_from_slice(part);
            let len = part.len();
            outbox.advance(len);
        }
        let mut opaques = Vec::new();
        let mut rest = stream.as_slice();
        while let Some((frame, after)) = split_frame(rest).unwrap() {
            opaques.push(frame.opaque);
            rest = after;
        }
        assert!(rest.is_empty(), "whole frames only");
        opaques
    }

    #[test]
    fn frames_leave_whole_and_in_order_whatever_the_pieces() {
        for piece in [1, 7, 100, 10_000] {
            let mut outbox = Outbox::new(&templates(&["a", "bb", "ccc"]), 4, 1 << 20);
            let mut opaque = 0;
            for count in [1, 3, 2, 6, 4] {
                let mut stream = Vec::new();
                let mut expected = Vec::new();
                for _ in 0..count.min(outbox.room()) {
                    opaque += 1;
                    expected.push(opaque);
                    outbox.push(variation(opaque));
                }
                assert!(!expected.is_empty());
                assert_eq!(drain(&mut outbox, piece, &mut stream), expected);
            }
        }
    }

    #[test]
    fn an_extra_frame_goes_between_publishes() {
        let mut outbox = Outbox::new(&templates(&["a"]), 4, 1 << 20);
        outbox.push(variation(1));
        let mut stream = outbox.pending()[..5].to_vec();
        outbox.advance(5);
        let extra = templates(&["x"])[0].bytes().to_vec();
        outbox.push_extra(&extra);
        assert_eq!(outbox.room(), 0, "publishes wait until the extra frame has left");
        assert_eq!(drain(&mut outbox, 3, &mut stream), [1, 0]);
        assert_eq!(outbox.room(), 4);
    }

    #[test]
    fn topics_take_turns_also_one_message_at_a_time() {
        let mut outbox = Outbox::new(&templates(&["a", "bb"]), 1, 1 << 20);
        let mut lengths = Vec::new();
        for opaque in 1..=4 {
            outbox.push(variation(opaque));
            let len = outbox.pending().len();
            lengths.push(len);
            outbox.advance(len);
        }
        assert_eq!(lengths, [lengths[0], lengths[0] + 1, lengths[0], lengths[0] + 1]);
    }
}
