//! Answers as event streams. What relays one is asked by the response's body, goes when the client goes, and records before
//! the last byte.

use std::{mem::take, ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{
    Outbound,
    echo::Echo,
    failed, joined,
    listener::Listener,
    refused,
    relayed::{Hand, Relay, Relayed},
    response,
    source::{Seen, Source, broken},
    unrecorded,
    untold::untold,
};
use crate::{
    body::Body,
    decode::Decoded,
    error::Refusal,
    memory_tools::MAX_ROUNDS,
    metrics::UnderWay,
    record::{Recorder, content_type},
    routing::{Busy, Upstream},
    upstream::{Failed, Received, Words},
    wire::{self, Accumulator, Event, StopReason, StreamWriter, Wire, WireError},
};

/// Relays an answer as a stream; memory tools are carried out in further rounds, within the same stream.
///
/// # Errors
/// Where no upstream answered. Later faults are an error event in the stream.
pub async fn streamed(mut outbound: Outbound, mut record: Recorder) -> Result<Response<Body>, Refusal> {
    let answer = match outbound.send().await {
        Ok(answer) => answer,
        Err(failure) => return failed(&outbound, record, failure),
    };
    record.answered(&answer.upstream, answer.waited, answer.retries);
    let from = answer.response.headers().clone();
    let mut response = response(&outbound, &record, from, &answer.upstream, StatusCode::OK, Body::empty());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(true)));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let hand = Arc::new(Hand::default());
    let listener = Listener::new(outbound.wire, &outbound.worker.gateway.settings().config.timeouts, Arc::clone(&hand));
    let source = source(&outbound, answer.upstream.provider.wire, answer.response);
    let include_usage = outbound.scan.include_usage(&outbound.body);
    // Each in a box of its own, so that none takes the room of the other.
    let relay: Relay = if answer.upstream.provider.wire == outbound.wire && !outbound.carries_out() {
        let passing = Passing {
            wire: outbound.wire,
            hides_usage: outbound.wire == Wire::OpenaiChat && !include_usage,
            upstream: answer.upstream,
            echo: outbound.echo().map(Echo::into_owned),
            _under_way: outbound.under_way,
            _busy: answer.busy,
        };
        Box::pin(passed_on(passing, source, record, listener))
    } else {
        let writer = match StreamWriter::new(outbound.wire, include_usage, record.call().at_us / 1_000_000) {
            Ok(writer) => writer,
            Err(error) => return Err(record.refused(refused(error))),
        };
        // A stream may last an hour; its request was sent.
        outbound.forget_body();
        Box::pin(rewritten(outbound, (answer.upstream, answer.busy), writer, source, record, listener))
    };
    *response.body_mut() = Body::Relayed(Relayed::new(hand, relay));
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

/// An answer that is passed on as it is.
struct Passing {
    wire: Wire,
    /// Its usage was asked for by us, not by the client.
    hides_usage: bool,
    upstream: Arc<Upstream>,
    echo: Option<Echo<'static>>,
    _under_way: UnderWay,
    _busy: Option<Busy>,
}

async fn passed_on(passing: Passing, source: Result<Stream, Cut>, mut record: Recorder, mut listener: Listener) {
    let ended = match source {
        Ok(source) => pass_on(&passing, &mut record, source, &mut listener).await,
        Err(cut) => Err(cut),
    };
    end(passing.wire, ended, record, listener).await;
}

async fn rewritten(
    outbound: Outbound,
    (upstream, _busy): (Arc<Upstream>, Option<Busy>),
    writer: StreamWriter,
    source: Result<Stream, Cut>,
    mut record: Recorder,
    mut listener: Listener,
) {
    let ended = match source {
        Ok(source) => rewrite(&outbound, &upstream, &mut record, writer, source, &mut listener).await,
        Err(cut) => Err(cut),
    };
    end(outbound.wire, ended, record, listener).await;
}

