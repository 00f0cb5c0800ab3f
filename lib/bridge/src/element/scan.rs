//! A walk over JSON that allocates nothing and does not recurse: values are checked and skipped, their bytes are kept.
//!
//! It takes what RFC 8259 takes. A `\u` escape is checked for its four digits only: two halves of a surrogate pair are looked at when
//! a string is unescaped.

use crate::element::marks::Marked;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) at: usize,
    pub(crate) expected: &'static str,
}

/// The kind of a value, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Bool => "a boolean",
            Self::Null => "null",
        }
    }
}

/// A string as it stands in the text, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) escaped: bool,
}

/// A walk over a text that is known to be UTF-8. It is small and copied where it would otherwise be lent, so that the place where it
/// is stays in a register.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scanner<'a> {
    text: Marked<'a>,
    at: usize,
}

/// The containers around a value, innermost last: true for an object. Kept by the caller, for its memory.
pub(crate) type Nesting = Vec<bool>;

impl<'a> Scanner<'a> {
    /// A walk that begins at byte `at`.
    pub(crate) fn new(text: Marked<'a>, at: usize) -> Self {
        Self { text, at }
    }

    #[inline(always)]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    #[inline(always)]
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.text.bytes[start..self.at]
    }

    fn broken<T>(&self, expected: &'static str) -> Result<T, Broken> {
        Err(Broken { at: self.at, expected })
    }

    #[inline(always)]
    fn peek(&self) -> u8 {
        // No JSON holds a zero byte outside of its strings, where it is refused.
        self.text.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Whether these bytes come next.
    #[inline(always)]
    fn comes(&self, at: usize, expected: &[u8]) -> bool {
        self.text.bytes.get(at..).is_some_and(|rest| rest.starts_with(expected))
    }

    #[inline(always)]
    pub(crate) fn skip_whitespace(&mut self) {
        if is_whitespace(self.peek()) {
            self.at = whitespace_end(self.text.bytes, self.at + 1);
        }
    }

    /// Takes a byte that is not zero, after whitespace.
    #[inline(always)]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        if self.peek() != byte {
            self.skip_whitespace();
            if self.peek() != byte {
                return false;
            }
        }
        self.at += 1;
        true
    }

    /// The end of the text, after whitespace.
    #[inline(always)]
    pub(crate) fn end(mut self) -> Result<(), Broken> {
        self.skip_whitespace();
        if self.at == self.text.bytes.len() { Ok(()) } else { self.broken("the end") }
    }

    /// The kind of the value that comes, after whitespace.
    #[inline(always)]
    pub(crate) fn kind(&mut self) -> Result<Kind, Broken> {
        self.skip_whitespace();
        Ok(match self.peek() {
            b'"' => Kind::String,
            b'-' | b'0'..=b'9' => Kind::Number,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b't' | b'f' => Kind::Bool,
            b'n' => Kind::Null,
            _ => return self.broken("a value"),
        })
    }

    /// The first key of an object whose `{` was taken, and its colon; nothing when the object ends.
    #[inline(always)]
    pub(crate) fn first_key(&mut self) -> Result<Option<Text<'a>>, Broken> {
        if self.take(b'}') { Ok(None) } else { self.key().map(Some) }
    }

    /// The next key of an object, after a value; nothing when the object ends.
    #[inline(always)]
    pub(crate) fn next_key(&mut self) -> Result<Option<Text<'a>>, Broken> {
        // As most writers write it, with a space after commas or without; the long way gives the same.
        let start = if self.comes(self.at, b",\"") {
            self.at + 2
        } else if self.comes(self.at, b", \"") {
            self.at + 3
        } else {
            let key;
            (self.at, key) = self.any_next_key()?;
            return Ok(key);
        };
        let end = self.text.stop(start);
        if self.comes(end, b"\":") {
            self.at = end + 2;
            return Ok(Some(Text { raw: &self.text.bytes[start..end], escaped: false }));
        }
        let key;
        (self.at, key) = self.any_next_key()?;
        Ok(key)
    }

    #[inline(never)]
    fn any_next_key(mut self) -> Result<(usize, Option<Text<'a>>), Broken> {
        if self.take(b',') {
            let key = self.key()?;
            return Ok((self.at, Some(key)));
        }
        if self.take(b'}') { Ok((self.at, None)) } else { self.broken("a comma or }") }
    }

    #[inline(always)]
    fn key(&mut self) -> Result<Text<'a>, Broken> {
        self.skip_whitespace();
        if self.peek() != b'"' {
            return self.broken("a key");
        }
        let key = self.string()?;
        if self.take(b':') { Ok(key) } else { self.broken("a colon") }
    }

    /// A string whose quote comes next.
    #[inline(always)]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Broken> {
        let start = self.at + 1;
        let mut end = self.text.stop(start);
        let mut escaped = false;
        if self.text.bytes.get(end) != Some(&b'"') {
            end = escaped_string_end(self.text, end)?;
            escaped = true;
        }
        self.at = end + 1;
        Ok(Text { raw: &self.text.bytes[start..end], escaped })
    }

    /// A number whose first byte comes next.
    #[inline(always)]
    fn number(&mut self) -> Result<(), Broken> {
        if self.peek() == b'-' {
            self.at = after_minus(self.at);
        }
        let start = self.at;
        self.digits()?;
        // Nothing follows a leading zero.
        if self.text.bytes[start] == b'0' && self.at != start + 1 {
            self.at = start + 1;
            return Ok(());
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if self.peek() | 0x20 == b'e' {
            self.at = self.exponent_end()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), Broken> {
        let start = self.at;
        self.at = self.text.digits_end(start);
        if self.at == start { self.broken("a digit") } else { Ok(()) }
    }

    #[inline(never)]
    fn exponent_end(mut self) -> Result<usize, Broken> {
        self.at += 1;
        if matches!(self.peek(), b'+' | b'-') {
            self.at += 1;
        }
        self.digits()?;
        Ok(self.at)
    }

    fn word(&mut self, word: &'static str) -> Result<(), Broken> {
        if self.text.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            self.broken(word)
        }
    }

    /// A value that has no values inside, or the opening of one that has.
    #[inline(always)]
    fn leaf_or_open(&mut self) -> Result<Option<Kind>, Broken> {
        match self.kind()? {
            Kind::String => self.string().map(|_| None),
            Kind::Number => self.number().map(|()| None),
            Kind::Bool if self.peek() == b't' => self.word("true").map(|()| None),
            Kind::Bool => self.word("false").map(|()| None),
            Kind::Null => self.word("null").map(|()| None),
            open => {
                self.at += 1;
                Ok(Some(open))
            }
        }
    }

    /// Skips a value and all that is in it.
    #[inline(always)]
    pub(crate) fn value(&mut self, nesting: &mut Nesting) -> Result<(), Broken> {
        match self.peek() {
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number(),
            _ => {
                self.at = self.any_value_end(nesting)?;
                Ok(())
            }
        }
    }

    #[inline(never)]
    fn any_value_end(mut self, nesting: &mut Nesting) -> Result<usize, Broken> {
        match self.leaf_or_open()? {
            Some(open) => self.rest(open, nesting),
            None => Ok(self.at),
        }
    }

    /// The end of a container that was just opened.
    fn rest(mut self, open: Kind, nesting: &mut Nesting) -> Result<usize, Broken> {
        nesting.clear();
        let mut opened = Some(open);
        loop {
            // Whether a value comes next, inside of the innermost container.
            let goes_on = match opened.take() {
                Some(Kind::Object) => {
                    nesting.push(true);
                    self.first_key()?.is_some()
                }
                Some(_) => {
                    nesting.push(false);
                    !self.take(b']')
                }
                None if nesting.last() == Some(&true) => self.next_key()?.is_some(),
                None if self.take(b',') => true,
                None if self.take(b']') => false,
                None => return self.broken("a comma or ]"),
            };
            if goes_on {
                opened = self.leaf_or_open()?;
            } else {
                nesting.pop();
                if nesting.is_empty() {
                    return Ok(self.at);
                }
            }
        }
    }
}

#[inline(always)]
fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// One further. A call, for otherwise what comes after every number waits for this one byte to be looked at.
#[inline(never)]
fn after_minus(at: usize) -> usize {
    at + 1
}

#[inline(never)]
fn whitespace_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes[at..].iter().position(|&byte| !is_whitespace(byte));
    rest.map_or(bytes.len(), |len| at + len)
}

/// The closing quote of a string whose first stop is no quote.
#[inline(never)]
fn escaped_string_end(text: Marked<'_>, mut at: usize) -> Result<usize, Broken> {
    loop {
        match text.bytes.get(at) {
            Some(b'"') => return Ok(at),
            Some(b'\\') => at = text.stop(at + escape_len(text.bytes, at)?),
            _ => return Err(Broken { at, expected: "a character or the end of a string" }),
        }
    }
}

fn escape_len(bytes: &[u8], at: usize) -> Result<usize, Broken> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u') => match bytes.get(at + 2..at + 6) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(6),
            _ => Err(Broken { at, expected: "four hexadecimal digits" }),
        },
        _ => Err(Broken { at, expected: "an escape" }),
    }
}
