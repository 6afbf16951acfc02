//! Answers as event streams. One task a stream: it ends when the client does, and records before the last byte.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::time::timeout;

use super::{
    Outbound, failed, joined,
    listener::Listener,
    response,
    source::{Source, broken},
    too_long, unrecorded,
    untold::untold,
};
use crate::{
    body::Body,
    decode::Decoded,
    error::Refusal,
    memory_tools::MAX_ROUNDS,
    record::{Recorder, content_type},
    routing::Upstream,
    upstream::{Answer, Failed, Received, Words},
    wire::{self, Accumulator, Event, StopReason, StreamWriter, Wire, WireError},
};

/// Relays an answer as a stream; memory tools are carried out in further rounds, within the same stream.
///
/// # Errors
/// Where no upstream answered. Later faults are an error event in the stream.
pub async fn streamed(outbound: Outbound, mut record: Recorder) -> Result<Response<Body>, Refusal> {
    let answer = match outbound.send().await {
        Ok(answer) => answer,
        Err(failure) => return failed(&outbound, record, failure),
    };
    record.answered(&answer.upstream, answer.waited, answer.retries);
    let timeouts = &outbound.worker.gateway.config.timeouts;
    let (listener, receiver) = Listener::new(outbound.wire, timeouts.ping(), timeouts.idle());
    let from = answer.response.headers();
    let mut response = response(&outbound, &record, from, &answer.upstream, StatusCode::OK, Body::Channel(receiver));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(true)));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    tokio::spawn(relay(outbound, record, answer, listener));
    Ok(response)
}

/// How a stream ends other than well.
#[derive(Debug)]
pub enum Cut {
    /// The client went away, or takes nothing any more.
    Gone,
    /// The provider failed; what the client is told.
    Broken(Refusal),
}

async fn relay(mut outbound: Outbound, mut record: Recorder, answer: Answer, mut listener: Listener) {
    let tells_usage = outbound.scan.include_usage(&outbound.body);
    // A stream may last an hour; its request was sent.
    outbound.forget_body();
    let untouched = answer.upstream.provider.wire == outbound.wire && outbound.tools().is_none();
    let total = outbound.worker.gateway.config.timeouts.total();
    let relayed = async {
        if untouched {
            pass_on(&outbound, &mut record, answer, &mut listener, tells_usage).await
        } else {
            rewrite(&outbound, &mut record, answer, &mut listener, tells_usage).await
        }
    };
    let ended = timeout(total, relayed).await.unwrap_or_else(|_| Err(Cut::Broken(too_long(total))));
    let name = record.call().name();
    let refusal = match ended {
        Ok((last, mut source)) => {
            record.gives(&last);
            if record.end(StatusCode::OK.as_u16(), None) {
                listener.end(last).await;
                source.close().await;
                return;
            }
            unrecorded()
        }
        // Dropping the record writes what was answered so far; dropping the source closes the provider's connection.
        Err(Cut::Gone) => return,
        Err(Cut::Broken(refusal)) => record.refused(refusal),
    };
    listener.end(Bytes::from(wire::error_event(outbound.wire, &refusal.body(&name)))).await;
}

fn unfinished() -> Cut {
    broken("upstream_broke_off", "The provider's stream ended before the answer did. Try again.")
}

/// The end of a stream in which the provider said what went wrong.
fn ended_badly(upstream: &Upstream, kind: &str, message: &str) -> Cut {
    let message = upstream.endpoint.masked_text(message);
    tracing::warn!(kind, message, "a provider ended its stream with an error");
    broken("upstream_error", message)
}

type Stream = Source<Decoded<Received>>;
type Ended = Result<(Bytes, Stream), Cut>;

/// The stream of an answer.
fn source(outbound: &Outbound, wire: Wire, response: Response<Received>) -> Result<Stream, Cut> {
    let (head, body) = response.into_parts();
    let body = Decoded::new(&head.headers, body)
        .map_err(|error| broken("upstream_unreadable", format!("The provider's answer cannot be read: {error}.")))?;
    Ok(Source::new(wire, body, &outbound.worker.gateway.config.timeouts))
}

