//! A borrowing walk over the fields of one protobuf message.
//!
//! Prost builds an owned struct with one allocation for each string; on the path of a message the broker looks at a
//! handful of fields and carries the rest. This walk allocates nothing. Format: protobuf encoding guide, "Message
//! structure"; groups (wire types 3 and 4) are not part of any KiteQ message and are refused.

/// Why bytes are not a well-formed protobuf message. Offsets count from the start of the message that was scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// A varint runs past the end or past ten bytes.
    #[error("broken varint at byte {offset}")]
    Varint {
        /// Where the varint starts.
        offset: usize,
    },
    /// A field announces more bytes than there are.
    #[error("field {field} at byte {offset} needs {needed} bytes, {left} are left")]
    Truncated {
        /// Field number.
        field: u32,
        /// Where the field's value starts.
        offset: usize,
        /// Announced length in bytes.
        needed: u64,
        /// Bytes that are left.
        left: usize,
    },
    /// A tag with field number 0 or a wire type that KiteQ does not use.
    #[error("field {field} at byte {offset} has wire type {wire_type}, which no KiteQ message uses")]
    WireType {
        /// Field number.
        field: u32,
        /// Where the tag starts.
        offset: usize,
        /// The wire type found.
        wire_type: u8,
    },
}

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2: string, bytes or an embedded message.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5, which no known field uses.
    Fixed,
}

/// One field as it stands in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Field number.
    pub number: u32,
    /// Its value.
    pub value: Value<'a>,
    /// Tag and value as encoded, for copying verbatim.
    pub encoded: &'a [u8],
}

/// The fields of `message` in the order in which they stand. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    message: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    /// Starts at the first field of `message`.
    #[must_use]
    pub fn of(message: &'a [u8]) -> Self {
        Self { message, offset: 0 }
    }

    /// Where the next field starts.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, ScanError> {
        // Tags, lengths and flags are nearly always one byte.
        match self.message.get(self.offset) {
            Some(&byte) if byte < 0x80 => {
                self.offset += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, ScanError> {
        let start = self.offset;
        let mut value = 0u64;
        for (index, byte) in self.message[start..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.offset = start + index + 1;
                return Ok(value);
            }
        }
        Err(ScanError::Varint { offset: start })
    }

    #[inline]
    fn take(&mut self, field: u32, needed: u64) -> Result<&'a [u8], ScanError> {
        let rest = &self.message[self.offset..];
        match usize::try_from(needed).ok().and_then(|len| rest.get(..len)) {
            Some(bytes) => {
                self.offset += bytes.len();
                Ok(bytes)
            }
            None => Err(ScanError::Truncated { field, offset: self.offset, needed, left: rest.len() }),
        }
    }

    #[inline]
    fn field(&mut self) -> Result<Field<'a>, ScanError> {
        let start = self.offset;
        let tag = self.varint()?;
        let wire_type = (tag & 7) as u8;
        let number = u32::try_from(tag >> 3).unwrap_or(0);
        if number == 0 {
            return Err(ScanError::WireType { field: number, offset: start, wire_type });
        }
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => self.take(number, 8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(number, len)?)
            }
            5 => self.take(number, 4).map(|_| Value::Fixed)?,
            _ => return Err(ScanError::WireType { field: number, offset: start, wire_type }),
        };
        Ok(Field { number, value, encoded: &self.message[start..self.offset] })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, ScanError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.message.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.offset = self.message.len();
        }
        Some(field)
    }
}

/// Appends a tag and varint value.
pub fn put_varint_field(buf: &mut bytes::BytesMut, number: u32, value: u64) {
    put_varint(buf, u64::from(number << 3));
    put_varint(buf, value);
}

/// Appends a tag, a length and `bytes`.
pub fn put_bytes_field(buf: &mut bytes::BytesMut, number: u32, bytes: &[u8]) {
    put_bytes_field_header(buf, number, bytes.len());
    buf.extend_from_slice(bytes);
}

/// Appends the tag and length of a length-delimited field; `len` bytes of value must follow.
pub fn put_bytes_field_header(buf: &mut bytes::BytesMut, number: u32, len: usize) {
    put_varint(buf, u64::from(number << 3 | 2));
    put_varint(buf, len as u64);
}

/// Appends a base-128 varint.
pub fn put_varint(buf: &mut bytes::BytesMut, mut value: u64) {
    let mut encoded = [0u8; 10];
    let mut len = 0;
    loop {
        encoded[len] = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            break;
        }
        encoded[len] |= 0x80;
        len += 1;
    }
    buf.extend_from_slice(&encoded[..=len]);
}

/// Bytes that [`put_varint`] writes for `value`.
#[must_use]
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    #[test]
    fn varints_have_their_computed_length() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut buf = BytesMut::new();
            put_varint(&mut buf, value);
            assert_eq!(buf.len(), varint_len(value), "{value}");
            let mut fields = Fields { message: &buf, offset: 0 };
            assert_eq!(fields.varint(), Ok(value));
        }
    }

    #[test]
    fn errors_name_the_field_and_the_offset() {
        assert_eq!(
            Fields::of(&[0x0a, 0x05, b'x']).next(),
            Some(Err(ScanError::Truncated { field: 1, offset: 2, needed: 5, left: 1 }))
        );
        assert_eq!(Fields::of(&[0x80]).next(), Some(Err(ScanError::Varint { offset: 0 })));
        assert_eq!(
            Fields::of(&[0x0b]).next(),
            Some(Err(ScanError::WireType { field: 1, offset: 0, wire_type: 3 }))
        );
    }
}
