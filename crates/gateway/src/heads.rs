//! A client's connection, read along: heads that two servers could read differently are found, so that no request hides in
//! another.
//!
//! hyper refuses most of them itself. What RFC 9112 leaves to a server (a length beside chunks, a length said twice, lines
//! that end in a bare line feed) it takes in one of both ways, where a proxy before us may take the other. Nothing is kept of
//! what goes by but the beginning of a line that is cut.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use memchr::memchr;
use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    time::timeout,
};

/// As much of a line as is needed to know the header, and the number in it.
const LINE: usize = 64;
/// For how long, and how much, is read of a client that was refused before it had sent all.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 256 << 20;

/// Which request of a connection is the first that could be read in two ways.
#[derive(Clone)]
pub struct Doubt(Arc<AtomicU64>);

impl Doubt {
    /// Whether the request that came after so many others is the one.
    pub fn is(&self, before: u64) -> bool {
        self.0.load(Relaxed) == before
    }

    /// How many requests came before it; none while all can be read in one way only.
    pub fn first(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|first| *first != u64::MAX)
    }
}

/// A client's connection.
pub struct Client {
    stream: TcpStream,
    heads: Heads,
}

impl Client {
    /// A connection at its beginning, and what will be known of its heads once they are read.
    pub fn new(stream: TcpStream) -> (Self, Doubt) {
        let heads = Heads::default();
        let doubt = heads.doubt.clone();
        (Self { stream, heads }, doubt)
    }
}

impl Drop for Client {
    /// A body that was not read to its end is read on for a moment, and thrown away: closed with bytes unread, a connection is
    /// reset, and the client may lose the refusal that it was just sent.
    fn drop(&mut self) {
        if !self.heads.between_requests()
            && let Ok(runtime) = Handle::try_current()
            && let Ok(same) = SockRef::from(&self.stream).try_clone()
        {
            runtime.spawn(timeout(LINGER, drain(same)));
        }
    }
}

async fn drain(socket: Socket) -> io::Result<()> {
    let mut stream = TcpStream::from_std(socket.into())?;
    let mut space = vec![0; 16 << 10];
    let mut left = LINGER_BYTES;
    while left > 0 {
        let count = stream.read(&mut space).await?;
        left = if count == 0 { 0 } else { left.saturating_sub(count) };
    }
    Ok(())
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.heads.push(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What comes next on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A line of a head.
    Head,
    /// So many bytes of a body, or of a chunk and its end.
    Body { left: u64, chunked: bool },
    /// A chunk's size.
    Size,
    /// A line after the last chunk.
    Trailer,
    /// Nothing that is of interest: the connection ends with the request before.
    Nothing,
}

/// Where the heads are in what a client sends.
pub struct Heads {
    next: Next,
    /// The beginning of a line that is not all there, how long it is so far, and its last byte.
    line: [u8; LINE],
    length: usize,
    last: u8,
    head: Head,
    /// Heads so far.
    count: u64,
    doubt: Doubt,
}

/// What is known of a head.
#[derive(Default)]
struct Head {
    begun: bool,
    chunked: bool,
    length: Option<u64>,
    doubtful: bool,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            next: Next::Head,
            line: [0; LINE],
            length: 0,
            last: 0,
            head: Head::default(),
            count: 0,
            doubt: Doubt(Arc::new(AtomicU64::new(u64::MAX))),
        }
    }
}

impl Heads {
    /// How many heads have come to their end.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Which of them is the first in doubt.
    pub fn doubt(&self) -> &Doubt {
        &self.doubt
    }

    /// Whether nothing of a request is to come that has begun.
    fn between_requests(&self) -> bool {
        self.next == Next::Head && !self.head.begun
    }

    /// Takes the next bytes, wherever they are cut.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.next {
                Next::Nothing => return,
                Next::Body { left, chunked } => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[count..];
                    self.next = match (left - count as u64, chunked) {
                        (0, true) => Next::Size,
                        (0, false) => Next::Head,
                        (left, chunked) => Next::Body { left, chunked },
                    };
                }
                Next::Head | Next::Size | Next::Trailer => {
                    let Some(end) = memchr(b'\n', bytes) else { return self.hold(bytes) };
                    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
                    bytes = rest;
                    if self.length == 0 {
                        let proper = line.last() == Some(&b'\r');
                        self.line(&line[..line.len() - usize::from(proper)], proper);
                    } else {
                        self.hold(line);
                        let proper = self.last == b'\r';
                        let (held, length) = (self.line, self.length - usize::from(proper));
                        self.length = 0;
                        self.line(&held[..length.min(LINE)], proper);
                    }
                }
            }
        }
    }

    /// Keeps the beginning of a line whose end is not there.
    fn hold(&mut self, part: &[u8]) {
        let Some(last) = part.last() else { return };
        self.last = *last;
        if self.length < LINE {
            let count = part.len().min(LINE - self.length);
            self.line[self.length..self.length + count].copy_from_slice(&part[..count]);
        }
        self.length += part.len();
    }

    /// Takes a line without its end, or its beginning where it is long; `proper` where its end was as it should be.
    fn line(&mut self, line: &[u8], proper: bool) {
        match self.next {
            Next::Head => self.head_line(line, proper),
            Next::Size => self.next = size(line),
            Next::Trailer if line.is_empty() => self.next = Next::Head,
            _ => {}
        }
    }

    fn head_line(&mut self, line: &[u8], proper: bool) {
        let head = &mut self.head;
        head.doubtful |= !proper;
        match line.first() {
            // Before a request empty lines are passed over.
            None if head.begun => self.end(),
            Some(_) if !head.begun => head.begun = true,
            Some(b'c' | b'C') => {
                if let Some(value) = value(line, b"content-length:") {
                    // Of a line that was cut only the beginning is known: one so long is no number, cut or not.
                    let digits = std::str::from_utf8(value)
                        .ok()
                        .filter(|text| line.len() < LINE && text.bytes().all(|byte| byte.is_ascii_digit()));
                    let length = digits.and_then(|text| text.parse().ok());
                    head.doubtful |= length.is_none() || head.chunked || head.length.is_some();
                    head.length = length;
                }
            }
            Some(b't' | b'T') if value(line, b"transfer-encoding:").is_some() => {
                head.doubtful |= head.length.is_some();
                head.chunked = true;
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.next = match (head.doubtful, head.chunked, head.length) {
            (true, ..) => {
                self.doubt.0.store(self.count, Relaxed);
                Next::Nothing
            }
            (_, true, _) => Next::Size,
            (_, _, Some(left)) if left > 0 => Next::Body { left, chunked: false },
            _ => Next::Head,
        };
        self.count += 1;
    }
}

/// The value of the header of this name, with its colon, if a line is one.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name))?;
    Some(line[name.len()..].trim_ascii())
}

