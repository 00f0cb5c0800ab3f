//! Reads Thrift values out of a frame without copying, in either protocol.
//!
//! Nothing is taken on trust: a length is checked against what is left of the frame, every element of a collection takes at
//! least a byte, and nested values are followed to a depth of [`DEPTH_MAX`] only. So the work is bounded by the frame.

use crate::decode::DecodeError;

/// Deeper values than this are refused. Calls of the protocol need a depth of three.
const DEPTH_MAX: usize = 32;

/// A value, or none where the frame is broken.
pub(crate) type Read<T> = Result<T, Broken>;

/// Stands for the [`DecodeError`] that the reader keeps: what is read for every event fits a processor's registers.
#[derive(Debug)]
pub(crate) struct Broken(());

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    Double,
    /// Strings are binary on the wire.
    Binary,
    Struct,
    Map,
    Set,
    List,
    Uuid,
}

/// A field's header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) id: i16,
    pub(crate) kind: Kind,
    /// Compact fields of type bool have their value in the header.
    value_in_header: bool,
}

/// A message's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) message_type: u8,
    pub(crate) name: &'a [u8],
    pub(crate) sequence: i32,
}

/// A frame's bytes and how far they have been read.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    error: Option<DecodeError>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0, error: None }
    }

    /// How far the frame has been read.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The frame is broken here.
    #[cold]
    pub(crate) fn broken(&mut self, what: &'static str) -> Broken {
        self.error = Some(DecodeError { offset: self.offset, what });
        Broken(())
    }

    /// What is wrong with the frame.
    pub(crate) fn error(self, _: Broken) -> DecodeError {
        self.error.unwrap_or(DecodeError { offset: self.offset, what: "the frame is broken" })
    }

    #[inline]
    fn byte(&mut self) -> Read<u8> {
        match self.bytes.get(self.offset) {
            Some(&byte) => {
                self.offset += 1;
                Ok(byte)
            }
            None => Err(self.broken("the frame ends within a value")),
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Read<&'a [u8]> {
        let bytes = self.bytes;
        match bytes.get(self.offset..).and_then(|rest| rest.get(..len)) {
            Some(taken) => {
                self.offset += len;
                Ok(taken)
            }
            None => Err(self.broken("a value is longer than the rest of the frame")),
        }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.broken("the frame ends within a value"))
    }

    #[inline]
    fn varint32(&mut self) -> Read<u32> {
        // Most are short.
        match self.bytes.get(self.offset) {
            Some(&byte) if byte < 0x80 => {
                self.offset += 1;
                Ok(u32::from(byte))
            }
            _ => self.any_varint32(),
        }
    }

    fn any_varint32(&mut self) -> Read<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.broken("a varint is longer than five bytes"))
    }

    fn skip_varint(&mut self) -> Read<()> {
        for _ in 0..10 {
            if self.byte()? & 0x80 == 0 {
                return Ok(());
            }
        }
        Err(self.broken("a varint is longer than ten bytes"))
    }

    /// Checks a number of elements: each takes at least one byte.
    fn count(&mut self, count: u32) -> Read<usize> {
        let count = count as usize;
        if count > self.left() {
            return Err(self.broken("a collection has more elements than the frame has bytes left"));
        }
        Ok(count)
    }
}

