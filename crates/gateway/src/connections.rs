//! Connections to providers and the control plane, of one serving thread: kept for the next call, shared by many where the
//! host speaks HTTP/2.
//!
//! An HTTP/1.1 call is written and read by the task that makes it ([`http1`]): no task of the connection's own, no channel, no
//! wake between the two. HTTP/2 is hyper's, with a task a connection ([`http2`]). [`dial`] opens both.

mod dial;
mod head;
mod http1;
mod http2;
mod place;
mod received;
mod sent;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use tokio::time::Instant;

pub use self::{
    dial::Tls,
    head::Kept,
    received::Received,
    sent::{Sent, Streaming},
};
use self::{
    dial::{Dialer, Opened},
    http1::Http1,
    http2::Http2,
};
use crate::config::Timeouts;

/// How long an idle connection is kept: shorter than the minute after which common servers close theirs.
const IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept to one host.
const IDLE_A_HOST: usize = 512;
/// Calls on one HTTP/2 connection until the host has said how many it takes: what RFC 9113 asks hosts to take at least.
const STREAMS: usize = 100;

/// Why a request has no answer.
#[derive(Debug)]
pub struct ConnectionError {
    reason: String,
    stage: Stage,
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The host's name leads where requests to it may not go.
    Forbidden,
    /// The host cannot have seen the request: it may be sent again, also to another one.
    Unsent,
    /// The request is on its way, and may be at work.
    Broken,
}

impl ConnectionError {
    fn forbidden(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), stage: Stage::Forbidden }
    }

    fn unsent(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), stage: Stage::Unsent }
    }

    fn broken(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), stage: Stage::Broken }
    }

    /// Whether the host surely has not begun to work on the request.
    pub fn is_connect(&self) -> bool {
        self.stage != Stage::Broken
    }

    /// Whether the host's name led only to addresses that it may not stand for.
    pub fn is_forbidden(&self) -> bool {
        self.stage == Stage::Forbidden
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

impl std::error::Error for ConnectionError {}

/// Which addresses a host's name may stand for. Asked of each address that is connected to, so that a name which changes its
/// address between two look-ups wins nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The operator has named the host: any address, those of a company's own network too. A cloud's metadata service, and
    /// whatever else is on the link, is reached only by a URL that says its address itself.
    #[default]
    Configured,
    /// Only those of the internet at large: a known provider's name that leads into the operator's own network is a mistake
    /// or an attack.
    Public,
}

/// Who is talked to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin {
    tls: bool,
    host: Box<str>,
    port: u16,
    reach: Reach,
}

impl Origin {
    fn of(uri: &Uri, reach: Reach) -> Result<Self, ConnectionError> {
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(ConnectionError::unsent("the URL is neither http nor https")),
        };
        let host = uri.host().ok_or_else(|| ConnectionError::unsent("the URL names no host"))?;
        Ok(Self { tls, host: host.into(), port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }), reach })
    }

    fn is(&self, uri: &Uri, reach: Reach) -> bool {
        self.reach == reach
            && uri.scheme_str() == Some(if self.tls { "https" } else { "http" })
            && uri.host() == Some(&self.host)
            && uri.port_u16().unwrap_or(if self.tls { 443 } else { 80 }) == self.port
    }
}

