//! One HTTP/1.1 connection, driven by the task that makes the call.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, request::Parts};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_rustls::client::TlsStream;

use super::{
    ConnectionError, Host, Received, Sent,
    head::{self, Head, Kept},
};

/// Bytes read at once.
const READ: usize = 64 << 10;

thread_local! {
    /// What is read goes here first, and from here as much as it is to where it belongs: a thousand streams that wait for their
    /// next event hold no buffers.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// How long the reset that follows a stream's end is waited for: looks, and the time between two.
const RESETS: usize = 15;
const RESET: Duration = Duration::from_millis(20);

/// What bytes go over.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn poll_write(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, space),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, space),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether nothing has come, not even the end.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut space = tokio::io::ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(&mut context, &mut space).is_pending(),
            Self::Tls(stream) => Pin::new(stream).poll_read(&mut context, &mut space).is_pending(),
        }
    }
}

/// A connection and what was read from it.
pub struct Http1 {
    stream: Stream,
    buffer: BytesMut,
    /// When its last call ended; none while it has had none.
    used: Option<Instant>,
}

/// Why an exchange has no answer.
pub struct Failed {
    pub reason: String,
    /// The host had closed the connection before the request reached it.
    pub unseen: bool,
}

impl Http1 {
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), used: None }
    }

    /// When its last call ended.
    pub fn idle_since(&self) -> Instant {
        self.used.unwrap_or_else(Instant::now)
    }

    /// Whether the host has neither closed it nor sent what nobody asked for.
    pub fn is_open(&mut self) -> bool {
        self.stream.is_quiet()
    }

    /// Reads more and gives it, with what the buffer holds, to `take`, which says how much of it was taken; the rest is kept.
    /// Nothing at the end.
    pub fn poll_more<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<Option<T>>> {
        SPACE.with_borrow_mut(|space| {
            let mut space = ReadBuf::new(space);
            ready!(self.stream.poll_read(context, &mut space))?;
            let read = space.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(None));
            }
            if self.buffer.is_empty() {
                let (taken, result) = take(read);
                self.buffer.extend_from_slice(&read[taken..]);
                return Poll::Ready(Ok(Some(result)));
            }
            self.buffer.extend_from_slice(read);
            let (taken, result) = take(&self.buffer);
            self.buffer.advance(taken);
            Poll::Ready(Ok(Some(result)))
        })
    }

    /// What was read and not yet taken.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Gives the connection back after a whole answer.
    pub(super) fn end(mut self, host: &Host) {
        if self.buffer.is_empty() {
            self.used = Some(Instant::now());
            self.buffer = BytesMut::new();
            host.keep(self);
        }
    }

    /// Sends a request and reads the head of the answer. Whoever drops this half-way closes the connection.
    pub(super) async fn exchange(
        mut self,
        host: &Arc<Host>,
        parts: &Parts,
        body: &Bytes,
        kept: Kept,
    ) -> Result<Response<Received>, Failed> {
        let mut outgoing = Outgoing { head: head::write(parts, body.len()), body: body.clone(), flushed: false, error: None };
        let mut begun = false;
        let answered = poll_fn(|context| self.poll_head(context, &mut outgoing, (&parts.method, kept), &mut begun)).await;
        let head = match answered {
            Ok(head) => head,
            Err(reason) => {
                let unseen = self.used.is_some() && !begun && Box::pin(self.was_closed(outgoing.error.as_ref())).await;
                return Err(Failed { reason, unseen });
            }
        };
        let keeps = head.keeps && outgoing.flushed;
        let mut response = Response::new(Received::http1(self, Arc::clone(host), head.framing, keeps));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    /// Sends a request whose body is still coming. hyper drives the connection, which serves no other request: the body goes
    /// out also while nobody reads the answer.
    pub(super) async fn stream(self, mut request: Request<Sent>) -> Result<Response<Received>, ConnectionError> {
        head::complete(&mut request).map_err(ConnectionError::unsent)?;
        match self.stream {
            Stream::Plain(stream) => drive(stream, request).await,
            Stream::Tls(stream) => drive(*stream, request).await,
        }
    }

    /// Whether the host had closed the connection before it read all of the request. Its end of the stream comes also from a
    /// host that dies at work; but only one that had closed earlier resets what reaches it afterwards, and the kernel tells
    /// the one from the other: after the stream's end a reset is `EPIPE`, not `ECONNRESET` (`tcp_reset` in Linux). The reset
    /// may be a round trip behind.
    async fn was_closed(&self, written: Option<&io::Error>) -> bool {
        let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        if let Some(error) = written {
            return broken(error);
        }
        for _ in 0..RESETS {
            match self.stream.tcp().take_error() {
                Ok(None) => sleep(RESET).await,
                Ok(Some(error)) => return broken(&error),
                Err(_) => return false,
            }
        }
        false
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing,
        (method, kept): (&Method, Kept),
        begun: &mut bool,
    ) -> Poll<Result<Head, String>> {
        // A host may answer before it has read all, and close: what it says counts, not that it did not listen.
        let _ = outgoing.poll_write(&mut self.stream, context);
        loop {
            if let Some(head) = head::read(&mut self.buffer, method, kept)? {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_more(context, |_| (0, ()))) {
                Ok(None) => return Poll::Ready(Err("the connection was closed without an answer".to_owned())),
                Ok(Some(())) => *begun = true,
                Err(error) => {
                    let reason = error.to_string();
                    outgoing.error.get_or_insert(error);
                    return Poll::Ready(Err(reason));
                }
            }
        }
    }
}

async fn drive(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Sent>,
) -> Result<Response<Received>, ConnectionError> {
    let (mut send, connection) = handshake(TokioIo::new(stream)).await.map_err(ConnectionError::unsent)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a provider ended");
        }
    });
    Ok(send.send_request(request).await.map_err(ConnectionError::broken)?.map(Received::from))
}

/// What is still to be written.
struct Outgoing {
    head: BytesMut,
    body: Bytes,
    flushed: bool,
    /// Why no more can be written.
    error: Option<io::Error>,
}

impl Outgoing {
    fn poll_write(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<()> {
        if self.flushed || self.error.is_some() {
            return Poll::Ready(());
        }
        if let Err(error) = ready!(self.poll_all(stream, context)) {
            self.error = Some(error);
        }
        Poll::Ready(())
    }

    fn poll_all(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.head.is_empty() || !self.body.is_empty() {
            let parts = [IoSlice::new(&self.head), IoSlice::new(&self.body)];
            let mut count = ready!(stream.poll_write(context, &parts))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = count.min(self.head.len());
            self.head.advance(of_head);
            count -= of_head;
            self.body.advance(count);
        }
        ready!(stream.poll_flush(context))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }
}
