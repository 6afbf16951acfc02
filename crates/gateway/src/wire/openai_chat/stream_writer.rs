//! Writes `chat.completion.chunk`s.

use serde::Serialize;
use serde_json::Value;

use super::finish_reason_of;
use super::reply::extra_content;
use super::usage::UsageOut;
use crate::wire::{ErrorBody, Event, StopReason, Usage, error, json};

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    /// Null in every chunk but the last, where the client asked for usage at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(clippy::option_option, reason = "absent and null differ here")]
    usage: Option<Option<UsageOut>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u8,
    delta: Delta<'a>,
    logprobs: (),
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall<'a>; 1]>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Value>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

/// A tool call begun.
#[derive(Debug)]
struct Call {
    /// Its index in the events.
    index: usize,
    has_arguments: bool,
}

/// Turns events into chunks.
#[derive(Debug)]
pub struct StreamWriter {
    include_usage: bool,
    created: u64,
    id: String,
    model: String,
    started: bool,
    failed: bool,
    /// A call's place here is its index in the chunks.
    calls: Vec<Call>,
    /// Gemini's proof, for the call that follows.
    proof: Option<Value>,
    stop: Option<StopReason>,
    usage: Option<Usage>,
}

impl StreamWriter {
    pub(in crate::wire) fn new(include_usage: bool, created: u64) -> Self {
        Self {
            include_usage,
            created,
            id: String::new(),
            model: String::new(),
            started: false,
            failed: false,
            calls: Vec::new(),
            proof: None,
            stop: None,
            usage: None,
        }
    }

    pub(in crate::wire) fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        match event {
            Event::Start { id, model, usage } => {
                if !self.started {
                    self.id.clone_from(id);
                    self.model.clone_from(model);
                    self.start(out);
                }
                self.usage = usage.or(self.usage);
            }
            Event::Text(text) => self.delta(Delta { content: Some(text), ..Delta::default() }, out),
            Event::Thinking(text) => self.delta(Delta { reasoning_content: Some(text), ..Delta::default() }, out),
            Event::Signature(signature) => self.proof = extra_content(signature),
            // Only its own wire could read it.
            Event::Opaque(_) => {}
            Event::ToolStart { index, id, name } => {
                self.calls.push(Call { index: *index, has_arguments: false });
                let function = Function { name: Some(name), arguments: "" };
                let index = self.calls.len() - 1;
                let extra_content = self.proof.take();
                self.call(ToolCall { index, id: Some(id), r#type: Some("function"), function, extra_content }, out);
            }
            Event::ToolArguments { index, json } => {
                if let Some(place) = self.calls.iter().rposition(|call| call.index == *index) {
                    self.calls[place].has_arguments |= !json.is_empty();
                    self.arguments(place, json, out);
                }
            }
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Error { kind, message } => {
                self.failed = true;
                let error = ErrorBody { status: 500, kind, message, param: None, code: None, request_id: "" };
                error::openai_frame(&error, out);
            }
            Event::Ping => out.extend_from_slice(b": ping\n\n"),
            Event::End => self.end(out),
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        self.started = true;
        self.delta(Delta { role: Some("assistant"), content: Some(""), ..Delta::default() }, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        // Clients parse the arguments as JSON, so none must be `{}`.
        for place in 0..self.calls.len() {
            if !self.calls[place].has_arguments {
                self.arguments(place, "{}", out);
            }
        }
        let calls_tools = !self.calls.is_empty();
        let stop = self.stop.take().unwrap_or(if calls_tools { StopReason::ToolUse } else { StopReason::EndTurn });
        self.choice(Delta::default(), Some(finish_reason_of(&stop)), out);
        if self.include_usage {
            self.chunk(&[], Some(self.usage.unwrap_or_default().into()), out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn arguments(&mut self, index: usize, arguments: &str, out: &mut Vec<u8>) {
        let function = Function { name: None, arguments };
        self.call(ToolCall { index, id: None, r#type: None, function, extra_content: None }, out);
    }

    fn call(&mut self, call: ToolCall, out: &mut Vec<u8>) {
        self.delta(Delta { tool_calls: Some([call]), ..Delta::default() }, out);
    }

    fn delta(&mut self, delta: Delta, out: &mut Vec<u8>) {
        self.choice(delta, None, out);
    }

    fn choice(&mut self, delta: Delta, finish_reason: Option<&'static str>, out: &mut Vec<u8>) {
        if !self.started {
            self.start(out);
        }
        self.chunk(&[Choice { index: 0, delta, logprobs: (), finish_reason }], None, out);
    }

    fn chunk(&self, choices: &[Choice], usage: Option<UsageOut>, out: &mut Vec<u8>) {
        let usage = self.include_usage.then_some(usage);
        let (id, model, created) = (&self.id, &self.model, self.created);
        let object = "chat.completion.chunk";
        json::frame(out, None, &Chunk { id, object, created, model, choices, usage });
    }
}
