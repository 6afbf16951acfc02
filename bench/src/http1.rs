//! Where an HTTP/1.1 message ends: just enough of RFC 9112 for a load client and an upstream that trust each other.

use memchr::memmem;
use std::ops::Range;

/// How the head says its body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// `content-length: N`.
    Length(usize),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Neither: no body in a request; until the connection closes in a response.
    Unstated,
}

/// One complete message at the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Bytes of the head, the empty line included.
    pub head_len: usize,
    /// Bytes of the whole message; what comes after belongs to the next one.
    pub len: usize,
    /// The body's parts, as ranges of the buffer: one, or one a chunk.
    pub body: Vec<Range<usize>>,
    /// The head said `connection: close`.
    pub close: bool,
    /// The head stated how its body ends. Without that a response lasts until the connection closes.
    pub framed: bool,
}

/// The bytes are no HTTP/1.1 message that this parser knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Finds the message at the start of `buffer`: `None` while it is not all there.
pub fn parse(buffer: &[u8]) -> Result<Option<Message>, Malformed> {
    let Some(head_end) = memmem::find(buffer, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head_len = head_end + 4;
    let mut framing = Framing::Unstated;
    let mut close = false;
    for line in lines(&buffer[..head_end + 2]).skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(Malformed("a header line without a colon"));
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            framing = Framing::Length(decimal(value).ok_or(Malformed("content-length is no number"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        }
    }
    let framed = framing != Framing::Unstated;
    let (len, body) = match framing {
        Framing::Length(length) if buffer.len() < head_len + length => return Ok(None),
        Framing::Length(length) => (head_len + length, std::iter::once(head_len..head_len + length).collect()),
        Framing::Unstated => (head_len, Vec::new()),
        Framing::Chunked => match chunks(buffer, head_len)? {
            Some(found) => found,
            None => return Ok(None),
        },
    };
    Ok(Some(Message { head_len, len, body, close, framed }))
}

/// The status of a response head (`HTTP/1.1 200 OK`), if it is one.
pub fn status(head: &[u8]) -> Option<u16> {
    let line = head.strip_prefix(b"HTTP/1.")?;
    let digits = line.get(2..5)?;
    u16::try_from(decimal(digits)?).ok()
}

/// Method and path of a request head (`POST /v1/messages HTTP/1.1`), the query included.
pub fn request_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = lines(head).next()?;
    let mut parts = line.split(|byte| *byte == b' ');
    Some((parts.next()?, parts.next()?))
}

/// The end of a chunked message, and where its data lies.
type Chunks = (usize, Vec<Range<usize>>);

/// Walks the chunks from `start`; `None` while more must come.
fn chunks(buffer: &[u8], start: usize) -> Result<Option<Chunks>, Malformed> {
    let mut body = Vec::new();
    let mut at = start;
    loop {
        let Some(line_len) = memmem::find(&buffer[at..], b"\r\n") else {
            return Ok(None);
        };
        let size_text = &buffer[at..at + line_len];
        let size = hexadecimal(size_text).ok_or(Malformed("a chunk size that is no number"))?;
        let data = at + line_len + 2;
        if size == 0 {
            // Trailers, if any, end with an empty line; without them that line follows at once.
            let trailers = &buffer[data..];
            if trailers.starts_with(b"\r\n") {
                return Ok(Some((data + 2, body)));
            }
            return Ok(memmem::find(trailers, b"\r\n\r\n").map(|end| (data + end + 4, body)));
        }
        if buffer.len() < data + size + 2 {
            return Ok(None);
        }
        if &buffer[data + size..data + size + 2] != b"\r\n" {
            return Err(Malformed("a chunk that is longer than it said"));
        }
        body.push(data..data + size);
        at = data + size + 2;
    }
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty())
}

fn decimal(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A chunk's size, its extension (`;name=value`) ignored. Above 16 MiB it is taken for an error.
fn hexadecimal(text: &[u8]) -> Option<usize> {
    let digits = text.split(|byte| *byte == b';').next()?.trim_ascii();
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().filter(|size| *size <= 1 << 24)
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Message, parse, request_line, status};

    fn whole(text: &str) -> Message {
        parse(text.as_bytes()).ok().flatten().unwrap_or_else(|| panic!("not a whole message: {text:?}"))
    }

    fn body(text: &str) -> String {
        whole(text).body.into_iter().map(|part| &text[part]).collect()
    }

    #[test]
    fn content_length_delimits_and_leaves_the_next_message() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 404";
        assert_eq!(body(text), "hello");
        assert_eq!(&text[whole(text).len..], "HTTP/1.1 404");
    }

    #[test]
    fn every_cut_of_a_message_is_incomplete() {
        for text in [
            "POST /x HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-trailer: 1\r\n\r\n",
        ] {
            for cut in 0..text.len() {
                assert_eq!(parse(&text.as_bytes()[..cut]), Ok(None), "cut at {cut} of {text:?}");
            }
            assert_eq!(whole(text).len, text.len());
        }
    }

    #[test]
    fn chunks_are_joined_and_extensions_ignored() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(body(text), "abc0123456789");
    }

    #[test]
    fn a_wrong_chunk_is_an_error_and_not_a_wait() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(matches!(parse(format!("{head}zz\r\n").as_bytes()), Err(Malformed(_))));
        assert!(matches!(parse(format!("{head}1\r\nabc\r\n").as_bytes()), Err(Malformed(_))));
    }

    #[test]
    fn a_head_says_what_it_is() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0"), None);
        assert_eq!(request_line(b"GET /_last HTTP/1.1\r\nhost: x\r\n\r\n"), Some((&b"GET"[..], &b"/_last"[..])));
        assert!(whole("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").close);
        assert!(!whole("HTTP/1.1 200 OK\r\n\r\n").framed);
    }
}
