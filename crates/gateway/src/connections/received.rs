//! The body of an answer, as it comes from the connection.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Host, head::Framing, http1::Http1, http2::Place};

/// The longest line between chunks, and the most bytes after the last one.
const MAX_LINE: usize = 16 << 10;

/// A body. Dropped before its end, it closes an HTTP/1.1 connection and resets an HTTP/2 stream.
pub struct Received(Kind);

enum Kind {
    Http1(Single),
    Http2 { body: Incoming, _place: Place },
    Relayed(Incoming),
}

struct Single {
    /// None once the body is at its end.
    connection: Option<Box<Http1>>,
    host: Arc<Host>,
    state: State,
    keeps: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes are to come.
    Length(u64),
    /// A chunk's size is to come.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of a chunk's line.
    AfterChunk,
    /// Lines after the last chunk.
    Trailer,
    /// All until the end.
    UntilClose,
    Done,
}

/// How many of the bytes at hand were taken, and what of the body they held.
type Taken = Result<(usize, Bytes), &'static str>;

impl Received {
    /// The body that begins with what `connection` has read beyond the head.
    pub(super) fn http1(connection: Http1, host: Arc<Host>, framing: Framing, keeps: bool) -> Self {
        let state = match framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
        let mut single = Single { connection: Some(Box::new(connection)), host, state, keeps };
        if state == State::Length(0) {
            single.end();
        }
        Self(Kind::Http1(single))
    }

    /// A body on a connection that others share.
    pub(super) fn http2(body: Incoming, place: Place) -> Self {
        Self(Kind::Http2 { body, _place: place })
    }
}

/// An answer to a request whose own body streamed.
impl From<Incoming> for Received {
    fn from(body: Incoming) -> Self {
        Self(Kind::Relayed(body))
    }
}

impl Single {
    /// The body is whole: the connection goes back.
    fn end(&mut self) {
        self.state = State::Done;
        if let Some(connection) = self.connection.take().filter(|_| self.keeps) {
            connection.end(&self.host);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<dyn Error + Send + Sync>>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            let state = &mut self.state;
            let mut taken = Ok((0, Bytes::new()));
            if !connection.buffer().is_empty() {
                taken = state.take(connection.buffer());
                if let Ok((count, _)) = taken {
                    connection.buffer().advance(count);
                }
            }
            if matches!(&taken, Ok((_, data)) if data.is_empty()) && *state != State::Done {
                let read = |bytes: &[u8]| match state.take(bytes) {
                    Ok((count, data)) => (count, Ok((count, data))),
                    Err(reason) => (0, Err(reason)),
                };
                taken = match ready!(connection.poll_more(context, read)) {
                    Ok(Some(taken)) => taken,
                    Ok(None) if self.state == State::UntilClose => {
                        self.connection = None;
                        continue;
                    }
                    Ok(None) => Err("the connection was closed before the end of the body"),
                    Err(error) => return self.fail(error),
                };
            }
            match taken {
                Ok((_, data)) => {
                    if self.state == State::Done {
                        self.end();
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Err(reason) => return self.fail(reason),
            }
        }
    }

    fn fail<T>(
        &mut self,
        reason: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Poll<Option<Result<T, Box<dyn Error + Send + Sync>>>> {
        self.connection = None;
        Poll::Ready(Some(Err(reason.into())))
    }
}

impl State {
    /// Takes what the bytes at hand hold of the body. What is wrong with them is told once all before it was given out.
    fn take(&mut self, bytes: &[u8]) -> Taken {
        let mut data = Data::default();
        let mut at = 0;
        loop {
            match self.step(&bytes[at..], &mut data) {
                Ok(Some(count)) => at += count,
                Ok(None) => break,
                Err(_) if !data.first.is_empty() => break,
                Err(reason) => return Err(reason),
            }
        }
        Ok((at, data.joined()))
    }

    /// Takes the next part of the framing, and says how long it is; none where it is not all there, and after the last one.
    fn step(&mut self, bytes: &[u8], data: &mut Data) -> Result<Option<usize>, &'static str> {
        if bytes.is_empty() || *self == Self::Done {
            return Ok(None);
        }
        match *self {
            Self::Done => Ok(None),
            Self::UntilClose => {
                data.push(bytes, 0);
                Ok(Some(bytes.len()))
            }
            Self::Length(left) | Self::Chunk(left) => {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let rest = left - count as u64;
                *self = match *self {
                    Self::Length(_) if rest == 0 => Self::Done,
                    Self::Length(_) => Self::Length(rest),
                    _ if rest == 0 => Self::AfterChunk,
                    _ => Self::Chunk(rest),
                };
                data.push(&bytes[..count], bytes.len() - count);
                Ok(Some(count))
            }
            Self::AfterChunk => {
                if bytes.len() < 2 {
                    return Ok(None);
                }
                if !bytes.starts_with(b"\r\n") {
                    return Err("a chunk is longer than it said");
                }
                *self = Self::Size;
                Ok(Some(2))
            }
            Self::Size => {
                let Some(end) = line(bytes)? else { return Ok(None) };
                let size = size(&bytes[..end])?;
                *self = if size == 0 { Self::Trailer } else { Self::Chunk(size) };
                Ok(Some(end + 1))
            }
            Self::Trailer => {
                let Some(end) = line(bytes)? else { return Ok(None) };
                if bytes[..end].trim_ascii().is_empty() {
                    *self = Self::Done;
                }
                Ok(Some(end + 1))
            }
        }
    }
}

/// What several chunks that came at once hold, as one piece. One alone, as events mostly come, is copied once.
#[derive(Default)]
struct Data {
    first: Bytes,
    all: BytesMut,
}

impl Data {
    /// Adds bytes of the body; `more` says how many bytes may follow at most.
    fn push(&mut self, bytes: &[u8], more: usize) {
        if self.first.is_empty() {
            self.first = Bytes::copy_from_slice(bytes);
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.first.len() + bytes.len() + more);
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(bytes);
    }

    fn joined(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

/// Where the first line ends: the place of its line feed.
fn line(buffer: &[u8]) -> Result<Option<usize>, &'static str> {
    match memchr::memchr(b'\n', buffer) {
        None if buffer.len() > MAX_LINE => Err("a line between chunks is too long"),
        found => Ok(found),
    }
}

/// A chunk's size; what follows a semicolon is an extension that nobody here knows.
fn size(line: &[u8]) -> Result<u64, &'static str> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || digits.len() > 15 {
        return Err("a chunk has no size");
    }
    digits.iter().try_fold(0, |size, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or("a chunk's size is no number")?;
        Ok(size << 4 | u64::from(digit))
    })
}

