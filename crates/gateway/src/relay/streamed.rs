//! Answers as event streams. One task a stream: it ends when the client does, and records before the last byte.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::{sync::mpsc, time::timeout};

use super::{Outbound, failed, response, too_long, unrecorded};
use crate::{
    body::Body,
    error::Refusal,
    memory_tools::MAX_ROUNDS,
    record::Recorder,
    sse::{Frame, Parser},
    upstream::{Answer, Failed, Received, Words},
    wire::{self, Accumulator, Event, StopReason, StreamReader, StreamWriter},
};

/// Pieces that may wait for a slow client before the provider is read no further.
const QUEUE: usize = 32;
/// The piece that ends a response in order.
const END: Bytes = Bytes::new();
/// How long a provider may take to close after its last event, so that the connection can serve again.
const CLOSING: Duration = Duration::from_secs(1);

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
    let (sender, receiver) = mpsc::channel(QUEUE);
    let from = answer.response.headers();
    let mut response = response(&outbound, &record, from, &answer.upstream, StatusCode::OK, Body::Channel(receiver));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    tokio::spawn(relay(outbound, record, answer, sender));
    Ok(response)
}

/// How a stream ends other than well.
enum Cut {
    /// The client went away.
    Gone,
    /// The provider failed; what the client is told.
    Broken(Refusal),
}

fn broken(code: &'static str, message: impl Into<String>) -> Cut {
    Cut::Broken(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message.into()).code(code))
}

async fn relay(outbound: Outbound, mut record: Recorder, answer: Answer, sender: mpsc::Sender<Bytes>) {
    let untouched = answer.upstream.provider.wire == outbound.wire && outbound.tools().is_none();
    let total = outbound.worker.gateway.config.timeouts.total();
    let relayed = async {
        if untouched {
            pass_on(&outbound, &mut record, answer, &sender).await
        } else {
            rewrite(&outbound, &mut record, answer, &sender).await
        }
    };
    let ended = timeout(total, relayed).await.unwrap_or_else(|_| Err(Cut::Broken(too_long(total))));
    let name = record.call().name();
    let refusal = match ended {
        Ok((last, mut source)) => {
            if record.end(StatusCode::OK.as_u16(), None) {
                let _ = send(&sender, last).await;
                let _ = sender.send(END).await;
                drop(sender);
                source.close().await;
                return;
            }
            unrecorded()
        }
        // Dropping the record writes what was answered so far; dropping the source closes the provider's connection.
        Err(Cut::Gone) => return,
        Err(Cut::Broken(refusal)) => {
            let _ = record.end(refusal.status.as_u16(), Some(refusal.code.unwrap_or(refusal.kind)));
            refusal
        }
    };
    let _ = sender.send(Bytes::from(wire::error_event(outbound.wire, &refusal.body(&name)))).await;
    let _ = sender.send(END).await;
}

/// The frames of a provider's stream.
struct Source {
    body: Received,
    parser: Parser,
    idle: Duration,
    waited: Duration,
}

impl Source {
    fn new(body: Received, idle: Duration) -> Self {
        Self { body, parser: Parser::new(), idle, waited: Duration::ZERO }
    }

