//! The claims of a drain that are not settled, and how far each is read and done.
//!
//! A claim is a list in Redis that is ours alone. It is read page by page from its head, and settled from its head: once all that stands
//! before a place is done, Redis is told to keep only what comes after. Places are counted from the list's end in what Redis is asked,
//! for settling does not move those.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::redis::Source;

/// Where a page stands in the table; used again once the page is settled.
pub(crate) type Slot = u32;

/// A claim that is not settled.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) source: Source,
    /// Elements that it had at first, once Redis has said so.
    pub(crate) elements: Option<u64>,
    /// The place of the first element that no page holds.
    asked: u64,
    /// Pages that are not done, or stand behind one that is not; in their order. What stands before them is settled.
    pages: VecDeque<Slot>,
    /// Another instance took it from us: nothing more is read from it, and nothing of it is settled.
    pub(crate) is_gone: bool,
}

/// Consecutive elements of a claim that are read with one command.
#[derive(Debug)]
pub(crate) struct Page {
    /// The number of its claim.
    pub(crate) claim: u64,
    /// The place of its first element in the claim.
    pub(crate) first: u64,
    /// Elements that it is asked for.
    pub(crate) wanted: u32,
    pub(crate) asked_at: Instant,
    /// Elements read from it: the index of the next one.
    pub(crate) read: u32,
    /// Whether there is nothing more to read.
    read_all: bool,
    /// Elements read whose fate is open.
    unfinished: u32,
}

impl Page {
    fn is_done(&self) -> bool {
        self.read_all && self.unfinished == 0
    }
}

/// Consecutive elements of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) slot: Slot,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Elements of several pages, in the order in which they were added.
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

    pub(crate) fn extend(&mut self, other: impl IntoIterator<Item = Span>) {
        self.0.extend(other);
    }
}

/// Elements of a claim from one place to another, both included, counted from its end as Redis does: -1 is the last.
pub(crate) type Range = (i64, i64);

/// The head of a claim that is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settlement {
    /// The number of the claim.
    pub(crate) claim: u64,
    /// Elements that are to stay.
    pub(crate) keep: u64,
    /// Pages that end with it.
    pub(crate) pages: Vec<Slot>,
}

/// The table of claims.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By their numbers, which are part of their names and grow.
    claims: BTreeMap<u64, Claim>,
    pages: Vec<Option<Page>>,
    free: Vec<Slot>,
    next_number: u64,
    /// Claims with elements that no page holds yet, the oldest first.
    backlog: VecDeque<u64>,
    in_flight: u64,
    /// Pages that are done, and that nobody was told of.
    done: Vec<Slot>,
}

impl Claims {
    /// A claim is to be made; gives its first page.
    pub(crate) fn open(&mut self, source: Source, wanted: u32, now: Instant) -> Slot {
        let number = self.next_number;
        self.next_number += 1;
        let claim = Claim { source, elements: None, asked: 0, pages: VecDeque::new(), is_gone: false };
        self.claims.insert(number, claim);
        self.add_page(number, wanted, now)
    }

    /// The next page of a claim in the backlog.
    pub(crate) fn next_page(&mut self, number: u64, wanted: u32, now: Instant) -> Slot {
        let left = self.claims.get(&number).map_or(0, Claim::unasked);
        let wanted = u32::try_from(left).map_or(wanted, |left| wanted.min(left));
        let slot = self.add_page(number, wanted, now);
        if u64::from(wanted) == left {
            self.backlog.retain(|other| *other != number);
        }
        slot
    }

