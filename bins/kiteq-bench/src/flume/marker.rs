//! What every element carries in its body, and a sink finds in the event that a bridge made of it: text that survives any rewriting
//! of JSON.
//!
//! `kbench:RUN:SEQUENCE:TIME:CLOCK`, all in hexadecimal: the run id (16 digits), the element's number in the run (12), when it was to
//! be pushed in ns of the monotonic clock (16), and whose clock that is (8, [`crate::clock::clock_tag`]).

/// Its length.
pub const MARKER_BYTES: usize = 62;
const MAGIC: &[u8] = b"kbench:";
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The identity of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The run of redis-fill.
    pub run_id: u64,
    /// Which element of it, from 0.
    pub sequence: u64,
    /// When it was to be pushed.
    pub pushed_at_ns: u64,
    /// Whose clock that is.
    pub clock_tag: u32,
}

impl Marker {
    /// Appends it.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        put_hex(out, self.run_id, 16);
        out.push(b':');
        put_hex(out, self.sequence, 12);
        out.push(b':');
        put_hex(out, self.pushed_at_ns, 16);
        out.push(b':');
        put_hex(out, u64::from(self.clock_tag), 8);
    }

    /// Finds the first one in `text`.
    #[must_use]
    pub fn find(text: &[u8]) -> Option<Self> {
        Self::find_at(text).map(|(marker, _)| marker)
    }

    fn find_at(text: &[u8]) -> Option<(Self, usize)> {
        // Its first letter is rare in what stands before it.
        let mut from = 0;
        while let Some(at) = text.get(from..)?.iter().position(|&byte| byte == MAGIC[0]) {
            from += at;
            if let Some(marker) = text.get(from..from + MARKER_BYTES).and_then(Self::read) {
                return Some((marker, from));
            }
            from += 1;
        }
        None
    }

    /// Finds one, at once where the last one was found: elements of a run are mostly alike. `near` becomes its place.
    #[inline]
    pub fn find_near(text: &[u8], near: &mut usize) -> Option<Self> {
        text.get(*near..*near + MARKER_BYTES).and_then(Self::read).or_else(|| {
            let (marker, at) = Self::find_at(text)?;
            *near = at;
            Some(marker)
        })
    }

    #[inline(always)]
    fn read(text: &[u8]) -> Option<Self> {
        let digits: &[u8; MARKER_BYTES - MAGIC.len()] = text.strip_prefix(MAGIC)?.try_into().ok()?;
        let colons = [digits[16], digits[29], digits[46]] == *b":::";
        colons.then_some(())?;
        Some(Self {
            run_id: hex(digits, 0)? << 32 | hex(digits, 8)?,
            // Twelve digits are eight and eight, of which four are the same.
            sequence: hex(digits, 17)? << 16 | hex(digits, 21)? & 0xffff,
            pushed_at_ns: hex(digits, 30)? << 32 | hex(digits, 38)?,
            clock_tag: hex(digits, 47)? as u32,
        })
    }
}

fn put_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    out.extend((0..digits).rev().map(|digit| DIGITS[(value >> (4 * digit) & 15) as usize]));
}

/// Eight digits from a place on, each in a byte of a word. Letters are lower case.
#[inline(always)]
fn hex(digits: &[u8], from: usize) -> Option<u64> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let text = u64::from_be_bytes(*digits.get(from..)?.first_chunk()?);
    // Letters have a bit that digits have not, and count nine more than their last four bits say.
    let letters = text >> 6 & ONES;
    let values = (text & (0x0f * ONES)) + 9 * letters;
    let are_above_nine = (values + 6 * ONES) >> 4 & ONES;
    let back = values + u64::from(b'0') * ONES + u64::from(b'a' - b'0' - 10) * letters;
    if values & (0xf0 * ONES) != 0 || are_above_nine != letters || back != text {
        return None;
    }
    let pairs = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    Some((fours | fours >> 16) & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: Marker =
        Marker { run_id: 0xfedc_ba98_7654_3210, sequence: 0x1234, pushed_at_ns: 77, clock_tag: 0xffff_fffe };

    #[test]
    fn eight_digits_are_read_as_one_by_one() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut digits = *b"a95f0e17";
                digits[place] = byte;
                let is_sound = DIGITS.contains(&byte);
                let expected = std::str::from_utf8(&digits).ok().filter(|_| is_sound);
                let expected = expected.map(|text| u64::from_str_radix(text, 16).unwrap());
                assert_eq!(hex(&digits, 0), expected, "byte {byte} at {place}");
            }
        }
    }

    #[test]
    fn a_marker_is_found_wherever_it_stands() {
        let mut text = b"key kbench:kbench kkk".to_vec();
        MARKER.put(&mut text);
        assert_eq!(text.len(), 21 + MARKER_BYTES);
        text.extend_from_slice(b"\"} and what follows");
        assert_eq!(Marker::find(&text), Some(MARKER));
    }

    #[test]
    fn a_marker_is_found_near_the_last_one_and_elsewhere() {
        let text = |before: &str| {
            let mut text = before.as_bytes().to_vec();
            MARKER.put(&mut text);
            text
        };
        let mut near = 0;
        for before in ["12345", "12345", "123", "", "123456789"] {
            assert_eq!(Marker::find_near(&text(before), &mut near), Some(MARKER));
            assert_eq!(near, before.len());
        }
        assert_eq!(Marker::find_near(b"none", &mut near), None);
    }

    #[test]
    fn what_is_no_marker_is_not_found() {
        let mut text = Vec::new();
        MARKER.put(&mut text);
        assert_eq!(Marker::find(&text[..MARKER_BYTES - 1]), None);
        assert_eq!(Marker::find(&text[1..]), None);
        assert_eq!(Marker::find(&text.to_ascii_uppercase()), None);
        assert_eq!(Marker::find(b""), None);
    }
}
