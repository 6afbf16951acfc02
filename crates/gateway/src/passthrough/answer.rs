//! A provider's answer passed on as it comes. What it tells of its usage is read on the way, and recorded before its end is sent.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header, response::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{task::yield_now, time::Instant};
use uuid::Uuid;

use super::{headers, usage};
use crate::{
    body::Body,
    decode::Decoded,
    error::Refusal,
    gateway::Worker,
    metrics::UnderWay,
    providers::Endpoint,
    record::{CallName, Recorder},
    relay::{Cut, Hand, Listener, Patience, Relayed, broken, unrecorded},
    routing::{Busy, Upstream},
    sse::Parser,
    told::{self, Figures},
    upstream::{Answer, Failed, Received, Words},
    wire::{Usage, Wire, event_stream},
};

/// How much of a JSON answer is kept to be read at its end.
const KEPT: usize = 1 << 20;

/// How an answer is read.
#[derive(Clone, Copy)]
pub struct Reading {
    /// A model was called: where no usage is told, it is estimated.
    pub model_call: bool,
    /// Usage was asked for by us, not by the client.
    pub hides_usage: bool,
}

/// A refusal as a response in the client's wire, and the call's name on either.
pub fn finish(worker: &Worker, result: Result<Response<Body>, Refusal>, wire: Wire, call: Uuid) -> Response<Body> {
    match result {
        Ok(mut response) => {
            response.headers_mut().insert(told::CALL, CallName::of(call).header());
            response
        }
        Err(refusal) => told::refused(worker, &refusal, wire, call),
    }
}

