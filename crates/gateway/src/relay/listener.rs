//! The client of a stream: what it is sent, signs of life while there is nothing to send, and whether it is still there.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::streamed::Cut;
use crate::wire::{self, Wire};

/// Pieces that may wait for a slow client before the provider is read no further.
const QUEUE: usize = 32;
/// The piece that ends a response in order.
const END: Bytes = Bytes::new();

/// The client's end of a stream.
pub struct Listener {
    pieces: mpsc::Sender<Bytes>,
    /// How long it may go without taking anything before it counts as gone.
    patience: Duration,
    sign: &'static [u8],
    /// How long it may go without hearing anything.
    silence: Option<Duration>,
    told: Instant,
    timer: Pin<Box<Sleep>>,
}

/// A point in time that is never waited for.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Listener {
    /// A listener in `wire`, and what it is to be sent.
    pub fn new(wire: Wire, silence: Option<Duration>, patience: Duration) -> (Self, mpsc::Receiver<Bytes>) {
        let (pieces, receiver) = mpsc::channel(QUEUE);
        let sign = wire::sign_of_life(wire);
        let silence = silence.filter(|_| !sign.is_empty());
        let told = Instant::now();
        let timer = Box::pin(sleep_until(told + silence.unwrap_or(NEVER)));
        (Self { pieces, patience, sign, silence, told, timer }, receiver)
    }

    /// Sends whole events.
    pub async fn send(&mut self, events: Bytes) -> Result<(), Cut> {
        if events.is_empty() {
            return Ok(());
        }
        self.told = Instant::now();
        match self.pieces.try_send(events) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Cut::Gone),
            // Who takes nothing for so long will not come back, and holds the provider up.
            Err(mpsc::error::TrySendError::Full(events)) => match timeout(self.patience, self.pieces.send(events)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Cut::Gone),
            },
        }
    }

    /// Ends the response in order, with its last events.
    pub async fn end(mut self, last: Bytes) {
        if self.send(last).await.is_ok() {
            let _ = timeout(self.patience, self.pieces.send(END)).await;
        }
    }

    /// Does `work`, gives the client signs of life meanwhile, and ends early when the client goes away. Whatever was sent
    /// before were whole events, so that a sign is always between two.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cut> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.pieces.closed() => return Err(Cut::Gone),
                () = &mut self.timer => {
                    let silence = self.silence.unwrap_or(NEVER);
                    let now = Instant::now();
                    if now >= self.told + silence {
                        // A client that has not taken what it was sent needs no sign.
                        let _ = self.pieces.try_send(Bytes::from_static(self.sign));
                        self.told = now;
                    }
                    // Set only here: while events flow, it is looked at once in a while and not for each of them.
                    self.timer.as_mut().reset(self.told + silence);
                }
            }
        }
    }
}
