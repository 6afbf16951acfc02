//! A whole message.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::usage::{UsageIn, UsageOut};
use super::{stop_fields_of, stop_of};
use crate::wire::text::Text;
use crate::wire::{Opaque, Part, Reply, Signature, ToolCall, ToolResult, Usage, Wire, WireError, json};

#[derive(Deserialize)]
struct MessageIn<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(borrow)]
    content: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    stop_reason: Text<'a>,
    #[serde(borrow, default)]
    stop_sequence: Text<'a>,
    usage: Option<UsageIn>,
}

/// A block of content, as far as it is understood.
#[derive(Deserialize)]
pub(super) struct BlockIn<'a> {
    #[serde(borrow, default)]
    pub r#type: Text<'a>,
    #[serde(borrow, default)]
    pub text: Text<'a>,
    #[serde(borrow, default)]
    pub thinking: Text<'a>,
    #[serde(borrow, default)]
    pub signature: Text<'a>,
    #[serde(borrow, default)]
    pub id: Text<'a>,
    #[serde(borrow, default)]
    pub name: Text<'a>,
    #[serde(borrow)]
    pub input: Option<&'a RawValue>,
}

impl<'a> BlockIn<'a> {
    pub(super) fn parse(raw: &'a RawValue) -> Result<Self, WireError> {
        serde_json::from_str(raw.get()).map_err(|error| WireError::reply(&error))
    }
}

/// A block's proof; empty where an earlier answer of ours had none.
pub(super) fn signature(text: Text) -> Option<Signature> {
    text.given().map(|text| Signature::read(Wire::AnthropicMessages, text))
}

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Reply, WireError> {
    let message: MessageIn = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    let parts: Result<Vec<Part>, WireError> = message
        .content
        .into_iter()
        .map(|raw| {
            let block = BlockIn::parse(raw)?;
            Ok(match &*block.r#type {
                "text" => Part::Text(block.text.0.into_owned()),
                "thinking" => Part::Thinking { text: block.thinking.0.into_owned(), signature: signature(block.signature) },
                "tool_use" => Part::ToolCall(ToolCall {
                    id: block.id.0.into_owned(),
                    name: block.name.0.into_owned(),
                    arguments: block.input.map_or("{}", RawValue::get).to_owned(),
                }),
                _ => Part::Opaque(Opaque { of: Wire::AnthropicMessages, json: raw.get().to_owned() }),
            })
        })
        .collect();
    Ok(Reply {
        id: message.id.0.into_owned(),
        model: message.model.0.into_owned(),
        parts: parts?,
        stop: stop_of(&message.stop_reason, message.stop_sequence.given()),
        usage: message.usage.map(Usage::from),
    })
}

#[derive(Serialize)]
struct MessageOut<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Box<RawValue>>,
    stop_reason: &'static str,
    stop_sequence: Option<&'a str>,
    usage: UsageOut,
}

/// A block of content to be written.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum BlockOut<'a> {
    Text {
        text: &'a str,
    },
    Thinking {
        thinking: &'a str,
        signature: Cow<'a, str>,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: &'a str,
        input: Box<RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        content: Value,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

impl<'a> From<&'a ToolCall> for BlockOut<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self::ToolUse { id: call_id(&call.id), name: &call.name, input: call.object() }
    }
}

/// Anthropic takes only letters, digits, `_` and `-` in the ids of calls; some providers write others.
pub(super) fn call_id(id: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.chars().all(allowed) {
        Cow::Borrowed(id)
    } else {
        Cow::Owned(id.chars().map(|c| if allowed(c) { c } else { '_' }).collect())
    }
}

/// The reply's content. Empty texts are left out, since a client could not send them back. `unsigned`: keep reasoning
/// without a signature of Anthropic's, which is fit to be read but not to be sent there.
fn content(reply: &Reply, unsigned: bool) -> Vec<Box<RawValue>> {
    let blocks = reply.parts.iter().filter_map(|part| match part {
        Part::Text(text) => (!text.is_empty()).then(|| json::raw(&BlockOut::Text { text })),
        Part::Thinking { text, signature } => {
            let signature = match signature {
                Some(signature) if unsigned => signature.write(Wire::AnthropicMessages),
                Some(signature) => Cow::Borrowed(signature.fit_for(Wire::AnthropicMessages)?),
                None => unsigned.then_some(Cow::Borrowed(""))?,
            };
            Some(json::raw(&BlockOut::Thinking { thinking: text, signature }))
        }
        Part::ToolCall(call) => Some(json::raw(&BlockOut::from(call))),
        Part::Opaque(block) => block.raw(Wire::AnthropicMessages),
    });
    blocks.collect()
}

pub(in crate::wire) fn write(reply: &Reply) -> Vec<u8> {
    let (stop_reason, stop_sequence) = stop_fields_of(&reply.stop);
    json::bytes(&MessageOut {
        id: &reply.id,
        r#type: "message",
        role: "assistant",
        model: &reply.model,
        content: content(reply, true),
        stop_reason,
        stop_sequence,
        usage: reply.usage.unwrap_or_default().into(),
    })
}

pub(in crate::wire) fn rewrite(body: &[u8], reply: &Reply) -> Result<Vec<u8>, WireError> {
    let mut message: Map<String, Value> = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    let (stop_reason, stop_sequence) = stop_fields_of(&reply.stop);
    message.insert("id".to_owned(), json!(reply.id));
    message.insert("model".to_owned(), json!(reply.model));
    message.insert("content".to_owned(), json!(content(reply, true)));
    message.insert("stop_reason".to_owned(), json!(stop_reason));
    message.insert("stop_sequence".to_owned(), json!(stop_sequence));
    if let Some(usage) = reply.usage {
        let counts = json!(UsageOut::from(usage));
        match (message.get_mut("usage"), counts) {
            (Some(Value::Object(old)), Value::Object(counts)) => old.extend(counts),
            (_, counts) => {
                message.insert("usage".to_owned(), counts);
            }
        }
    }
    Ok(json::bytes(&message))
}

#[derive(Serialize)]
pub(super) struct TurnOut {
    pub role: &'static str,
    pub content: Vec<Box<RawValue>>,
}

/// The messages of one more round: what the model said, and one message with all results.
pub(in crate::wire) fn round(reply: &Reply, results: &[ToolResult]) -> Vec<Box<RawValue>> {
    let mut turns = vec![json::raw(&TurnOut { role: "assistant", content: content(reply, false) })];
    if !results.is_empty() {
        let blocks = results.iter().map(|result| {
            json::raw(&BlockOut::ToolResult {
                tool_use_id: call_id(&result.call_id),
                content: Value::from(result.content.as_str()),
                is_error: result.is_error,
            })
        });
        turns.push(json::raw(&TurnOut { role: "user", content: blocks.collect() }));
    }
    turns
}
