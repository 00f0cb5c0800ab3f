//! The walk over an element as most writers write it, which costs less than the one over any JSON.
//!
//! It takes one space or none after commas and colons and no other one, and gives up on whatever it does not know: then the other walk
//! begins anew, so that all errors come from there. Where it knows a value to be sound it gives what the other walk gives.
//!
//! Names and strings are found by going through the quotes, not through the bytes: no step waits for a number's end to be found.

use crate::element::body::{BUSINESS_TYPE, Body, LOG_TYPE};
use crate::element::marks::{Marked, Stops};
use crate::element::parse::{Field, Fields, Found, plain_field};
use crate::element::scan::{Kind, Nesting, Scanner};

/// Walks over the whole text, an object with `params` that are an object. Nothing when another walk has to tell what it is.
#[inline(always)]
pub(crate) fn fields<'a>(text: &Marked<'a>, fields: &mut Fields<'a>, nesting: &mut Nesting) -> Option<()> {
    let mut walk = Walk { text, at: 0, stops: text.stops(0) };
    let mut has_params = false;
    let mut goes_on = walk.open()?;
    while goes_on {
        let (name, first) = walk.key()?;
        if name == b"params" {
            // Of two the last would count.
            if has_params || first != b'{' {
                return None;
            }
            has_params = true;
            walk.params(fields, nesting)?;
        } else {
            walk.value(first, nesting)?;
        }
        goes_on = walk.goes_on()?;
    }
    (has_params && walk.at == text.bytes.len()).then_some(())
}

struct Walk<'t, 'a> {
    text: &'t Marked<'a>,
    at: usize,
    /// The stops that come next: those of a string's or key's own quotes are taken with it.
    stops: Stops,
}

/// A value that was walked over.
struct Value {
    kind: Kind,
    escaped: bool,
    /// Of a string what is between its quotes.
    start: usize,
    end: usize,
}

impl<'a> Walk<'_, 'a> {
    #[inline(always)]
    fn byte(&self) -> Option<u8> {
        self.text.bytes.get(self.at).copied()
    }

    /// Takes the `{` of an object; whether it has members.
    #[inline(always)]
    fn open(&mut self) -> Option<bool> {
        if self.byte()? != b'{' {
            return None;
        }
        self.at += 1;
        match self.byte()? {
            b'"' => Some(true),
            b'}' => {
                self.at += 1;
                Some(false)
            }
            _ => None,
        }
    }

    /// Takes what follows a value in an object; whether there is another member.
    #[inline(always)]
    fn goes_on(&mut self) -> Option<bool> {
        let rest = self.text.bytes.get(self.at..)?;
        // The key's place will be known by its quote.
        if rest.starts_with(b",\"") || rest.starts_with(b", \"") {
            return Some(true);
        }
        self.at += 1;
        (*rest.first()? == b'}').then_some(false)
    }

    /// Takes a key that is known to come next, and its colon; also the first byte of the value.
    #[inline(always)]
    fn key(&mut self) -> Option<(&'a [u8], u8)> {
        let bytes = self.text.bytes;
        let (quote, end) = self.text.next_stops(&mut self.stops);
        let [colon @ .., mut first] = *bytes.get(end..)?.first_chunk::<3>()?;
        if colon != *b"\":" {
            return None;
        }
        self.at = end + 2;
        if first == b' ' {
            self.at += 1;
            first = self.byte()?;
        }
        Some((bytes.get(quote + 1..end)?, first))
    }

    #[inline(always)]
    fn value(&mut self, first: u8, nesting: &mut Nesting) -> Option<Value> {
        let bytes = self.text.bytes;
        match first {
            b'"' => {
                let (quote, end) = self.text.next_stops(&mut self.stops);
                let start = quote + 1;
                if *bytes.get(end)? == b'"' {
                    self.at = end + 1;
                    return Some(Value { kind: Kind::String, escaped: false, start, end });
                }
                self.move_to(other_end(self.text, quote, nesting)?);
                Some(Value { kind: Kind::String, escaped: true, start, end: self.at - 1 })
            }
            b'-' | b'0'..=b'9' => {
                let start = self.at;
                self.at = number_end(self.text, start + usize::from(first == b'-'))?;
                Some(Value { kind: Kind::Number, escaped: false, start, end: self.at })
            }
            _ => {
                let kind = match first {
                    b'{' => Kind::Object,
                    b'[' => Kind::Array,
                    b't' | b'f' => Kind::Bool,
                    b'n' => Kind::Null,
                    _ => return None,
                };
                let start = self.at;
                self.move_to(other_end(self.text, start, nesting)?);
                Some(Value { kind, escaped: false, start, end: self.at })
            }
        }
    }

    #[inline(always)]
    fn move_to(&mut self, at: usize) {
        (self.at, self.stops) = (at, self.text.stops(at));
    }

    #[inline(always)]
    fn params(&mut self, fields: &mut Fields<'a>, nesting: &mut Nesting) -> Option<()> {
        let mut goes_on = self.open()?;
        while goes_on {
            let (name, first) = self.key()?;
            match plain_field(name) {
                Some(Field::Body) if first == b'{' => {
                    fields.body = self.body(nesting)?;
                    fields.found[Field::Body as usize] =
                        Found { kind: Some(Kind::Object), escaped: false, raw: fields.body.raw };
                }
                Some(field) => {
                    let Value { kind, escaped, start, end } = self.value(first, nesting)?;
                    let raw = self.text.bytes.get(start..end)?;
                    fields.found[field as usize] = Found { kind: Some(kind), escaped, raw };
                }
                None => {
                    self.value(first, nesting)?;
                }
            }
            goes_on = self.goes_on()?;
        }
        Some(())
    }

    #[inline(always)]
    fn body(&mut self, nesting: &mut Nesting) -> Option<Body<'a>> {
        let start = self.at;
        let mut goes_on = self.open()?;
        let (members, mut has_business_type, mut has_log_type) = (goes_on, false, false);
        while goes_on {
            let (name, first) = self.key()?;
            if name == BUSINESS_TYPE {
                has_business_type = true;
            } else if name == LOG_TYPE {
                has_log_type = true;
            }
            self.value(first, nesting)?;
            goes_on = self.goes_on()?;
        }
        let raw = self.text.bytes.get(start..self.at)?;
        Some(Body { start, raw, members, has_business_type, has_log_type })
    }
}

/// The end of a number's digits and fraction, without its sign. One with an exponent ends before it, where no value ends.
#[inline(always)]
fn number_end(text: &Marked<'_>, at: usize) -> Option<usize> {
    let ends = text.ends(at)?;
    let whole = ends.trailing_zeros() as usize;
    // Whether there are more digits than one cannot be guessed, so there is no branch for it.
    let has_leading_zero = (whole > 1) & (*text.bytes.get(at)? == b'0');
    if ends == 0 || whole == 0 || has_leading_zero {
        return None;
    }
    if *text.bytes.get(at + whole)? != b'.' {
        return Some(at + whole);
    }
    let ends = ends & (ends - 1);
    let fraction = ends.trailing_zeros() as usize;
    (ends != 0 && fraction > whole + 1).then_some(at + fraction)
}

/// The end of any other value.
#[inline(never)]
fn other_end(text: &Marked<'_>, at: usize, nesting: &mut Nesting) -> Option<usize> {
    let mut scanner = Scanner::new(*text, at);
    scanner.value(nesting).ok()?;
    Some(scanner.at())
}
