//! A cursor that validates JSON text while it walks over it: no tree, no recursion, no copy.

use std::borrow::Cow;

use super::text::{end_of_plain_string, end_of_string, is_plain, unescape};

/// Containers that may be open at once: `serde_json`'s own limit, so that whatever is let in here can be parsed further on.
pub(crate) const MAX_DEPTH: u32 = 127;

/// A range of bytes in the body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Index of the first byte.
    pub start: usize,
    /// Index after the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes of this span; `body` must be the body it was found in.
    pub fn of(self, body: &[u8]) -> &[u8] {
        &body[self.start..self.end]
    }
}

/// What a JSON value is, told by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of JSON's own types")]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// A JSON value in the body: where it stands (a string with its quotes) and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub span: Span,
    /// Its type.
    pub kind: Kind,
}

impl Value {
    /// Whether this array, object or string holds nothing; other values are something.
    pub fn is_empty(self, body: &[u8]) -> bool {
        let whole = self.span.of(body);
        match self.kind {
            Kind::Object | Kind::Array => whole[1..whole.len() - 1].trim_ascii().is_empty(),
            Kind::String => whole.len() == 2,
            _ => false,
        }
    }
}

/// Where and why the text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub what: &'static str,
    pub at: usize,
}

/// A position in JSON text.
pub(crate) struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
    depth: u32,
    /// Whether a string holds neither control characters nor what is no UTF-8, wherever it ends.
    plain: bool,
}

impl<'b> Cursor<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, depth: 0, plain: is_plain(bytes) }
    }

    /// Walks the value at `span`, which a scan has validated before.
    pub fn at(bytes: &'b [u8], span: Span) -> Self {
        Self { bytes, at: span.start, depth: 0, plain: true }
    }

    /// Goes on at `start`, where a value begins that was walked over before.
    pub fn skip_to(&mut self, start: usize) {
        self.at = start;
    }

    /// Index of the next byte to be read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The bytes of a value this cursor has walked over.
    pub fn text(&self, value: Value) -> &'b [u8] {
        &self.bytes[value.span.start..value.span.end]
    }

    /// The next byte that is not white space, not yet consumed.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("expected the end of the text")),
        }
    }

    /// Consumes one value of any type.
    pub fn value(&mut self) -> Result<Value, Fault> {
        let first = self.peek();
        let start = self.at;
        let kind = match first {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(byte) => self.scalar(byte)?,
            None => return Err(self.fault("expected a value, found the end of the text")),
        };
        if matches!(kind, Kind::Object | Kind::Array) {
            self.nested()?;
        }
        Ok(Value { span: Span { start, end: self.at }, kind })
    }

    /// Consumes the object the cursor stands at; `member` gets each decoded key and must consume the key's value.
    pub fn object<E: From<Fault>>(&mut self, mut member: impl FnMut(&mut Self, &[u8]) -> Result<(), E>) -> Result<Value, E> {
        let start = self.open()?;
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                let key = self.key()?;
                member(self, &key)?;
                if self.close(b'}', "expected ',' or '}'")? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(Value { span: Span { start, end: self.at }, kind: Kind::Object })
    }

    /// Consumes the array the cursor stands at; `element` gets each index and must consume the element.
    pub fn array<E: From<Fault>>(&mut self, mut element: impl FnMut(&mut Self, usize) -> Result<(), E>) -> Result<Value, E> {
        let start = self.open()?;
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            for index in 0.. {
                element(self, index)?;
                if self.close(b']', "expected ',' or ']'")? {
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(Value { span: Span { start, end: self.at }, kind: Kind::Array })
    }

    fn open(&mut self) -> Result<usize, Fault> {
        self.peek();
        self.room(0)?;
        self.depth += 1;
        self.at += 1;
        Ok(self.at - 1)
    }

    /// After an element: `true` if the container ends here, `false` after a comma.
    fn close(&mut self, closing: u8, expected: &'static str) -> Result<bool, Fault> {
        let found = self.peek();
        if found == Some(closing) || found == Some(b',') {
            self.at += 1;
            return Ok(found == Some(closing));
        }
        Err(self.fault(expected))
    }

    /// Consumes an object or array, keeping the open containers in the bits of one integer.
    fn nested(&mut self) -> Result<(), Fault> {
        let mut objects: u128 = 0; // the lowest bit tells of the innermost container: 1 object, 0 array
        let mut open: u32 = 0;
        loop {
            let first = self.peek();
            match first {
                Some(b'{' | b'[') => {
                    self.room(open)?;
                    self.at += 1;
                    let is_object = first == Some(b'{');
                    let closing = if is_object { b'}' } else { b']' };
                    if self.peek() == Some(closing) {
                        self.at += 1;
                    } else {
                        open += 1;
                        objects = (objects << 1) | u128::from(is_object);
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(byte) => {
                    self.scalar(byte)?;
                }
                None => return Err(self.fault("expected a value, found the end of the text")),
            }
            loop {
                if open == 0 {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                let (closing, expected) = if in_object { (b'}', "expected ',' or '}'") } else { (b']', "expected ',' or ']'") };
                if !self.close(closing, expected)? {
                    if in_object {
                        self.key()?;
                    }
                    break;
                }
                objects >>= 1;
                open -= 1;
            }
        }
    }

    fn room(&self, open: u32) -> Result<(), Fault> {
        if self.depth + open < MAX_DEPTH { Ok(()) } else { Err(self.fault("nested more than 127 levels deep")) }
    }

    /// Consumes `"key":` and returns the key.
    fn key(&mut self) -> Result<Cow<'b, [u8]>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault("expected a key in double quotes"));
        }
        let start = self.at + 1;
        let escaped = self.string()?;
        let key = &self.bytes[start..self.at - 1];
        if self.peek() != Some(b':') {
            return Err(self.fault("expected ':'"));
        }
        self.at += 1;
        Ok(if escaped { unescape(key) } else { Cow::Borrowed(key) })
    }

    #[inline]
    fn scalar(&mut self, first: u8) -> Result<Kind, Fault> {
        match first {
            b'"' => self.string().map(|_| Kind::String),
            b't' => self.literal(b"true", Kind::Bool),
            b'f' => self.literal(b"false", Kind::Bool),
            b'n' => self.literal(b"null", Kind::Null),
            b'-' | b'0'..=b'9' => self.number().map(|()| Kind::Number),
            _ => Err(self.fault("expected a value")),
        }
    }

    fn literal(&mut self, word: &'static [u8], kind: Kind) -> Result<Kind, Fault> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(kind);
        }
        Err(self.fault("expected a value"))
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("expected a digit")) } else { Ok(()) }
    }

    /// Consumes a string and tells whether it holds an escape.
    #[inline]
    fn string(&mut self) -> Result<bool, Fault> {
        let end = if self.plain { end_of_plain_string } else { end_of_string };
        let ended = end(self.bytes, self.at + 1)?;
        self.at = ended.at + 1;
        Ok(ended.escaped)
    }

    fn fault(&self, what: &'static str) -> Fault {
        Fault { what, at: self.at }
    }
}