    /// The frames that came next, at least one; none at the end.
    async fn next(&mut self, frames: &mut Vec<Frame>, sender: &mpsc::Sender<Bytes>) -> Result<bool, Cut> {
        frames.clear();
        let begun = Instant::now();
        loop {
            let piece = tokio::select! {
                biased;
                piece = timeout(self.idle, self.body.frame()) => piece,
                () = sender.closed() => return Err(Cut::Gone),
            };
            match piece {
                Err(_) => {
                    return Err(broken("upstream_stalled", format!("The provider sent nothing for {} s.", self.idle.as_secs())));
                }
                Ok(None) => return Ok(false),
                Ok(Some(Err(error))) => {
                    tracing::warn!(%error, "a provider's stream broke off");
                    return Err(broken("upstream_broke_off", "The provider's answer broke off. Try again."));
                }
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let pushed = self.parser.push(data, frames);
                    pushed.map_err(|_| broken("upstream_unreadable", "The provider sent an event that is too large."))?;
                    if !frames.is_empty() {
                        self.waited += begun.elapsed();
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Reads what is left, so that the connection can serve another call.
    async fn close(&mut self) {
        let _ = timeout(CLOSING, async { while let Some(Ok(_)) = self.body.frame().await {} }).await;
    }
}

fn unfinished() -> Cut {
    broken("upstream_broke_off", "The provider's stream ended before the answer did. Try again.")
}

async fn send(sender: &mpsc::Sender<Bytes>, bytes: Bytes) -> Result<(), Cut> {
    if bytes.is_empty() {
        return Ok(());
    }
    sender.send(bytes).await.map_err(|_| Cut::Gone)
}

type Ended = Result<(Bytes, Source), Cut>;

/// Passes frames on as they are, but for the usage that only we asked for.
async fn pass_on(outbound: &Outbound, record: &mut Recorder, answer: Answer, sender: &mpsc::Sender<Bytes>) -> Ended {
    let wire = outbound.wire;
    let wants_usage = outbound.scan.include_usage(&outbound.body);
    let mut source = Source::new(answer.response.into_body(), outbound.worker.gateway.config.timeouts.idle());
    let mut reader = StreamReader::new(wire);
    let mut heard = Accumulator::default();
    let mut frames = Vec::new();
    while source.next(&mut frames, sender).await? {
        let mut pieces: Vec<Bytes> = Vec::with_capacity(frames.len());
        for frame in frames.drain(..) {
            // What cannot be read is passed on all the same: the client may know better.
            let events = reader.read(&frame).unwrap_or_default();
            let only_usage = wire == wire::Wire::OpenaiChat && matches!(events.as_slice(), [Event::Usage(_)]);
            for event in events {
                note(record, &event);
                heard.push(event);
            }
            if wants_usage || !only_usage {
                pieces.push(frame.raw);
            }
        }
        let bytes = joined(pieces);
        if heard.complete() {
            record.waited(source.waited);
            let reply = heard.into_reply();
            record.used(reply.usage);
            record.answer().calls = reply.tool_calls().cloned().collect();
            return Ok((bytes, source));
        }
        if let Some((kind, message)) = heard.failure() {
            tracing::warn!(kind, message, "a provider ended its stream with an error");
            return Err(broken("upstream_error", message.to_owned()));
        }
        send(sender, bytes).await?;
    }
    Err(unfinished())
}

/// Notes what must be known of an answer that breaks off after this event.
fn note(record: &mut Recorder, event: &Event) {
    match event {
        Event::Text(text) => record.answer().text.push_str(text),
        Event::Start { usage: Some(usage), .. } | Event::Usage(usage) => record.hears(*usage),
        _ => {}
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    all.freeze()
}

/// Reads the provider's wire and writes the client's; memory tool calls are held back, carried out and answered.
async fn rewrite(outbound: &Outbound, record: &mut Recorder, answer: Answer, sender: &mpsc::Sender<Bytes>) -> Ended {
    let upstream = answer.upstream.clone();
    let from = upstream.provider.wire;
    let idle = outbound.worker.gateway.config.timeouts.idle();
    let mut writer =
        StreamWriter::new(outbound.wire, outbound.scan.include_usage(&outbound.body), record.call().at_us / 1_000_000);
    let mut source = Source::new(answer.response.into_body(), idle);
    let mut request = None;
    let mut shown = 0;
    for round in 1.. {
        let reply = read_round(outbound, record, &mut source, sender, &mut writer, (from, round == 1), &mut shown).await?;
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
            writer.write(&Event::Stop(if nothing_to_call { StopReason::EndTurn } else { reply.stop }), &mut last);
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
        let answer = tokio::select! {
            answer = outbound.send_round(&upstream, &next) => answer.map_err(after_a_tool)?,
            () = sender.closed() => return Err(Cut::Gone),
        };
        record.answered(&answer.upstream, answer.waited, answer.retries);
        source = Source::new(answer.response.into_body(), idle);
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
    source: &mut Source,
    sender: &mpsc::Sender<Bytes>,
    writer: &mut StreamWriter,
    (from, first): (wire::Wire, bool),
    shown: &mut usize,
) -> Result<wire::Reply, Cut> {
    let tools = outbound.tools();
    let mut reader = StreamReader::new(from);
    let mut heard = Accumulator::default();
    let mut frames = Vec::new();
    // Where each of this answer's tool calls stands in what the client sees; a memory tool, nowhere.
    let mut places: Vec<Option<usize>> = Vec::new();
    while source.next(&mut frames, sender).await? {
        let mut out = Vec::new();
        for frame in frames.drain(..) {
            let events = reader.read(&frame).map_err(|error| broken("upstream_unreadable", error.message))?;
            for event in events {
                note(record, &event);
                heard.push(event.clone());
                match event {
                    Event::Start { .. } if !first => {}
                    // Both are known for the whole call only after the last round.
                    Event::Stop(_) | Event::Usage(_) | Event::End => {}
                    Event::Error { kind, message } => {
                        tracing::warn!(kind, message, "a provider ended its stream with an error");
                        return Err(broken("upstream_error", message));
                    }
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
        send(sender, Bytes::from(out)).await?;
        if heard.complete() {
            return Ok(heard.into_reply());
        }
    }
    Err(unfinished())
}