/// What is open to one host.
struct Host {
    origin: Origin,
    idle: Mutex<Vec<Http1>>,
    shared: Mutex<Vec<Http2>>,
    /// How many calls the host takes at a time on a connection that is shared.
    streams: Arc<AtomicUsize>,
    /// The host has been heard to speak HTTP/1.1, so that each call may open a connection without waiting for another's.
    single: AtomicBool,
    /// One connection is opened at a time where many calls can share it.
    opening: tokio::sync::Mutex<()>,
    /// Attempts to connect that failed, so that who waited for one need not try again.
    failures: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held, and the lists are whole at each moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    fn new(origin: Origin) -> Self {
        Self {
            single: AtomicBool::new(!origin.tls),
            origin,
            idle: Mutex::default(),
            shared: Mutex::default(),
            streams: Arc::new(AtomicUsize::new(STREAMS)),
            opening: tokio::sync::Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// Takes the connection that was used last and is still open.
    fn idle(&self) -> Option<Http1> {
        let mut idle = locked(&self.idle);
        while let Some(mut connection) = idle.pop() {
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next call.
    fn keep(&self, connection: Http1) {
        let mut idle = locked(&self.idle);
        if idle.len() < IDLE_A_HOST {
            idle.push(connection);
        }
    }

    /// A place for one more call on a connection that many share.
    fn shared(&self) -> Option<Http2> {
        let mut shared = locked(&self.shared);
        shared.retain(Http2::is_open);
        shared.iter().find_map(Http2::place)
    }

    /// Tells that a connection that was kept is of no use any more.
    fn replaces(&self, reason: &str) {
        tracing::debug!(host = &*self.origin.host, reason, "a kept connection was closed; a new one is opened");
    }

    fn prune(&self, now: Instant) {
        // The newest are at the end.
        let mut idle = locked(&self.idle);
        let old = idle.iter().take_while(|connection| now.duration_since(connection.idle_since()) > IDLE).count();
        idle.drain(..old);
        locked(&self.shared).retain(|connection| connection.is_open() && !connection.idle_for(now, IDLE));
    }
}

/// The connections of one thread.
pub struct Connections {
    dialer: Dialer,
    hosts: Mutex<HashMap<Origin, Arc<Host>>>,
    /// The host of the last call, which is mostly the next one's.
    last: Mutex<Option<Arc<Host>>>,
}

impl Connections {
    /// None are open yet.
    pub fn new(timeouts: &Timeouts, tls: Tls) -> Self {
        Self { dialer: Dialer::new(timeouts, tls), hosts: Mutex::default(), last: Mutex::default() }
    }

    /// Takes on other limits in time, for connections that are opened from now on.
    pub fn allow(&self, timeouts: &Timeouts) {
        self.dialer.allow(timeouts);
    }

    /// Closes connections that nobody has used for a while. To be called now and then.
    pub fn prune(&self) {
        let now = Instant::now();
        let hosts: Vec<_> = locked(&self.hosts).values().map(Arc::clone).collect();
        for host in hosts {
            host.prune(now);
        }
    }

    /// Sends a request to the host that its URL names and waits for the head of the answer; redirects are not followed.
    ///
    /// # Errors
    /// Where there is no answer; [`ConnectionError::is_connect`] tells whether the request may be sent again.
    pub async fn request(&self, reach: Reach, request: Request<Full<Bytes>>) -> Result<Response<Received>, ConnectionError> {
        self.request_keeping(|_| true, reach, request).await
    }

    /// The same where only some of the answer's headers are wanted: what nobody reads need not be made.
    ///
    /// # Errors
    /// As above.
    pub async fn request_keeping(
        &self,
        kept: Kept,
        reach: Reach,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Received>, ConnectionError> {
        let host = self.host(request.uri(), reach)?;
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|never| match never {})?.to_bytes();
        let mut fresh = false;
        loop {
            let opened = match if fresh { None } else { host.idle().map(Opened::Http1) } {
                Some(kept) => kept,
                // In a box: what it takes to open a connection would be carried about by each call that has one.
                None => Box::pin(self.open(&host)).await?,
            };
            let failed = match opened {
                Opened::Http1(connection) => match connection.exchange(&host, &head, &body, kept).await {
                    Ok(response) => return Ok(response),
                    Err(failed) if failed.unseen => ConnectionError::unsent(failed.reason),
                    Err(failed) => ConnectionError::broken(failed.reason),
                },
                Opened::Http2(place) => match Box::pin(place.exchange(&head, &body, kept)).await {
                    Ok(response) => return Ok(response),
                    Err(failed) => failed,
                },
            };
            if fresh || !failed.is_connect() {
                return Err(failed);
            }
            host.replaces(&failed.reason);
            fresh = true;
        }
    }

    /// The same for a request whose body is still coming from a client. What went out of it cannot be sent again, so that over
    /// HTTP/1.1 it has a connection of its own, which is new: a kept one may be closed by its host at any moment.
    ///
    /// # Errors
    /// As above.
    pub async fn stream(&self, reach: Reach, request: Request<Streaming>) -> Result<Response<Received>, ConnectionError> {
        let host = self.host(request.uri(), reach)?;
        let mut request = request.map(Sent::Streams);
        let mut fresh = false;
        loop {
            let (failed, unsent) = match self.open(&host).await? {
                Opened::Http1(connection) => return connection.stream(request).await,
                Opened::Http2(place) => match place.stream(request).await {
                    Ok(response) => return Ok(response),
                    Err(failed) => *failed,
                },
            };
            match unsent {
                Some(unsent) if !fresh => request = unsent,
                _ => return Err(failed),
            }
            host.replaces(&failed.reason);
            fresh = true;
        }
    }

    fn host(&self, uri: &Uri, reach: Reach) -> Result<Arc<Host>, ConnectionError> {
        let mut last = locked(&self.last);
        if let Some(host) = last.as_ref().filter(|host| host.origin.is(uri, reach)) {
            return Ok(Arc::clone(host));
        }
        let origin = Origin::of(uri, reach)?;
        let mut hosts = locked(&self.hosts);
        let host = hosts.entry(origin.clone()).or_insert_with(|| Arc::new(Host::new(origin)));
        *last = Some(Arc::clone(host));
        Ok(Arc::clone(host))
    }

    /// A connection that was not used before, or a place on one that is shared.
    async fn open(&self, host: &Host) -> Result<Opened, ConnectionError> {
        if host.single.load(Relaxed) {
            return self.dialer.dial(&host.origin, &host.streams).await;
        }
        if let Some(place) = host.shared() {
            return Ok(Opened::Http2(place));
        }
        let failures = host.failures.load(Relaxed);
        let _one = host.opening.lock().await;
        if let Some(place) = host.shared() {
            return Ok(Opened::Http2(place));
        }
        if host.failures.load(Relaxed) != failures {
            return Err(ConnectionError::unsent("another call could not connect a moment ago"));
        }
        let opened = self.dialer.dial(&host.origin, &host.streams).await.inspect_err(|_| {
            host.failures.fetch_add(1, Relaxed);
        })?;
        match &opened {
            Opened::Http1(_) => host.single.store(true, Relaxed),
            Opened::Http2(connection) => locked(&host.shared).push(connection.again()),
        }
        Ok(opened)
    }
}
