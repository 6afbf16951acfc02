//! The body of a request: at hand, or as a client sends it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

/// A body on its way to a host.
pub enum Sent {
    /// All of it.
    Whole(Full<Bytes>),
    /// As it comes.
    Streams(Streaming),
}

/// A client's body as it comes: read no faster than the host takes it. What a client says after its body (trailers) stays here.
pub struct Streaming {
    /// What was read of it before.
    first: Option<Bytes>,
    rest: Incoming,
}

impl From<Incoming> for Streaming {
    fn from(rest: Incoming) -> Self {
        Self { first: None, rest }
    }
}

impl Streaming {
    /// What was read of it before it is sent on.
    pub fn first(&self) -> Option<&Bytes> {
        self.first.as_ref()
    }

    /// Reads its beginning: at least so many bytes where it has them.
    ///
    /// # Errors
    /// Where the client breaks off.
    pub async fn begin(&mut self, least: usize) -> Result<(), hyper::Error> {
        while self.first.as_ref().map_or(0, Bytes::len) < least
            && let Some(frame) = self.rest.frame().await
        {
            let Ok(data) = frame?.into_data() else { continue };
            self.first = Some(match self.first.take() {
                None => data,
                Some(first) => [first, data].concat().into(),
            });
        }
        Ok(())
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(context));
        Poll::Ready(frame.filter(|frame| frame.as_ref().map_or(true, Frame::is_data)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (first, rest) = (self.first.as_ref().map_or(0, |first| first.len() as u64), self.rest.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(rest.lower() + first);
        hint
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole(full) => Pin::new(full).poll_frame(context).map_err(|never| match never {}),
            Self::Streams(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(full) => full.is_end_stream(),
            Self::Streams(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(full) => full.size_hint(),
            Self::Streams(body) => body.size_hint(),
        }
    }
}
