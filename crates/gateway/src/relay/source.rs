//! A provider's stream as frames: how long it may be silent, and how it may end.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::{listener::Listener, streamed::Cut};
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
    Amazons(event_stream::Parser),
}

impl Parser {
    fn new(wire: Wire) -> Self {
        match wire {
            Wire::BedrockConverse => Self::Amazons(event_stream::Parser::new()),
            _ => Self::ServerSent(sse::Parser::new()),
        }
    }

    fn push(&mut self, data: Bytes, frames: &mut Vec<Frame>) -> Result<(), Cut> {
        match self {
            Self::ServerSent(parser) => parser
                .push(data, frames)
                .map_err(|_| broken("upstream_unreadable", "The provider sent an event that is too large.")),
            Self::Amazons(parser) => parser
                .push(data, frames)
                .map_err(|error| broken("upstream_unreadable", format!("The provider's stream cannot be read: {error}."))),
        }
    }

    /// Whether the bytes so far end within a frame.
    fn has_part(&mut self) -> bool {
        match self {
            Self::ServerSent(parser) => parser.finish(),
            Self::Amazons(parser) => parser.finish(),
        }
        .is_some_and(|rest| !rest.trim_ascii().is_empty())
    }
}

/// The frames of a provider's stream.
pub struct Source<B> {
    body: B,
    parser: Parser,
    reader: StreamReader,
    /// How long it may be silent: longer before the first token than after it.
    patience: Duration,
    idle: Duration,
    /// When it was heard last.
    heard: Instant,
    /// How long it was waited for, in all.
    pub waited: Duration,
}

pub fn broken(code: &'static str, message: impl Into<String>) -> Cut {
    Cut::Broken(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message.into()).code(code))
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
    pub fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        self.reader.read(frame)
    }

    /// Whether the answer is whole though nothing said so but the end of the bytes: some wires have no other mark.
    pub fn ended(&mut self) -> bool {
        !self.parser.has_part() && self.reader.end() == Some(Event::End)
    }

    /// The frames that came next, at least one; none at the end.
    pub async fn next(&mut self, frames: &mut Vec<Frame>, listener: &mut Listener) -> Result<bool, Cut> {
        frames.clear();
        let begun = Instant::now();
        loop {
            let Ok(piece) = listener.during(timeout_at(self.heard + self.patience, self.body.frame())).await? else {
                let message = format!("The provider sent nothing for {} s.", self.patience.as_secs_f64());
                return Err(broken("upstream_stalled", message));
            };
            self.heard = Instant::now();
            match piece {
                None => return Ok(false),
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
                    let Ok(data) = frame.into_data() else { continue };
                    self.parser.push(data, frames)?;
                    if !frames.is_empty() {
                        self.waited += self.heard - begun;
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Reads what is left, so that the connection can serve another call.
    pub async fn close(&mut self) {
        let _ = timeout(CLOSING, async { while let Some(Ok(_)) = self.body.frame().await {} }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::{spawn, sync::mpsc, time::sleep};

    use super::*;
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
    async fn after(silence: Duration, begun: bool) -> (Result<bool, Cut>, usize) {
        let timeouts: Timeouts =
            serde_json::from_str(r#"{"connect_ms":1,"first_byte_ms":1,"idle_ms":300000,"total_ms":1}"#).unwrap();
        let (provider, pieces) = mpsc::channel(1);
        let mut source = Source::new(Wire::OpenaiChat, Pieces(pieces), &timeouts);
        if begun {
            source.answers();
        }
        let (mut listener, mut client) = Listener::new(Wire::OpenaiChat, timeouts.ping(), timeouts.idle());
        spawn(async move {
            provider.send("data: 1").await.unwrap();
            sleep(silence).await;
            let _ = provider.send("\n\n").await;
        });
        let signs = spawn(async move {
            let mut signs = 0;
            while let Some(piece) = client.recv().await {
                assert_eq!(piece, ": ping\n\n");
                signs += 1;
            }
            signs
        });
        let mut frames = Vec::new();
        let result = source.next(&mut frames, &mut listener).await;
        assert_eq!(frames.len(), usize::from(result.is_ok()));
        drop(listener);
        (result, signs.await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn five_minutes_of_reasoning_are_survived_and_a_stall_is_not() {
        assert!(matches!(after(5 * MINUTE + MINUTE / 2, false).await, (Ok(true), 22)));
        assert!(matches!(after(11 * MINUTE, false).await, (Err(Cut::Broken(_)), _)));
        assert!(matches!(after(4 * MINUTE, true).await, (Ok(true), _)));
        let (Err(Cut::Broken(refusal)), 20 | 19) = after(6 * MINUTE, true).await else { panic!("a stall went by") };
        assert_eq!((refusal.code, &*refusal.message), (Some("upstream_stalled"), "The provider sent nothing for 300 s."));
    }
}
