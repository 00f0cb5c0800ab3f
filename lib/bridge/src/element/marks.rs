//! What the bytes of a text are, found 64 at a time rather than byte by byte: bits for the places where a walk has to look.
//!
//! The way is that of Langdale and Lemire, "Parsing Gigabytes of JSON per Second" (2019), section 3.1.

use wide::u8x16;

/// Bytes that are looked at together.
const BLOCK: usize = 64;
/// Bytes of bits that one look takes.
const LOOK: usize = size_of::<u64>();
/// Bytes of bits that memory is kept for: both kinds of 256 KiB of text.
const BITS_BYTES_KEPT: usize = 64 << 10;

/// Finds what the bytes of one text after the other are, with memory that it keeps.
#[derive(Debug, Default)]
pub(crate) struct Marker {
    bits: Vec<u8>,
}

/// A text with a bit for each byte of some kinds. After the last byte all bits are set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marked<'a> {
    pub(crate) bytes: &'a [u8],
    /// Bytes that a string does not simply go on with: controls, the quote, the backslash.
    stops: &'a [u8],
    /// Bytes that are no digits.
    ends: &'a [u8],
    pub(crate) is_ascii: bool,
    pub(crate) has_controls: bool,
}

impl Marker {
    #[inline]
    pub(crate) fn mark<'a>(&'a mut self, bytes: &'a [u8]) -> Marked<'a> {
        // Another look after the last one that may be needed, so that none is cut short.
        let bits_bytes = (bytes.len() / BLOCK + 2) * LOOK;
        self.make_room(2 * bits_bytes);
        let (stops, ends) = self.bits[..2 * bits_bytes].split_at_mut(bits_bytes);
        let mut looks = stops.as_chunks_mut::<LOOK>().0.iter_mut().zip(ends.as_chunks_mut::<LOOK>().0);
        let mut seen = Seen { any: u8x16::splat(0), controls: u8x16::splat(0) };
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        for (block, look) in blocks.iter().zip(looks.by_ref()) {
            let bits = seen.look(block);
            (*look.0, *look.1) = (bits.stops.to_le_bytes(), bits.ends.to_le_bytes());
        }
        // What is left is at the end of a block that overlaps the one before, if there is one.
        let past = !0 << rest.len();
        let bits = match bytes.last_chunk::<BLOCK>() {
            Some(block) if !rest.is_empty() => seen.look(block).after(BLOCK - rest.len()),
            Some(_) => Bits::default(),
            None => {
                let mut block = [b' '; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                seen.look(&block)
            }
        };
        if let Some(look) = looks.next() {
            (*look.0, *look.1) = ((bits.stops | past).to_le_bytes(), (bits.ends | past).to_le_bytes());
        }
        if let Some(look) = looks.next() {
            (*look.0, *look.1) = ([0xff; LOOK], [0xff; LOOK]);
        }
        Marked {
            bytes,
            stops,
            ends,
            is_ascii: seen.any.move_mask() == 0,
            has_controls: seen.controls.move_mask() != 0,
        }
    }

    #[inline]
    fn make_room(&mut self, len: usize) {
        if self.bits.len() < len {
            self.bits.resize(len, 0);
        } else if self.bits.len() > BITS_BYTES_KEPT && len <= BITS_BYTES_KEPT {
            self.bits.truncate(BITS_BYTES_KEPT);
            self.bits.shrink_to_fit();
        }
    }
}

impl Marked<'_> {
    /// The stops from byte `at` on.
    #[inline(always)]
    pub(crate) fn stops(&self, at: usize) -> Stops {
        let block = at - at % BLOCK;
        Stops { bits: look(self.stops, block).unwrap_or(!0) & (!0 << (at - block)), block }
    }

    /// Takes two stops, which mostly are in one block. Past the end of the text each byte is one.
    #[inline(always)]
    pub(crate) fn next_stops(&self, stops: &mut Stops) -> (usize, usize) {
        let Stops { bits, block } = *stops;
        let after = bits & bits.wrapping_sub(1);
        if after == 0 {
            let two;
            (*stops, two) = next_stops_across(self.stops, *stops);
            return two;
        }
        stops.bits = after & after.wrapping_sub(1);
        (block + bits.trailing_zeros() as usize, block + after.trailing_zeros() as usize)
    }

    /// A bit for each byte from `at` on that is no digit, of 57 bytes or more. Nothing past the end.
    #[inline(always)]
    pub(crate) fn ends(&self, at: usize) -> Option<u64> {
        look(self.ends, at)
    }

    /// The first byte from `at` on that a string does not simply go on with.
    #[inline(always)]
    pub(crate) fn stop(&self, at: usize) -> usize {
        next(self.stops, at).unwrap_or(self.bytes.len())
    }

    /// The first byte from `at` on that is no digit.
    #[inline(always)]
    pub(crate) fn digits_end(&self, at: usize) -> usize {
        next(self.ends, at).unwrap_or(self.bytes.len())
    }
}

/// The stops from some place on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stops {
    /// Those of a block that are left.
    bits: u64,
    /// Where the block begins.
    block: usize,
}

/// The first bit that is set, from bit `at` on.
#[inline(always)]
fn next(bits: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let look = look(bits, at)?;
        if look != 0 {
            return Some(at + look.trailing_zeros() as usize);
        }
        at = (at / 8 + LOOK) * 8;
    }
}

/// The bits from bit `at` on, at least 57 of them.
#[inline(always)]
fn look(bits: &[u8], at: usize) -> Option<u64> {
    let look = bits.get(at / 8..at / 8 + LOOK)?.first_chunk()?;
    Some(u64::from_le_bytes(*look) >> (at % 8))
}

#[inline(never)]
fn next_stops_across(all: &[u8], mut stops: Stops) -> (Stops, (usize, usize)) {
    let mut next = || {
        while stops.bits == 0 {
            stops.block += BLOCK;
            stops.bits = look(all, stops.block).unwrap_or(!0);
        }
        let at = stops.block + stops.bits.trailing_zeros() as usize;
        stops.bits &= stops.bits - 1;
        at
    };
    let two = (next(), next());
    (stops, two)
}

/// The bits of a block, the lowest for its first byte.
#[derive(Default)]
struct Bits {
    stops: u64,
    ends: u64,
}

impl Bits {
    /// Without those of the first `skipped` bytes, which are fewer than the block has.
    fn after(self, skipped: usize) -> Self {
        Self { stops: self.stops >> skipped, ends: self.ends >> skipped }
    }
}

/// What there was in all blocks.
struct Seen {
    any: u8x16,
    controls: u8x16,
}

impl Seen {
    #[inline(always)]
    fn look(&mut self, block: &[u8; BLOCK]) -> Bits {
        let mut bits = Bits::default();
        for (place, lanes) in block.as_chunks::<16>().0.iter().enumerate() {
            let lanes = u8x16::new(*lanes);
            let controls = lanes.min(u8x16::splat(0x1f)).cmp_eq(lanes);
            let stops = lanes.cmp_eq(u8x16::splat(b'"')) | lanes.cmp_eq(u8x16::splat(b'\\')) | controls;
            let above_zero = lanes - u8x16::splat(b'0');
            let ends = above_zero.max(u8x16::splat(10)).cmp_eq(above_zero);
            bits.stops |= (stops.move_mask() as u64) << (16 * place);
            bits.ends |= (ends.move_mask() as u64) << (16 * place);
            self.any |= lanes;
            self.controls |= controls;
        }
        bits
    }
}
