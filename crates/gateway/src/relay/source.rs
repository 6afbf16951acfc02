//! A provider's stream as frames: how long it may be silent, and how it may end.

use std::{collections::VecDeque, error::Error, ops::Range, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::{
    listener::{Listener, Patience},
    shape::Shape,
    streamed::Cut,
};
use crate::{
    config::Timeouts,
    decode::DecodeError,
    error::Refusal,
    sse::{self, Frame},
    wire::{Event, StreamReader, Wire, WireError, event_stream},
};

/// How long a provider may take to close after its last event, so that the connection can serve again.
const CLOSING: Duration = Duration::from_secs(1);

/// Cuts the bytes into frames.
enum Parser {
    ServerSent(sse::Parser),
    /// Amazon's, and the frames that were cut and not yet asked for.
    Amazons(event_stream::Parser, VecDeque<Frame>),
}

impl Parser {
    fn new(wire: Wire) -> Self {
        match wire {
            Wire::BedrockConverse => Self::Amazons(event_stream::Parser::new(), VecDeque::new()),
            _ => Self::ServerSent(sse::Parser::new()),
        }
    }

    /// The frame that the bytes of `chunk` from `at` on complete; `at` goes to where it ends.
    fn next(&mut self, chunk: &Bytes, at: &mut usize) -> Result<Option<Frame>, Cut> {
        match self {
            Self::ServerSent(parser) => {
                parser.next(chunk, at).map_err(|_| broken("upstream_unreadable", "The provider sent an event that is too large."))
            }
            Self::Amazons(parser, cut) => {
                if *at < chunk.len() {
                    let mut frames = Vec::new();
                    let pushed = parser.push(chunk.slice(*at..), &mut frames);
                    *at = chunk.len();
                    cut.extend(frames);
                    pushed.map_err(|error| {
                        broken("upstream_unreadable", format!("The provider's stream cannot be read: {error}."))
                    })?;
                }
                Ok(cut.pop_front())
            }
        }
    }

    /// Whether the next byte begins a frame.
    fn is_between(&self) -> bool {
        matches!(self, Self::ServerSent(parser) if parser.is_between())
    }

    /// Whether the bytes so far end within a frame.
    fn has_part(&mut self) -> bool {
        match self {
            Self::ServerSent(parser) => parser.finish(),
            Self::Amazons(parser, _) => parser.finish(),
        }
        .is_some_and(|rest| !rest.trim_ascii().is_empty())
    }
}

/// What comes next in a stream.
pub enum Seen<'c> {
    /// An event that says nothing but more text, and stands in the bytes as it came.
    Text {
        /// Where it stands.
        at: Range<usize>,
        /// What it says.
        text: &'c str,
        /// Where in it the usage stands that was asked for by us alone.
        untold: Option<Range<usize>>,
    },
    /// Any other.
    Frame(Frame),
}

/// The frames of a provider's stream.
pub struct Source<B> {
    body: B,
    parser: Parser,
    reader: StreamReader,
    shape: Option<Shape>,
    /// How long it may be silent: longer before the first token than after it.
    patience: Duration,
    idle: Duration,
    /// When it was heard last.
    pub heard: Instant,
    /// How long it was waited for, in all.
    pub waited: Duration,
}

/// What the client is told of a provider that failed in the middle of its answer.
pub fn broken(code: &'static str, message: impl Into<String>) -> Cut {
    Cut::Broken(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message.into()).code(code))
}

pub fn stalled(patience: Duration) -> Cut {
    broken("upstream_stalled", format!("The provider sent nothing for {} s.", patience.as_secs_f64()))
}

