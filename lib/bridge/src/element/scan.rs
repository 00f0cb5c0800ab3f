//! A walk over JSON that allocates nothing and does not recurse: values are checked and skipped, their bytes are kept.
//!
//! It takes what RFC 8259 takes. A `\u` escape is checked for its four digits only: two halves of a surrogate pair are looked at when
//! a string is unescaped.

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

/// A walk over a text that is known to be UTF-8.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The containers around a value, innermost last: true for an object. Kept by the caller, for its memory.
pub(crate) type Nesting = Vec<bool>;

/// Bytes that a string does not simply go on with: controls, the quote, the backslash.
const STOPS: [bool; 256] = {
    let mut stops = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        stops[byte] = true;
        byte += 1;
    }
    stops[b'"' as usize] = true;
    stops[b'\\' as usize] = true;
    stops
};

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    fn broken<T>(&self, expected: &'static str) -> Result<T, Broken> {
        Err(Broken { at: self.at, expected })
    }

    #[inline]
    fn peek(&self) -> u8 {
        // No JSON holds a zero byte outside of its strings, where it is refused.
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn skip_whitespace(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Takes a byte, after whitespace.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        self.skip_whitespace();
        let found = self.peek() == byte && self.at < self.bytes.len();
        self.at += usize::from(found);
        found
    }

    /// The end of the text, after whitespace.
    pub(crate) fn end(&mut self) -> Result<(), Broken> {
        self.skip_whitespace();
        if self.at == self.bytes.len() { Ok(()) } else { self.broken("the end") }
    }

    /// The kind of the value that comes, after whitespace.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind, Broken> {
        self.skip_whitespace();
        Ok(match self.peek() {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b'-' | b'0'..=b'9' => Kind::Number,
            b't' | b'f' => Kind::Bool,
            b'n' => Kind::Null,
            _ => return self.broken("a value"),
        })
    }

    /// The first key of an object whose `{` was taken, and its colon; nothing when the object ends.
    #[inline]
    pub(crate) fn first_key(&mut self) -> Result<Option<Text<'a>>, Broken> {
        if self.take(b'}') { Ok(None) } else { self.key().map(Some) }
    }

    /// The next key of an object, after a value; nothing when the object ends.
    #[inline]
    pub(crate) fn next_key(&mut self) -> Result<Option<Text<'a>>, Broken> {
        if self.take(b',') {
            return self.key().map(Some);
        }
        if self.take(b'}') { Ok(None) } else { self.broken("a comma or }") }
    }

    #[inline]
    fn key(&mut self) -> Result<Text<'a>, Broken> {
        self.skip_whitespace();
        if self.peek() != b'"' {
            return self.broken("a key");
        }
        let key = self.string()?;
        if self.take(b':') { Ok(key) } else { self.broken("a colon") }
    }

    /// A string whose quote comes next.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text<'a>, Broken> {
        let start = self.at + 1;
        let mut escaped = false;
        let mut at = start;
        loop {
            while at < self.bytes.len() && !STOPS[usize::from(self.bytes[at])] {
                at += 1;
            }
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Text { raw: &self.bytes[start..at], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at = at;
                    at += self.escape_len()?;
                }
                _ => {
                    self.at = at;
                    return self.broken("a character or the end of a string");
                }
            }
        }
    }

    fn escape_len(&self) -> Result<usize, Broken> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
            Some(b'u') => match self.bytes.get(self.at + 2..self.at + 6) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(6),
                _ => self.broken("four hexadecimal digits"),
            },
            _ => self.broken("an escape"),
        }
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Broken> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { self.broken("a digit") } else { Ok(()) }
    }

    #[inline]
    fn number(&mut self) -> Result<(), Broken> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), Broken> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            self.broken(word)
        }
    }

    /// A value that has no values inside, or the opening of one that has.
    #[inline]
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

    /// Skips a value and all that is in it. Gives its bytes, from the first to the last.
    #[inline]
    pub(crate) fn value(&mut self, nesting: &mut Nesting) -> Result<&'a [u8], Broken> {
        self.skip_whitespace();
        let start = self.at;
        if let Some(open) = self.leaf_or_open()? {
            self.rest(open, nesting)?;
        }
        Ok(&self.bytes[start..self.at])
    }

    /// Skips to the end of a container that was just opened.
    fn rest(&mut self, open: Kind, nesting: &mut Nesting) -> Result<(), Broken> {
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
                    return Ok(());
                }
            }
        }
    }
}
