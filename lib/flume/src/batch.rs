//! Batches: events encoded as they are pushed, ready to be sent, more than once if need be.
//!
//! In both protocols the encoding of a struct within a list does not depend on its neighbours. So each event is encoded once,
//! into the batch's buffer, and what stands before the events (the message's head with its sequence number, and how many
//! events there are) is made when the batch is sent.
//!
//! An event, `len` being a varint in the compact protocol and a big-endian i32 in the binary one:
//!
//! | part | compact | binary |
//! |---|---|---|
//! | field 1, a map | `1b` | `0d 00 01` |
//! | its size and types | `00` when it is empty, else len `88` | `0b 0b` len |
//! | each key, each value | len, bytes | len, bytes |
//! | field 2, binary | `18` | `0b 00 02` |
//! | the body | len, bytes | len, bytes |
//! | end of the struct | `00` | `00` |

use std::fmt;

use crate::protocol::Protocol;

/// What stands around the events in a frame, at most. Compact: protocol id, version and type 2; sequence number <= 5; name
/// 1 + 11; field 1; list <= 6; end of the arguments 1. Binary: 4; 4 + 11; 4; 3; 5; 1.
const fn envelope_bytes_max(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Compact => 27,
        Protocol::Binary => 32,
    }
}

/// Ends the arguments of the call, whose only field the list of events is.
const STOP: u8 = 0;

/// Why an event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The frame would become too large with what is in it. The event fits an empty batch.
    #[error("the batch is full")]
    Full,
    /// The event alone is larger than a frame may be.
    #[error("the event does not fit a frame")]
    TooLarge,
}

/// A batch in the making.
#[derive(Debug)]
pub struct BatchBuilder {
    protocol: Protocol,
    frame_bytes_max: usize,
    events: usize,
    body_bytes: usize,
    memory: Memory,
}

impl BatchBuilder {
    /// An empty batch whose frame will have no more than `frame_bytes_max` bytes after its length prefix.
    #[must_use]
    pub fn new(protocol: Protocol, frame_bytes_max: usize) -> Self {
        Self::in_memory(protocol, frame_bytes_max, Vec::new())
    }

    /// The same in memory that somebody has, for example that [of another batch](Batch::into_memory): more is taken when it is needed,
    /// and what was written then is moved.
    #[must_use]
    pub fn in_memory(protocol: Protocol, frame_bytes_max: usize, memory: Vec<u8>) -> Self {
        // Thrift counts in i32.
        let frame_bytes_max = frame_bytes_max.min(i32::MAX as usize);
        Self { protocol, frame_bytes_max, events: 0, body_bytes: 0, memory: Memory::new(memory) }
    }

    /// Adds an event whose body is the parts of `body`, one after the other.
    ///
    /// # Errors
    /// When the event does not fit. The batch stays as it was.
    #[inline(always)]
    pub fn push(&mut self, headers: &[(&[u8], &[u8])], body: &[&[u8]]) -> Result<(), PushError> {
        match self.protocol {
            Protocol::Compact => self.push_as::<Compact>(headers, body),
            Protocol::Binary => self.push_as::<Binary>(headers, body),
        }
    }

    /// The same with headers that other events share, `last` being the value of the last one.
    ///
    /// # Errors
    /// When the event does not fit. The batch stays as it was.
    ///
    /// # Panics
    /// When the headers are encoded for the other protocol.
    #[inline(always)]
    pub fn push_sharing(
        &mut self,
        headers: &SharedHeaders,
        last: &[u8],
        body: &[&[u8]],
    ) -> Result<(), PushError> {
        assert_eq!(self.protocol, headers.protocol, "the headers' protocol is the batch's");
        match self.protocol {
            Protocol::Compact => self.push_as::<Compact>(&(headers, last), body),
            Protocol::Binary => self.push_as::<Binary>(&(headers, last), body),
        }
    }

    #[inline(always)]
    fn push_as<E: Encoding>(
        &mut self,
        headers: &(impl PutHeaders + ?Sized),
        body: &[&[u8]],
    ) -> Result<(), PushError> {
        let body_bytes = body.iter().map(|part| part.len()).sum();
        let event_bytes =
            headers.bytes::<E>() + E::BODY_FIELD.len() + E::len_bytes(body_bytes) + body_bytes + 1;
        if self.frame_bytes() + event_bytes > self.frame_bytes_max {
            let fits_alone = envelope_bytes_max(self.protocol) + event_bytes <= self.frame_bytes_max;
            return Err(if fits_alone { PushError::Full } else { PushError::TooLarge });
        }
        let mut room = self.memory.room(event_bytes);
        headers.put::<E>(&mut room);
        room.put(E::BODY_FIELD);
        E::put_len(&mut room, body_bytes);
        body.iter().for_each(|part| room.put(part));
        room.byte(STOP);
        self.events += 1;
        self.body_bytes += body_bytes;
        Ok(())
    }