/// Passes frames on as they are, but for the usage that only we asked for.
async fn pass_on(
    outbound: &Outbound,
    record: &mut Recorder,
    answer: Answer,
    listener: &mut Listener,
    tells_usage: bool,
) -> Ended {
    let wire = outbound.wire;
    let upstream = answer.upstream;
    let hides_usage = wire == Wire::OpenaiChat && !tells_usage;
    let echo = outbound.echo();
    let mut source = source(outbound, wire, answer.response)?;
    let mut heard = Accumulator::default();
    let mut frames = Vec::new();
    // Where the end of the bytes is the end of the answer, its last words are held back until then.
    let mut held = Vec::new();
    loop {
        let more = source.next(&mut frames, listener).await?;
        if !more && source.ended() {
            heard.push(Event::End);
        } else if !more {
            return Err(unfinished());
        }
        let mut pieces: Vec<Bytes> = std::mem::take(&mut held);
        for frame in frames.drain(..) {
            // What cannot be read is passed on all the same: the client may know better.
            let events = source.read(&frame).unwrap_or_default();
            for event in events {
                note(record, &mut source, &event);
                heard.push(event);
            }
            pieces.extend(match &echo {
                Some(echo) => Some(echo.event(&frame)),
                None if hides_usage => untold(&frame),
                None => Some(frame.raw),
            });
        }
        if heard.complete() {
            record.waited(source.waited);
            let reply = heard.into_reply();
            record.used(reply.usage);
            record.answer().calls = reply.tool_calls().cloned().collect();
            record.answer().stop = Some(reply.stop);
            return Ok((joined(pieces), source));
        }
        if let Some((kind, message)) = heard.failure() {
            return Err(ended_badly(&upstream, kind, message));
        }
        if wire == Wire::Gemini && heard.stopped() {
            held = pieces;
        } else {
            let bytes = joined(pieces);
            record.gives(&bytes);
            listener.send(bytes).await?;
        }
    }
}

/// Notes what must be known of an answer that breaks off after this event.
fn note(record: &mut Recorder, source: &mut Stream, event: &Event) {
    match event {
        Event::Text(text) => record.answer().text.push_str(text),
        Event::Thinking(text) | Event::ToolArguments { json: text, .. } => record.answer().beside += text.len(),
        Event::ToolStart { name, .. } => record.answer().beside += name.len(),
        Event::Opaque(block) => record.answer().beside += block.json.len(),
        Event::Start { usage: Some(usage), .. } | Event::Usage(usage) => return record.hears(*usage),
        _ => return,
    }
    source.answers();
}

/// Reads the provider's wire and writes the client's; memory tool calls are held back, carried out and answered.
async fn rewrite(
    outbound: &Outbound,
    record: &mut Recorder,
    answer: Answer,
    listener: &mut Listener,
    tells_usage: bool,
) -> Ended {
    let upstream = answer.upstream.clone();
    let from = upstream.provider.wire;
    let mut writer = StreamWriter::new(outbound.wire, tells_usage, record.call().at_us / 1_000_000);
    let mut source = source(outbound, from, answer.response)?;
    let mut request = None;
    let mut shown = 0;
    for round in 1.. {
        let reply = read_round(outbound, record, &upstream, &mut source, listener, (&mut writer, &mut shown), round == 1).await?;
        record.waited(source.waited);
        record.used(reply.usage);
        let ours = outbound.ours(&reply);
        let theirs: Vec<_> = reply.tool_calls().filter(|call| ours.iter().all(|our| our.id != call.id)).cloned().collect();
        if ours.is_empty() || !theirs.is_empty() || round == MAX_ROUNDS {
            if !ours.is_empty() {
                outbound.carry_out(record, &ours).await;
            }
            let nothing_to_call = reply.stop == StopReason::ToolUse && theirs.is_empty();
            record.answer().calls = theirs;
            let mut last = Vec::new();
            let stop = if nothing_to_call { StopReason::EndTurn } else { reply.stop };
            record.answer().stop = Some(stop.clone());
            writer.write(&Event::Stop(stop), &mut last);
            writer.write(&Event::Usage(record.usage()), &mut last);
            writer.write(&Event::End, &mut last);
            return Ok((Bytes::from(last), source));
        }
        source.close().await;
        let sent = match request.take() {
            Some(sent) => sent,
            None => outbound.request(&upstream).map_err(Cut::Broken)?,
        };
        let next = outbound.next_round(record, &upstream, &sent, &reply, &ours).await.map_err(Cut::Broken)?;
        let answer = listener.during(outbound.send_round(&upstream, &next)).await?.map_err(after_a_tool)?;
        record.answered(&answer.upstream, answer.waited, answer.retries);
        source = self::source(outbound, from, answer.response)?;
        request = Some(next);
    }
    Err(unfinished())
}

