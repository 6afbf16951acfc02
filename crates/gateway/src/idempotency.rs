//! `Idempotency-Key`: a call that is sent again is answered from what the first one was given, and costs nothing.
//!
//! The key is reserved in Postgres before the call is sent, so that it holds across gateways. What the client is given is part of the
//! call's record: it stands in the spool before the client's last byte, and comes to Postgres in the transaction that
//! records the call. A gateway that dies frees its reservations when its spool is replayed, after what it had answered is in.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    body::Body,
    database::{Reservation, Reserved},
    error::{Reason, Refusal},
    gateway::Worker,
    metrics::Route,
    passthrough::{content_type, multipart},
    principal::Key,
    record::{CallName, Given, Recorder, write_hex},
    relay::unrecorded,
    routing::{AGENT, SESSION, USER},
    told,
    versions::VERSION,
};

/// The request's header.
pub const HEADER: &str = "idempotency-key";
/// The response's header that names the call whose answer is given again.
pub const REPLAYED: &str = "x-trunkline-replayed";
/// The response's header where a request that came with a key was too long to be compared: it says `not-kept`.
pub const NOT_KEPT: &str = "x-trunkline-idempotency";
/// The largest answer that is kept, in bytes. A repeat of a call that was given more is refused, not carried out again.
pub const MAX_BYTES: usize = 4 << 20;

/// A request that came with a key.
pub struct Asked {
    key: [u8; 32],
    request: [u8; 32],
}

/// An answer that is given again, and who gave it first.
type Replay = (Response<Body>, Option<HeaderValue>);

/// A key that a call has to itself.
pub struct Reserves {
    key: [u8; 32],
}

/// What is kept of an answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    content_type: String,
    upstream: Option<String>,
    session: Option<Uuid>,
    /// None: it was too large, or no text.
    body: Option<String>,
    /// What is no text, as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary: Option<String>,
}

#[derive(Serialize)]
struct Row {
    key: String,
    answer: Option<Answer>,
}

/// A call that may go on, or the answer that it had before.
pub enum Begun {
    /// To be carried out.
    First(Box<Recorder>),
    /// Answered before.
    Again(Box<Response<Body>>),
}

