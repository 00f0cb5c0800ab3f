//! The claims of a drain that are not settled, and how much of each is done.

use std::time::Instant;

use crate::redis::Source;

/// Where a claim stands in the table; used again once the claim is settled.
pub(crate) type Slot = u32;

/// A claim that is not settled.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Part of its name.
    pub(crate) number: u64,
    pub(crate) source: Source,
    /// Elements that it was asked for.
    pub(crate) wanted: usize,
    pub(crate) claimed_at: Instant,
    /// Elements in it, once Redis has said so.
    pub(crate) elements: Option<u32>,
    /// Elements read from it: the index of the next one.
    pub(crate) read: u32,
    /// Whether there is nothing more to read.
    pub(crate) read_all: bool,
    /// Elements read whose fate is open.
    unfinished: u32,
}

/// Consecutive elements of one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) slot: Slot,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Elements of several claims, in the order in which they were added.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Spans(Vec<Span>);

impl Spans {
    #[inline]
    pub(crate) fn add(&mut self, slot: Slot, index: u32) {
        match self.0.last_mut() {
            Some(last) if last.slot == slot && last.first + last.count == index => last.count += 1,
            _ => self.0.push(Span { slot, first: index, count: 1 }),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.0.iter().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn elements(&self) -> u64 {
        self.iter().map(|span| u64::from(span.count)).sum()
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend(other.iter());
    }

    /// Claim by claim, in the order of their first elements.
    pub(crate) fn by_claim(self) -> Vec<(Slot, Vec<Span>)> {
        let mut claims: Vec<(Slot, Vec<Span>)> = Vec::new();
        for span in self.0 {
            match claims.iter_mut().rev().find(|(slot, _)| *slot == span.slot) {
                Some((_, spans)) => spans.push(span),
                None => claims.push((span.slot, vec![span])),
            }
        }
        claims
    }
}

/// The table of claims.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    slots: Vec<Option<Claim>>,
    free: Vec<Slot>,
    open: usize,
    in_flight: u64,
    next_number: u64,
    /// Read to the end and every element done: to be settled.
    done: Vec<Slot>,
}

impl Claims {
    pub(crate) fn open(&mut self, source: Source, wanted: usize, now: Instant) -> Slot {
        let claim = Claim {
            number: self.next_number,
            source,
            wanted,
            claimed_at: now,
            elements: None,
            read: 0,
            read_all: false,
            unfinished: 0,
        };
        self.next_number += 1;
        self.open += 1;
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(claim);
                slot
            }
            None => {
                self.slots.push(Some(claim));
                (self.slots.len() - 1) as Slot
            }
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Claim> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Claim> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Claims that are not settled.
    pub(crate) fn len(&self) -> usize {
        self.open
    }

    /// Elements read whose fate is open.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// When the oldest claim that is not settled was made.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.slots.iter().flatten().map(|claim| claim.claimed_at).min()
    }

    /// So many elements more were read.
    pub(crate) fn read(&mut self, slot: Slot, count: u32) {
        if let Some(claim) = self.get_mut(slot) {
            claim.read += count;
            claim.unfinished += count;
            self.in_flight += u64::from(count);
        }
    }

    /// Nothing more comes.
    pub(crate) fn read_all(&mut self, slot: Slot) {
        let Some(claim) = self.get_mut(slot) else { return };
        claim.read_all = true;
        if claim.unfinished == 0 {
            self.done.push(slot);
        }
    }

    /// These elements are with a sink, dead, or parked.
    pub(crate) fn finish(&mut self, spans: impl Iterator<Item = Span>) {
        for span in spans {
            let Some(claim) = self.get_mut(span.slot) else { continue };
            claim.unfinished -= span.count;
            let done = claim.read_all && claim.unfinished == 0;
            self.in_flight -= u64::from(span.count);
            if done {
                self.done.push(span.slot);
            }
        }
    }

    /// Claims that are to be settled, each once.
    pub(crate) fn take_done(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.done)
    }

    /// Forgets a claim that is settled.
    pub(crate) fn close(&mut self, slot: Slot) -> Option<Claim> {
        let claim = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        self.open -= 1;
        Some(claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(elements: &[(Slot, u32)]) -> Spans {
        let mut spans = Spans::default();
        elements.iter().for_each(|&(slot, index)| spans.add(slot, index));
        spans
    }

    #[test]
    fn neighbours_share_a_span() {
        let some = spans(&[(0, 0), (0, 1), (1, 2), (0, 2), (0, 4)]);
        assert_eq!((some.iter().count(), some.elements()), (4, 5));
        let grouped = some.by_claim();
        let shape: Vec<_> = grouped.iter().map(|(slot, spans)| (*slot, spans.len())).collect();
        assert_eq!(shape, [(0, 3), (1, 1)]);
    }

    #[test]
    fn a_claim_is_done_once_it_is_read_and_all_its_elements_are_done() {
        let mut claims = Claims::default();
        let slot = claims.open(Source::Queue, 10, Instant::now());
        claims.read(slot, 3);
        claims.finish(spans(&[(slot, 0), (slot, 2)]).iter());
        claims.read_all(slot);
        assert!(claims.take_done().is_empty());
        claims.finish(spans(&[(slot, 1)]).iter());
        assert_eq!(claims.take_done(), [slot]);
        assert_eq!((claims.len(), claims.in_flight()), (1, 0));
        assert!(claims.close(slot).is_some() && claims.close(slot).is_none());
        assert_eq!(claims.open(Source::Queue, 10, Instant::now()), slot);
        assert_eq!(claims.get(slot).map(|claim| claim.number), Some(1));
    }
}
