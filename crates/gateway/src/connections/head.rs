//! Heads of HTTP/1.1 messages: a request's is written, a response's is read.

use std::mem::MaybeUninit;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version, header, request::Parts};
use httparse::{ParserConfig, Status};

/// The largest head taken, in bytes.
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 100;
/// Headers that are added to an answer's own before the client gets it.
const ROOM: usize = 8;

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// In chunks, the last of them empty.
    Chunked,
    /// All until the connection ends.
    UntilClose,
}

/// A response's head.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection may serve another request once the body is read.
    pub keeps: bool,
}

fn authority(uri: &Uri, out: &mut BytesMut) {
    out.put_slice(uri.host().unwrap_or_default().as_bytes());
    if let Some(port) = uri.port() {
        out.put_u8(b':');
        out.put_slice(port.as_str().as_bytes());
    }
}

/// Writes a request's head. How long the body is and what becomes of the connection is said here and by nobody else.
pub fn write(head: &Parts, length: usize) -> BytesMut {
    const OURS: [HeaderName; 4] =
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, HeaderName::from_static("keep-alive")];
    let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut out = BytesMut::with_capacity(size + path.len() + 128);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if !head.headers.contains_key(header::HOST) {
        out.put_slice(b"host: ");
        authority(&head.uri, &mut out);
        out.put_slice(b"\r\n");
    }
    for (name, value) in head.headers.iter().filter(|(name, _)| !OURS.contains(name)) {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    if length > 0 || !matches!(head.method, Method::GET | Method::HEAD) {
        out.put_slice(b"content-length: ");
        out.put_slice(decimal(length, &mut [0; 20]));
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
    out
}

/// Gives a request that hyper writes its target and host, and says that its connection serves no other.
///
/// # Errors
/// Where its URL has a host that no header can hold.
pub fn complete<Body>(request: &mut Request<Body>) -> Result<(), http::Error> {
    let mut host = BytesMut::new();
    authority(request.uri(), &mut host);
    let host = HeaderValue::from_maybe_shared(host.freeze())?;
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(())
}

fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// Whether a header, known by its name, is to be kept of a head.
pub type Kept = fn(&[u8]) -> bool;

/// Takes a response's head off the front of `buffer`; none while it is not all there. Interim responses are passed over.
///
/// # Errors
/// Says what of it is not HTTP.
pub fn read(buffer: &mut BytesMut, method: &Method, kept: Kept) -> Result<Option<Head>, &'static str> {
    loop {
        match one(buffer, method, kept)? {
            Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err("it switches to a protocol not asked for");
            }
            Some(head) if head.status.is_informational() => {}
            found => return Ok(found),
        }
    }
}

fn one(buffer: &mut BytesMut, method: &Method, kept: Kept) -> Result<Option<Head>, &'static str> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut said = Said::default();
    let mut space = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut space);
    let length = match parsed {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if buffer.len() <= MAX_HEAD => return Ok(None),
        Ok(Status::Partial) => return Err("its head is too large"),
        Err(httparse::Error::TooManyHeaders) => return Err("its head has too many lines"),
        Err(_) => return Err("its head is not HTTP/1.1"),
    };
    // One copy of the head, that the values share; the buffer goes on to hold the body.
    let bytes = Bytes::copy_from_slice(&buffer[..length]);
    let start = buffer.as_ptr() as usize;
    // Room for what is said to the client beside it.
    let mut headers = HeaderMap::with_capacity(response.headers.len() + ROOM);
    for header in response.headers.iter() {
        let name = header.name.as_bytes();
        said.hear(name, header.value)?;
        if kept(name) {
            let name = HeaderName::from_bytes(name).map_err(|_| "a header has no proper name")?;
            // The parser's slices are parts of the buffer.
            let begin = header.value.as_ptr() as usize - start;
            let value = bytes.slice(begin..begin + header.value.len());
            headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| "a header has no proper value")?);
        }
    }
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| "its status is none")?;
    let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    buffer.advance(length);
    let (framing, clear) = said.framing(method, status, version)?;
    let keeps = clear && version == Version::HTTP_11 && !said.closes && framing != Framing::UntilClose;
    Ok(Some(Head { status, version, headers, framing, keeps }))
}

/// Whether a list in a header names `token`.
fn names(value: &[u8], token: &str) -> bool {
    value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// What a head says of the body's end and of the connection.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    /// Whether the last of the codings is `chunked`, if there are any.
    chunked: Option<bool>,
    closes: bool,
}

impl Said {
    fn hear(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        // Told apart by their lengths, which no two of them share.
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => self.closes |= names(value, "close"),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.measure(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
                self.chunked = Some(last.eq_ignore_ascii_case(b"chunked"));
            }
            _ => {}
        }
        Ok(())
    }

    fn measure(&mut self, value: &[u8]) -> Result<(), &'static str> {
        for part in value.split(|byte| *byte == b',') {
            let text = part.trim_ascii();
            let digits = std::str::from_utf8(text).ok().filter(|_| text.iter().all(u8::is_ascii_digit));
            let length = digits.and_then(|digits| digits.parse().ok()).ok_or("its content-length is no number")?;
            if self.length.is_some_and(|known| known != length) {
                return Err("it has two lengths");
            }
            self.length = Some(length);
        }
        Ok(())
    }

    /// How the body ends, and whether that was said without contradiction.
    fn framing(&self, method: &Method, status: StatusCode, version: Version) -> Result<(Framing, bool), &'static str> {
        if *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Ok((Framing::Length(0), true));
        }
        let Some(chunked) = self.chunked else {
            return Ok((self.length.map_or(Framing::UntilClose, Framing::Length), true));
        };
        if version != Version::HTTP_11 {
            return Err("it is of HTTP/1.0 and has a transfer encoding");
        }
        // Both together are how responses are smuggled: the connection serves no other request.
        Ok((if chunked { Framing::Chunked } else { Framing::UntilClose }, self.length.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, &'static str> {
        read(&mut BytesMut::from(text), &Method::POST, |_| true)
    }

    #[test]
    fn the_end_of_a_body_is_known_as_the_head_says() {
        let framing = |text: &str| head(text).unwrap().map(|head| (head.framing, head.keeps)).unwrap();
        assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), (Framing::Length(5), true));
        assert_eq!(framing("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n"), (Framing::Length(5), true));
        assert_eq!(framing("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n"), (Framing::Length(0), true));
        assert_eq!(framing("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"), (Framing::Chunked, true));
        assert_eq!(framing("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"), (Framing::UntilClose, false));
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), (Framing::UntilClose, false));
        assert_eq!(framing("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 5\r\n\r\n"), (Framing::Length(5), false));
        assert_eq!(framing("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n"), (Framing::Length(5), false));
        let both = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(framing(both), (Framing::Chunked, false));
    }

    #[test]
    fn contradictions_and_nonsense_are_errors() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interim_responses_are_passed_over_and_a_part_is_waited_for() {
        let text =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n";
        for end in 0..text.len() {
            assert!(head(&text[..end]).unwrap().is_none());
        }
        assert_eq!(head(text).unwrap().unwrap().status, StatusCode::CREATED);
    }

    #[test]
    fn a_request_says_its_length_and_host_once() {
        let request = http::Request::post("http://user:secret@host.example:81/v1?x=1")
            .header("content-length", "999")
            .header("connection", "close")
            .header("x-a", "b")
            .body(())
            .unwrap();
        let text = "POST /v1?x=1 HTTP/1.1\r\nhost: host.example:81\r\nx-a: b\r\ncontent-length: 12\r\n\r\n";
        assert_eq!(write(&request.into_parts().0, 12), text);
    }
}
