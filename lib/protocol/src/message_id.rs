//! Message ids: 16 bytes, written as 32 hexadecimal digits on the wire.

use std::fmt;
use std::str::FromStr;

/// The identity of a message, chosen by its publisher.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub [u8; 16]);

/// A message id that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is 32 hexadecimal digits; this one has {len} bytes{}", if *len == 32 { " but not all are digits" } else { "" })]
pub struct InvalidMessageId {
    /// How many bytes were given.
    pub len: usize,
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
const NOT_HEX: u8 = 0xff;

/// The value of every ASCII byte as a hexadecimal digit, [`NOT_HEX`] where it is none.
const HEX_VALUES: [u8; 256] = {
    let mut values = [NOT_HEX; 256];
    let mut digit = 0;
    while digit < 16 {
        values[HEX_DIGITS[digit] as usize] = digit as u8;
        values[HEX_DIGITS[digit].to_ascii_uppercase() as usize] = digit as u8;
        digit += 1;
    }
    values
};

impl MessageId {
    /// Length of the text form, in bytes.
    pub const TEXT_LEN: usize = 32;

    /// Parses the text form; digits of either case.
    ///
    /// # Errors
    /// When `text` is not exactly 32 hexadecimal digits.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidMessageId> {
        let invalid = InvalidMessageId { len: text.len() };
        if text.len() != Self::TEXT_LEN {
            return Err(invalid);
        }
        let mut id = [0; 16];
        let mut seen = 0;
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            let (high, low) = (HEX_VALUES[pair[0] as usize], HEX_VALUES[pair[1] as usize]);
            seen |= high | low;
            *byte = high << 4 | (low & 0x0f);
        }
        if seen == NOT_HEX { Err(invalid) } else { Ok(Self(id)) }
    }

    /// The text form, in lower case.
    #[must_use]
    pub fn to_text(self) -> [u8; Self::TEXT_LEN] {
        let mut text = [0; Self::TEXT_LEN];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX_DIGITS[usize::from(byte >> 4)];
            pair[1] = HEX_DIGITS[usize::from(byte & 0x0f)];
        }
        text
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_in_either_case() {
        let lower = "0123456789abcdef0123456789abcdef";
        let id: MessageId = lower.parse().unwrap();
        assert_eq!(id.to_string(), lower);
        assert_eq!(&id.to_text(), lower.as_bytes());
        assert_eq!(lower.to_uppercase().parse::<MessageId>().unwrap(), id);
    }

    #[test]
    fn anything_but_32_hex_digits_is_refused() {
        for bad in [
            "",
            "0123",
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef0123456789abcdefg",
            "g123456789abcdef0123456789abcdef",
        ] {
            assert!(bad.parse::<MessageId>().is_err(), "{bad:?}");
        }
        for position in 0..32 {
            let mut text = *b"0123456789abcdef0123456789abcdef";
            text[position] = b'x';
            assert!(MessageId::parse(&text).is_err(), "a bad digit at {position}");
        }
    }
}
