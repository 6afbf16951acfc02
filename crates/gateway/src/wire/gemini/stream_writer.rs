//! Writes a reply in pieces, each a `GenerateContentResponse`. A tool call goes out whole, as the only way this wire has.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::reply::{CandidateOut, ContentOut, PartOut, ResponseOut};
use super::{finish_reason_of, signature_out};
use crate::wire::{ErrorBody, Event, Signature, StopReason, ToolCall, Usage, Wire, gemini::error, json};

/// A tool call whose arguments may still come.
#[derive(Debug)]
struct Waiting {
    index: usize,
    call: ToolCall,
    signature: Option<Signature>,
}

/// Turns events into pieces of a reply.
#[derive(Debug, Default)]
pub struct StreamWriter {
    id: String,
    model: String,
    started: bool,
    failed: bool,
    /// Calls not yet written, in order.
    calls: Vec<Waiting>,
    /// Gemini's signature for what comes next.
    signature: Option<Signature>,
    stop: Option<StopReason>,
    usage: Option<Usage>,
}

impl StreamWriter {
    pub(in crate::wire) fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        match event {
            Event::Start { id, model, usage } => {
                if !std::mem::replace(&mut self.started, true) {
                    self.id.clone_from(id);
                    self.model.clone_from(model);
                }
                self.usage = usage.or(self.usage);
            }
            Event::Text(text) => {
                self.flush(false, out);
                let signature = self.signature.take();
                self.part(text_part(text, false, signature.as_ref()), out);
            }
            Event::Thinking(text) => {
                self.flush(false, out);
                self.part(text_part(text, true, None), out);
            }
            // Gemini's own stands on the text or call that follows, another's with the reasoning before it.
            Event::Signature(signature) if signature.fit_for(Wire::Gemini).is_none() => {
                self.flush(false, out);
                self.part(text_part("", true, Some(signature)), out);
            }
            Event::Signature(signature) => {
                if let Some(before) = self.signature.replace(signature.clone()) {
                    self.part(text_part("", false, Some(&before)), out);
                }
            }
            Event::ToolStart { index, id, name } => {
                let call = ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() };
                self.calls.push(Waiting { index: *index, call, signature: self.signature.take() });
            }
            Event::ToolArguments { index, json } => {
                if let Some(call) = self.calls.iter_mut().rfind(|call| call.index == *index) {
                    call.call.arguments.push_str(json);
                }
            }
            Event::Opaque(block) => {
                if let Some(raw) = block.raw(Wire::Gemini) {
                    self.flush(false, out);
                    self.part(PartOut::Raw(raw), out);
                }
            }
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Error { kind, message } => {
                self.failed = true;
                let error = ErrorBody { status: 500, kind, message, param: None, code: None, request_id: "" };
                error::frame(&error, out);
            }
            // Google's Python SDK takes every line for data, comments too.
            Event::Ping => {}
            Event::End => self.end(out),
        }
    }

    /// Write calls from the front, as far as they are whole; `all` of them at the end.
    fn flush(&mut self, all: bool, out: &mut Vec<u8>) {
        let whole = |call: &Waiting| all || serde_json::from_str::<IgnoredAny>(&call.call.arguments).is_ok();
        let count = self.calls.iter().take_while(|call| whole(call)).count();
        let calls: Vec<Waiting> = self.calls.drain(..count).collect();
        for Waiting { call, signature, .. } in &calls {
            let thought_signature = signature.as_ref().map(signature_out);
            self.part(PartOut::Call { function_call: call.into(), thought_signature }, out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.flush(true, out);
        let finish_reason = Some(finish_reason_of(&self.stop.take().unwrap_or_default()));
        let signature = self.signature.take();
        self.chunk(text_part("", false, signature.as_ref()), finish_reason, self.usage, out);
    }

    fn part(&self, part: PartOut, out: &mut Vec<u8>) {
        self.chunk(part, None, None, out);
    }

    fn chunk(&self, part: PartOut, finish_reason: Option<&'static str>, usage: Option<Usage>, out: &mut Vec<u8>) {
        let content = ContentOut { parts: vec![part], role: "model" };
        let response = ResponseOut {
            candidates: [CandidateOut { content, finish_reason, index: 0 }],
            usage_metadata: usage.map(Into::into),
            model_version: &self.model,
            response_id: &self.id,
        };
        json::frame(out, None, &response);
    }
}

fn text_part<'a>(text: &'a str, thought: bool, signature: Option<&'a Signature>) -> PartOut<'a> {
    let thought_signature: Option<Cow<'a, str>> = signature.map(signature_out);
    PartOut::Text { text, thought, thought_signature }
}
