//! An answer from the response cache, as its own call's: recorded at no cost, and in the session's log where there is one.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::unrecorded;
use crate::{
    body::Body,
    cache::{self, Entry, State},
    error::Refusal,
    gateway::Gateway,
    record::Recorder,
    remember::Memory,
    sse::Parser,
    told,
    wire::{self, Accumulator, Reply, StreamReader, Wire},
};

/// Answers a call from the cache.
///
/// # Errors
/// 503 where it cannot be recorded.
pub fn cached(
    gateway: &Gateway,
    mut record: Recorder,
    entry: Entry,
    memory: Option<&Memory>,
    response_id: Option<&str>,
) -> Result<Response<Body>, Refusal> {
    let entry = cache::renamed(entry, response_id);
    let mut response = Response::new(Body::from(entry.body.clone()));
    let headers = response.headers_mut();
    record.admission().headers(gateway.nanos(), headers);
    // No provider was asked: it costs nothing.
    record.reckon(StatusCode::OK.as_u16());
    let upstream = HeaderValue::try_from(&entry.upstream).ok();
    told::tell(headers, record.call().name(), upstream.as_ref(), memory, &record.figures());
    if let Ok(kind) = HeaderValue::try_from(&entry.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    headers.insert(cache::HEADER, HeaderValue::from_static(State::Hit.name()));
    if memory.is_some() {
        let reply = reply(record.call().wire, entry.content_type.starts_with("text/event-stream"), &entry);
        record.answered_with(&reply.unwrap_or_default());
    }
    record.from_cache();
    record.heads(StatusCode::OK, headers);
    record.gives(&entry.body);
    if record.end(StatusCode::OK.as_u16(), None) { Ok(response) } else { Err(unrecorded()) }
}

/// Says in a response what the cache had for its call.
pub fn tell(mut response: Response<Body>, state: Option<State>) -> Response<Body> {
    if let Some(state) = state {
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(cache::HEADER, HeaderValue::from_static(state.name()));
    }
    response
}

/// What an answer says, in the wire that its client was given it in.
fn reply(wire: Wire, stream: bool, entry: &Entry) -> Option<Reply> {
    if !stream {
        return wire::parse_reply(wire, &entry.body).ok();
    }
    let (mut parser, mut frames) = (Parser::new(), Vec::new());
    parser.push(entry.body.clone(), &mut frames).ok()?;
    let (mut reader, mut heard) = (StreamReader::new(wire), Accumulator::default());
    for frame in frames {
        reader.read(&frame).ok()?.into_iter().for_each(|event| heard.push(event));
    }
    Some(heard.into_reply())
}
