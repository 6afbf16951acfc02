//! Writes `response.created` … `response.completed`. Texts and reasoning come one after the other; tool calls may be open
//! beside them, as they arrive.

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::reply::{ResponseOut, call_item, message_item, reasoning_item, text_part};
use super::usage::UsageOut;
use super::{encrypted, error, item_id, response_id, status_of};
use crate::wire::{ErrorBody, Event, Opaque, Signature, StopReason, ToolCall, Usage, Wire, json};

/// An event: its number, and what it says beside.
#[derive(Serialize)]
struct Out<'a, T: Serialize> {
    r#type: &'a str,
    sequence_number: u64,
    #[serde(flatten)]
    said: T,
}

#[derive(Serialize)]
struct Lifecycle<'a> {
    response: &'a ResponseOut<'a>,
}

#[derive(Serialize)]
struct Item<'a> {
    output_index: usize,
    item: &'a Value,
}

#[derive(Serialize)]
struct TextDelta<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    delta: &'a str,
    logprobs: [(); 0],
}

#[derive(Serialize)]
struct SummaryDelta<'a> {
    item_id: &'a str,
    output_index: usize,
    summary_index: usize,
    delta: &'a str,
}

#[derive(Serialize)]
struct ArgumentsDelta<'a> {
    item_id: &'a str,
    output_index: usize,
    delta: &'a str,
}

/// The text or reasoning that is being written.
#[derive(Debug)]
struct Open {
    kind: Kind,
    id: String,
    output_index: usize,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
}

/// A tool call that is being written.
#[derive(Debug)]
struct OpenCall {
    /// Its index in the events.
    index: usize,
    id: String,
    output_index: usize,
    call: ToolCall,
}

/// Turns our events into those of a response.
#[derive(Debug)]
pub struct StreamWriter {
    created: u64,
    id: String,
    model: String,
    sequence: u64,
    started: bool,
    failed: bool,
    open: Option<Open>,
    calls: Vec<OpenCall>,
    /// The items so far; null where one is not at its end.
    output: Vec<Value>,
    stop: Option<StopReason>,
    usage: Option<Usage>,
}

impl StreamWriter {
    pub(in crate::wire) fn new(created: u64) -> Self {
        Self {
            created,
            id: String::new(),
            model: String::new(),
            sequence: 0,
            started: false,
            failed: false,
            open: None,
            calls: Vec::new(),
            output: Vec::new(),
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
                self.usage = usage.or(self.usage);
                if !self.started {
                    self.id = response_id(id);
                    self.model.clone_from(model);
                    self.start(out);
                }
            }
            Event::Text(text) => self.text(text, out),
            Event::Thinking(text) => self.thinking(text, out),
            Event::Signature(signature) => self.signature(signature, out),
            Event::ToolStart { index, id, name } => self.begin_call(*index, id, name, out),
            Event::ToolArguments { index, json } => self.arguments(*index, json, out),
            Event::Opaque(block) => self.opaque(block, out),
            Event::Stop(stop) => self.stop = Some(stop.clone()),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Error { kind, message } => {
                self.failed = true;
                let error = ErrorBody { status: 500, kind, message, param: None, code: None, request_id: "" };
                error::frame(&error, self.sequence, out);
            }
            Event::Ping => out.extend_from_slice(b": ping\n\n"),
            Event::End => self.end(out),
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        self.started = true;
        for name in ["response.created", "response.in_progress"] {
            let response = ResponseOut::begun(&self.id, &self.model, self.created);
            emit(&mut self.sequence, name, Lifecycle { response: &response }, out);
        }
    }

    fn text(&mut self, delta: &str, out: &mut Vec<u8>) {
        self.switch(Kind::Message, out);
        let Some(open) = &mut self.open else { return };
        open.text.push_str(delta);
        let (item_id, output_index) = (&*open.id, open.output_index);
        let delta = TextDelta { item_id, output_index, content_index: 0, delta, logprobs: [] };
        emit(&mut self.sequence, "response.output_text.delta", delta, out);
    }

    fn thinking(&mut self, delta: &str, out: &mut Vec<u8>) {
        self.switch(Kind::Reasoning, out);
        let Some(open) = &mut self.open else { return };
        let place = json!({"item_id": open.id, "output_index": open.output_index, "summary_index": 0});
        if open.text.is_empty() {
            let mut added = place;
            added["part"] = summary_part("");
            emit(&mut self.sequence, "response.reasoning_summary_part.added", added, out);
        }
        open.text.push_str(delta);
        let delta = SummaryDelta { item_id: &open.id, output_index: open.output_index, summary_index: 0, delta };
        emit(&mut self.sequence, "response.reasoning_summary_text.delta", delta, out);
    }

    fn signature(&mut self, signature: &Signature, out: &mut Vec<u8>) {
        self.switch(Kind::Reasoning, out);
        let (_, proof) = encrypted(signature);
        self.close(Some(proof), out);
    }

    /// Have a text or reasoning open.
    fn switch(&mut self, to: Kind, out: &mut Vec<u8>) {
        if self.open.as_ref().is_some_and(|open| open.kind == to) {
            return;
        }
        self.begin_item(out);
        let output_index = self.output.len();
        let (id, item) = match to {
            Kind::Message => {
                let id = item_id("msg", &self.id, output_index);
                let item = json!({"id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": []});
                (id, item)
            }
            Kind::Reasoning => {
                let id = item_id("rs", &self.id, output_index);
                let item = reasoning_item(&id, "", None);
                (id, item)
            }
        };
        self.output.push(Value::Null);
        emit(&mut self.sequence, "response.output_item.added", Item { output_index, item: &item }, out);
        if to == Kind::Message {
            let part = json!({"item_id": id, "output_index": output_index, "content_index": 0, "part": text_part("")});
            emit(&mut self.sequence, "response.content_part.added", part, out);
        }
        self.open = Some(Open { kind: to, id, output_index, text: String::new() });
    }

