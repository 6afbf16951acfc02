//! Writes `message_start` … `message_stop`. Blocks come one after the other, as Anthropic's do, even where tool calls arrive
//! interleaved.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::stop_fields_of;
use super::usage::UsageOut;
use crate::wire::{ErrorBody, Event, StopReason, Usage, Wire, error, json};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Out<'a> {
    MessageStart { message: MessageOut<'a> },
    ContentBlockStart { index: usize, content_block: BlockStart<'a> },
    ContentBlockDelta { index: usize, delta: Delta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stop<'a>, usage: UsageOut },
    MessageStop {},
    Ping {},
}

impl Out<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
            Self::Ping {} => "ping",
        }
    }
}

#[derive(Serialize)]
struct MessageOut<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: [(); 0],
    stop_reason: (),
    stop_sequence: (),
    usage: UsageOut,
}

#[derive(Serialize)]
#[serde(untagged)]
enum BlockStart<'a> {
    Known(KnownStart<'a>),
    Opaque(&'a RawValue),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum KnownStart<'a> {
    Text { text: &'static str },
    Thinking { thinking: &'static str, signature: &'static str },
    ToolUse { id: &'a str, name: &'a str, input: Empty },
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

#[derive(Serialize)]
struct Stop<'a> {
    stop_reason: &'static str,
    stop_sequence: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    /// The first of `calls`.
    Call,
}

/// A tool call not yet ended.
#[derive(Debug)]
struct Call {
    index: usize,
    id: String,
    name: String,
    arguments: String,
}

impl Call {
    /// Whether the arguments are whole, so that the next call may begin.
    fn is_whole(&self) -> bool {
        serde_json::from_str::<IgnoredAny>(&self.arguments).is_ok()
    }
}

/// Turns our events into Anthropic's.
#[derive(Debug)]
pub struct StreamWriter {
    started: bool,
    failed: bool,
    open: Open,
    /// The index of the open block, or of the next one.
    block: usize,
    /// Calls in order: the first is being written, the others wait for it.
    calls: VecDeque<Call>,
    any_call: bool,
    /// Text that came amid the arguments of the open call.
    text: String,
    stop: Option<StopReason>,
    usage: Option<Usage>,
}

impl Default for StreamWriter {
    fn default() -> Self {
        Self {
            started: false,
            failed: false,
            open: Open::Nothing,
            block: 0,
            calls: VecDeque::new(),
            any_call: false,
            text: String::new(),
            stop: None,
            usage: None,
        }
    }
}

impl StreamWriter {
    pub(in crate::wire) fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        match event {
            Event::Start { id, model, usage } => {
                self.usage = usage.or(self.usage);
                if !self.started {
                    self.start(id, model, out);
                }
            }
            Event::Text(text) if self.open == Open::Call && !self.calls[0].is_whole() => {
                self.text.push_str(text);
            }
            Event::Text(text) => {
                self.switch(Open::Text, out);
                self.delta(Delta::Text { text }, out);
            }
            Event::Thinking(thinking) => {
                self.switch(Open::Thinking, out);
                self.delta(Delta::Thinking { thinking }, out);
            }
            Event::Signature(signature) => {
                self.switch(Open::Thinking, out);
                self.delta(Delta::Signature { signature: &signature.write(Wire::AnthropicMessages) }, out);
                self.close(out);
            }
            Event::ToolStart { index, id, name } => {
                self.any_call = true;
                let arguments = String::new();
                self.calls.push_back(Call { index: *index, id: id.clone(), name: name.clone(), arguments });
                self.advance(out);
            }
            Event::ToolArguments { index, json } => self.arguments(*index, json, out),
            Event::Opaque(block) => {
                if let Some(block) = block.raw(Wire::AnthropicMessages) {
                    self.close(out);
                    self.start_block(Open::Nothing, BlockStart::Opaque(&block), out);
                    self.stop_block(out);
                }
            }
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Error { kind, message } => {
                self.failed = true;
                let error = ErrorBody { status: 500, kind, message, param: None, code: None, request_id: "" };
                error::anthropic_frame(&error, out);
            }
            Event::Ping => emit(&Out::Ping {}, out),
            Event::End => self.end(out),
        }
    }

    fn start(&mut self, id: &str, model: &str, out: &mut Vec<u8>) {
        self.started = true;
        let message = MessageOut {
            id,
            r#type: "message",
            role: "assistant",
            model,
            content: [],
            stop_reason: (),
            stop_sequence: (),
            usage: self.usage.unwrap_or_default().into(),
        };
        emit(&Out::MessageStart { message }, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if !self.started {
            self.start("", "", out);
        }
        self.close(out);
        let stop = self.stop.take().unwrap_or(if self.any_call { StopReason::ToolUse } else { StopReason::EndTurn });
        let (stop_reason, stop_sequence) = stop_fields_of(&stop);
        let delta = Stop { stop_reason, stop_sequence };
        emit(&Out::MessageDelta { delta, usage: self.usage.unwrap_or_default().into() }, out);
        emit(&Out::MessageStop {}, out);
    }

    /// Have a text or thinking block open.
    fn switch(&mut self, to: Open, out: &mut Vec<u8>) {
        if self.open == to {
            return;
        }
        self.close(out);
        let start = match to {
            Open::Thinking => KnownStart::Thinking { thinking: "", signature: "" },
            _ => KnownStart::Text { text: "" },
        };
        self.start_block(to, BlockStart::Known(start), out);
    }

    fn arguments(&mut self, index: usize, json: &str, out: &mut Vec<u8>) {
        // Not found: a piece after its call was whole, or of a call that never began.
        let Some(place) = self.calls.iter().rposition(|call| call.index == index) else {
            return;
        };
        self.calls[place].arguments.push_str(json);
        if place == 0 {
            self.delta(Delta::InputJson { partial_json: json }, out);
            self.advance(out);
        }
    }

    /// Begin the first call, and end it as soon as it is whole and another waits.
    fn advance(&mut self, out: &mut Vec<u8>) {
        loop {
            if self.open != Open::Call {
                let Some(call) = self.calls.pop_front() else {
                    return;
                };
                self.close(out);
                let start = KnownStart::ToolUse { id: &call.id, name: &call.name, input: Empty {} };
                self.start_block(Open::Call, BlockStart::Known(start), out);
                if !call.arguments.is_empty() {
                    self.delta(Delta::InputJson { partial_json: &call.arguments }, out);
                }
                self.calls.push_front(call);
            }
            if self.calls.len() < 2 || !self.calls[0].is_whole() {
                return;
            }
            self.calls.pop_front();
            self.stop_block(out);
        }
    }

    /// End the open block, and all that waited behind it.
    fn close(&mut self, out: &mut Vec<u8>) {
        while self.open != Open::Nothing {
            let was_call = self.open == Open::Call;
            self.stop_block(out);
            if was_call {
                self.calls.pop_front();
                self.advance(out);
            }
        }
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.start_block(Open::Text, BlockStart::Known(KnownStart::Text { text: "" }), out);
            self.delta(Delta::Text { text: &text }, out);
            self.stop_block(out);
        }
    }

    fn start_block(&mut self, open: Open, content_block: BlockStart, out: &mut Vec<u8>) {
        if !self.started {
            self.start("", "", out);
        }
        self.open = open;
        emit(&Out::ContentBlockStart { index: self.block, content_block }, out);
    }

    fn delta(&self, delta: Delta, out: &mut Vec<u8>) {
        emit(&Out::ContentBlockDelta { index: self.block, delta }, out);
    }

    fn stop_block(&mut self, out: &mut Vec<u8>) {
        emit(&Out::ContentBlockStop { index: self.block }, out);
        self.block += 1;
        self.open = Open::Nothing;
    }
}

fn emit(event: &Out, out: &mut Vec<u8>) {
    json::frame(out, Some(event.name()), event);
}
