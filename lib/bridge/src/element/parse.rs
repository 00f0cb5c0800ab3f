//! From an element's bytes to the parts of its event.
//!
//! Fields are found wherever they stand; of a name that occurs twice the last one counts. Fields that are not asked for are checked to be
//! JSON and otherwise left alone. `log_type` is an integer, also when it is written `3.0` or `3e0`; one with a fraction is refused
//! rather than rounded, null is as good as absent.

use std::borrow::Cow;

use crate::element::body::{Body, LOG_TYPE, is, put_tail, unescape};
use crate::element::fast;
use crate::element::marks::{Marked, Marker};
use crate::element::scan::{Broken, Kind, Nesting, Scanner, Text};
use crate::element::{Reason, Rejection};

/// Depth of nesting that memory is kept for.
const NESTING_KEPT: usize = 1024;
/// Bytes of a body that memory is kept for.
const BODY_BYTES_KEPT: usize = 64 << 10;

/// What an event is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) momoid: Cow<'a, [u8]>,
    pub(crate) kind: Cow<'a, [u8]>,
    pub(crate) business: Cow<'a, [u8]>,
    /// The business as JSON, without quotes.
    pub(crate) business_raw: &'a [u8],
    /// Decimal digits, with a sign when negative; empty when there is none.
    pub(crate) log_type: LogType<'a>,
    /// The body object up to its last brace.
    pub(crate) body_open: &'a [u8],
    /// Whether a comma has to come before another member.
    pub(crate) body_members: bool,
}

impl Element<'_> {
    /// Writes the business and the log type as the event's header has them, in place of what `name` held.
    #[inline]
    pub(crate) fn write_name(&self, name: &mut Vec<u8>) {
        name.clear();
        name.extend_from_slice(&self.business);
        name.extend_from_slice(self.log_type.digits());
    }

    /// Writes what is added to the body, in place of what `tail` held.
    #[inline]
    pub(crate) fn write_tail(&self, tail: &mut Vec<u8>) {
        tail.clear();
        put_tail(tail, self.business_raw, self.log_type.digits());
    }

    /// Whether the business stands in the element as it is, without escapes.
    #[inline]
    pub(crate) fn has_plain_business(&self) -> bool {
        matches!(self.business, Cow::Borrowed(_))
    }

    /// The parts of the event's body, `tail` being what is added to it.
    #[inline]
    pub(crate) fn body<'b>(&'b self, tail: &'b [u8]) -> [&'b [u8]; 6] {
        let tail = if self.body_members { tail } else { tail.strip_prefix(b",").unwrap_or(tail) };
        [&self.momoid, b"\t", &self.kind, b"\t", self.body_open, tail]
    }
}

/// A number of at most 20 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogType<'a> {
    /// As it stands in the element; empty when there is none.
    Written(&'a [u8]),
    /// Digits of a number that is written in another way, and how many there are.
    Computed([u8; 20], u8),
}

impl<'a> LogType<'a> {
    #[inline]
    pub(crate) fn digits(&self) -> &[u8] {
        match self {
            Self::Written(digits) => digits,
            Self::Computed(digits, len) => &digits[..usize::from(*len)],
        }
    }

    #[inline]
    fn parse(raw: &'a [u8]) -> Option<Self> {
        let is_plain = raw.len() <= 18 && raw.iter().all(u8::is_ascii_digit);
        if is_plain { Some(Self::Written(raw)) } else { Self::compute(raw) }
    }

    #[inline(never)]
    fn compute(raw: &[u8]) -> Option<Self> {
        let text = integral(raw)?.to_string();
        let mut digits = [0; 20];
        digits.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self::Computed(digits, u8::try_from(text.len()).ok()?))
    }
}

/// The integer that a JSON number is, in whichever way it is written. A double holds integers up to 2^53 exactly.
fn integral(raw: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(raw).ok()?;
    if let Ok(value) = text.parse::<i128>() {
        return (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(value);
    }
    let value: f64 = text.parse().ok()?;
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i128)
}

