//! `Idempotency-Key`: a call that is sent again is answered from what the first one was given, and costs nothing.
//!
//! The key is reserved in Postgres before the call is sent, so that it holds across gateways. What the client is given is part of the
//! call's record: it stands in the spool before the client's last byte, and comes to Postgres in the transaction that
//! records the call. A gateway that dies frees its reservations when its spool is replayed, after what it had answered is in.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    body::Body,
    database::{Reservation, Reserved},
    error::Refusal,
    gateway::Worker,
    principal::Key,
    record::{Call, write_hex},
    routing::{AGENT, SESSION, USER},
};

/// The request's header.
pub const HEADER: &str = "idempotency-key";
/// The response's header that names the call whose answer is given again.
pub const REPLAYED: &str = "x-trunkline-replayed";
/// The largest answer that is kept, in bytes. A repeat of a call that was given more is refused, not carried out again.
const MAX_BYTES: usize = 1 << 20;

/// A key that a call has to itself, and what it was given so far.
pub struct Kept {
    key: [u8; 32],
    body: Vec<u8>,
    too_large: bool,
}

/// What is kept of an answer.
#[derive(Serialize, Deserialize)]
struct Answer {
    stream: bool,
    upstream: Option<String>,
    session: Option<Uuid>,
    /// None: it was too large, or no text.
    body: Option<String>,
}

#[derive(Serialize)]
struct Row {
    key: String,
    answer: Option<Answer>,
}

/// A call that may go on, or the answer that it had before.
pub enum Begun {
    /// To be carried out.
    First(Kept),
    /// Answered before.
    Again(Box<Response<Body>>),
}

/// Reserves the key of a request that has one.
///
/// # Errors
/// 400 for a key that is none, 409 while the first call is under way, 422 for a key that came with another request, and 503 while
/// Postgres is away: that the call is carried out once cannot be promised then.
pub async fn begin(worker: &Worker, call: &Call, key: &Key, headers: &HeaderMap, body: &[u8]) -> Result<Option<Begun>, Refusal> {
    let Some(given) = headers.get(HEADER) else { return Ok(None) };
    if given.is_empty() || given.len() > 255 {
        let message = "An idempotency key has 1 to 255 characters.";
        return Err(Refusal::invalid(message, Some(HEADER.to_owned())));
    }
    let gateway = &worker.gateway;
    let kept = Kept { key: Sha256::digest(given).into(), body: Vec::new(), too_large: false };
    let mut request = Sha256::new();
    request.update(call.wire.name());
    for name in [AGENT, USER, SESSION] {
        request.update(b"\0");
        request.update(headers.get(name).map_or(&b""[..], HeaderValue::as_bytes));
    }
    request.update(b"\0");
    request.update(body);
    let limit = gateway.config.timeouts.total();
    let wanted = Reservation {
        tenant: key.tenant,
        key_id: key.id,
        key: &kept.key,
        request: &request.finalize(),
        call: call.id,
        holder: gateway.spool.id(),
        limit_ms: i64::try_from(limit.as_millis()).unwrap_or(i64::MAX),
    };
    // A call that this gateway has just answered is found, not taken to be under way.
    gateway.spool.settled(std::time::Duration::from_secs(1)).await;
    match worker.readers.reserve(&wanted).await {
        Ok(Reserved::Begun) => Ok(Some(Begun::First(kept))),
        Ok(Reserved::Answered { call, answer }) => replay(call, &answer).map(|response| Some(Begun::Again(Box::new(response)))),
        Ok(Reserved::Other) => Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request_error",
            "This idempotency key was used for another request less than a day ago. Send a new key with a new request.",
        )
        .code("idempotency_key_reused")),
        Ok(Reserved::UnderWay) => Err(Refusal::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            "The first call with this idempotency key is still under way. Try again when it has ended.",
        )
        .code("idempotency_key_in_use")
        .retry_after(1)),
        Err(error) => {
            tracing::warn!(%error, "an idempotency key could not be reserved");
            let message = "Postgres is away, so that it cannot be promised that this call is carried out once. Try again, or send it \
                           without Idempotency-Key.";
            Err(Refusal::unavailable(message).code("idempotency_unavailable").retry_after(1))
        }
    }
}

fn replay(call: Uuid, answer: &str) -> Result<Response<Body>, Refusal> {
    let name = format!("call_{}", call.simple());
    let kept = serde_json::from_str(answer).ok();
    let Some(Answer { stream, upstream, session, body: Some(body) }) = kept else {
        let message =
            format!("This call was carried out as {name}, but its answer was too large to be kept. It is not carried out again.");
        return Err(Refusal::new(StatusCode::CONFLICT, "invalid_request_error", message).code("idempotency_answer_not_kept"));
    };
    let mut response = Response::new(Body::from(Bytes::from(body)));
    let headers = response.headers_mut();
    let kind = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let mut set = |header: &'static str, text: Option<String>| {
        text.and_then(|text| HeaderValue::try_from(text).ok()).map(|value| headers.insert(header, value));
    };
    set(REPLAYED, Some(name));
    set("x-trunkline-upstream", upstream);
    set(SESSION, session.map(|session| format!("sesn_{}", session.simple())));
    Ok(response)
}

impl Kept {
    /// Notes what the client is given.
    pub fn push(&mut self, bytes: &[u8]) {
        self.too_large |= self.body.len() + bytes.len() > MAX_BYTES;
        if self.too_large {
            self.body = Vec::new();
        } else {
            self.body.extend_from_slice(bytes);
        }
    }

    /// What the call's record says of it. `answered`: it came to a good end, so that there is something to give again.
    pub fn row(self, answered: bool, stream: bool, upstream: Option<String>, session: Option<Uuid>) -> Option<Box<RawValue>> {
        let body = String::from_utf8(self.body).ok().filter(|body| !self.too_large && !body.contains('\0'));
        let answer = answered.then_some(Answer { stream, upstream, session, body });
        let key = write_hex(&self.key);
        to_raw_value(&Row { key, answer }).ok()
    }
}