impl Body for Received {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            Kind::Http1(single) => single.poll(context).map(|polled| polled.map(|bytes| bytes.map(Frame::data))),
            Kind::Http2 { body, .. } | Kind::Relayed(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(single) => single.connection.is_none(),
            Kind::Http2 { body, .. } | Kind::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(Single { state: State::Length(left), .. }) => SizeHint::with_exact(*left),
            Kind::Http1(Single { state: State::Done, .. }) => SizeHint::with_exact(0),
            Kind::Http1(_) => SizeHint::default(),
            Kind::Http2 { body, .. } | Kind::Relayed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the pieces of a chunked body come to.
    fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<u8>, bool), &'static str> {
        let (mut state, mut buffer, mut all) = (State::Size, BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                let (count, data) = state.take(&buffer)?;
                buffer.advance(count);
                all.extend_from_slice(&data);
                if state == State::Done {
                    return Ok((all, buffer.is_empty()));
                }
                if count == 0 {
                    break;
                }
            }
        }
        Ok((all, false))
    }

    proptest! {
        #[test]
        fn chunks_are_read_wherever_they_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cut in 1..20_usize,
            extended: bool,
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                let extension = if extended { ";a=\"b\"" } else { "" };
                text.extend(format!("{:X}{extension}\r\n", chunk.len()).into_bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            text.extend(if extended { &b"0\r\nx-sum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
            prop_assert_eq!(decode(text.chunks(cut)), Ok((chunks.concat(), true)));
            prop_assert_eq!(decode(text[..text.len() - 1].chunks(cut)), Ok((chunks.concat(), false)));
        }

        #[test]
        fn nonsense_is_an_error_or_waited_for(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(std::iter::once(&text[..]));
        }
    }

    #[test]
    fn a_chunk_that_is_not_as_long_as_it_said_is_an_error() {
        for text in ["2\r\nabc\r\n", "zz\r\n", "\r\n", "-1\r\n", "1000000000000000\r\n"] {
            assert!(decode(std::iter::once(text.as_bytes())).is_err(), "{text}");
        }
    }
}
