//! The body of an event: the element's body object and what is added to it.
//!
//! The object's bytes are kept: order, spaces and numbers come out as they came in. Two things are changed where they occur:
//!
//! * Line ends and tabs outside of strings go: an event is one line with its columns set apart by tabs. In JSON a control
//!   character can stand only there.
//! * A member called `business_type`, or `log_type` when the element has one, gives way to what is added: each name occurs once, and
//!   what the route was chosen by wins, as it does in a map that is assigned to.

use crate::element::marks::Marked;
use crate::element::scan::{Broken, Nesting, Scanner, Text};

pub(crate) const BUSINESS_TYPE: &[u8] = b"business_type";
pub(crate) const LOG_TYPE: &[u8] = b"log_type";

/// Appends what is added to a body that has members, up to the object's end. `business` is as it stands in JSON, without quotes; no
/// `log_type`, no member.
pub(crate) fn put_tail(out: &mut Vec<u8>, business: &[u8], log_type: &[u8]) {
    for part in [b",\"business_type\":\"", business, b"\""] {
        out.extend_from_slice(part);
    }
    if !log_type.is_empty() {
        for part in [b",\"log_type\":\"", log_type, b"\""] {
            out.extend_from_slice(part);
        }
    }
    out.push(b'}');
}

/// What a walk over the object found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Body<'a> {
    pub(crate) start: usize,
    /// From `{` to `}`.
    pub(crate) raw: &'a [u8],
    pub(crate) members: bool,
    pub(crate) has_business_type: bool,
    pub(crate) has_log_type: bool,
}

impl<'a> Body<'a> {
    /// Walks over the object that comes next.
    #[inline(always)]
    pub(crate) fn scan(scanner: &mut Scanner<'a>, nesting: &mut Nesting) -> Result<Self, Broken> {
        scanner.skip_whitespace();
        let start = scanner.at();
        scanner.take(b'{');
        let (mut members, mut has_business_type, mut has_log_type) = (false, false, false);
        let mut key = scanner.first_key()?;
        while let Some(name) = key {
            members = true;
            has_business_type |= is(name, BUSINESS_TYPE);
            has_log_type |= is(name, LOG_TYPE);
            scanner.value(nesting)?;
            key = scanner.next_key()?;
        }
        let raw = scanner.since(start);
        Ok(Self { start, raw, members, has_business_type, has_log_type })
    }

    /// The object's bytes without its last `}`, ready for more members; `copy` is used when they have to be changed.
    #[inline(always)]
    pub(crate) fn open<'b>(
        &self,
        text: Marked<'_>,
        drop_log_type: bool,
        copy: &'b mut Vec<u8>,
        nesting: &mut Nesting,
    ) -> (&'b [u8], bool)
    where
        'a: 'b,
    {
        let cuts = self.has_business_type || (drop_log_type && self.has_log_type);
        let has_controls = text.has_controls && self.raw.iter().any(|&byte| byte < 0x20);
        if !cuts && !has_controls {
            return (&self.raw[..self.raw.len() - 1], self.members);
        }
        copy.clear();
        let members =
            if cuts { self.copy_members(text, drop_log_type, copy, nesting) } else { self.copy_all(copy) };
        if has_controls {
            copy.retain(|&byte| byte >= 0x20);
        }
        (copy, members)
    }

    fn copy_all(&self, copy: &mut Vec<u8>) -> bool {
        copy.extend_from_slice(&self.raw[..self.raw.len() - 1]);
        self.members
    }

    /// Copies the members that stay. It has been walked over before, so the walk does not fail; would it, what was copied so far is
    /// whole members.
    fn copy_members(
        &self,
        text: Marked<'_>,
        drop_log_type: bool,
        copy: &mut Vec<u8>,
        nesting: &mut Nesting,
    ) -> bool {
        copy.push(b'{');
        let mut members = false;
        let mut scanner = Scanner::new(text, self.start);
        scanner.take(b'{');
        let mut key = scanner.first_key();
        while let Ok(Some(name)) = key {
            scanner.skip_whitespace();
            let value = scanner.at();
            let Ok(()) = scanner.value(nesting) else { break };
            if !(is(name, BUSINESS_TYPE) || drop_log_type && is(name, LOG_TYPE)) {
                if std::mem::replace(&mut members, true) {
                    copy.push(b',');
                }
                copy.push(b'"');
                copy.extend_from_slice(name.raw);
                copy.extend_from_slice(b"\":");
                copy.extend_from_slice(scanner.since(value));
            }
            key = scanner.next_key();
        }
        members
    }
}

/// Whether a key is this name, however it is written.
#[inline(always)]
pub(crate) fn is(key: Text<'_>, name: &[u8]) -> bool {
    if key.escaped { unescape(key.raw).is_some_and(|text| text.as_bytes() == name) } else { key.raw == name }
}

/// The characters of a string, which stands here without its quotes; nothing when it holds half of a surrogate pair.
#[inline(never)]
pub(crate) fn unescape(raw: &[u8]) -> Option<String> {
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice(&quoted).ok()
}
