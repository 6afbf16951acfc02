//! Reads `messageStart` … `metadata`.

use serde::Deserialize;

use super::reply::{redacted, signature};
use super::stop_of;
use super::usage::UsageIn;
use crate::sse::Frame;
use crate::wire::error::kind_of;
use crate::wire::text::Text;
use crate::wire::{Event, WireError};

/// All events in one flat form: the frame's name tells them apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventIn<'a> {
    #[serde(default)]
    content_block_index: u64,
    #[serde(borrow)]
    start: Option<Start<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    stop_reason: Text<'a>,
    usage: Option<UsageIn>,
    /// An exception's.
    #[serde(borrow, default, alias = "Message")]
    message: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Start<'a> {
    #[serde(borrow)]
    tool_use: Option<ToolUseStart<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUseStart<'a> {
    #[serde(borrow, default)]
    tool_use_id: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    /// Given where Amazon runs the tool.
    #[serde(borrow, default)]
    r#type: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow)]
    tool_use: Option<ToolUseDelta<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<ReasoningDelta<'a>>,
}

#[derive(Deserialize)]
struct ToolUseDelta<'a> {
    #[serde(borrow, default)]
    input: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReasoningDelta<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    signature: Text<'a>,
    #[serde(borrow, default)]
    redacted_content: Text<'a>,
}

/// Turns Bedrock's events into ours.
#[derive(Debug, Default)]
pub struct StreamReader {
    /// For each tool call, the index of its block.
    calls: Vec<u64>,
    stopped: bool,
}

impl StreamReader {
    pub(in crate::wire) fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        let event: EventIn = serde_json::from_slice(&frame.data).map_err(|error| WireError::reply(&error))?;
        let mut events = Vec::with_capacity(1);
        let name = frame.event_name().unwrap_or_default();
        match name {
            // Neither id nor model stand in the stream.
            "messageStart" => events.push(Event::Start { id: String::new(), model: String::new(), usage: None }),
            "contentBlockStart" => {
                let call = event.start.and_then(|start| start.tool_use).filter(|call| call.r#type.is_empty());
                if let Some(call) = call {
                    let (id, name) = (call.tool_use_id.0.into_owned(), call.name.0.into_owned());
                    events.push(Event::ToolStart { index: self.calls.len(), id, name });
                    self.calls.push(event.content_block_index);
                }
            }
            "contentBlockDelta" => {
                if let Some(delta) = event.delta {
                    self.delta(event.content_block_index, delta, &mut events);
                }
            }
            "contentBlockStop" => {}
            "messageStop" => match stop_of(&event.stop_reason) {
                Ok(stop) => {
                    self.stopped = true;
                    events.push(Event::Stop(stop));
                }
                Err(error) => events.push(Event::Error { kind: "api_error".to_owned(), message: error.message }),
            },
            "metadata" => {
                events.extend(event.usage.map(|usage| Event::Usage(usage.into())));
                events.extend(self.end());
            }
            // An event of a later day says nothing that is needed; anything else is an exception.
            _ if event.message.is_empty() && !name.ends_with("Exception") => {}
            _ => {
                let message = event.message.given().unwrap_or_else(|| format!("Bedrock ended the stream with {name}."));
                events.push(Event::Error { kind: kind_of(0, name, "").to_owned(), message });
            }
        }
        Ok(events)
    }

    /// What the end of the stream says, where no `metadata` came after the last message.
    pub(in crate::wire) fn end(&mut self) -> Option<Event> {
        std::mem::take(&mut self.stopped).then_some(Event::End)
    }

    fn delta(&self, index: u64, delta: Delta, events: &mut Vec<Event>) {
        events.extend(delta.text.given().map(Event::Text));
        if let Some(call) = delta.tool_use
            && let Some(index) = self.calls.iter().rposition(|block| *block == index)
        {
            events.extend(call.input.given().map(|json| Event::ToolArguments { index, json }));
        }
        if let Some(reasoning) = delta.reasoning_content {
            events.extend(reasoning.text.given().map(Event::Thinking));
            events.extend(reasoning.signature.given().map(|proof| Event::Signature(signature(proof))));
            events.extend(reasoning.redacted_content.given().map(|data| Event::Opaque(redacted(&data))));
        }
    }
}
