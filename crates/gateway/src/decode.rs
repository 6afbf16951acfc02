//! Bodies with their content codings undone, whoever sent them: an event comes out as soon as its bytes are in, and a body
//! that swells is given out in small pieces, so that whoever reads it can stop.

mod coding;

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};

use self::coding::{Coding, Decoder};

type Failed = Box<dyn Error + Send + Sync>;

/// Codings that a body may have been put through, one upon the other; nobody has a reason for more than one.
const MAX_LAYERS: usize = 3;

/// A body that is not what its `Content-Encoding` says, or says what we do not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// A coding that is not gzip, br or zstd, or too many of them.
    Unknown(String),
    /// The bytes are not of this coding.
    Corrupt(&'static str),
    /// The body ends before the coding does.
    Truncated(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(coding) => write!(f, "the content encoding '{coding}' is not one of gzip, br and zstd"),
            Self::Corrupt(coding) => write!(f, "the body is not valid {coding}"),
            Self::Truncated(coding) => write!(f, "the body ends in the middle of its {coding}"),
        }
    }
}

impl Error for DecodeError {}

/// A body as it is after its content codings. One without any is passed through.
#[derive(Debug)]
pub enum Decoded<B> {
    /// As it came.
    Plain(B),
    /// In one coding; within it there may be another.
    Coded(Box<Coded<B>>),
}

/// A body in a content coding.
#[derive(Debug)]
pub struct Coded<B> {
    source: Decoded<B>,
    coding: Coding,
    /// None until the first byte: only then can be told whether the coding was announced in vain.
    decoder: Option<Decoder>,
    input: Bytes,
    /// The decoder may have more to give without more input.
    full: bool,
}

impl<B> Decoded<B> {
    /// `body` with the codings that `headers` announce undone.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for codings that cannot be undone.
    pub fn new(headers: &HeaderMap, body: B) -> Result<Self, DecodeError> {
        let mut body = Self::Plain(body);
        let Some(_) = headers.get(header::CONTENT_ENCODING) else { return Ok(body) };
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let names: Vec<String> = lines
            .flat_map(|line| String::from_utf8_lossy(line.as_bytes()).split(',').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let mut layers = 0;
        // The last one named was put on last.
        for name in names.iter().rev().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            let Some(coding) = Coding::named(name).map_err(|()| DecodeError::Unknown(name.to_owned()))? else { continue };
            layers += 1;
            if layers > MAX_LAYERS {
                return Err(DecodeError::Unknown(names.join(",")));
            }
            body = Self::Coded(Box::new(Coded { source: body, coding, decoder: None, input: Bytes::new(), full: false }));
        }
        Ok(body)
    }
}

impl<B> Body for Decoded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Failed>,
{
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Plain(body) => Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Self::Coded(coded) => coded.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(body) => body.is_end_stream(),
            Self::Coded(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(body) => body.size_hint(),
            Self::Coded(_) => SizeHint::default(),
        }
    }
}

impl<B> Coded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Failed>,
{
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        loop {
            if self.full || !self.input.is_empty() {
                let coding = self.coding;
                let decoder = match &mut self.decoder {
                    Some(decoder) => decoder,
                    None if coding.may_begin_with(&self.input) => self.decoder.insert(Decoder::new(coding)),
                    // Announced, but not so, or announced twice: these bytes are what is meant.
                    None => self.decoder.insert(Decoder::None),
                };
                let before = self.input.len();
                let step = decoder.step(&self.input).map_err(|()| DecodeError::Corrupt(coding.name()))?;
                self.input.advance(step.consumed);
                self.full = step.full;
                if !step.output.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(step.output))));
                }
                if before > 0 && step.consumed == 0 && !self.full {
                    return Poll::Ready(Some(Err(DecodeError::Corrupt(coding.name()).into())));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.source).poll_frame(context)) {
                None => {
                    let whole = self.decoder.as_mut().is_none_or(Decoder::ended);
                    let cut = DecodeError::Truncated(self.coding.name());
                    return Poll::Ready(if whole { None } else { Some(Err(cut.into())) });
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.input = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}
