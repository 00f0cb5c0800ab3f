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
        // Its first letter is rare in what stands before it.
        let mut from = 0;
        while let Some(at) = text.get(from..)?.iter().position(|&byte| byte == MAGIC[0]) {
            from += at;
            if let Some(marker) = text.get(from..from + MARKER_BYTES).and_then(Self::read) {
                return Some(marker);
            }
            from += 1;
        }
        None
    }

    fn read(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(MAGIC)?;
        let field = |from: usize, len: usize| hex(&digits[from..from + len]);
        let colons = [digits[16], digits[29], digits[46]] == *b":::";
        colons.then_some(())?;
        Some(Self {
            run_id: field(0, 16)?,
            sequence: field(17, 12)?,
            pushed_at_ns: field(30, 16)?,
            clock_tag: field(47, 8)? as u32,
        })
    }
}

fn put_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    out.extend((0..digits).rev().map(|digit| DIGITS[(value >> (4 * digit) & 15) as usize]));
}

/// What a digit counts, and [`NO_DIGIT`] for what is none.
const HEX: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    values
};
/// Has a bit that no digit has.
const NO_DIGIT: u8 = 0x80;

fn hex(digits: &[u8]) -> Option<u64> {
    let (mut value, mut seen) = (0, 0);
    for &digit in digits {
        let digit = HEX[usize::from(digit)];
        seen |= digit;
        value = value << 4 | u64::from(digit);
    }
    (seen & NO_DIGIT == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: Marker =
        Marker { run_id: 0xfedc_ba98_7654_3210, sequence: 0x1234, pushed_at_ns: 77, clock_tag: 0xffff_fffe };

    #[test]
    fn a_marker_is_found_wherever_it_stands() {
        let mut text = b"key kbench:kbench kkk".to_vec();
        MARKER.put(&mut text);
        assert_eq!(text.len(), 21 + MARKER_BYTES);
        text.extend_from_slice(b"\"} and what follows");
        assert_eq!(Marker::find(&text), Some(MARKER));
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