fn after_a_tool(failed: Failed) -> Cut {
    match failed.words {
        Words::Ours(refusal) => Cut::Broken(*refusal),
        Words::Provider(_, head, _) => {
            let status = head.status;
            broken("upstream_error", format!("The provider answered {status} after a memory tool was used. Try again."))
        }
    }
}

/// Reads one answer of the provider to its end, and writes what the client may see of it at once.
async fn read_round(
    outbound: &Outbound,
    record: &mut Recorder,
    upstream: &Upstream,
    source: &mut Stream,
    listener: &mut Listener,
    (writer, shown): (&mut StreamWriter, &mut usize),
    first: bool,
) -> Result<wire::Reply, Cut> {
    let tools = outbound.tools();
    let mut heard = Accumulator::default();
    let mut frames = Vec::new();
    // Where each of this answer's tool calls stands in what the client sees; a memory tool, nowhere.
    let mut places: Vec<Option<usize>> = Vec::new();
    while source.next(&mut frames, listener).await? {
        let mut out = Vec::new();
        for frame in frames.drain(..) {
            let unreadable = |error: WireError| broken("upstream_unreadable", upstream.endpoint.masked_text(&error.message));
            let events = source.read(&frame).map_err(unreadable)?;
            for mut event in events {
                if let Event::Start { id, model, .. } = &mut event {
                    record.name(id, model);
                }
                note(record, source, &event);
                heard.push(event.clone());
                match event {
                    Event::Start { .. } if !first => {}
                    Event::Start { id, model, usage } => {
                        let id = outbound.response_id.clone().unwrap_or(id);
                        writer.write(&Event::Start { id, model, usage }, &mut out);
                    }
                    // Both are known for the whole call only after the last round.
                    Event::Stop(_) | Event::Usage(_) | Event::End => {}
                    Event::Error { kind, message } => return Err(ended_badly(upstream, &kind, &message)),
                    Event::ToolStart { index, id, name } => {
                        let hidden = tools.is_some_and(|tools| tools.has(&name));
                        if places.len() <= index {
                            places.resize(index + 1, None);
                        }
                        if !hidden {
                            places[index] = Some(*shown);
                            writer.write(&Event::ToolStart { index: *shown, id, name }, &mut out);
                            *shown += 1;
                        }
                    }
                    Event::ToolArguments { index, json } => {
                        if let Some(index) = places.get(index).copied().flatten() {
                            writer.write(&Event::ToolArguments { index, json }, &mut out);
                        }
                    }
                    event => writer.write(&event, &mut out),
                }
            }
        }
        record.gives(&out);
        listener.send(Bytes::from(out)).await?;
        if heard.complete() {
            return Ok(heard.into_reply());
        }
    }
    if source.ended() { Ok(heard.into_reply()) } else { Err(unfinished()) }
}
