//! The client of a stream, as its relay sees it: what it is given, and signs of life while there is nothing to give.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{relayed::Hand, source::stalled, streamed::Cut, too_long};
use crate::{
    config::Timeouts,
    wire::{self, Wire},
};

/// How long a provider may be silent, and from when on.
#[derive(Clone, Copy)]
pub struct Patience {
    /// Since then.
    pub from: Instant,
    /// For so long.
    pub time: Duration,
}

impl Patience {
    fn until(self) -> Instant {
        self.from + self.time
    }
}

/// The client's end of a stream.
pub struct Listener {
    hand: Arc<Hand>,
    sign: &'static [u8],
    /// How long it may go without hearing anything.
    silence: Option<Duration>,
    told: Instant,
    /// How long the call may take, and when that is over.
    total: Duration,
    over: Instant,
    /// The one timer of the stream: set for the next of what may be due, and looked at again only then. That all of it moves
    /// further away with each event is found out when it fires.
    timer: Pin<Box<Sleep>>,
}

impl Listener {
    /// A listener in `wire`, to whom pieces are given by `hand`.
    pub fn new(wire: Wire, timeouts: &Timeouts, hand: Arc<Hand>) -> Self {
        Self::given(wire::sign_of_life(wire), timeouts, hand)
    }

    /// One that is told nothing between the pieces: nobody knows of what they are.
    pub fn quiet(timeouts: &Timeouts, hand: Arc<Hand>) -> Self {
        Self::given(b"", timeouts, hand)
    }

    fn given(sign: &'static [u8], timeouts: &Timeouts, hand: Arc<Hand>) -> Self {
        let silence = timeouts.ping().filter(|_| !sign.is_empty());
        let (told, total) = (Instant::now(), timeouts.total());
        let over = told + total;
        let timer = Box::pin(sleep_until(silence.map_or(over, |silence| told + silence)));
        Self { hand, sign, silence, told, total, over, timer }
    }

    /// Gives whole events, and waits until they were taken.
    ///
    /// # Errors
    /// Where nobody is there to take them.
    pub async fn give(&mut self, events: Bytes, now: Instant) -> Result<(), Cut> {
        if events.is_empty() {
            return Ok(());
        }
        self.told = now;
        let mut events = Some(events);
        poll_fn(|_| {
            let mut held = self.hand.held();
            if held.gone {
                return Poll::Ready(Err(Cut::Gone));
            }
            if let Some(events) = events.take_if(|_| held.piece.is_none()) {
                held.piece = Some(events);
            }
            if held.piece.is_none() && events.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Ends the response in order, with its last events.
    pub fn end(self, last: Bytes) {
        let mut held = self.hand.held();
        held.ended = true;
        held.piece = Some(last).filter(|last| !last.is_empty());
    }

    /// Does `work`, and gives the client signs of life meanwhile. Whatever was given before were whole events, so that a sign
    /// is always between two.
    ///
    /// # Errors
    /// Where the provider is silent for too long, or the call takes longer than any may.
    pub async fn during<T>(&mut self, patience: Option<Patience>, work: impl Future<Output = T>) -> Result<T, Cut> {
        if let Some(patience) = patience.filter(|patience| patience.until() < self.timer.deadline()) {
            self.timer.as_mut().reset(patience.until());
        }
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            self.poll_due(context, patience).map(Err)
        })
        .await
    }

    /// The same for work that must come to its end even where the client goes away meanwhile.
    ///
    /// # Errors
    /// [`Cut::Gone`] where it did.
    pub async fn throughout<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cut> {
        self.hand.held().busy = true;
        let mut work = pin!(work);
        let mut late = None;
        let done = poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            if late.is_none()
                && let Poll::Ready(cut) = self.poll_due(context, None)
            {
                late = Some(cut);
            }
            Poll::Pending
        })
        .await;
        let mut held = self.hand.held();
        held.busy = false;
        match late {
            _ if held.gone => Err(Cut::Gone),
            Some(cut) => Err(cut),
            None => Ok(done),
        }
    }

    /// Ready when there is nothing to be waited for any more.
    fn poll_due(&mut self, context: &mut Context<'_>, patience: Option<Patience>) -> Poll<Cut> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            if let Some(patience) = patience.filter(|patience| now >= patience.until()) {
                return Poll::Ready(stalled(patience.time));
            }
            if now >= self.over {
                return Poll::Ready(Cut::Broken(too_long(self.total)));
            }
            let mut next = patience.map_or(self.over, |patience| patience.until().min(self.over));
            if let Some(silence) = self.silence {
                if now >= self.told + silence {
                    self.hand.held().piece.get_or_insert(Bytes::from_static(self.sign));
                    self.told = now;
                }
                next = next.min(self.told + silence);
            }
            self.timer.as_mut().reset(next);
        }
    }
}
