//! How much is asked of Redis ahead of its reading. Redis copies a whole page before it sends any of it, so a page has fewer elements
//! when they are large.

/// Pages that are asked for ahead of their elements' reading: with fewer, Redis and the bridge wait for each other.
pub(crate) const PAGES_AHEAD: usize = 10;
/// What a page is to bring at most, as far as that can be told from the elements that came last.
const PAGE_BYTES: usize = 1 << 20;
/// Taken for an element's length before any has come.
const FIRST_ELEMENT_BYTES: usize = 4 << 10;

/// Of one drain, from what its pages have brought.
#[derive(Debug, Default)]
pub(crate) struct PageSize {
    /// Bytes of an element. Nothing before any element has come.
    element_bytes: Option<usize>,
}

impl PageSize {
    /// Pages that may be asked for and not read: a single one until it tells how large elements are.
    pub(crate) fn pages(&self) -> usize {
        if self.element_bytes.is_some() { PAGES_AHEAD } else { 1 }
    }

    /// Elements of the next page, from 1 to `max`.
    pub(crate) fn elements(&self, max: usize) -> usize {
        (PAGE_BYTES / self.element_bytes.unwrap_or(FIRST_ELEMENT_BYTES).max(1)).clamp(1, max)
    }

    /// A page has brought so many elements, in so many bytes. Larger ones count at once, smaller ones by and by.
    pub(crate) fn brought(&mut self, elements: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(elements) {
            let before = self.element_bytes.unwrap_or(each);
            self.element_bytes = Some(each.max((3 * before + each) / 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_shrink_at_once_and_grow_by_and_by() {
        let mut size = PageSize::default();
        assert_eq!((size.pages(), size.elements(1000)), (1, 256));
        size.brought(0, 4);
        assert_eq!((size.pages(), size.elements(1000)), (1, 256), "an empty page says nothing");
        size.brought(256, 256 * (20 << 20));
        assert_eq!((size.pages(), size.elements(1000)), (PAGES_AHEAD, 1));
        size.brought(1, 300);
        assert_eq!(size.elements(1000), 1);
        (0..60).for_each(|_| size.brought(1, 300));
        assert_eq!(size.elements(1000), 1000);
    }
}
