//! The body of a response: bytes at hand, a stream made here, or one passed on.

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;

use crate::{connections::Received, relay::Relayed};

/// A response's body.
pub enum Body {
    /// Bytes at hand.
    Full(Full<Bytes>),
    /// An answer that is relayed as it is asked for.
    Relayed(Relayed),
    /// Another server's body, passed on.
    Received(Received),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::Full(Full::new(Bytes::new()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Full::new(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full)
                .poll_frame(context)
                .map(|frame| frame.map(|result| result.map_err(|error: Infallible| match error {}))),
            Self::Relayed(relayed) => relayed.poll_piece(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Received(received) => Pin::new(received).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Relayed(relayed) => relayed.is_at_end(),
            Self::Received(received) => received.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Relayed(_) => SizeHint::default(),
            Self::Received(received) => received.size_hint(),
        }
    }
}