/// Records the call, and then gives the client its last bytes.
async fn end(wire: Wire, ended: Ended, mut record: Recorder, listener: Listener) {
    let name = record.call().name();
    let refusal = match ended {
        Ok((last, source)) => {
            record.gives(&last);
            if record.end(StatusCode::OK.as_u16(), None) {
                source.close().await;
                return listener.end(last);
            }
            unrecorded()
        }
        // Dropping the record writes what was answered so far; the provider's connection is closed.
        Err(Cut::Gone) => return,
        Err(Cut::Broken(refusal)) => record.refused(refusal),
    };
    // Without words for it the response is cut short, which no client takes for a whole one.
    if let Some(event) = wire::error_event(wire, &refusal.body(&name)) {
        listener.end(Bytes::from(event));
    }
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
    Ok(Source::new(wire, body, &outbound.worker.gateway.settings().config.timeouts))
}

/// Passes frames on as they are, but for the usage that only we asked for.
async fn pass_on(passing: &Passing, record: &mut Recorder, mut source: Stream, listener: &mut Listener) -> Ended {
    let mut heard = Accumulator::default();
    // Where the end of the bytes is the end of the answer, its last words are held back until then.
    let mut held = Vec::new();
    loop {
        let chunk = source.next(listener).await?;
        if chunk.is_none() {
            if !source.ended() {
                return Err(unfinished());
            }
            heard.push(Event::End);
        }
        let chunk = chunk.unwrap_or_default();
        let mut passed = Passed { run: 0..0, pieces: take(&mut held) };
        let mut at = 0;
        loop {
            let (from, whole) = (at, source.is_between());
            match source.cut(&chunk, &mut at)? {
                None => break,
                Some(Seen::Text { at, text, untold }) => {
                    record.says(text);
                    match untold.filter(|_| passing.hides_usage) {
                        None => passed.keep(&chunk, at),
                        Some(untold) => {
                            passed.keep(&chunk, at.start..untold.start);
                            passed.keep(&chunk, untold.end..at.end);
                        }
                    }
                }
                Some(Seen::Frame(frame)) => {
                    // What cannot be read is passed on all the same: the client may know better.
                    for event in source.read(&frame).unwrap_or_default() {
                        note(record, &mut source, &event);
                        if !matches!(event, Event::Text(_) | Event::Thinking(_)) {
                            heard.push(event);
                        }
                    }
                    let shown = match &passing.echo {
                        Some(echo) => Some(echo.event(&frame)),
                        None if passing.hides_usage => untold(&frame),
                        None => Some(frame.raw.clone()),
                    };
                    match shown {
                        Some(shown) if whole && shown == frame.raw => passed.keep(&chunk, from..at),
                        Some(shown) => passed.add(&chunk, shown),
                        None => {}
                    }
                }
            }
        }
        let bytes = passed.joined(chunk);
        if heard.complete() {
            record.waited(source.waited);
            let reply = heard.into_reply();
            record.used(reply.usage);
            record.answer().calls = reply.tool_calls().cloned().collect();
            record.answer().stop = Some(reply.stop);
            return Ok((bytes, source));
        }
        if let Some((kind, message)) = heard.failure() {
            return Err(ended_badly(&passing.upstream, kind, message));
        }
        if passing.wire == Wire::Gemini && heard.stopped() {
            held = vec![bytes];
        } else {
            record.gives(&bytes);
            listener.give(bytes, source.heard).await?;
        }
    }
}

/// What of some bytes goes on to the client; all of them, as mostly, are not copied.
struct Passed {
    /// The newest that go on, not yet among the pieces.
    run: Range<usize>,
    pieces: Vec<Bytes>,
}

impl Passed {
    fn keep(&mut self, chunk: &Bytes, range: Range<usize>) {
        if self.run.end == range.start {
            self.run.end = range.end;
        } else {
            self.flush(chunk);
            self.run = range;
        }
    }

    fn add(&mut self, chunk: &Bytes, bytes: Bytes) {
        self.flush(chunk);
        self.pieces.push(bytes);
    }

    fn flush(&mut self, chunk: &Bytes) {
        if !self.run.is_empty() {
            self.pieces.push(chunk.slice(take(&mut self.run)));
        }
    }

