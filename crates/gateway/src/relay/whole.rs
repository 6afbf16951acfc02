//! Answers in one piece.

use std::{fmt::Display, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::IgnoredAny;
use tokio::time::timeout;

use super::{Outbound, failed, joined, json, refused, response, too_long, unrecorded};
use crate::{
    body::Body,
    decode::{DecodeError, Decoded},
    error::Refusal,
    gateway::Gateway,
    memory_tools::MAX_ROUNDS,
    record::Recorder,
    routing::Upstream,
    upstream::{Failed, Received},
    wire::{self, Part, Reply, StopReason, Usage, Wire},
};

/// The largest answer taken in one piece.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Reads a provider's body to its end.
pub async fn collect(gateway: &Gateway, headers: &HeaderMap, body: Received) -> Result<Bytes, Refusal> {
    let refusal = |code, message| Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code(code);
    let unreadable =
        |error: &dyn Display| refusal("upstream_unreadable", format!("The provider's answer cannot be read: {error}."));
    let timeouts = gateway.settings().config.timeouts;
    let mut body = Limited::new(Decoded::new(headers, body).map_err(|error| unreadable(&error))?, MAX_ANSWER_BYTES);
    let mut pieces = Vec::new();
    // Some hosts send the head at once, and the answer when the model has thought.
    let mut patience = timeouts.first_token();
    loop {
        match timeout(patience, body.frame()).await {
            Ok(None) => return Ok(joined(pieces)),
            Ok(Some(Ok(frame))) => pieces.extend(frame.into_data().ok()),
            Ok(Some(Err(error))) => {
                tracing::warn!(error, "a provider's answer broke off");
                return Err(match error.downcast_ref::<DecodeError>() {
                    Some(error @ (DecodeError::Corrupt(_) | DecodeError::Unknown(_))) => unreadable(error),
                    _ if error.is::<LengthLimitError>() => unreadable(&format_args!("it is over {MAX_ANSWER_BYTES} bytes")),
                    _ => refusal("upstream_broke_off", "The provider's answer broke off. Try again.".to_owned()),
                });
            }
            Err(_) => return Err(refusal("upstream_broke_off", "The provider's answer stalled. Try again.".to_owned())),
        }
        patience = timeouts.idle();
    }
}

/// Relays an answer in one piece; memory tools are carried out in further rounds.
///
/// # Errors
/// Where no upstream answered as it should, or the call could not be recorded.
pub async fn whole(outbound: &Outbound, mut record: Recorder) -> Result<Response<Body>, Refusal> {
    let total = outbound.worker.gateway.settings().config.timeouts.total();
    match timeout(total, rounds(outbound, &mut record)).await.unwrap_or_else(|_| Err(too_long(total).into())) {
        Ok((answer, head, upstream)) => {
            record.gives(&answer);
            record.reckon(StatusCode::OK.as_u16());
            let response = json(response(outbound, &record, head, &upstream, StatusCode::OK, Body::from(answer)));
            if record.end(StatusCode::OK.as_u16(), None) { Ok(response) } else { Err(unrecorded()) }
        }
        Err(failure) => failed(outbound, record, failure),
    }
}

type Final = (Bytes, http::HeaderMap, Arc<Upstream>);

async fn rounds(outbound: &Outbound, record: &mut Recorder) -> Result<Final, Failed> {
    let mut answer = outbound.send().await?;
    let mut request = None;
    let mut lead: Vec<Part> = Vec::new();
    for round in 1.. {
        record.answered(&answer.upstream, answer.waited, answer.retries);
        let upstream = answer.upstream;
        let from = upstream.provider.wire;
        let (head, body) = answer.response.into_parts();
        let reading = Instant::now();
        let bytes = collect(&outbound.worker.gateway, &head.headers, body).await?;
        record.waited(reading.elapsed());

        if from == outbound.wire && !outbound.carries_out() {
            let log = outbound.target.agent.is_some() || record.tells();
            note_untouched(record, from, log, &bytes)?;
            return Ok((named(outbound, bytes), head.headers, upstream));
        }
        let mut reply =
            wire::parse_reply(from, &bytes).map_err(|error| broken(&upstream.endpoint.masked_text(&error.message)))?;
        record.name(&mut reply.id, &mut reply.model);
        record.used(reply.usage);
        let ours = outbound.ours(&reply);
        let theirs = reply.tool_calls().count() - ours.len();
        if ours.is_empty() && round == 1 && from == outbound.wire {
            record.answered_with(&reply);
            return Ok((named(outbound, bytes), head.headers, upstream));
        }
        if ours.is_empty() || theirs > 0 || round == MAX_ROUNDS {
            if !ours.is_empty() {
                outbound.carry_out(record, &ours).await;
            }
            hide(&mut reply, &ours, std::mem::take(&mut lead), record.usage());
            record.answered_with(&reply);
            if let Some(id) = &outbound.response_id {
                reply.id.clone_from(id);
            }
            let bytes = if from == outbound.wire {
                named(outbound, Bytes::from(wire::rewrite_reply(from, &bytes, &reply).map_err(refused)?))
            } else {
                Bytes::from(wire::write_reply(outbound.wire, &reply, record.call().at_us / 1_000_000).map_err(refused)?)
            };
            return Ok((bytes, head.headers, upstream));
        }
        let sent = match request.take() {
            Some(sent) => sent,
            None => outbound.request(&upstream)?,
        };
        let next = outbound.next_round(record, &upstream, &sent, &reply, &ours).await?;
        lead.extend(reply.parts.into_iter().filter(|part| matches!(part, Part::Text(_))));
        answer = outbound.send_round(&upstream, &next).await?;
        request = Some(next);
    }
    Err(Refusal::unavailable("The model did not come to an answer.").into())
}

/// The provider's bytes, with what they repeat of the request as the client knows it.
fn named(outbound: &Outbound, bytes: Bytes) -> Bytes {
    match outbound.echo() {
        Some(echo) => echo.whole(&bytes),
        None => bytes,
    }
}

/// Takes our calls out of a reply, and puts what earlier rounds said before it.
fn hide(reply: &mut Reply, ours: &[wire::ToolCall], lead: Vec<Part>, usage: Usage) {
    reply.parts.retain(|part| !matches!(part, Part::ToolCall(call) if ours.iter().any(|our| our.id == call.id)));
    reply.parts.splice(0..0, lead);
    if reply.stop == StopReason::ToolUse && reply.tool_calls().next().is_none() {
        reply.stop = StopReason::EndTurn;
    }
    reply.usage = Some(usage);
}

/// Notes what an answer that is passed on as it is has said: all of it only where there is a log for it, or no usage, which
/// is estimated then.
///
/// # Errors
/// Where it is not JSON: a provider that closes its connection to end an answer may have been cut short.
fn note_untouched(record: &mut Recorder, wire: Wire, log: bool, bytes: &[u8]) -> Result<(), Refusal> {
    let usage = if log { None } else { wire::parse_usage(wire, bytes) };
    if usage.is_some() {
        record.used(usage);
        return Ok(());
    }
    if let Ok(reply) = wire::parse_reply(wire, bytes) {
        record.used(reply.usage);
        record.answered_with(&reply);
        return Ok(());
    }
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| broken(&error.to_string()))?;
    record.used(None);
    Ok(())
}

fn broken(error: &str) -> Refusal {
    tracing::warn!(error, "a provider's answer could not be read");
    Refusal::new(StatusCode::BAD_GATEWAY, "api_error", format!("The provider's answer could not be read: {error}"))
        .code("upstream_unreadable")
}
