//! The body of a request: at hand, or as a client sends it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

/// A body on its way to a host.
pub enum Sent {
    /// All of it.
    Whole(Full<Bytes>),
    /// As it comes: read no faster than the host takes it. What a client says after its body (trailers) stays here.
    Streams(Incoming),
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Whole(full) => Pin::new(full).poll_frame(context).map_err(|never| match never {}),
            Self::Streams(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.filter(|frame| frame.as_ref().map_or(true, Frame::is_data)))
            }
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