    fn joined(mut self, chunk: Bytes) -> Bytes {
        if self.pieces.is_empty() && self.run == (0..chunk.len()) {
            return chunk;
        }
        self.flush(&chunk);
        joined(self.pieces)
    }
}

/// Notes what must be known of an answer that breaks off after this event.
fn note(record: &mut Recorder, source: &mut Stream, event: &Event) {
    match event {
        Event::Text(text) => record.says(text),
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
    upstream: &Arc<Upstream>,
    record: &mut Recorder,
    mut writer: StreamWriter,
    mut source: Stream,
    listener: &mut Listener,
) -> Ended {
    let from = upstream.provider.wire;
    let mut request = None;
    let mut shown = 0;
    for round in 1.. {
        let reply = read_round(outbound, record, upstream, &mut source, listener, (&mut writer, &mut shown), round == 1).await?;
        record.waited(source.waited);
        record.used(reply.usage);
        let ours = outbound.ours(&reply);
        let theirs: Vec<_> = reply.tool_calls().filter(|call| ours.iter().all(|our| our.id != call.id)).cloned().collect();
        if ours.is_empty() || !theirs.is_empty() || round == MAX_ROUNDS {
            if !ours.is_empty() {
                listener.throughout(outbound.carry_out(record, &ours)).await?;
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
            None => outbound.request(upstream).map_err(Cut::Broken)?,
        };
        // What a tool has begun to do to memory is done and recorded, also for a client that is gone.
        let next =
            listener.throughout(outbound.next_round(record, upstream, &sent, &reply, &ours)).await?.map_err(Cut::Broken)?;
        let answer = listener.during(None, outbound.send_round(upstream, &next)).await?.map_err(after_a_tool)?;
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
    let mut heard = Accumulator::default();
    // Where each of this answer's tool calls stands in what the client sees; a memory tool, nowhere.
    let mut places: Vec<Option<usize>> = Vec::new();
    while let Some(chunk) = source.next(listener).await? {
        let mut out = Vec::new();
        let mut at = 0;
        while let Some(seen) = source.cut(&chunk, &mut at)? {
            let unreadable = |error: WireError| broken("upstream_unreadable", upstream.endpoint.masked_text(&error.message));
            let events = match seen {
                Seen::Text { text, .. } => vec![Event::Text(text.to_owned())],
                Seen::Frame(frame) => source.read(&frame).map_err(unreadable)?,
            };
            for mut event in events {
                if let Event::Start { id, model, .. } = &mut event {
                    record.name(id, model);
                }
                note(record, source, &event);
                match &event {
                    Event::Start { .. } if !first => {}
                    Event::Start { id, model, usage } => {
                        let id = outbound.response_id.as_ref().unwrap_or(id).clone();
                        writer.write(&Event::Start { id, model: model.clone(), usage: *usage }, &mut out);
                    }
                    // Both are known for the whole call only after the last round.
                    Event::Stop(_) | Event::Usage(_) | Event::End => {}
                    Event::Error { kind, message } => return Err(ended_badly(upstream, kind, message)),
                    Event::ToolStart { index, id, name } => {
                        let hidden = outbound.is_ours(name);
                        if places.len() <= *index {
                            places.resize(index + 1, None);
                        }
                        if !hidden {
                            places[*index] = Some(*shown);
                            let (id, name) = (id.clone(), name.clone());
                            writer.write(&Event::ToolStart { index: *shown, id, name }, &mut out);
                            *shown += 1;
                        }
                    }
                    Event::ToolArguments { index, json } => {
                        if let Some(index) = places.get(*index).copied().flatten() {
                            writer.write(&Event::ToolArguments { index, json: json.clone() }, &mut out);
                        }
                    }
                    event => writer.write(event, &mut out),
                }
                heard.push(event);
            }
        }
        record.gives(&out);
        listener.give(Bytes::from(out), source.heard).await?;
        if heard.complete() {
            return Ok(heard.into_reply());
        }
    }
    if source.ended() { Ok(heard.into_reply()) } else { Err(unfinished()) }
}