/// How one of the protocols writes values.
pub(crate) trait Wire {
    fn head<'a>(reader: &mut Reader<'a>) -> Read<Head<'a>>;

    /// The next field of a struct whose previous one was `last_id`, 0 at first; `None` at its end.
    fn field(reader: &mut Reader<'_>, last_id: i16) -> Read<Option<Field>>;

    /// Of a binary, or of a name.
    fn length(reader: &mut Reader<'_>) -> Read<usize>;

    /// Types of keys and values, `None` where an empty map does not say, and how many there are.
    fn map(reader: &mut Reader<'_>) -> Read<(Option<(Kind, Kind)>, usize)>;

    /// Of a list or a set: the type of its elements and how many there are.
    fn list(reader: &mut Reader<'_>) -> Read<(Kind, usize)>;

    /// A value that is neither a binary nor made of others.
    fn skip_scalar(reader: &mut Reader<'_>, kind: Kind) -> Read<()>;

    #[inline]
    fn binary<'a>(reader: &mut Reader<'a>) -> Read<&'a [u8]> {
        let length = Self::length(reader)?;
        reader.take(length)
    }

    /// Passes over a field's value.
    fn skip_field(reader: &mut Reader<'_>, field: Field) -> Read<()> {
        if field.value_in_header { Ok(()) } else { Self::skip(reader, field.kind, DEPTH_MAX) }
    }

    fn skip(reader: &mut Reader<'_>, kind: Kind, depth: usize) -> Read<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(reader.broken("values are nested too deeply"));
        };
        match kind {
            Kind::Binary => Self::binary(reader).map(drop),
            Kind::Struct => {
                let mut last_id = 0;
                while let Some(field) = Self::field(reader, last_id)? {
                    last_id = field.id;
                    if !field.value_in_header {
                        Self::skip(reader, field.kind, depth)?;
                    }
                }
                Ok(())
            }
            Kind::Map => {
                let (kinds, count) = Self::map(reader)?;
                let Some((key, value)) = kinds else { return Ok(()) };
                for _ in 0..count {
                    Self::skip(reader, key, depth)?;
                    Self::skip(reader, value, depth)?;
                }
                Ok(())
            }
            Kind::List | Kind::Set => {
                let (element, count) = Self::list(reader)?;
                (0..count).try_for_each(|_| Self::skip(reader, element, depth))
            }
            Kind::Bool | Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 | Kind::Double | Kind::Uuid => {
                Self::skip_scalar(reader, kind)
            }
        }
    }
}

/// The compact protocol.
pub(crate) struct Compact;

impl Compact {
    #[inline]
    fn kind(reader: &mut Reader<'_>, code: u8) -> Read<Kind> {
        /// By their codes: a table, for a type is looked up for every field of every event.
        const KINDS: [Option<Kind>; 16] = [
            None,
            Some(Kind::Bool),
            Some(Kind::Bool),
            Some(Kind::I8),
            Some(Kind::I16),
            Some(Kind::I32),
            Some(Kind::I64),
            Some(Kind::Double),
            Some(Kind::Binary),
            Some(Kind::List),
            Some(Kind::Set),
            Some(Kind::Map),
            Some(Kind::Struct),
            Some(Kind::Uuid),
            None,
            None,
        ];
        KINDS[usize::from(code & 0x0f)].ok_or_else(|| reader.broken("there is no such type"))
    }
}

impl Wire for Compact {
    fn head<'a>(reader: &mut Reader<'a>) -> Read<Head<'a>> {
        const PROTOCOL_ID: u8 = 0x82;
        const VERSION: u8 = 1;
        if reader.byte()? != PROTOCOL_ID {
            return Err(reader.broken("this is no message of the compact protocol"));
        }
        let version_and_type = reader.byte()?;
        if version_and_type & 0x1f != VERSION {
            return Err(reader.broken("this version of the compact protocol is not known"));
        }
        let sequence = reader.varint32()? as i32;
        let name = Self::binary(reader)?;
        Ok(Head { message_type: version_and_type >> 5, name, sequence })
    }

    #[inline]
    fn field(reader: &mut Reader<'_>, last_id: i16) -> Read<Option<Field>> {
        let header = reader.byte()?;
        if header & 0x0f == 0 {
            return Ok(None);
        }
        let kind = Self::kind(reader, header & 0x0f)?;
        let id = match header >> 4 {
            0 => {
                let zigzag = reader.varint32()?;
                ((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32)) as i16
            }
            delta => last_id.wrapping_add(i16::from(delta)),
        };
        Ok(Some(Field { id, kind, value_in_header: kind == Kind::Bool }))
    }

    #[inline]
    fn length(reader: &mut Reader<'_>) -> Read<usize> {
        reader.varint32().map(|length| length as usize)
    }

    #[inline]
    fn map(reader: &mut Reader<'_>) -> Read<(Option<(Kind, Kind)>, usize)> {
        let count = reader.varint32()?;
        if count == 0 {
            return Ok((None, 0));
        }
        let kinds = reader.byte()?;
        let kinds = (Self::kind(reader, kinds >> 4)?, Self::kind(reader, kinds & 0x0f)?);
        Ok((Some(kinds), reader.count(count)?))
    }

    fn list(reader: &mut Reader<'_>) -> Read<(Kind, usize)> {
        let header = reader.byte()?;
        let kind = Self::kind(reader, header & 0x0f)?;
        let count = match header >> 4 {
            15 => reader.varint32()?,
            count => u32::from(count),
        };
        Ok((kind, reader.count(count)?))
    }

    fn skip_scalar(reader: &mut Reader<'_>, kind: Kind) -> Read<()> {
        match kind {
            Kind::I16 | Kind::I32 | Kind::I64 => reader.skip_varint(),
            Kind::Double => reader.take(8).map(drop),
            Kind::Uuid => reader.take(16).map(drop),
            _ => reader.byte().map(drop),
        }
    }
}