    /// How many events are in it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// What the frame has after its length prefix, at most: the sequence number's length is not known before it is sent.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        envelope_bytes_max(self.protocol) + self.memory.used
    }

    /// Bytes of all bodies.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// The batch as it can be sent.
    #[must_use]
    pub fn finish(mut self) -> Batch {
        self.memory.room(1).byte(STOP);
        Batch { protocol: self.protocol, events: self.events, memory: self.memory }
    }
}

/// Headers that many events have, encoded once: all but the value of the last one, which is an event's own.
#[derive(Debug, Clone)]
pub struct SharedHeaders {
    protocol: Protocol,
    encoded: Vec<u8>,
}

impl SharedHeaders {
    /// These headers, then one whose key is `last`.
    #[must_use]
    pub fn new(protocol: Protocol, headers: &[(&[u8], &[u8])], last: &[u8]) -> Self {
        let encoded = match protocol {
            Protocol::Compact => Self::encode::<Compact>(headers, last),
            Protocol::Binary => Self::encode::<Binary>(headers, last),
        };
        Self { protocol, encoded }
    }

    fn encode<E: Encoding>(headers: &[(&[u8], &[u8])], last: &[u8]) -> Vec<u8> {
        let entries: usize = headers.iter().map(|header| entry_bytes::<E>(*header)).sum();
        let mut encoded = vec![0; E::map_bytes(headers.len() + 1) + entries + string_bytes::<E>(last)];
        let mut room = Room { left: &mut encoded };
        E::put_map(&mut room, headers.len() + 1);
        headers.iter().for_each(|header| put_entry::<E>(&mut room, *header));
        put_string::<E>(&mut room, last);
        encoded
    }
}

/// A batch that can be sent over any connection of its protocol, as often as need be.
pub struct Batch {
    protocol: Protocol,
    events: usize,
    /// The events and the end of the call's arguments.
    memory: Memory,
}

impl Batch {
    /// How many events are in it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    /// What the frame has after its length prefix, at most.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        envelope_bytes_max(self.protocol) - 1 + self.encoded().len()
    }

    /// The protocol in which it is encoded.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its memory, for another batch.
    #[must_use]
    pub fn into_memory(self) -> Vec<u8> {
        self.memory.bytes
    }

    /// What follows the head of the call in its frame.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.memory.bytes[..self.memory.used]
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Batch");
        text.field("protocol", &self.protocol).field("events", &self.events);
        text.field("encoded_bytes", &self.encoded().len()).finish()
    }
}

/// Bytes that are written from their start on. All of them have a value, so that writing need not grow anything.
#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    used: usize,
}

impl Memory {
    fn new(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.capacity(), 0);
        Self { bytes, used: 0 }
    }

    /// Room for so many bytes, all of which will be written.
    #[inline(always)]
    fn room(&mut self, len: usize) -> Room<'_> {
        let end = self.used + len;
        if end > self.bytes.len() {
            self.bytes.resize(end.max(self.bytes.len() + self.bytes.len() / 2), 0);
        }
        let start = std::mem::replace(&mut self.used, end);
        Room { left: &mut self.bytes[start..end] }
    }
}

/// Room for one event.
struct Room<'a> {
    left: &'a mut [u8],
}

impl Room<'_> {
    #[inline(always)]
    fn take(&mut self, len: usize) -> &mut [u8] {
        let (taken, left) = std::mem::take(&mut self.left).split_at_mut(len);
        self.left = left;
        taken
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.take(1)[0] = byte;
    }

    /// Most parts are short, and a call of the system's copy is a detour for them.
    #[inline(always)]
    fn put(&mut self, part: &[u8]) {
        let to = self.take(part.len());
        match part.len() {
            64.. => to.copy_from_slice(part),
            32.. => copy_ends::<32>(to, part),
            16.. => copy_ends::<16>(to, part),
            8.. => copy_ends::<8>(to, part),
            4.. => copy_ends::<4>(to, part),
            _ => to.iter_mut().zip(part).for_each(|(to, from)| *to = *from),
        }
    }
}