/// What follows the line that says a chunk's size.
fn size(line: &[u8]) -> Next {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let text = std::str::from_utf8(&line[..digits]).unwrap_or_default();
    match u64::from_str_radix(text, 16).ok().map(|size| (size, size.checked_add(2))) {
        Some((0, _)) => Next::Trailer,
        Some((_, Some(left))) => Next::Body { left, chunked: true },
        // hyper refuses it.
        _ => Next::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many heads are in a text that comes in pieces of this size, and which of them is the first in doubt.
    fn read(text: &[u8], size: usize) -> (u64, Option<u64>) {
        let mut heads = Heads::default();
        for piece in text.chunks(size) {
            heads.push(piece);
        }
        (heads.count(), heads.doubt().first())
    }

    const PLAIN: &str = "GET / HTTP/1.1\r\nhost: h\r\nx: Content-Length: 3\r\ncontent-lengthy: 3\r\n\r\n";
    const LENGTH: &str = "POST / HTTP/1.1\r\nContent-Length:  14 \r\n\r\nGET x HTTP\n\r\n\n";
    const CHUNKS: &str =
        "\r\nPOST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n5;a=b\r\n\n\r\n\r\n\r\nA\r\nGET / HTTP\r\n0\r\nt: u\r\n\r\n";
    const EMPTY: &str = "POST / HTTP/1.1\r\ncontent-length: 0\r\nt: x\r\n\r\n";

    #[test]
    fn requests_one_upon_the_other_are_in_no_doubt_wherever_they_are_cut() {
        let text = [PLAIN, LENGTH, CHUNKS, EMPTY, CHUNKS, LENGTH, PLAIN].concat();
        for size in 1..=text.len() {
            assert_eq!(read(text.as_bytes(), size), (7, None), "{size}");
        }
    }

    #[test]
    fn a_head_that_can_be_read_in_two_ways_is_found_wherever_it_is_cut() {
        // Cut, it would seem to be a nought, and the body to be the next request.
        let zeros = format!("content-length: {}5\r\n", "0".repeat(100));
        let spaces = format!("content-length: {}5\r\n", " ".repeat(100));
        let long = format!("content-length: {}5\r\ncontent-length: 5\r\n", " ".repeat(100));
        let cases = [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: 5\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: 0x5\r\n",
            "content-length: -5\r\n",
            "content-length:\r\n",
            "content-length: +5\r\n",
            &zeros,
            &spaces,
            "content-length: 5\nx: y\r\n",
            "x: y\n",
            &long,
        ];
        for case in cases {
            for before in ["", CHUNKS, LENGTH] {
                let text = format!("{before}{PLAIN}POST / HTTP/1.1\r\nhost: h\r\n{case}\r\nabcde{PLAIN}");
                let first = 1 + u64::from(!before.is_empty());
                for size in [1, 2, 3, 7, 64, 1000] {
                    assert_eq!(read(text.as_bytes(), size), (first + 1, Some(first)), "{case} in pieces of {size}");
                }
            }
        }
        for text in ["GET / HTTP/1.1\nhost: h\r\n\r\n", "GET / HTTP/1.1\r\nhost: h\r\n\n", "\nGET / HTTP/1.1\r\n\r\n"] {
            assert_eq!(read(text.as_bytes(), 5), (1, Some(0)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_does_not_depend_on_where_it_is_cut(
            parts in prop::collection::vec(prop::sample::select(vec![
                "GET / HTTP/1.1", "\r\n", "\n", "\r", "content-length: 3", "transfer-encoding: chunked", "abc", "3", "0", " ", "x: y",
            ]), 0..40),
            size in 1..50_usize,
        ) {
            let text = parts.concat();
            prop_assert_eq!(read(text.as_bytes(), size), read(text.as_bytes(), text.len().max(1)));
        }
    }
}