/// A field of `params`, by its place in [`Fields`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    Momoid,
    Kind,
    Business,
    LogType,
    Body,
}

/// A value that a field has, whatever its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// Nothing when the field is missing.
    pub(crate) kind: Option<Kind>,
    /// Of a string.
    pub(crate) escaped: bool,
    /// Of a string what is between its quotes.
    pub(crate) raw: &'a [u8],
}

impl Found<'_> {
    fn name(&self) -> &'static str {
        self.kind.map_or("missing", Kind::name)
    }
}

/// The fields of `params`. They are written in place and never moved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fields<'a> {
    pub(crate) found: [Found<'a>; 5],
    /// The last body that is an object.
    pub(crate) body: Body<'a>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new() -> Self {
        let found = [Found { kind: None, escaped: false, raw: b"" }; 5];
        Self { found, body: Body::default() }
    }

    fn clear(&mut self) {
        self.found.iter_mut().for_each(|found| found.kind = None);
    }

    #[inline(always)]
    fn get(&self, field: Field) -> &Found<'a> {
        &self.found[field as usize]
    }
}

/// Decodes one element after the other, with memory that it keeps.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    marker: Marker,
    nesting: Nesting,
    body_copy: Vec<u8>,
}

impl Decoder {
    /// The parts of an element's event.
    pub(crate) fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Element<'a>, Rejection> {
        let marked = self.marker.mark(bytes);
        if !marked.is_ascii
            && let Err(error) = std::str::from_utf8(bytes)
        {
            return Err(Rejection::new(
                Reason::NotJson,
                format!("not UTF-8 from byte {} on", error.valid_up_to()),
            ));
        }
        self.nesting.shrink_to(NESTING_KEPT);
        self.body_copy.clear();
        self.body_copy.shrink_to(BODY_BYTES_KEPT);
        let mut fields = Fields::new();
        if marked.has_controls || fast::fields(&marked, &mut fields, &mut self.nesting).is_none() {
            any_fields(marked, &mut fields, &mut self.nesting)?;
        }
        let momoid = text("momoid", fields.get(Field::Momoid))?;
        let kind = text("type", fields.get(Field::Kind))?;
        let business = text("businessName", fields.get(Field::Business))?;
        let log_type = log_type(fields.get(Field::LogType))?;
        if fields.get(Field::Body).kind != Some(Kind::Object) {
            return Err(wrong("body", fields.get(Field::Body).name(), "an object"));
        }
        let (body_open, body_members) =
            fields.body.open(marked, !log_type.digits().is_empty(), &mut self.body_copy, &mut self.nesting);
        let business_raw = fields.get(Field::Business).raw;
        Ok(Element { momoid, kind, business, business_raw, log_type, body_open, body_members })
    }
}

fn not_json(broken: Broken) -> Rejection {
    Rejection::new(Reason::NotJson, format!("at byte {}: expected {}", broken.at, broken.expected))
}

fn wrong(field: &str, found: &str, expected: &str) -> Rejection {
    Rejection::new(Reason::WrongShape, format!("{field} is {found}, expected {expected}"))
}

#[inline(always)]
fn text<'a>(field: &str, found: &Found<'a>) -> Result<Cow<'a, [u8]>, Rejection> {
    if found.kind != Some(Kind::String) {
        return Err(wrong(field, found.name(), "a string"));
    }
    if found.escaped { unescaped(field, found.raw) } else { Ok(Cow::Borrowed(found.raw)) }
}

#[inline(never)]
fn unescaped<'a>(field: &str, raw: &'a [u8]) -> Result<Cow<'a, [u8]>, Rejection> {
    let half = || Rejection::new(Reason::NotJson, format!("{field} holds half of a surrogate pair"));
    Ok(Cow::Owned(unescape(raw).ok_or_else(half)?.into_bytes()))
}

