//! Reads `chat.completion.chunk`s. Of several choices only the first is read.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::reply::{ExtraContent, made_up_call_id};
use super::stop_of;
use super::usage::UsageIn;
use crate::sse::Frame;
use crate::wire::error::{ProviderError, kind_of};
use crate::wire::text::Text;
use crate::wire::{Event, WireError};

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<UsageIn>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Text<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Text<'a>,
    #[serde(borrow, default)]
    refusal: Text<'a>,
    #[serde(borrow, default)]
    reasoning_content: Text<'a>,
    #[serde(borrow, default)]
    reasoning: Text<'a>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCallDelta<'a>>>,
}

#[derive(Deserialize)]
struct ToolCallDelta<'a> {
    index: Option<u64>,
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow)]
    function: Option<FunctionDelta<'a>>,
    #[serde(borrow)]
    extra_content: Option<ExtraContent<'a>>,
}

#[derive(Default, Deserialize)]
struct FunctionDelta<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    arguments: Text<'a>,
}

/// Turns chunks into events.
#[derive(Debug, Default)]
pub struct StreamReader {
    started: bool,
    refused: bool,
    id: String,
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    /// As the provider numbers it.
    index: u64,
    id: String,
}

impl StreamReader {
    pub(in crate::wire) fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        if frame.data.trim_ascii() == b"[DONE]" {
            return Ok(vec![Event::End]);
        }
        let chunk: Chunk = serde_json::from_slice(&frame.data).map_err(|error| WireError::reply(&error))?;
        if let Some(error) = chunk.error {
            let error = ProviderError::details(error);
            let kind = kind_of(0, &error.kind, &error.code).to_owned();
            return Ok(vec![Event::Error { kind, message: error.message }]);
        }
        let mut events = Vec::with_capacity(2);
        let choices = chunk.choices.unwrap_or_default();
        // Azure's first chunk has no id, no choices and nothing to say.
        let says_nothing = chunk.id.is_empty() && choices.is_empty();
        if !self.started && !says_nothing {
            self.started = true;
            self.id = chunk.id.0.into_owned();
            events.push(Event::Start { id: self.id.clone(), model: chunk.model.0.into_owned(), usage: None });
        }
        for choice in choices {
            if choice.index == 0 {
                self.read_choice(choice, &mut events)?;
            }
        }
        events.extend(chunk.usage.map(|usage| Event::Usage(usage.into())));
        Ok(events)
    }

    fn read_choice(&mut self, choice: Choice, events: &mut Vec<Event>) -> Result<(), WireError> {
        if let Some(delta) = choice.delta {
            events.extend(delta.reasoning_content.given().or(delta.reasoning.given()).map(Event::Thinking));
            events.extend(delta.content.given().map(Event::Text));
            if let Some(refusal) = delta.refusal.given() {
                self.refused = true;
                events.push(Event::Text(refusal));
            }
            for call in delta.tool_calls.unwrap_or_default() {
                self.read_call(call, events)?;
            }
        }
        if !choice.finish_reason.is_empty() {
            let stop = stop_of(&choice.finish_reason, !self.calls.is_empty());
            events.push(Event::Stop(if self.refused { crate::wire::StopReason::Refusal } else { stop }));
        }
        Ok(())
    }

    /// The first piece of a call has its id and name, later ones its index; some providers repeat the id, some number all
    /// calls 0, some leave out the index or the id.
    fn read_call(&mut self, call: ToolCallDelta, events: &mut Vec<Event>) -> Result<(), WireError> {
        let function = call.function.unwrap_or_default();
        let known = match call.index {
            Some(index) => self.calls.iter().rposition(|known| known.index == index),
            None => self.calls.len().checked_sub(1),
        };
        let other = |at: &usize| !call.id.is_empty() && *call.id != *self.calls[*at].id && !function.name.is_empty();
        let position = match known.filter(|at| !other(at)) {
            Some(position) => position,
            None if function.name.is_empty() => {
                return Err(WireError::new("The provider's stream has a piece of a tool call that never began."));
            }
            None => {
                let position = self.calls.len();
                let id = call.id.given().unwrap_or_else(|| made_up_call_id(&self.id, position));
                let name = function.name.0.into_owned();
                events.extend(call.extra_content.and_then(ExtraContent::signature).map(Event::Signature));
                events.push(Event::ToolStart { index: position, id: id.clone(), name });
                self.calls.push(Call { index: call.index.unwrap_or(position as u64), id });
                position
            }
        };
        events.extend(function.arguments.given().map(|json| Event::ToolArguments { index: position, json }));
        Ok(())
    }
}
