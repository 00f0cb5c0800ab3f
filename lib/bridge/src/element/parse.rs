//! From an element's bytes to the parts of its event.
//!
//! Fields are found wherever they stand; of a name that occurs twice the last one counts. Fields that are not asked for are checked to be
//! JSON and otherwise left alone. `log_type` is an integer, also when it is written `3.0` or `3e0`; one with a fraction is refused
//! rather than rounded, null is as good as absent.

use std::borrow::Cow;

use crate::element::body::{Body, is, unescape};
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
    pub(crate) log_type: LogType,
    /// The body object up to its last brace.
    pub(crate) body_open: &'a [u8],
    /// Whether a comma has to come before another member.
    pub(crate) body_members: bool,
}

impl Element<'_> {
    /// The parts of the event's body.
    #[inline]
    pub(crate) fn body(&self) -> [&[u8]; 12] {
        let digits = self.log_type.digits();
        let comma: &[u8] = if self.body_members { b"," } else { b"" };
        let log_type: [&[u8]; 3] =
            if digits.is_empty() { [b"", b"", b"}"] } else { [b",\"log_type\":\"", digits, b"\"}"] };
        [
            &self.momoid,
            b"\t",
            &self.kind,
            b"\t",
            self.body_open,
            comma,
            b"\"business_type\":\"",
            self.business_raw,
            b"\"",
            log_type[0],
            log_type[1],
            log_type[2],
        ]
    }
}

/// A number of at most 20 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogType {
    digits: [u8; 20],
    len: u8,
}

impl LogType {
    pub(crate) fn digits(&self) -> &[u8] {
        &self.digits[..usize::from(self.len)]
    }

    fn parse(raw: &[u8]) -> Option<Self> {
        let plain = raw.len() <= 18 && raw.iter().all(u8::is_ascii_digit);
        if plain { Self::of(raw) } else { Self::of(integral(raw)?.to_string().as_bytes()) }
    }

    fn of(text: &[u8]) -> Option<Self> {
        let mut digits = [0; 20];
        digits.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self { digits, len: u8::try_from(text.len()).ok()? })
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

/// A value that a field had, whatever its type.
#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    Nothing,
    Text(Text<'a>),
    Object(Body<'a>),
    Other(Kind, &'a [u8]),
}

impl Found<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "missing",
            Self::Text(_) => "a string",
            Self::Object(_) => "an object",
            Self::Other(kind, _) => kind.name(),
        }
    }
}

/// The fields of `params`.
#[derive(Debug, Clone, Copy)]
struct Fields<'a> {
    momoid: Found<'a>,
    kind: Found<'a>,
    business: Found<'a>,
    log_type: Found<'a>,
    body: Found<'a>,
}

impl Fields<'_> {
    const NONE: Self = Self {
        momoid: Found::Nothing,
        kind: Found::Nothing,
        business: Found::Nothing,
        log_type: Found::Nothing,
        body: Found::Nothing,
    };
}

/// Decodes one element after the other, with memory that it keeps.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    nesting: Nesting,
    body_copy: Vec<u8>,
}

impl Decoder {
    /// The parts of an element's event.
    pub(crate) fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Element<'a>, Rejection> {
        if let Err(error) = std::str::from_utf8(bytes) {
            return Err(Rejection::new(
                Reason::NotJson,
                format!("not UTF-8 from byte {} on", error.valid_up_to()),
            ));
        }
        self.nesting.shrink_to(NESTING_KEPT);
        self.body_copy.clear();
        self.body_copy.shrink_to(BODY_BYTES_KEPT);
        let params = top_level(bytes, &mut self.nesting).map_err(not_json)?;
        let fields = match params {
            Params::Fields(fields) => fields,
            Params::Missing => return Err(wrong("params", "missing", "an object")),
            Params::Wrong(kind) => return Err(wrong("params", kind.name(), "an object")),
            Params::NotAnObject(kind) => return Err(wrong("the element", kind.name(), "an object")),
        };
        let (momoid, _) = text("momoid", fields.momoid)?;
        let (kind, _) = text("type", fields.kind)?;
        let (business, business_raw) = text("businessName", fields.business)?;
        let log_type = match fields.log_type {
            Found::Nothing | Found::Other(Kind::Null, _) => LogType::default(),
            Found::Other(Kind::Number, raw) => LogType::parse(raw)
                .ok_or_else(|| wrong("log_type", &String::from_utf8_lossy(raw), "an integer of 64 bits"))?,
            other => return Err(wrong("log_type", other.name(), "a number")),
        };
        let Found::Object(body) = fields.body else {
            return Err(wrong("body", fields.body.name(), "an object"));
        };
        let (body_open, body_members) =
            body.open(!log_type.digits().is_empty(), &mut self.body_copy, &mut self.nesting);
        Ok(Element { momoid, kind, business, business_raw, log_type, body_open, body_members })
    }
}

fn not_json(broken: Broken) -> Rejection {
    Rejection::new(Reason::NotJson, format!("at byte {}: expected {}", broken.at, broken.expected))
}

fn wrong(field: &str, found: &str, expected: &str) -> Rejection {
    Rejection::new(Reason::WrongShape, format!("{field} is {found}, expected {expected}"))
}

fn text<'a>(field: &str, found: Found<'a>) -> Result<(Cow<'a, [u8]>, &'a [u8]), Rejection> {
    match found {
        Found::Text(text) if !text.escaped => Ok((Cow::Borrowed(text.raw), text.raw)),
        Found::Text(text) => {
            let unescaped = unescape(text).ok_or_else(|| {
                Rejection::new(Reason::NotJson, format!("{field} holds half of a surrogate pair"))
            })?;
            Ok((Cow::Owned(unescaped.into_bytes()), text.raw))
        }
        other => Err(wrong(field, other.name(), "a string")),
    }
}

enum Params<'a> {
    Fields(Fields<'a>),
    Missing,
    Wrong(Kind),
    NotAnObject(Kind),
}

fn top_level<'a>(bytes: &'a [u8], nesting: &mut Nesting) -> Result<Params<'a>, Broken> {
    let mut scanner = Scanner::new(bytes);
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
                Kind::Object => Params::Fields(fields(&mut scanner, nesting)?),
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

fn fields<'a>(scanner: &mut Scanner<'a>, nesting: &mut Nesting) -> Result<Fields<'a>, Broken> {
    let mut fields = Fields::NONE;
    scanner.take(b'{');
    let mut key = scanner.first_key()?;
    while let Some(name) = key {
        match field(&mut fields, name) {
            Some(field) => *field = found(scanner, nesting)?,
            None => {
                scanner.value(nesting)?;
            }
        }
        key = scanner.next_key()?;
    }
    Ok(fields)
}

fn field<'f, 'a>(fields: &'f mut Fields<'a>, name: Text<'_>) -> Option<&'f mut Found<'a>> {
    if name.escaped {
        let unescaped = unescape(name)?;
        return field(fields, Text { raw: unescaped.as_bytes(), escaped: false });
    }
    Some(match name.raw {
        b"momoid" => &mut fields.momoid,
        b"type" => &mut fields.kind,
        b"businessName" => &mut fields.business,
        b"log_type" => &mut fields.log_type,
        b"body" => &mut fields.body,
        _ => return None,
    })
}

fn found<'a>(scanner: &mut Scanner<'a>, nesting: &mut Nesting) -> Result<Found<'a>, Broken> {
    Ok(match scanner.kind()? {
        Kind::String => Found::Text(scanner.string()?),
        Kind::Object => Found::Object(Body::scan(scanner, nesting)?),
        kind => Found::Other(kind, scanner.value(nesting)?),
    })
}
