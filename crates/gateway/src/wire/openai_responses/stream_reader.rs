//! Reads `response.created` … `response.completed`.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::reply::{ErrorIn, IncompleteIn, ItemIn};
use super::stop_of;
use super::usage::UsageIn;
use crate::sse::Frame;
use crate::wire::error::kind_of;
use crate::wire::text::Text;
use crate::wire::{Event, Part, StopReason, WireError};

/// All events in one flat form, since telling them apart first would cost a copy.
#[derive(Deserialize)]
struct EventIn<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(default)]
    output_index: u64,
    #[serde(default)]
    summary_index: u64,
    #[serde(borrow, default)]
    delta: Text<'a>,
    #[serde(borrow)]
    item: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<ResponseIn<'a>>,
    #[serde(borrow, default)]
    code: Text<'a>,
    #[serde(borrow, default)]
    message: Text<'a>,
    /// Some hosts put the error into an object, as their other wire does.
    #[serde(borrow)]
    error: Option<ErrorIn<'a>>,
}

#[derive(Deserialize)]
struct ResponseIn<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(borrow, default)]
    status: Text<'a>,
    #[serde(borrow)]
    incomplete_details: Option<IncompleteIn<'a>>,
    #[serde(borrow)]
    error: Option<ErrorIn<'a>>,
    usage: Option<UsageIn>,
}

/// Turns the events of a response into ours.
#[derive(Debug, Default)]
pub struct StreamReader {
    started: bool,
    refused: bool,
    /// For each tool call, the index of its item.
    calls: Vec<u64>,
    /// The items of which a piece has been read: what they say at their end is known.
    told: Vec<u64>,
}

impl StreamReader {
    pub(in crate::wire) fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(Vec::new());
        }
        let event: EventIn = serde_json::from_slice(&frame.data).map_err(|error| WireError::reply(&error))?;
        let mut events = Vec::with_capacity(1);
        let index = event.output_index;
        match &*event.r#type {
            "response.output_text.delta" => self.piece(index, event.delta, Event::Text, &mut events),
            "response.refusal.delta" => {
                self.refused = true;
                self.piece(index, event.delta, Event::Text, &mut events);
            }
            "response.reasoning_summary_part.added" if event.summary_index > 0 => {
                events.push(Event::Thinking("\n\n".to_owned()));
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.piece(index, event.delta, Event::Thinking, &mut events);
            }
            "response.function_call_arguments.delta" => {
                if let Some(call) = self.calls.iter().position(|item| *item == index) {
                    self.piece(index, event.delta, |json| Event::ToolArguments { index: call, json }, &mut events);
                }
            }
            "response.output_item.added" => {
                let item = ItemIn::parse(event.item.ok_or_else(|| missing("item"))?)?;
                if &*item.r#type == "function_call" {
                    self.begin_call(index, item, &mut events);
                }
            }
            "response.output_item.done" => self.end_item(index, event.item.ok_or_else(|| missing("item"))?, &mut events)?,
            "response.created" | "response.in_progress" | "response.queued" => {
                let response = event.response.ok_or_else(|| missing("response"))?;
                self.start(&response, &mut events);
            }
            "response.completed" | "response.incomplete" => {
                let response = event.response.ok_or_else(|| missing("response"))?;
                self.start(&response, &mut events);
                let reason = response.incomplete_details.map(|details| details.reason).unwrap_or_default();
                let stop = stop_of(&response.status, &reason, !self.calls.is_empty());
                events.push(Event::Stop(if self.refused { StopReason::Refusal } else { stop }));
                events.extend(response.usage.map(|usage| Event::Usage(usage.into())));
                events.push(Event::End);
            }
            "response.failed" | "error" => {
                let failed = event.response.and_then(|response| response.error).or(event.error);
                let (code, message) = failed.map_or((event.code, event.message), |error| (error.code, error.message));
                let kind = match &*code {
                    "server_error" => "api_error",
                    "invalid_prompt" => "invalid_request_error",
                    code => kind_of(0, code, code),
                };
                events.push(Event::Error { kind: kind.to_owned(), message: message.0.into_owned() });
            }
            _ => {}
        }
        Ok(events)
    }

    fn start(&mut self, response: &ResponseIn, events: &mut Vec<Event>) {
        if !std::mem::replace(&mut self.started, true) {
            events.push(Event::Start { id: response.id.to_string(), model: response.model.to_string(), usage: None });
        }
    }

    fn piece(&mut self, index: u64, delta: Text, event: impl FnOnce(String) -> Event, events: &mut Vec<Event>) {
        if let Some(delta) = delta.given() {
            self.tell(index);
            events.push(event(delta));
        }
    }

    fn tell(&mut self, index: u64) {
        if self.told.last() != Some(&index) && !self.told.contains(&index) {
            self.told.push(index);
        }
    }

    fn begin_call(&mut self, index: u64, item: ItemIn, events: &mut Vec<Event>) -> usize {
        let call = self.calls.len();
        self.calls.push(index);
        events.push(Event::ToolStart { index: call, id: item.call_id.0.into_owned(), name: item.name.0.into_owned() });
        if let Some(json) = item.arguments.given() {
            self.tell(index);
            events.push(Event::ToolArguments { index: call, json });
        }
        call
    }

    /// What an item says at its end and has not said in pieces.
    fn end_item(&mut self, index: u64, raw: &RawValue, events: &mut Vec<Event>) -> Result<(), WireError> {
        let item = ItemIn::parse(raw)?;
        let told = self.told.contains(&index);
        if &*item.r#type == "function_call" {
            match self.calls.iter().position(|known| *known == index) {
                None => _ = self.begin_call(index, item, events),
                Some(call) if !told => {
                    events.extend(item.arguments.given().map(|json| Event::ToolArguments { index: call, json }));
                }
                Some(_) => {}
            }
            return Ok(());
        }
        self.refused |= item.refuses();
        match item.part(raw) {
            Some(Part::Text(text)) if !told => events.push(Event::Text(text)),
            Some(Part::Thinking { text, signature }) => {
                if !told && !text.is_empty() {
                    events.push(Event::Thinking(text));
                }
                events.extend(signature.map(Event::Signature));
            }
            Some(Part::Opaque(block)) => events.push(Event::Opaque(block)),
            _ => {}
        }
        Ok(())
    }
}

fn missing(field: &str) -> WireError {
    WireError::new(format!("An event of the provider's stream has no `{field}`."))
}
