//! Server-sent events, taken apart as they arrive. A frame keeps its exact bytes, so that a relay in the same wire can pass it on untouched.

use bytes::{Bytes, BytesMut};

/// The longest frame accepted, in bytes: above any model's longest single event, below what would hurt the process.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// One event: the lines up to and including the blank line that ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The last `event:` value, if any.
    pub event: Option<Bytes>,
    /// The `data:` values joined by a newline; empty if the frame has none (a comment used as keep-alive).
    pub data: Bytes,
    /// The frame's bytes as received. Blank lines before a frame belong to it, so all `raw`s in a row are the stream.
    pub raw: Bytes,
}

impl Frame {
    /// The event's name, if it has one that is UTF-8.
    pub fn event_name(&self) -> Option<&str> {
        self.event.as_deref().and_then(|name| std::str::from_utf8(name).ok())
    }

    fn new(raw: Bytes, first: bool) -> Self {
        let mut event = None;
        let mut data = Bytes::new();
        let mut joined: Option<BytesMut> = None;
        let mut seen_data = false;
        let mut at = if first && raw.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        while at < raw.len() {
            let end = memchr::memchr2(b'\n', b'\r', &raw[at..]).map_or(raw.len(), |length| at + length);
            let line = &raw[at..end];
            let (name, value) = match memchr::memchr(b':', line) {
                Some(colon) => {
                    let space = usize::from(line.get(colon + 1) == Some(&b' '));
                    (&line[..colon], at + colon + 1 + space..end)
                }
                None => (line, end..end),
            };
            match name {
                b"event" => event = Some(raw.slice(value)),
                b"data" if !seen_data => {
                    seen_data = true;
                    data = raw.slice(value);
                }
                b"data" => {
                    let joined = joined.get_or_insert_with(|| BytesMut::from(&data[..]));
                    joined.extend_from_slice(b"\n");
                    joined.extend_from_slice(&raw[value]);
                }
                _ => {}
            }
            at = end + 1;
        }
        Self { event, data: joined.map_or(data, BytesMut::freeze), raw }
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A frame grew past the limit; the stream cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The limit, in bytes.
    pub limit: usize,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an event of the provider's stream is longer than {} bytes", self.limit)
    }
}

impl std::error::Error for TooLarge {}

/// Cuts a byte stream into frames. Frames that lie within one chunk are slices of it; only one that spans chunks is copied.
#[derive(Debug)]
pub struct Parser {
    pending: BytesMut,
    boundary: Boundary,
    limit: usize,
    first: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::with_limit(MAX_FRAME_BYTES)
    }
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another frame limit, in bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { pending: BytesMut::new(), boundary: Boundary::default(), limit, first: true }
    }

    /// Add the frames that `chunk` completes to `frames`.
    #[expect(clippy::needless_pass_by_value, reason = "the frames are parts of it")]
    pub fn push(&mut self, chunk: Bytes, frames: &mut Vec<Frame>) -> Result<(), TooLarge> {
        let mut at = 0;
        while let Some(frame) = self.next(&chunk, &mut at)? {
            frames.push(frame);
        }
        Ok(())
    }

    /// The frame that the bytes of `chunk` from `at` on complete; `at` goes to where it ends. Without one the rest is kept for
    /// the chunk that comes next, and `at` goes to the end.
    pub fn next(&mut self, chunk: &Bytes, at: &mut usize) -> Result<Option<Frame>, TooLarge> {
        let rest = &chunk[*at..];
        let Some(end) = self.boundary.find(rest) else {
            self.check(rest.len())?;
            self.pending.extend_from_slice(rest);
            *at = chunk.len();
            return Ok(None);
        };
        self.check(end)?;
        let raw = if self.pending.is_empty() {
            chunk.slice(*at..*at + end)
        } else {
            self.pending.extend_from_slice(&rest[..end]);
            std::mem::take(&mut self.pending).freeze()
        };
        *at += end;
        Ok(Some(Frame::new(raw, std::mem::take(&mut self.first))))
    }

    /// Whether the next byte begins a frame, whatever it is.
    pub fn is_between(&self) -> bool {
        !self.first && self.pending.is_empty() && self.boundary.is_between()
    }

    /// The bytes after the last whole frame, if any. The standard says to discard them; a relay passes them on.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.pending.is_empty()).then(|| self.pending.split().freeze())
    }

    fn check(&self, more: usize) -> Result<(), TooLarge> {
        if self.pending.len() + more > self.limit { Err(TooLarge { limit: self.limit }) } else { Ok(()) }
    }
}