/// Passes an answer on.
///
/// # Errors
/// 502 for a redirect: whoever followed it would show a credential to another host. 503 where the call cannot be recorded.
pub fn pass_on(
    worker: &Arc<Worker>,
    answer: Answer,
    mut record: Recorder,
    reading: Reading,
    under_way: UnderWay,
) -> Result<Response<Body>, Refusal> {
    let Answer { response, upstream, waited, retries, busy } = answer;
    record.answered(&upstream, waited, retries);
    let (mut head, body) = response.into_parts();
    let status = head.status;
    if is_redirect(status) {
        return Err(redirected(record, &upstream, status));
    }
    // The client has not said that it would take a coding.
    let body = match Decoded::new(&head.headers, body) {
        Ok(body) => body,
        Err(error) => {
            let message = format!("The provider's answer cannot be read: {error}.");
            let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code("upstream_unreadable");
            return Err(record.refused(refusal));
        }
    };
    if head.headers.remove(header::CONTENT_ENCODING).is_some() {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    record.heads(status, &head.headers);
    let reader = Reader::new(&head.headers, reading);
    let failed = status.is_client_error() || status.is_server_error();
    let end = End { status, error: failed.then_some("provider_refused"), model_call: reading.model_call && !failed };
    let (call, figures) = (record.call().name(), record.figures());
    let body = if body.is_end_stream() {
        if !end.write(record, None) {
            return Err(unrecorded());
        }
        Body::empty()
    } else {
        let hand = Arc::new(Hand::default());
        let timeouts = worker.gateway.settings().config.timeouts;
        let listener = Listener::quiet(&timeouts, Arc::clone(&hand));
        let masks = failed.then(|| Arc::clone(&upstream.endpoint));
        let relay = Relay { idle: timeouts.idle(), body, reader, masks, record, end, _under_way: under_way, _busy: busy };
        Body::Relayed(Relayed::new(hand, Box::pin(relay.run(listener))))
    };
    Ok(written(head, &upstream, body, call, &figures))
}

/// Tells the client why no upstream answered a call that was routed: the provider's own refusal, or ours.
///
/// # Errors
/// Ours.
pub fn failed(mut record: Recorder, failed: Failed) -> Result<Response<Body>, Refusal> {
    match failed.words {
        Words::Ours(refusal) => {
            record.attempted(failed.waited, failed.retries);
            Err(record.refused(*refusal))
        }
        Words::Provider(upstream, mut head, bytes) => {
            // As far as it was read, which need not be all, and without its content codings.
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.remove(header::CONTENT_ENCODING);
            record.answered(&upstream, failed.waited, failed.retries);
            if is_redirect(head.status) {
                return Err(redirected(record, &upstream, head.status));
            }
            record.gives(&bytes);
            // Nothing was promised: a refusal that could not be recorded is still the provider's.
            record.reckon(head.status.as_u16());
            let (call, figures) = (record.call().name(), record.figures());
            let _ = record.end(head.status.as_u16(), Some("provider_refused"));
            Ok(written(*head, &upstream, Body::from(bytes), call, &figures))
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    status.is_redirection() && status != StatusCode::NOT_MODIFIED
}

fn redirected(record: Recorder, upstream: &Upstream, status: StatusCode) -> Refusal {
    let message = format!(
        "The provider '{}' answered with a redirect ({}), which is not followed. Check its base_url in trunkline.yaml.",
        upstream.provider.name,
        status.as_u16()
    );
    record.refused(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code("upstream_redirected"))
}

/// A provider's head with a body, and what we tell of the call.
fn written(head: Parts, upstream: &Upstream, body: Body, call: CallName, figures: &Figures) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers::to_client(head.headers, &upstream.endpoint);
    told::tell(response.headers_mut(), call, upstream.title.as_ref(), None, figures);
    response
}

/// How a call is recorded that came to its end.
struct End {
    status: StatusCode,
    error: Option<&'static str>,
    model_call: bool,
}

impl End {
    fn write(&self, mut record: Recorder, usage: Option<Usage>) -> bool {
        // What is no model call, or was refused, costs nothing where nothing is told.
        record.used(if self.model_call { usage } else { usage.or(Some(Usage::default())) });
        record.end(self.status.as_u16(), self.error)
    }
}

/// An answer on its way.
struct Relay {
    /// How long the provider may be silent.
    idle: Duration,
    body: Decoded<Received>,
    reader: Reader,
    /// Whose credentials are masked: a refusal may repeat what was sent.
    masks: Option<Arc<Endpoint>>,
    record: Recorder,
    end: End,
    _under_way: UnderWay,
    _busy: Option<Busy>,
}

impl Relay {
    async fn run(mut self, mut listener: Listener) {
        match self.relay(&mut listener).await {
            Ok(last) => {
                let usage = self.reader.usage();
                self.record.gives(&last);
                if self.end.write(self.record, usage) {
                    listener.end(last);
                }
            }
            // Dropping the record writes that the client went away.
            Err(Cut::Gone) => {}
            // Without an end the response is cut short: nobody takes it for a whole one.
            Err(Cut::Broken(refusal)) => {
                drop(self.record.refused(refusal));
                // What was given before is sent once there is nothing at hand: a connection that is cut at once loses it.
                yield_now().await;
            }
        }
    }

    /// Relays all pieces but the last, which is returned. A piece is known to be the last where the answer told its length.
    async fn relay(&mut self, listener: &mut Listener) -> Result<Bytes, Cut> {
        loop {
            let patience = Patience { from: Instant::now(), time: self.idle };
            let frame = listener.during(Some(patience), self.body.frame()).await?;
            let piece = match frame {
                None => return Ok(self.reader.rest()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let data = if let Some(endpoint) = &self.masks { endpoint.masked(data) } else { data };
                        self.reader.hear(data, &mut self.record)?
                    }
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => {
                    tracing::warn!(%error, "a provider's answer broke off");
                    return Err(broken("upstream_broke_off", "The provider's answer broke off."));
                }
            };
            if self.body.is_end_stream() {
                return Ok(piece);
            }
            self.record.gives(&piece);
            listener.give(piece, Instant::now()).await?;
        }
    }
}

/// Notes what an event of a stream tells.
fn note(value: &Value, usage: &mut Option<Usage>, record: &mut Recorder) {
    if let Some(now) = usage::told(value) {
        let sum = usage::over(*usage, now);
        record.hears(sum);
        *usage = Some(sum);
    }
    if let Some(text) = usage::text(value) {
        record.answer().text.push_str(text);
    }
}

/// Reads an answer while it goes past.
enum Reader {
    /// Nothing in it that could be read.
    Deaf,
    /// The end of a JSON text, or all of it.
    Json { kept: VecDeque<Bytes>, length: usize, whole: bool },
    /// Events.
    Events { parser: Parser, usage: Option<Usage>, hides: bool },
    /// Bedrock's messages; no parser once they cannot be read any more, which the client will find for itself.
    Messages { parser: Option<event_stream::Parser>, usage: Option<Usage> },
}

impl Reader {
    fn new(headers: &HeaderMap, reading: Reading) -> Self {
        match super::content_type(headers).as_str() {
            "text/event-stream" => Self::Events { parser: Parser::new(), usage: None, hides: reading.hides_usage },
            "application/vnd.amazon.eventstream" => Self::Messages { parser: Some(event_stream::Parser::new()), usage: None },
            "application/json" => Self::Json { kept: VecDeque::new(), length: 0, whole: true },
            _ => Self::Deaf,
        }
    }

    /// Takes a piece; what of it the client is to get.
    fn hear(&mut self, data: Bytes, record: &mut Recorder) -> Result<Bytes, Cut> {
        match self {
            Self::Deaf => Ok(data),
            Self::Json { kept, length, whole } => {
                *length += data.len();
                kept.push_back(data.clone());
                while kept.front().is_some_and(|first| *length - first.len() >= KEPT) {
                    *length -= kept.pop_front().map_or(0, |first| first.len());
                    *whole = false;
                }
                Ok(data)
            }
            Self::Events { parser, usage, hides } => {
                let mut frames = Vec::new();
                parser
                    .push(data.clone(), &mut frames)
                    .map_err(|_| broken("upstream_unreadable", "The provider sent an event that is too large."))?;
                let mut shown = BytesMut::new();
                for frame in frames {
                    let value: Value = serde_json::from_slice(&frame.data).unwrap_or_default();
                    note(&value, usage, record);
                    if *hides && !usage::alone(&value) {
                        shown.extend_from_slice(&frame.raw);
                    }
                }
                Ok(if *hides { shown.freeze() } else { data })
            }
            Self::Messages { parser, usage } => {
                let mut frames = Vec::new();
                if let Some(whole) = parser
                    && let Err(error) = whole.push(data.clone(), &mut frames)
                {
                    tracing::warn!(%error, "the usage of a provider's answer cannot be read");
                    *parser = None;
                }
                for frame in frames {
                    note(&usage::of_message(&frame.data), usage, record);
                }
                Ok(data)
            }
        }
    }

    /// What a client is still to get of an event that was not finished.
    fn rest(&mut self) -> Bytes {
        match self {
            Self::Events { parser, hides: true, .. } => parser.finish().unwrap_or_default(),
            _ => Bytes::new(),
        }
    }

    /// What was told in all.
    fn usage(&self) -> Option<Usage> {
        match self {
            Self::Deaf => None,
            Self::Events { usage, .. } | Self::Messages { usage, .. } => *usage,
            Self::Json { kept, whole, .. } => {
                let bytes = kept.iter().flatten().copied().collect::<Vec<u8>>();
                if *whole {
                    serde_json::from_slice(&bytes).ok().and_then(|value| usage::told(&value))
                } else {
                    usage::in_tail(&bytes)
                }
            }
        }
    }
}
