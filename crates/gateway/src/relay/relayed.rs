//! The body of a streamed response: whoever polls it drives the relay, and whoever drops it ends it. No task, no channel.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;

/// What a relay and the body that drives it share.
#[derive(Default)]
pub struct Hand(Mutex<Held>);

#[derive(Default)]
pub struct Held {
    /// What the client is to be given next.
    pub piece: Option<Bytes>,
    /// The response ends in order after that.
    pub ended: bool,
    /// The client went away while the relay was not to be interrupted.
    pub gone: bool,
    /// The relay does what must be done to its end, whether or not there is a client.
    pub busy: bool,
}

impl Hand {
    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub type Relay = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body of a streamed response. Dropped before its end it drops the relay, which closes the provider's connection and
/// records what was answered so far.
pub struct Relayed {
    /// None once it has come to its end.
    relay: Option<Relay>,
    hand: Arc<Hand>,
    alarm: Arc<Alarm>,
    waker: Waker,
}

/// Wakes the client's connection, and remembers that it did: hyper asks a body three times for each event, of which two are in
/// vain, and the relay need not be asked before something has happened to it.
struct Alarm {
    rung: AtomicBool,
    client: Mutex<Waker>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, SeqCst);
        self.client().wake_by_ref();
    }
}

impl Alarm {
    fn client(&self) -> MutexGuard<'_, Waker> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the relay is to be asked; `client` is who wants to be woken.
    fn is_due(&self, client: &Waker) -> bool {
        let mut known = self.client();
        if !known.will_wake(client) {
            known.clone_from(client);
        }
        drop(known);
        self.rung.swap(false, SeqCst)
    }
}

impl Relayed {
    /// What `relay` puts into `hand`.
    pub fn new(hand: Arc<Hand>, relay: Relay) -> Self {
        let alarm = Arc::new(Alarm { rung: AtomicBool::new(true), client: Mutex::new(Waker::noop().clone()) });
        let waker = Waker::from(Arc::clone(&alarm));
        Self { relay: Some(relay), hand, alarm, waker }
    }

    /// Whether all has been given, and the response ends in order.
    pub fn is_at_end(&self) -> bool {
        self.relay.is_none() && self.hand.held().ended
    }

    /// The next piece; none at the end in order.
    ///
    /// # Errors
    /// Where the relay ended before the answer did: the response is cut short, so that no client takes it for a whole one.
    pub fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<dyn Error + Send + Sync>>>> {
        if let Some(relay) = &mut self.relay {
            if !self.alarm.is_due(context.waker()) {
                return Poll::Pending;
            }
            let done = relay.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready();
            if done {
                self.relay = None;
            }
            let piece = self.hand.held().piece.take();
            if let Some(piece) = piece {
                // It stopped to give this, and waits for nothing but to be asked again.
                self.alarm.rung.store(true, SeqCst);
                return Poll::Ready(Some(Ok(piece)));
            }
            if !done {
                return Poll::Pending;
            }
        }
        let ended = self.hand.held().ended;
        Poll::Ready(if ended { None } else { Some(Err("the relay ended before the answer did".into())) })
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let Some(relay) = self.relay.take() else { return };
        let mut held = self.hand.held();
        if held.busy {
            held.gone = true;
            drop(held);
            tokio::spawn(relay);
        }
    }
}