    fn add_page(&mut self, number: u64, wanted: u32, now: Instant) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pages.push(None);
            (self.pages.len() - 1) as Slot
        });
        let mut first = 0;
        if let Some(claim) = self.claims.get_mut(&number) {
            first = claim.asked;
            claim.asked += u64::from(wanted);
            claim.pages.push_back(slot);
        }
        self.pages[slot as usize] = Some(Page {
            claim: number,
            first,
            wanted,
            asked_at: now,
            read: 0,
            read_all: false,
            unfinished: 0,
        });
        slot
    }

    /// The claim of this page turned out to have so many elements.
    pub(crate) fn answered(&mut self, slot: Slot, elements: u64) {
        let Some(page) = self.pages.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let Some(claim) = self.claims.get_mut(&page.claim) else { return };
        page.wanted = u32::try_from(elements).map_or(page.wanted, |elements| page.wanted.min(elements));
        claim.elements = Some(elements);
        claim.asked = u64::from(page.wanted);
        if claim.unasked() > 0 {
            self.backlog.push_back(page.claim);
        }
    }

    /// The claim of this page is not ours any more: what no page holds is somebody else's. True when that is new.
    pub(crate) fn give_up(&mut self, slot: Slot) -> bool {
        let Some(number) = self.page(slot).map(|page| page.claim) else { return false };
        let Some(claim) = self.claims.get_mut(&number) else { return false };
        self.backlog.retain(|other| *other != number);
        !std::mem::replace(&mut claim.is_gone, true)
    }

    pub(crate) fn page(&self, slot: Slot) -> Option<&Page> {
        self.pages.get(slot as usize)?.as_ref()
    }

    fn page_mut(&mut self, slot: Slot) -> Option<&mut Page> {
        self.pages.get_mut(slot as usize)?.as_mut()
    }

    /// The claim that a page belongs to.
    pub(crate) fn claim_of(&self, slot: Slot) -> Option<&Claim> {
        self.claims.get(&self.page(slot)?.claim)
    }

    /// The oldest claim of a source that `is_wanted`, of which there is more to read.
    pub(crate) fn next_of(&self, mut is_wanted: impl FnMut(&Source) -> bool) -> Option<u64> {
        self.backlog
            .iter()
            .copied()
            .find(|number| self.claims.get(number).is_some_and(|claim| is_wanted(&claim.source)))
    }

    /// Elements of a claim that no page holds.
    pub(crate) fn unasked(&self, number: u64) -> u64 {
        self.claims.get(&number).map_or(0, Claim::unasked)
    }

    /// Whether a claim of this source was asked for and not answered.
    pub(crate) fn is_claiming(&self, source: &Source) -> bool {
        self.claims.values().rev().any(|claim| claim.elements.is_none() && claim.source == *source)
    }

    /// Claims that are not settled to their end.
    pub(crate) fn held(&self) -> usize {
        self.claims.len()
    }

    /// Pages that are not settled.
    pub(crate) fn pages(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    /// Elements of claims that no page holds, which are still to be read.
    pub(crate) fn waiting(&self) -> u64 {
        self.backlog.iter().map(|number| self.unasked(*number)).sum()
    }

    /// Elements read whose fate is open.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// When the oldest page that is not settled was asked for.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.pages.iter().flatten().map(|page| page.asked_at).min()
    }

    /// So many elements more were read.
    pub(crate) fn read(&mut self, slot: Slot, count: u32) {
        if let Some(page) = self.page_mut(slot) {
            page.read += count;
            page.unfinished += count;
            self.in_flight += u64::from(count);
        }
    }

    /// Nothing more comes.
    pub(crate) fn read_all(&mut self, slot: Slot) {
        let Some(page) = self.page_mut(slot) else { return };
        page.read_all = true;
        if page.is_done() {
            self.done.push(slot);
        }
    }

    /// These elements are with a sink, dead, or parked.
    pub(crate) fn finish(&mut self, spans: impl IntoIterator<Item = Span>) {
        for span in spans {
            let Some(page) = self.page_mut(span.slot) else { continue };
            page.unfinished -= span.count;
            let is_done = page.is_done();
            self.in_flight -= u64::from(span.count);
            if is_done {
                self.done.push(span.slot);
            }
        }
    }

    /// Heads of claims that are done, each once.
    pub(crate) fn take_done(&mut self) -> Vec<Settlement> {
        let mut numbers: Vec<u64> = Vec::new();
        for slot in std::mem::take(&mut self.done) {
            let Some(page) = self.page(slot) else { continue };
            if !numbers.contains(&page.claim) {
                numbers.push(page.claim);
            }
        }
        numbers.into_iter().filter_map(|number| self.settlement(number)).collect()
    }

    fn settlement(&mut self, number: u64) -> Option<Settlement> {
        let Self { claims, pages, .. } = self;
        let claim = claims.get_mut(&number)?;
        let page = |slot: Slot| pages.get(slot as usize).and_then(Option::as_ref);
        let mut done = Vec::new();
        while let Some(slot) = claim.pages.front().filter(|slot| page(**slot).is_some_and(Page::is_done)) {
            done.push(*slot);
            claim.pages.pop_front();
        }
        let next = claim.pages.front().and_then(|slot| page(*slot));
        let settled = next.map_or(claim.asked, |page| page.first);
        let end = claim.elements.filter(|_| !claim.is_gone).unwrap_or(claim.asked);
        let keep = end.saturating_sub(settled);
        (!done.is_empty()).then_some(Settlement { claim: number, keep, pages: done })
    }

    /// Forgets what is settled. True when nothing of the claim is left.
    pub(crate) fn close(&mut self, settled: &Settlement) -> bool {
        for slot in &settled.pages {
            if self.pages.get_mut(*slot as usize).and_then(Option::take).is_some() {
                self.free.push(*slot);
            }
        }
        settled.keep == 0 && self.claims.remove(&settled.claim).is_some()
    }

    /// Where these elements are in their claims, page by page, in the order of their first ones.
    pub(crate) fn ranges(&self, spans: &Spans) -> Vec<(u64, Vec<Span>, Vec<Range>)> {
        let mut pages: Vec<(u64, Vec<Span>, Vec<Range>)> = Vec::new();
        for span in spans.iter() {
            let Some(page) = self.page(span.slot) else { continue };
            let range = self.range(span);
            match pages.iter_mut().rev().find(|(_, spans, _)| spans[0].slot == span.slot) {
                Some((_, spans, ranges)) => {
                    spans.push(span);
                    ranges.push(range);
                }
                None => pages.push((page.claim, vec![span], vec![range])),
            }
        }
        pages
    }

    /// Where the elements of a span are in their claim.
    pub(crate) fn range(&self, span: Span) -> Range {
        let Some((page, claim)) = self.page(span.slot).zip(self.claim_of(span.slot)) else { return (-1, -1) };
        let place = |index: u32| claim.place_from_end(page.first + u64::from(index));
        (place(span.first), place(span.first + span.count.saturating_sub(1)))
    }
}