impl<B> Source<B>
where
    B: Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>> + Unpin,
{
    /// A stream in `wire`, at its beginning.
    pub fn new(wire: Wire, body: B, timeouts: &Timeouts) -> Self {
        Self {
            body,
            parser: Parser::new(wire),
            reader: StreamReader::new(wire),
            shape: None,
            patience: timeouts.first_token(),
            idle: timeouts.idle(),
            heard: Instant::now(),
            waited: Duration::ZERO,
        }
    }

    /// The model has begun to answer: from now on silence is a stall.
    pub fn answers(&mut self) {
        self.patience = self.idle;
    }

    /// What a frame says.
    ///
    /// # Errors
    /// Says what of it cannot be read.
    pub fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        let events = self.reader.read(frame);
        match events.as_deref() {
            // One that has no shape to be told by, for an escape in its text, leaves the others theirs.
            Ok([Event::Text(text)]) => self.shape = Shape::of(frame, text).or(self.shape.take()),
            Ok([Event::Ping] | []) => {}
            _ => self.shape = None,
        }
        events
    }

    /// Whether the answer is whole though nothing said so but the end of the bytes: some wires have no other mark.
    pub fn ended(&mut self) -> bool {
        !self.parser.has_part() && self.reader.end() == Some(Event::End)
    }

    /// The bytes that came next; none at the end.
    ///
    /// # Errors
    /// Where it breaks off or stalls.
    pub async fn next(&mut self, listener: &mut Listener) -> Result<Option<Bytes>, Cut> {
        loop {
            let begun = Instant::now();
            let patience = Patience { from: begun, time: self.patience };
            let piece = listener.during(Some(patience), self.body.frame()).await?;
            self.heard = Instant::now();
            self.waited += self.heard - begun;
            match piece {
                None => return Ok(None),
                Some(Err(error)) => {
                    tracing::warn!(%error, "a provider's stream broke off");
                    return Err(match error.downcast_ref::<DecodeError>() {
                        Some(DecodeError::Truncated(_)) | None => {
                            broken("upstream_broke_off", "The provider's answer broke off. Try again.")
                        }
                        Some(error) => broken("upstream_unreadable", format!("The provider's answer cannot be read: {error}.")),
                    });
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// What the bytes of `chunk` from `at` on complete; `at` goes to where it ends.
    ///
    /// # Errors
    /// Where they are not of the wire.
    pub fn cut<'c>(&mut self, chunk: &'c Bytes, at: &mut usize) -> Result<Option<Seen<'c>>, Cut> {
        if let Some(shape) = &self.shape
            && self.parser.is_between()
            && let Some(same) = shape.find(&chunk[*at..])
        {
            let from = *at;
            *at += same.length;
            let untold = same.untold.map(|range| from + range.start..from + range.end);
            return Ok(Some(Seen::Text { at: from..*at, text: same.text, untold }));
        }
        Ok(self.parser.next(chunk, at)?.map(Seen::Frame))
    }

    /// Whether the next byte begins a frame that will be given as it stands in the bytes.
    pub fn is_between(&self) -> bool {
        self.parser.is_between()
    }
}

impl<B> Source<B>
where
    B: Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>> + Unpin + Send + 'static,
{
    /// Reads what is left, so that the connection can serve another call: mostly it is here already. If not, it is waited for
    /// beside the client's way, a second at most.
    pub async fn close(mut self) {
        let mut rest = Box::pin(async move { while let Some(Ok(_)) = self.body.frame().await {} });
        tokio::select! {
            biased;
            () = &mut rest => return,
            () = std::future::ready(()) => {}
        }
        tokio::spawn(async move { timeout(CLOSING, rest).await });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use tokio::{
        spawn,
        sync::{mpsc, oneshot},
        time::sleep,
    };

    use super::*;
    use crate::relay::relayed::{Hand, Relayed};

    struct Pieces(mpsc::Receiver<&'static str>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Box<dyn Error + Send + Sync>;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(Bytes::from(piece)))))
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// What `silence` within an event comes to, and the signs of life that the client got meanwhile.
    async fn after(silence: Duration, begun: bool) -> (Result<Option<Bytes>, Cut>, usize) {
        let timeouts: Timeouts =
            serde_json::from_str(r#"{"connect_ms":1,"first_byte_ms":1,"idle_ms":300000,"total_ms":3600000}"#).unwrap();
        let (provider, pieces) = mpsc::channel(1);
        let hand = Arc::new(Hand::default());
        let mut listener = Listener::new(Wire::OpenaiChat, &timeouts, Arc::clone(&hand));
        let (tell, told) = oneshot::channel();
        spawn(async move {
            sleep(silence).await;
            let _ = provider.send("data: 1\n\n").await;
        });
        let relay = async move {
            let mut source = Source::new(Wire::OpenaiChat, Pieces(pieces), &timeouts);
            if begun {
                source.answers();
            }
            let _ = tell.send(source.next(&mut listener).await);
            listener.end(Bytes::new());
        };
        let mut client = Relayed::new(hand, Box::pin(relay));
        let mut signs = 0;
        while let Some(piece) = poll_fn(|context| client.poll_piece(context)).await {
            assert_eq!(piece.unwrap(), ": ping\n\n");
            signs += 1;
        }
        (told.await.unwrap(), signs)
    }

    #[tokio::test(start_paused = true)]
    async fn five_minutes_of_reasoning_are_survived_and_a_stall_is_not() {
        assert!(matches!(after(5 * MINUTE + MINUTE / 2, false).await, (Ok(Some(_)), 22)));
        assert!(matches!(after(11 * MINUTE, false).await, (Err(Cut::Broken(_)), _)));
        assert!(matches!(after(4 * MINUTE, true).await, (Ok(Some(_)), _)));
        let (Err(Cut::Broken(refusal)), 20 | 19) = after(6 * MINUTE, true).await else { panic!("a stall went by") };
        assert_eq!((refusal.code, &*refusal.message), (Some("upstream_stalled"), "The provider sent nothing for 300 s."));
    }
}