/// Finds the blank line that ends a frame, over any cut of the bytes.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about the bytes before, true or false by itself")]
struct Boundary {
    /// Nothing in the current line yet.
    line_empty: bool,
    /// The frame has a line that is not blank.
    any_line: bool,
    /// The last byte was a CR; an LF right after it is part of the same line end.
    after_cr: bool,
    /// The blank line was ended by a CR, and its LF may still come.
    ended: bool,
    /// The last line end was a CR alone: then nothing is to be waited for after the next one.
    bare_cr: bool,
}

impl Default for Boundary {
    fn default() -> Self {
        Self { line_empty: true, any_line: false, after_cr: false, ended: false, bare_cr: false }
    }
}

impl Boundary {
    /// Whether the bytes so far end with a frame and nothing of it can follow.
    fn is_between(&self) -> bool {
        self.line_empty && !self.any_line && !self.after_cr
    }

    /// How many of `bytes` belong to the current frame, if they complete it.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.after_cr {
                let next = *bytes.get(at)?;
                self.after_cr = false;
                self.bare_cr = next != b'\n';
                at += usize::from(next == b'\n');
                if self.ended {
                    *self = Self { bare_cr: self.bare_cr, ..Self::default() };
                    return Some(at);
                }
            }
            let Some(length) = memchr::memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line_empty &= at == bytes.len();
                return None;
            };
            let blank = self.line_empty && length == 0;
            let cr = bytes[at + length] == b'\r';
            at += length + 1;
            self.line_empty = true;
            self.any_line |= !blank;
            let last = blank && self.any_line;
            if last && (!cr || (self.bare_cr && at == bytes.len())) {
                *self = Self { after_cr: cr, bare_cr: cr, ..Self::default() };
                return Some(at);
            }
            self.after_cr = cr;
            self.ended = last;
            if !cr {
                self.bare_cr = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(chunks: &[&[u8]]) -> (Vec<Frame>, Option<Bytes>) {
        let mut parser = Parser::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            parser.push(Bytes::copy_from_slice(chunk), &mut frames).unwrap();
        }
        (frames, parser.finish())
    }

    fn data(frames: &[Frame]) -> Vec<&str> {
        frames.iter().map(|frame| std::str::from_utf8(&frame.data).unwrap()).collect()
    }

    #[test]
    fn reads_fields_comments_and_joined_data() {
        let (frames, rest) =
            frames(&[b"\xEF\xBB\xBFevent: a\ndata: one\ndata:two\ndata\nid: 7\n\n: keep-alive\n\n\n\ndata: [DONE]\n\ndata: cut"]);
        assert_eq!(data(&frames), ["one\ntwo\n", "", "[DONE]"]);
        assert_eq!(frames[0].event_name(), Some("a"));
        assert_eq!(frames[1].raw, ": keep-alive\n\n");
        assert_eq!(frames[2].raw, "\n\ndata: [DONE]\n\n");
        assert_eq!(rest.unwrap(), "data: cut");
    }

    #[test]
    fn any_cut_gives_the_same_frames() {
        let streams: [&str; 4] = [
            "event: x\ndata: é☃𝄞\ndata: 2\n\n: c\n\ndata:{\"a\":1}\n\n",
            "event: x\r\ndata: é☃𝄞\r\ndata: 2\r\n\r\n: c\r\n\r\ndata:{\"a\":1}\r\n\r\n",
            "event: x\rdata: é☃𝄞\rdata: 2\r\r: c\r\rdata:{\"a\":1}\r\r",
            "\u{feff}data: 1\n\n\r\n\ndata: 2\r\n\ndata: 3\n\n",
        ];
        for stream in streams {
            let bytes = stream.as_bytes();
            let (whole, rest) = frames(&[bytes]);
            assert_eq!((whole.len(), rest), (3, None), "{stream:?}");
            for cut in 0..=bytes.len() {
                let (cut_frames, _) = frames(&[&bytes[..cut], &bytes[cut..]]);
                assert_eq!(cut_frames, whole, "{stream:?} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(frames(&single), (whole, None), "{stream:?} byte by byte");
        }
    }

    #[test]
    fn frame_within_a_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let mut frames = Vec::new();
        Parser::new().push(chunk.clone(), &mut frames).unwrap();
        assert_eq!(frames[1].data.as_ptr(), chunk[15..].as_ptr());
    }

    #[test]
    fn refuses_a_frame_past_the_limit() {
        let mut parser = Parser::with_limit(10);
        let mut frames = Vec::new();
        parser.push(Bytes::from_static(b"data: 12\n\ndata: "), &mut frames).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!(parser.push(Bytes::from_static(b"12345"), &mut frames), Err(TooLarge { limit: 10 }));
    }
}
