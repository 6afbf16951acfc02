//! Adds up a streamed reply while its bytes go past.

use super::{Event, Part, Reply, StopReason, StreamReader, ToolCall, Wire, WireError};
use crate::sse::Frame;

/// Builds the whole [`Reply`] from events.
#[derive(Debug, Default)]
pub struct Accumulator {
    reply: Reply,
    /// For each tool call seen, its index in the stream and its place among the parts.
    calls: Vec<(usize, usize)>,
    stopped: bool,
    complete: bool,
    failure: Option<(String, String)>,
}

impl Accumulator {
    /// Add what `event` says.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Start { id, model, usage } => {
                self.reply.id = id;
                self.reply.model = model;
                self.reply.usage = usage.or(self.reply.usage);
            }
            Event::Text(text) => match self.reply.parts.last_mut() {
                Some(Part::Text(so_far)) => so_far.push_str(&text),
                _ => self.reply.parts.push(Part::Text(text)),
            },
            Event::Thinking(more) => match self.reply.parts.last_mut() {
                Some(Part::Thinking { text, signature: None }) => text.push_str(&more),
                _ => self.reply.parts.push(Part::Thinking { text: more, signature: None }),
            },
            Event::Signature(proof) => match self.reply.parts.last_mut() {
                Some(Part::Thinking { signature: signature @ None, .. }) => *signature = Some(proof),
                _ => self.reply.parts.push(Part::Thinking { text: String::new(), signature: Some(proof) }),
            },
            Event::ToolStart { index, id, name } => {
                self.calls.push((index, self.reply.parts.len()));
                self.reply.parts.push(Part::ToolCall(ToolCall { id, name, arguments: String::new() }));
            }
            Event::ToolArguments { index, json } => {
                let place = self.calls.iter().rev().find(|(call, _)| *call == index).map(|(_, place)| *place);
                if let Some(Part::ToolCall(call)) = place.and_then(|place| self.reply.parts.get_mut(place)) {
                    call.arguments.push_str(&json);
                }
            }
            Event::Opaque(block) => self.reply.parts.push(Part::Opaque(block)),
            Event::Stop(stop) => {
                self.reply.stop = stop;
                self.stopped = true;
                for part in &mut self.reply.parts {
                    if let Part::ToolCall(call) = part
                        && call.arguments.trim().is_empty()
                    {
                        "{}".clone_into(&mut call.arguments);
                    }
                }
            }
            Event::Usage(usage) => self.reply.usage = Some(usage),
            Event::Error { kind, message } => self.failure = Some((kind, message)),
            Event::Ping => {}
            Event::End => self.complete = true,
        }
    }

    /// The reply so far.
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// The reply so far, given away.
    pub fn into_reply(self) -> Reply {
        self.reply
    }

    /// Whether the model said why it stopped. Some providers of `OpenAI`'s wire close after that without a proper end.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Why the model stopped, once it said so.
    pub fn stop(&self) -> Option<&StopReason> {
        self.stopped.then_some(&self.reply.stop)
    }

    /// Whether the stream came to the wire's proper end.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Kind and message of the error the provider ended the stream with.
    pub fn failure(&self) -> Option<(&str, &str)> {
        self.failure.as_ref().map(|(kind, message)| (kind.as_str(), message.as_str()))
    }
}

/// Listens to a stream that is relayed untouched.
#[derive(Debug)]
pub struct Tap {
    reader: StreamReader,
    accumulator: Accumulator,
}

impl Tap {
    /// A tap at the beginning of a reply in `wire`.
    pub fn new(wire: Wire) -> Self {
        Self { reader: StreamReader::new(wire), accumulator: Accumulator::default() }
    }

    /// Add what `frame` says. An error leaves what was heard before; the relay can go on.
    pub fn read(&mut self, frame: &Frame) -> Result<(), WireError> {
        for event in self.reader.read(frame)? {
            self.accumulator.push(event);
        }
        Ok(())
    }

    /// The provider closed the stream; some wires have no other end.
    pub fn end(&mut self) {
        if let Some(event) = self.reader.end() {
            self.accumulator.push(event);
        }
    }

    /// All that was heard so far.
    pub fn heard(&self) -> &Accumulator {
        &self.accumulator
    }

    /// The reply so far.
    pub fn reply(&self) -> &Reply {
        self.accumulator.reply()
    }

    /// Whether the stream came to the wire's proper end.
    pub fn complete(&self) -> bool {
        self.accumulator.complete()
    }

    /// The reply so far, given away.
    pub fn into_reply(self) -> Reply {
        self.accumulator.into_reply()
    }
}