impl Claim {
    fn unasked(&self) -> u64 {
        if self.is_gone { 0 } else { self.elements.unwrap_or(0).saturating_sub(self.asked) }
    }

    /// A place as Redis counts it from the list's end. The claim's length is known.
    pub(crate) fn place_from_end(&self, place: u64) -> i64 {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        whole(place) - whole(self.elements.unwrap_or(0))
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

    /// A claim of `elements`, all of it asked for in pages of 10.
    fn claim(claims: &mut Claims, elements: u64) -> Vec<Slot> {
        let now = Instant::now();
        let mut slots = vec![claims.open(Source::Queue, 10, now)];
        claims.answered(slots[0], elements);
        while let Some(number) = claims.next_of(|_| true) {
            slots.push(claims.next_page(number, 10, now));
        }
        slots
    }

    fn do_all(claims: &mut Claims, slot: Slot) {
        let count = claims.page(slot).unwrap().wanted;
        claims.read(slot, count);
        claims.read_all(slot);
        claims.finish([Span { slot, first: 0, count }]);
    }

    #[test]
    fn neighbours_share_a_span() {
        let some = spans(&[(0, 0), (0, 1), (1, 2), (0, 2), (0, 4)]);
        assert_eq!((some.iter().count(), some.elements()), (4, 5));
    }

    #[test]
    fn a_claim_is_read_in_pages_and_settled_from_its_head() {
        let mut claims = Claims::default();
        let slots = claim(&mut claims, 25);
        let pages: Vec<_> = slots.iter().map(|slot| claims.page(*slot).unwrap()).collect();
        assert_eq!(
            pages.iter().map(|page| (page.first, page.wanted)).collect::<Vec<_>>(),
            [(0, 10), (10, 10), (20, 5)]
        );
        do_all(&mut claims, slots[1]);
        assert!(claims.take_done().is_empty(), "what stands before it is not done");
        do_all(&mut claims, slots[0]);
        let head = claims.take_done();
        assert_eq!(head, [Settlement { claim: 0, keep: 5, pages: slots[..2].to_vec() }]);
        assert!(!claims.close(&head[0]));
        do_all(&mut claims, slots[2]);
        let rest = claims.take_done();
        assert_eq!(rest, [Settlement { claim: 0, keep: 0, pages: slots[2..].to_vec() }]);
        assert_eq!((claims.held(), claims.pages(), claims.in_flight()), (1, 1, 0));
        assert!(claims.close(&rest[0]) && !claims.close(&rest[0]));
        assert_eq!((claims.held(), claims.pages()), (0, 0));
    }

    #[test]
    fn a_page_is_done_once_it_is_read_and_all_its_elements_are_done() {
        let mut claims = Claims::default();
        let slot = claim(&mut claims, 3)[0];
        claims.read(slot, 3);
        claims.finish(spans(&[(slot, 0), (slot, 2)]).iter());
        claims.read_all(slot);
        assert!(claims.take_done().is_empty());
        claims.finish(spans(&[(slot, 1)]).iter());
        assert_eq!(claims.take_done(), [Settlement { claim: 0, keep: 0, pages: vec![slot] }]);
        assert!(claims.take_done().is_empty());
    }

    #[test]
    fn places_are_counted_from_the_end() {
        let mut claims = Claims::default();
        let slots = claim(&mut claims, 25);
        let other = claim(&mut claims, 4)[0];
        let ranges = claims.ranges(&spans(&[(slots[0], 9), (slots[1], 0), (other, 0), (slots[2], 4)]));
        let shape: Vec<_> = ranges.iter().map(|(number, _, ranges)| (*number, ranges.as_slice())).collect();
        let (first, second, third) = (&[(-16, -16)][..], &[(-15, -15)][..], &[(-1, -1)][..]);
        assert_eq!(shape, [(0, first), (0, second), (1, &[(-4, -4)]), (0, third)]);
    }

    #[test]
    fn a_claim_that_was_taken_from_us_is_not_read_on() {
        let mut claims = Claims::default();
        let slot = claims.open(Source::Queue, 10, Instant::now());
        assert!(claims.is_claiming(&Source::Queue));
        claims.answered(slot, 1000);
        assert_eq!((claims.is_claiming(&Source::Queue), claims.waiting()), (false, 990));
        claims.read(slot, 4);
        assert!(claims.give_up(slot) && !claims.give_up(slot));
        claims.read_all(slot);
        claims.finish([Span { slot, first: 0, count: 4 }]);
        assert_eq!((claims.next_of(|_| true), claims.waiting()), (None, 0));
        let places = claims.range(Span { slot, first: 0, count: 4 });
        assert_eq!(places, (-1000, -997), "those of the list that it was");
        let ended = claims.take_done();
        assert_eq!(ended, [Settlement { claim: 0, keep: 0, pages: vec![slot] }]);
        assert!(claims.close(&ended[0]));
    }

    #[test]
    fn sources_that_are_not_wanted_are_passed_over() {
        let mut claims = Claims::default();
        let parked = Source::Parked("feed".to_owned());
        for source in [parked.clone(), Source::Queue] {
            let slot = claims.open(source, 10, Instant::now());
            claims.answered(slot, 20);
        }
        assert_eq!(claims.next_of(|source| *source == Source::Queue), Some(1));
        assert_eq!(claims.next_of(|_| true), Some(0));
    }
}