/// What a request asks for under which key; none where it came without.
///
/// # Errors
/// 400 for a key that is none.
pub fn asked(route: Route, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Option<Asked>, Refusal> {
    let Some(given) = headers.get(HEADER) else { return Ok(None) };
    if given.is_empty() || given.len() > 255 {
        let message = "An idempotency key has 1 to 255 characters.";
        return Err(Refusal::invalid(message, Some(HEADER.to_owned())));
    }
    let mut request = Sha256::new();
    request.update(route.name());
    request.update(b"\0");
    // In Gemini's wire, and on a provider's own paths, the model may stand there.
    request.update(uri.path_and_query().map_or("", |path| path.as_str()));
    for name in [AGENT, USER, SESSION] {
        request.update(b"\0");
        request.update(headers.get(name).map_or(&b""[..], HeaderValue::as_bytes));
    }
    if let Some(version) = headers.get(VERSION) {
        request.update(b"\0");
        request.update(version);
    }
    request.update(b"\0");
    // A client that sends a form again puts another boundary between its parts.
    let boundary = multipart::boundary(headers).filter(|_| content_type(headers) == "multipart/form-data");
    let mut from = 0;
    if let Some(boundary) = boundary {
        for at in memmem::find_iter(body, &boundary) {
            request.update(&body[from..at]);
            request.update(b"\0");
            from = at + boundary.len();
        }
    }
    request.update(&body[from..]);
    Ok(Some(Asked { key: Sha256::digest(given).into(), request: request.finalize().into() }))
}

/// The key as a provider is to see it: all our callers share one account there, and none is to be given another's answer.
pub fn for_provider(key: &Key, given: &HeaderValue) -> Option<HeaderValue> {
    let mut own = Sha256::new();
    own.update(key.tenant);
    own.update(key.id);
    own.update(given);
    HeaderValue::try_from(write_hex(&own.finalize().into())).ok()
}

/// Reserves the key of a request, or gives the answer that it had. A call that goes no further is recorded.
///
/// # Errors
/// 409 while the first call is under way, 422 for a key that came with another request, and 503 while
/// Postgres is away: that the call is carried out once cannot be promised then.
pub async fn begin(worker: &Worker, mut record: Recorder, key: &Key, asked: &Asked) -> Result<Begun, Refusal> {
    match reserve(worker, record.call().id, key, asked).await {
        Ok(None) => {
            record.reserves(Reserves { key: asked.key });
            Ok(Begun::First(Box::new(record)))
        }
        Ok(Some((mut response, upstream))) => {
            record.replays();
            let status = response.status().as_u16();
            // No provider was asked: it costs nothing.
            record.reckon(status);
            told::tell(response.headers_mut(), record.call().name(), upstream.as_ref(), None, &record.figures());
            if record.end(status, None) { Ok(Begun::Again(Box::new(response))) } else { Err(unrecorded()) }
        }
        Err(refusal) => Err(record.refused(refusal)),
    }
}

async fn reserve(worker: &Worker, call: Uuid, key: &Key, asked: &Asked) -> Result<Option<Replay>, Refusal> {
    let gateway = &worker.gateway;
    let limit = gateway.settings().config.timeouts.total();
    let wanted = Reservation {
        tenant: key.tenant,
        key_id: key.id,
        key: &asked.key,
        request: &asked.request,
        call,
        holder: gateway.spool.id(),
        limit_ms: i64::try_from(limit.as_millis()).unwrap_or(i64::MAX),
    };
    // A call that this gateway has just answered is found, not taken to be under way.
    gateway.spool.settled(std::time::Duration::from_secs(1)).await;
    match worker.readers.reserve(&wanted).await {
        Ok(Reserved::Begun) => Ok(None),
        Ok(Reserved::Answered { call, answer }) => replay(call, &answer).map(Some),
        Ok(Reserved::Other) => Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request_error",
            "This idempotency key was used for another request less than a day ago. Send a new key with a new request.",
        )
        .code("idempotency_key_reused")
        .because(Reason::Idempotency)),
        Ok(Reserved::UnderWay) => Err(Refusal::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            "The first call with this idempotency key is still under way. Try again when it has ended.",
        )
        .code("idempotency_key_in_use")
        .because(Reason::Idempotency)
        .retry_after(1)),
        Err(error) => {
            tracing::warn!(%error, "an idempotency key could not be reserved");
            let message = "Postgres is away, so that it cannot be promised that this call is carried out once. Try again, or send it \
                           without Idempotency-Key.";
            Err(Refusal::unavailable(message).code("idempotency_unavailable").because(Reason::Idempotency).retry_after(1))
        }
    }
}

fn replay(call: Uuid, answer: &str) -> Result<Replay, Refusal> {
    let name = CallName::of(call);
    let Some((answer, body)) = serde_json::from_str::<Answer>(answer).ok().and_then(Answer::whole) else {
        let message =
            format!("This call was carried out as {name}, but its answer was too large to be kept. It is not carried out again.");
        return Err(Refusal::new(StatusCode::CONFLICT, "invalid_request_error", message)
            .code("idempotency_answer_not_kept")
            .because(Reason::Idempotency));
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or_default();
    let headers = response.headers_mut();
    if let Some(kind) = HeaderValue::try_from(answer.content_type).ok().filter(|kind| !kind.is_empty()) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(REPLAYED, name.header());
    if let Some(session) = answer.session {
        headers.insert(SESSION, told::session(session));
    }
    Ok((response, answer.upstream.and_then(|upstream| HeaderValue::try_from(upstream).ok())))
}

impl Answer {
    /// With the bytes of its body, if these were kept.
    fn whole(mut self) -> Option<(Self, Bytes)> {
        let bytes = match (self.body.take(), self.binary.take()) {
            (Some(text), _) => Bytes::from(text),
            (None, Some(binary)) => Bytes::from(STANDARD.decode(binary).ok()?),
            (None, None) => return None,
        };
        Some((self, bytes))
    }
}

impl Reserves {
    /// What the call's record says of it: what its client was given, if that is something to be given again.
    pub fn row(self, given: Option<&Given>, upstream: Option<String>, session: Option<Uuid>) -> Option<Box<RawValue>> {
        let answer = given.map(|given| {
            let bytes = given.bytes(MAX_BYTES);
            let text = bytes.map(|bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')));
            let (body, binary) = match (text, bytes) {
                (Some(Some(text)), _) => (Some(text.to_owned()), None),
                (Some(None), Some(bytes)) => (None, Some(STANDARD.encode(bytes))),
                _ => (None, None),
            };
            Answer { status: given.status, content_type: given.content_type.clone(), upstream, session, body, binary }
        });
        to_raw_value(&Row { key: write_hex(&self.key), answer }).ok()
    }
}