/// The binary protocol, in its strict form: a message begins with its version.
pub(crate) struct Binary;

impl Binary {
    fn kind(reader: &mut Reader<'_>, code: u8) -> Read<Kind> {
        Ok(match code {
            2 => Kind::Bool,
            3 => Kind::I8,
            4 => Kind::Double,
            6 => Kind::I16,
            8 => Kind::I32,
            10 => Kind::I64,
            11 => Kind::Binary,
            12 => Kind::Struct,
            13 => Kind::Map,
            14 => Kind::Set,
            15 => Kind::List,
            16 => Kind::Uuid,
            _ => return Err(reader.broken("there is no such type")),
        })
    }
}

impl Wire for Binary {
    fn head<'a>(reader: &mut Reader<'a>) -> Read<Head<'a>> {
        let [0x80, 0x01, _, message_type] = reader.array()? else {
            return Err(reader.broken("this is no message of the binary protocol"));
        };
        let name = Self::binary(reader)?;
        let sequence = i32::from_be_bytes(reader.array()?);
        Ok(Head { message_type, name, sequence })
    }

    #[inline]
    fn field(reader: &mut Reader<'_>, _: i16) -> Read<Option<Field>> {
        let code = reader.byte()?;
        if code == 0 {
            return Ok(None);
        }
        let kind = Self::kind(reader, code)?;
        let id = i16::from_be_bytes(reader.array()?);
        Ok(Some(Field { id, kind, value_in_header: false }))
    }

    #[inline]
    fn length(reader: &mut Reader<'_>) -> Read<usize> {
        // A negative length is larger than any frame.
        reader.array().map(|length| u32::from_be_bytes(length) as usize)
    }

    #[inline]
    fn map(reader: &mut Reader<'_>) -> Read<(Option<(Kind, Kind)>, usize)> {
        let [key, value] = reader.array()?;
        let count = u32::from_be_bytes(reader.array()?);
        if count == 0 {
            // Some writers leave the types of an empty map open.
            return Ok((None, 0));
        }
        let kinds = (Self::kind(reader, key)?, Self::kind(reader, value)?);
        Ok((Some(kinds), reader.count(count)?))
    }

    fn list(reader: &mut Reader<'_>) -> Read<(Kind, usize)> {
        let code = reader.byte()?;
        let count = u32::from_be_bytes(reader.array()?);
        Ok((Self::kind(reader, code)?, reader.count(count)?))
    }

    fn skip_scalar(reader: &mut Reader<'_>, kind: Kind) -> Read<()> {
        let bytes = match kind {
            Kind::I16 => 2,
            Kind::I32 => 4,
            Kind::I64 | Kind::Double => 8,
            Kind::Uuid => 16,
            _ => 1,
        };
        reader.take(bytes).map(drop)
    }
}