    /// End what is at its end before another item begins: the open text or reasoning, and calls whose arguments are whole.
    fn begin_item(&mut self, out: &mut Vec<u8>) {
        if !self.started {
            self.start(out);
        }
        self.close(None, out);
        let whole = |call: &OpenCall| serde_json::from_str::<IgnoredAny>(&call.call.arguments).is_ok();
        let (whole, open) = std::mem::take(&mut self.calls).into_iter().partition(whole);
        self.calls = open;
        self.end_calls(whole, out);
    }

    fn close(&mut self, proof: Option<String>, out: &mut Vec<u8>) {
        let Some(open) = self.open.take() else { return };
        let place = |key: &str| json!({"item_id": open.id, "output_index": open.output_index, key: 0});
        let item = match open.kind {
            Kind::Message => {
                let mut done = place("content_index");
                done["text"] = open.text.as_str().into();
                done["logprobs"] = json!([]);
                emit(&mut self.sequence, "response.output_text.done", done, out);
                let mut done = place("content_index");
                done["part"] = text_part(&open.text);
                emit(&mut self.sequence, "response.content_part.done", done, out);
                message_item(&open.id, &open.text, "completed")
            }
            Kind::Reasoning => {
                if !open.text.is_empty() {
                    let mut done = place("summary_index");
                    done["text"] = open.text.as_str().into();
                    emit(&mut self.sequence, "response.reasoning_summary_text.done", done, out);
                    let mut done = place("summary_index");
                    done["part"] = summary_part(&open.text);
                    emit(&mut self.sequence, "response.reasoning_summary_part.done", done, out);
                }
                reasoning_item(&open.id, &open.text, proof)
            }
        };
        self.end_item(open.output_index, item, out);
    }

    fn end_item(&mut self, output_index: usize, item: Value, out: &mut Vec<u8>) {
        emit(&mut self.sequence, "response.output_item.done", Item { output_index, item: &item }, out);
        if let Some(place) = self.output.get_mut(output_index) {
            *place = item;
        }
    }

    fn begin_call(&mut self, index: usize, id: &str, name: &str, out: &mut Vec<u8>) {
        self.begin_item(out);
        let output_index = self.output.len();
        self.output.push(Value::Null);
        let call = ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: String::new() };
        let id = item_id("fc", &self.id, output_index);
        let mut item = call_item(&id, &call, "in_progress");
        item["arguments"] = "".into();
        emit(&mut self.sequence, "response.output_item.added", Item { output_index, item: &item }, out);
        self.calls.push(OpenCall { index, id, output_index, call });
    }

    fn arguments(&mut self, index: usize, delta: &str, out: &mut Vec<u8>) {
        // Not found: a piece after its call was whole, or of a call that never began.
        let Some(open) = self.calls.iter_mut().rfind(|open| open.index == index) else { return };
        open.call.arguments.push_str(delta);
        let delta = ArgumentsDelta { item_id: &open.id, output_index: open.output_index, delta };
        emit(&mut self.sequence, "response.function_call_arguments.delta", delta, out);
    }

    fn end_calls(&mut self, calls: Vec<OpenCall>, out: &mut Vec<u8>) {
        for open in calls {
            let item = call_item(&open.id, &open.call, "completed");
            let done = json!({
                "item_id": open.id, "output_index": open.output_index, "name": open.call.name, "arguments": item["arguments"],
            });
            emit(&mut self.sequence, "response.function_call_arguments.done", done, out);
            self.end_item(open.output_index, item, out);
        }
    }

    fn opaque(&mut self, block: &Opaque, out: &mut Vec<u8>) {
        let Some(item) = block.raw(Wire::OpenaiResponses).and_then(|raw| serde_json::from_str(raw.get()).ok()) else {
            return;
        };
        self.begin_item(out);
        let output_index = self.output.len();
        self.output.push(Value::Null);
        emit(&mut self.sequence, "response.output_item.added", Item { output_index, item: &item }, out);
        self.end_item(output_index, item, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if !self.started {
            self.start(out);
        }
        self.close(None, out);
        let calls = std::mem::take(&mut self.calls);
        self.end_calls(calls, out);
        let (status, incomplete_details) = status_of(&self.stop.take().unwrap_or_default());
        let response = ResponseOut {
            completed_at: Some(self.created),
            status,
            incomplete_details,
            output: &self.output,
            usage: Some(UsageOut::from(self.usage.unwrap_or_default())),
            ..ResponseOut::begun(&self.id, &self.model, self.created)
        };
        let name = if status == "completed" { "response.completed" } else { "response.incomplete" };
        emit(&mut self.sequence, name, Lifecycle { response: &response }, out);
    }
}

fn summary_part(text: &str) -> Value {
    json!({"type": "summary_text", "text": text})
}

fn emit(sequence: &mut u64, name: &str, said: impl Serialize, out: &mut Vec<u8>) {
    json::frame(out, Some(name), &Out { r#type: name, sequence_number: *sequence, said });
    *sequence += 1;
}
