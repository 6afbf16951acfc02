//! Reads `message_start` … `message_stop`.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::reply::{BlockIn, signature};
use super::stop_of;
use super::usage::UsageIn;
use crate::sse::Frame;
use crate::wire::error::{ProviderError, kind_of};
use crate::wire::text::Text;
use crate::wire::{Event, Opaque, Wire, WireError};

/// All events in one flat form, since telling them apart first would cost a copy.
#[derive(Deserialize)]
struct EventIn<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    message: Option<MessageIn<'a>>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    usage: Option<UsageIn>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MessageIn<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    model: Text<'a>,
    usage: Option<UsageIn>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    thinking: Text<'a>,
    #[serde(borrow, default)]
    signature: Text<'a>,
    #[serde(borrow, default)]
    partial_json: Text<'a>,
    #[serde(borrow, default)]
    stop_reason: Text<'a>,
    #[serde(borrow, default)]
    stop_sequence: Text<'a>,
}

/// Turns Anthropic's events into ours.
#[derive(Debug, Default)]
pub struct StreamReader {
    usage: UsageIn,
    /// For each tool call, the index of its block.
    calls: Vec<u64>,
    opaque: Option<OpaqueBlock>,
}

/// A block that is not understood, and the arguments streamed after it (`server_tool_use`).
#[derive(Debug)]
struct OpaqueBlock {
    index: u64,
    json: String,
    input: String,
}

impl StreamReader {
    pub(in crate::wire) fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        let event: EventIn = serde_json::from_slice(&frame.data).map_err(|error| WireError::reply(&error))?;
        let mut events = Vec::with_capacity(1);
        match &*event.r#type {
            "message_start" => {
                let message = event.message.ok_or_else(|| missing("message"))?;
                self.usage = message.usage.unwrap_or_default();
                events.push(Event::Start {
                    id: message.id.0.into_owned(),
                    model: message.model.0.into_owned(),
                    usage: message.usage.map(Into::into),
                });
            }
            "content_block_start" => {
                self.open(event.index, event.content_block.ok_or_else(|| missing("content_block"))?, &mut events)?;
            }
            "content_block_delta" => {
                self.delta(event.index, event.delta.ok_or_else(|| missing("delta"))?, &mut events);
            }
            "content_block_stop" => {
                events.extend(self.opaque.take_if(|block| block.index == event.index).map(OpaqueBlock::close));
            }
            "message_delta" => {
                if let Some(delta) = event.delta.filter(|delta| !delta.stop_reason.is_empty()) {
                    events.push(Event::Stop(stop_of(&delta.stop_reason, delta.stop_sequence.given())));
                }
                if let Some(usage) = event.usage {
                    self.usage = usage.over(self.usage);
                    events.push(Event::Usage(self.usage.into()));
                }
            }
            "message_stop" => events.push(Event::End),
            "ping" => events.push(Event::Ping),
            _ => {
                if let Some(error) = event.error {
                    let error = ProviderError::details(error);
                    let kind = kind_of(0, &error.kind, &error.code).to_owned();
                    events.push(Event::Error { kind, message: error.message });
                }
            }
        }
        Ok(events)
    }

    fn open(&mut self, index: u64, raw: &RawValue, events: &mut Vec<Event>) -> Result<(), WireError> {
        let block = BlockIn::parse(raw)?;
        match &*block.r#type {
            "text" => events.extend(block.text.given().map(Event::Text)),
            "thinking" => {
                events.extend(block.thinking.given().map(Event::Thinking));
                events.extend(signature(block.signature).map(Event::Signature));
            }
            "tool_use" => {
                let position = self.calls.len();
                self.calls.push(index);
                let (id, name) = (block.id.0.into_owned(), block.name.0.into_owned());
                events.push(Event::ToolStart { index: position, id, name });
                // Anthropic sends `{}` here and the arguments later; some that follow it send all of them here.
                let input = block.input.map_or("", RawValue::get);
                if input.trim_start_matches(['{', ' ', '\n']) != "}" && !matches!(input, "" | "null") {
                    events.push(Event::ToolArguments { index: position, json: input.to_owned() });
                }
            }
            _ => {
                self.opaque = Some(OpaqueBlock { index, json: raw.get().to_owned(), input: String::new() });
            }
        }
        Ok(())
    }

    fn delta(&mut self, index: u64, delta: Delta, events: &mut Vec<Event>) {
        match &*delta.r#type {
            "text_delta" => events.extend(delta.text.given().map(Event::Text)),
            "thinking_delta" => events.extend(delta.thinking.given().map(Event::Thinking)),
            "signature_delta" => events.extend(signature(delta.signature).map(Event::Signature)),
            "input_json_delta" => {
                if let Some(call) = self.calls.iter().rposition(|block| *block == index) {
                    let json = delta.partial_json.given();
                    events.extend(json.map(|json| Event::ToolArguments { index: call, json }));
                } else if let Some(block) = self.opaque.as_mut().filter(|block| block.index == index) {
                    block.input.push_str(&delta.partial_json);
                }
            }
            // `citations_delta`: remarks about text that has no place in the neutral form.
            _ => {}
        }
    }
}

impl OpaqueBlock {
    fn close(self) -> Event {
        let input = serde_json::from_str::<Value>(&self.input);
        let block = serde_json::from_str::<Map<String, Value>>(&self.json);
        let json = match (input, block) {
            (Ok(input), Ok(mut block)) => {
                block.insert("input".to_owned(), input);
                Value::Object(block).to_string()
            }
            _ => self.json,
        };
        Event::Opaque(Opaque { of: Wire::AnthropicMessages, json })
    }
}

fn missing(field: &str) -> WireError {
    WireError::new(format!("An event of the provider's stream has no `{field}`."))
}
