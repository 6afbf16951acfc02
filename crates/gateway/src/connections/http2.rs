//! HTTP/2 connections, each shared by as many calls as the host allows at a time.

use std::{
    error::Error,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header, request::Parts};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, Connection, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;

use super::{ConnectionError, Kept, Received, Sent, locked};

/// How often a connection with calls under way is asked whether it lives, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

struct Load {
    /// Calls under way.
    count: AtomicUsize,
    /// When the last one ended.
    ended: Mutex<Instant>,
}

/// A call's place on a connection: free again when dropped.
pub struct Place(Arc<Load>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, SeqCst);
        *locked(&self.0.ended) = Instant::now();
    }
}

type Driven = Connection<TokioIo<TlsStream<TcpStream>>, Sent, TokioExecutor>;
/// A request that was not sent, where that is sure, and why.
type Unsent = Box<(ConnectionError, Option<Request<Sent>>)>;

/// A connection, or a call's hold on one.
pub struct Http2 {
    send: SendRequest<Sent>,
    /// Driven by a task of its own; held here to be asked how many calls the host takes at a time.
    connection: Arc<Mutex<Option<Driven>>>,
    /// The same number as all connections to the host last knew it.
    limit: Arc<AtomicUsize>,
    load: Arc<Load>,
    place: Option<Place>,
}

impl Http2 {
    /// Makes the connection, with a place for the call that opened it.
    ///
    /// `limit` is how many calls the host takes at a time on each of its connections, as far as it has said.
    pub async fn handshake(stream: TlsStream<TcpStream>, limit: &Arc<AtomicUsize>) -> Result<Self, ConnectionError> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_max_send_streams(limit.load(SeqCst));
        builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(ConnectionError::unsent)?;
        let connection = Arc::new(Mutex::new(Some(connection)));
        let driven = Arc::clone(&connection);
        tokio::spawn(poll_fn(move |context| {
            let mut driven = locked(&driven);
            let Some(connection) = driven.as_mut() else { return Poll::Ready(()) };
            if let Err(error) = ready!(Pin::new(connection).poll(context)) {
                tracing::debug!(%error, "a connection to a provider ended");
            }
            // Dropped here, it refuses new calls; those under way go on.
            *driven = None;
            Poll::Ready(())
        }));
        let load = Arc::new(Load { count: AtomicUsize::new(1), ended: Mutex::new(Instant::now()) });
        Ok(Self { place: Some(Place(Arc::clone(&load))), limit: Arc::clone(limit), send, connection, load })
    }

    /// Another handle of the connection, without a place.
    pub fn again(&self) -> Self {
        Self {
            send: self.send.clone(),
            connection: Arc::clone(&self.connection),
            limit: Arc::clone(&self.limit),
            load: Arc::clone(&self.load),
            place: None,
        }
    }

    /// Whether it takes new calls: the host has not said that it goes away.
    pub fn is_open(&self) -> bool {
        self.send.is_ready() && !self.send.is_closed()
    }

    /// Whether it has had no call for longer than `limit`.
    pub fn idle_for(&self, now: Instant, limit: Duration) -> bool {
        self.load.count.load(SeqCst) == 0 && now.saturating_duration_since(*locked(&self.load.ended)) > limit
    }

    /// A hold on the connection with a place for one more call, if the host allows one.
    pub fn place(&self) -> Option<Self> {
        let limit = locked(&self.connection).as_ref()?.current_max_send_streams();
        self.limit.store(limit, SeqCst);
        if self.load.count.load(SeqCst) >= limit {
            return None;
        }
        self.load.count.fetch_add(1, SeqCst);
        Some(Self { place: Some(Place(Arc::clone(&self.load))), ..self.again() })
    }

    /// Sends a request and waits for the head of the answer.
    pub async fn exchange(mut self, parts: &Parts, body: &Bytes, kept: Kept) -> Result<Response<Received>, ConnectionError> {
        let mut request = Request::from_parts(parts.clone(), Sent::Whole(Full::new(body.clone())));
        strip(request.headers_mut());
        let place = self.place.take();
        let response = self.send.send_request(request).await.map_err(|error| failed(&error))?;
        let mut response = received(response, place)?;
        let headers = std::mem::take(response.headers_mut());
        let wanted = headers.iter().filter(|(name, _)| kept(name.as_str().as_bytes()));
        *response.headers_mut() = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(response)
    }

    /// Sends a request whose body is still coming.
    pub async fn stream(mut self, mut request: Request<Sent>) -> Result<Response<Received>, Unsent> {
        strip(request.headers_mut());
        let place = self.place.take();
        match self.send.try_send_request(request).await {
            Ok(response) => received(response, place).map_err(|error| Box::new((error, None))),
            Err(mut error) => {
                let unsent = error.take_message();
                Err(Box::new((failed(error.error()), unsent)))
            }
        }
    }
}

/// Takes out what HTTP/2 says itself.
fn strip(headers: &mut HeaderMap) {
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

fn received(response: Response<Incoming>, place: Option<Place>) -> Result<Response<Received>, ConnectionError> {
    let Some(place) = place else { return Err(ConnectionError::unsent("the connection had no place")) };
    Ok(response.map(|body| Received::http2(body, place)))
}

fn failed(error: &hyper::Error) -> ConnectionError {
    if unseen(error) { ConnectionError::unsent(error) } else { ConnectionError::broken(error) }
}

/// Whether the host has told that it did not take the request up, or it never left.
fn unseen(error: &hyper::Error) -> bool {
    if error.is_canceled() {
        return true;
    }
    let refusal = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    // RFC 9113, section 8.7: a stream above the last one that GOAWAY names, and one that is refused, were not processed.
    refusal.is_some_and(|error| match error.reason() {
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
        _ => false,
    })
}