#[inline(always)]
fn log_type<'a>(found: &Found<'a>) -> Result<LogType<'a>, Rejection> {
    match found.kind {
        None | Some(Kind::Null) => Ok(LogType::Written(b"")),
        Some(Kind::Number) => LogType::parse(found.raw)
            .ok_or_else(|| wrong("log_type", &String::from_utf8_lossy(found.raw), "an integer of 64 bits")),
        Some(kind) => Err(wrong("log_type", kind.name(), "a number")),
    }
}

/// Walks over any text.
#[inline(never)]
pub(crate) fn any_fields<'a>(
    text: Marked<'a>,
    fields: &mut Fields<'a>,
    nesting: &mut Nesting,
) -> Result<(), Rejection> {
    match top_level(text, fields, nesting).map_err(not_json)? {
        Params::Fields => Ok(()),
        Params::Missing => Err(wrong("params", "missing", "an object")),
        Params::Wrong(kind) => Err(wrong("params", kind.name(), "an object")),
        Params::NotAnObject(kind) => Err(wrong("the element", kind.name(), "an object")),
    }
}

enum Params {
    Fields,
    Missing,
    Wrong(Kind),
    NotAnObject(Kind),
}

/// Walks over the whole text. `found` is what the last `params` hold, when those are an object.
#[inline(always)]
fn top_level<'a>(text: Marked<'a>, found: &mut Fields<'a>, nesting: &mut Nesting) -> Result<Params, Broken> {
    let mut scanner = Scanner::new(text, 0);
    let kind = scanner.kind()?;
    if kind != Kind::Object {
        scanner.value(nesting)?;
        scanner.end()?;
        return Ok(Params::NotAnObject(kind));
    }
    let mut params = Params::Missing;
    scanner.take(b'{');
    let mut key = scanner.first_key()?;
    while let Some(name) = key {
        if is(name, b"params") {
            params = match scanner.kind()? {
                Kind::Object => {
                    found.clear();
                    scanner = fields(scanner, found, nesting)?;
                    Params::Fields
                }
                kind => {
                    scanner.value(nesting)?;
                    Params::Wrong(kind)
                }
            };
        } else {
            scanner.value(nesting)?;
        }
        key = scanner.next_key()?;
    }
    scanner.end()?;
    Ok(params)
}

#[inline(always)]
fn fields<'a>(
    mut scanner: Scanner<'a>,
    fields: &mut Fields<'a>,
    nesting: &mut Nesting,
) -> Result<Scanner<'a>, Broken> {
    scanner.take(b'{');
    let mut key = scanner.first_key()?;
    while let Some(name) = key {
        let Some(field) = field(name) else {
            scanner.value(nesting)?;
            key = scanner.next_key()?;
            continue;
        };
        let kind = scanner.kind()?;
        let (raw, escaped) = match kind {
            Kind::String => {
                let text = scanner.string()?;
                (text.raw, text.escaped)
            }
            Kind::Object if matches!(field, Field::Body) => {
                fields.body = Body::scan(&mut scanner, nesting)?;
                (fields.body.raw, false)
            }
            _ => {
                let start = scanner.at();
                scanner.value(nesting)?;
                (scanner.since(start), false)
            }
        };
        fields.found[field as usize] = Found { kind: Some(kind), escaped, raw };
        key = scanner.next_key()?;
    }
    Ok(scanner)
}

#[inline(always)]
fn field(name: Text<'_>) -> Option<Field> {
    if name.escaped { escaped_field(name.raw) } else { plain_field(name.raw) }
}

#[inline(never)]
fn escaped_field(name: &[u8]) -> Option<Field> {
    plain_field(unescape(name)?.as_bytes())
}

#[inline(always)]
pub(crate) fn plain_field(name: &[u8]) -> Option<Field> {
    // Matched as a whole it would be compared byte by byte.
    Some(match name.len() {
        4 if name == b"type" => Field::Kind,
        4 if name == b"body" => Field::Body,
        6 if name == b"momoid" => Field::Momoid,
        8 if name == LOG_TYPE => Field::LogType,
        12 if name == b"businessName" => Field::Business,
        _ => return None,
    })
}