/// Copies the first and the last `N` bytes, which are all if there are from `N` to twice as many.
#[inline(always)]
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk()) {
        *to = *from;
    }
}

/// How a protocol writes what an event has besides its strings.
trait Encoding {
    /// What stands before the body's length.
    const BODY_FIELD: &'static [u8];
    /// What stands before so many headers.
    fn map_bytes(headers: usize) -> usize;
    fn put_map(out: &mut Room<'_>, headers: usize);
    /// A string's length.
    fn len_bytes(len: usize) -> usize;
    fn put_len(out: &mut Room<'_>, len: usize);
}

struct Compact;

impl Encoding for Compact {
    const BODY_FIELD: &'static [u8] = &[0x18];

    #[inline(always)]
    fn map_bytes(headers: usize) -> usize {
        1 + Self::len_bytes(headers) + usize::from(headers > 0)
    }

    #[inline(always)]
    fn put_map(out: &mut Room<'_>, headers: usize) {
        const MAP_FIELD_1: u8 = 0x1b;
        const KEYS_AND_VALUES_BINARY: u8 = 0x88;
        out.byte(MAP_FIELD_1);
        Self::put_len(out, headers);
        if headers > 0 {
            out.byte(KEYS_AND_VALUES_BINARY);
        }
    }

    #[inline(always)]
    fn len_bytes(len: usize) -> usize {
        let bits = usize::BITS - (len | 1).leading_zeros();
        (bits as usize).div_ceil(7)
    }

    #[inline(always)]
    fn put_len(out: &mut Room<'_>, mut len: usize) {
        while len >= 0x80 {
            out.byte(len as u8 | 0x80);
            len >>= 7;
        }
        out.byte(len as u8);
    }
}

struct Binary;

impl Encoding for Binary {
    const BODY_FIELD: &'static [u8] = &[0x0b, 0, 2];

    #[inline(always)]
    fn map_bytes(headers: usize) -> usize {
        3 + 2 + Self::len_bytes(headers)
    }

    #[inline(always)]
    fn put_map(out: &mut Room<'_>, headers: usize) {
        const MAP_FIELD_1: [u8; 3] = [0x0d, 0, 1];
        const KEYS_AND_VALUES_BINARY: [u8; 2] = [0x0b, 0x0b];
        out.put(&MAP_FIELD_1);
        out.put(&KEYS_AND_VALUES_BINARY);
        Self::put_len(out, headers);
    }

    #[inline(always)]
    fn len_bytes(_len: usize) -> usize {
        4
    }

    /// No length gets here that does not fit a frame, whose maximum is an i32.
    #[inline(always)]
    fn put_len(out: &mut Room<'_>, len: usize) {
        out.put(&(len as u32).to_be_bytes());
    }
}

#[inline(always)]
fn string_bytes<E: Encoding>(text: &[u8]) -> usize {
    E::len_bytes(text.len()) + text.len()
}

#[inline(always)]
fn put_string<E: Encoding>(out: &mut Room<'_>, text: &[u8]) {
    E::put_len(out, text.len());
    out.put(text);
}

#[inline(always)]
fn entry_bytes<E: Encoding>((key, value): (&[u8], &[u8])) -> usize {
    string_bytes::<E>(key) + string_bytes::<E>(value)
}

#[inline(always)]
fn put_entry<E: Encoding>(out: &mut Room<'_>, (key, value): (&[u8], &[u8])) {
    put_string::<E>(out, key);
    put_string::<E>(out, value);
}

/// The headers of an event, in one form or the other.
trait PutHeaders {
    fn bytes<E: Encoding>(&self) -> usize;
    fn put<E: Encoding>(&self, out: &mut Room<'_>);
}

impl PutHeaders for [(&[u8], &[u8])] {
    #[inline(always)]
    fn bytes<E: Encoding>(&self) -> usize {
        E::map_bytes(self.len()) + self.iter().map(|header| entry_bytes::<E>(*header)).sum::<usize>()
    }

    #[inline(always)]
    fn put<E: Encoding>(&self, out: &mut Room<'_>) {
        E::put_map(out, self.len());
        self.iter().for_each(|header| put_entry::<E>(out, *header));
    }
}

impl PutHeaders for (&SharedHeaders, &[u8]) {
    #[inline(always)]
    fn bytes<E: Encoding>(&self) -> usize {
        self.0.encoded.len() + string_bytes::<E>(self.1)
    }

    #[inline(always)]
    fn put<E: Encoding>(&self, out: &mut Room<'_>) {
        out.put(&self.0.encoded);
        put_string::<E>(out, self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &[(&[u8], &[u8])] = &[(b"a", b"bc"), (b"d", b"")];
    const BOTH: [Protocol; 2] = [Protocol::Compact, Protocol::Binary];

    fn encoded(protocol: Protocol, headers: &[(&[u8], &[u8])], body: &[&[u8]]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(protocol, 10_000);
        builder.push(headers, body).unwrap();
        builder.finish().encoded().to_vec()
    }

    #[test]
    fn a_compact_event_has_these_bytes() {
        assert_eq!(
            encoded(Protocol::Compact, HEADERS, &[b"x", b"", b"yz"]),
            b"\x1b\x02\x88\x01a\x02bc\x01d\x00\x18\x03xyz\x00\x00"
        );
        assert_eq!(encoded(Protocol::Compact, &[], &[]), b"\x1b\x00\x18\x00\x00\x00");
        let long = [b'.'; 300];
        let encoded = encoded(Protocol::Compact, &[], &[&long]);
        assert_eq!(encoded[..5], *b"\x1b\x00\x18\xac\x02");
        assert_eq!(encoded.len(), 5 + 300 + 2);
    }

    #[test]
    fn a_binary_event_has_these_bytes() {
        assert_eq!(
            encoded(Protocol::Binary, HEADERS, &[b"x", b"", b"yz"]),
            b"\x0d\0\x01\x0b\x0b\0\0\0\x02\0\0\0\x01a\0\0\0\x02bc\0\0\0\x01d\0\0\0\0\x0b\0\x02\0\0\0\x03xyz\0\0"
        );
    }

    #[test]
    fn shared_headers_are_those_that_are_written_out() {
        let name = [b'.'; 200];
        for protocol in BOTH {
            for len in 0..200 {
                let (last, value) = (&name[..len], &name[len..]);
                let shared = SharedHeaders::new(protocol, &[(b"a", b"bc"), (value, last)], last);
                let mut builder = BatchBuilder::new(protocol, 10_000);
                builder.push_sharing(&shared, value, &[value, b"x"]).unwrap();
                let written_out: [(&[u8], &[u8]); 3] = [(b"a", b"bc"), (value, last), (last, value)];
                assert_eq!(builder.finish().encoded(), encoded(protocol, &written_out, &[value, b"x"]));
            }
        }
    }

    #[test]
    fn a_frame_never_exceeds_its_maximum_and_a_failed_push_changes_nothing() {
        for protocol in BOTH {
            let mut builder = BatchBuilder::new(protocol, 400);
            assert_eq!(builder.push(HEADERS, &[&[0; 400]]), Err(PushError::TooLarge));
            assert!(builder.is_empty());
            builder.push(HEADERS, &[&[0; 200]]).unwrap();
            let before = (builder.events(), builder.frame_bytes(), builder.body_bytes());
            assert_eq!(builder.push(HEADERS, &[&[0; 200]]), Err(PushError::Full));
            assert_eq!(builder.push(HEADERS, &[&[0; 400]]), Err(PushError::TooLarge));
            assert_eq!((builder.events(), builder.frame_bytes(), builder.body_bytes()), before);
            // Up to the last byte.
            let left = 400 - builder.frame_bytes();
            let overhead = encoded(protocol, &[], &[]).len() - 1;
            // A compact length of 128 or more has a second byte.
            let body = left - overhead - usize::from(protocol == Protocol::Compact && left - overhead > 128);
            assert_eq!(builder.push(&[], &[&vec![0; body + 1]]), Err(PushError::Full));
            builder.push(&[], &[&vec![0; body]]).unwrap();
            assert_eq!(builder.frame_bytes(), 400);
            assert_eq!((builder.events(), builder.body_bytes()), (2, 200 + body));
            let batch = builder.finish();
            assert_eq!((batch.events(), batch.frame_bytes()), (2, 400));
        }
    }

    #[test]
    fn a_maximum_below_the_envelope_takes_nothing() {
        for protocol in BOTH {
            assert_eq!(BatchBuilder::new(protocol, 10).push(&[], &[]), Err(PushError::TooLarge));
        }
    }
}
