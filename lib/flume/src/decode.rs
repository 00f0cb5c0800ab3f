//! What a source reads: calls and their events.

use bytes::Bytes;

use crate::event::{EventBatch, EventSpans, Span};
use crate::protocol::Protocol;
use crate::reader::{Binary, Compact, Head, Kind, Read, Reader, Wire};

/// Why a frame holds no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {what}")]
pub struct DecodeError {
    /// Where in the frame.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The methods of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// One event.
    Append,
    /// Several events.
    AppendBatch,
}

impl Call {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendBatch => "appendBatch",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Append, Self::AppendBatch].into_iter().find(|call| call.name().as_bytes() == name)
    }
}

/// What a frame asks for. `sequence` comes back with the answer.
#[derive(Debug, Clone)]
pub enum Request {
    /// To take events.
    Append {
        /// By which method.
        call: Call,
        /// The call's number.
        sequence: i32,
        /// One event for [`Call::Append`].
        events: EventBatch,
    },
    /// A method that a source has, with arguments that make no sense.
    BadArguments {
        /// The method.
        call: Call,
        /// The call's number.
        sequence: i32,
        /// What is wrong with them.
        error: DecodeError,
    },
    /// A method that a source does not have.
    UnknownMethod {
        /// Its name.
        method: String,
        /// The call's number.
        sequence: i32,
    },
    /// No call but, say, a reply.
    NotACall {
        /// What its head names.
        method: String,
        /// Its number.
        sequence: i32,
    },
}

/// Reads a frame's content.
///
/// # Errors
/// When not even its head can be read: whoever sent it speaks something else.
pub fn decode_request(protocol: Protocol, frame: Bytes) -> Result<Request, DecodeError> {
    match protocol {
        Protocol::Compact => request::<Compact>(frame),
        Protocol::Binary => request::<Binary>(frame),
    }
}

fn request<W: Wire>(frame: Bytes) -> Result<Request, DecodeError> {
    const CALL: u8 = 1;
    let mut reader = Reader::new(&frame);
    let Head { message_type, name, sequence } = match W::head(&mut reader) {
        Ok(head) => head,
        Err(broken) => return Err(reader.error(broken)),
    };
    let method = || String::from_utf8_lossy(name).into_owned();
    if message_type != CALL {
        return Ok(Request::NotACall { method: method(), sequence });
    }
    let Some(call) = Call::from_name(name) else {
        return Ok(Request::UnknownMethod { method: method(), sequence });
    };
    let mut events = Events::default();
    Ok(match events.arguments::<W>(&mut reader, call) {
        Ok(()) => {
            let Events { headers, events } = events;
            Request::Append { call, sequence, events: EventBatch { frame, headers, events } }
        }
        Err(broken) => Request::BadArguments { call, sequence, error: reader.error(broken) },
    })
}

/// No event takes fewer bytes, in either protocol.
const EVENT_BYTES_MIN: usize = 5;

#[derive(Debug, Default)]
struct Events {
    headers: Vec<(Span, Span)>,
    events: Vec<EventSpans>,
}

impl Events {
    /// The arguments of a call: a struct whose field 1 is the event, or the list of them.
    fn arguments<W: Wire>(&mut self, reader: &mut Reader<'_>, call: Call) -> Read<()> {
        let (mut last_id, mut found) = (0, false);
        while let Some(field) = W::field(reader, last_id)? {
            last_id = field.id;
            match (field.id, field.kind, call) {
                (1, Kind::Struct, Call::Append) if !found => {
                    self.event::<W>(reader)?;
                    found = true;
                }
                (1, Kind::List, Call::AppendBatch) if !found => {
                    self.list::<W>(reader)?;
                    found = true;
                }
                _ => W::skip_field(reader, field)?,
            }
        }
        if found { Ok(()) } else { Err(reader.broken("the call has no events")) }
    }

    fn list<W: Wire>(&mut self, reader: &mut Reader<'_>) -> Read<()> {
        let (kind, count) = W::list(reader)?;
        if kind != Kind::Struct && count > 0 {
            return Err(reader.broken("the events are no structs"));
        }
        let room = count.min(reader.left() / EVENT_BYTES_MIN);
        self.events.reserve(room);
        for index in 0..count {
            self.event::<W>(reader)?;
            if index == 0 {
                // The others most likely have as many headers.
                let each = self.headers.len();
                self.headers.reserve(each * room.saturating_sub(1));
            }
        }
        Ok(())
    }

    fn event<W: Wire>(&mut self, reader: &mut Reader<'_>) -> Read<()> {
        let (mut last_id, mut has_headers, mut body) = (0, false, None);
        while let Some(field) = W::field(reader, last_id)? {
            last_id = field.id;
            match (field.id, field.kind) {
                (1, Kind::Map) if !has_headers => {
                    self.headers::<W>(reader)?;
                    has_headers = true;
                }
                (2, Kind::Binary) => {
                    let len = W::binary(reader)?.len();
                    body = Some(Span::before(reader.offset(), len));
                }
                _ => W::skip_field(reader, field)?,
            }
        }
        if !has_headers {
            return Err(reader.broken("an event has no headers"));
        }
        let body = body.ok_or_else(|| reader.broken("an event has no body"))?;
        self.events.push(EventSpans { body, headers_end: self.headers.len() as u32 });
        Ok(())
    }

    fn headers<W: Wire>(&mut self, reader: &mut Reader<'_>) -> Read<()> {
        let (kinds, count) = W::map(reader)?;
        if kinds.is_some_and(|kinds| kinds != (Kind::Binary, Kind::Binary)) {
            return Err(reader.broken("the headers are no strings"));
        }
        for _ in 0..count {
            let mut string = || {
                let len = W::binary(reader)?.len();
                Ok(Span::before(reader.offset(), len))
            };
            let header = (string()?, string()?);
            self.headers.push(header);
        }
        Ok(())
    }
}
