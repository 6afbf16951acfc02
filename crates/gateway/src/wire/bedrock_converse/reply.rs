//! A whole Converse reply.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::usage::UsageIn;
use super::{call_id, stop_of};
use crate::wire::text::Text;
use crate::wire::{Opaque, Part, Reply, Signature, ToolCall, ToolResult, Usage, Wire, WireError, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseIn<'a> {
    #[serde(borrow)]
    output: OutputIn<'a>,
    #[serde(borrow, default)]
    stop_reason: Text<'a>,
    usage: Option<UsageIn>,
}

#[derive(Deserialize)]
struct OutputIn<'a> {
    #[serde(borrow)]
    message: MessageIn<'a>,
}

#[derive(Deserialize)]
struct MessageIn<'a> {
    #[serde(borrow)]
    content: Vec<&'a RawValue>,
}

/// A block of content, as far as it is understood: only one of these is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockIn<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    tool_use: Option<ToolUseIn<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<ReasoningIn<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUseIn<'a> {
    #[serde(borrow, default)]
    tool_use_id: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    /// Given where Amazon runs the tool.
    #[serde(borrow, default)]
    r#type: Text<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReasoningIn<'a> {
    #[serde(borrow)]
    reasoning_text: Option<ReasoningTextIn<'a>>,
    #[serde(borrow, default)]
    redacted_content: Text<'a>,
}

#[derive(Deserialize)]
struct ReasoningTextIn<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    signature: Text<'a>,
}

/// The proof of a piece of reasoning.
pub(super) fn signature(text: String) -> Signature {
    Signature::read(Wire::BedrockConverse, text)
}

/// Reasoning that only Claude can read, in the form that Anthropic gives it: clients of that wire can send it back.
pub(super) fn redacted(data: &str) -> Opaque {
    Opaque { of: Wire::AnthropicMessages, json: json!({"type": "redacted_thinking", "data": data}).to_string() }
}

fn read_block(raw: &RawValue) -> Result<Part, WireError> {
    let block: BlockIn = serde_json::from_str(raw.get()).map_err(|error| WireError::reply(&error))?;
    Ok(match block {
        BlockIn { text: Some(text), .. } => Part::Text(text.0.into_owned()),
        BlockIn { tool_use: Some(call), .. } if call.r#type.is_empty() => Part::ToolCall(ToolCall {
            id: call.tool_use_id.0.into_owned(),
            name: call.name.0.into_owned(),
            arguments: call.input.map_or("{}", RawValue::get).to_owned(),
        }),
        BlockIn { reasoning_content: Some(ReasoningIn { reasoning_text: Some(reasoning), .. }), .. } => {
            Part::Thinking { text: reasoning.text.0.into_owned(), signature: reasoning.signature.given().map(signature) }
        }
        BlockIn { reasoning_content: Some(ReasoningIn { redacted_content, .. }), .. } if !redacted_content.is_empty() => {
            Part::Opaque(redacted(&redacted_content))
        }
        _ => Part::Opaque(Opaque { of: Wire::BedrockConverse, json: raw.get().to_owned() }),
    })
}

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Reply, WireError> {
    let response: ResponseIn = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    let parts: Result<Vec<Part>, WireError> = response.output.message.content.into_iter().map(read_block).collect();
    Ok(Reply {
        // Neither stands in the body.
        id: String::new(),
        model: String::new(),
        parts: parts?,
        stop: stop_of(&response.stop_reason)?,
        usage: response.usage.map(Usage::from),
    })
}

/// A block of content to be written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum BlockOut<'a> {
    Text(&'a str),
    #[serde(rename_all = "camelCase")]
    ToolUse {
        tool_use_id: Cow<'a, str>,
        name: &'a str,
        input: Box<RawValue>,
    },
    #[serde(rename_all = "camelCase")]
    ToolResult {
        tool_use_id: Cow<'a, str>,
        content: Vec<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
    },
    ReasoningContent(ReasoningOut<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ReasoningOut<'a> {
    ReasoningText { text: &'a str, signature: &'a str },
    RedactedContent(&'a str),
}

impl<'a> From<&'a ToolCall> for BlockOut<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self::ToolUse { tool_use_id: call_id(&call.id), name: &call.name, input: call.object() }
    }
}

impl<'a> BlockOut<'a> {
    pub(super) fn result(call: &'a str, content: Vec<Value>, is_error: bool) -> Self {
        Self::ToolResult { tool_use_id: call_id(call), content, status: is_error.then_some("error") }
    }

    /// Reasoning, if its proof is one that is taken here.
    pub(super) fn reasoning(text: &'a str, signature: Option<&'a Signature>) -> Option<Self> {
        let signature = signature?.fit_for(Wire::BedrockConverse)?;
        Some(Self::ReasoningContent(ReasoningOut::ReasoningText { text, signature }))
    }
}

#[derive(Serialize)]
pub(super) struct TurnOut {
    pub role: &'static str,
    pub content: Vec<Box<RawValue>>,
}

/// A text block; none for a blank one, which Bedrock refuses.
pub(super) fn text_block(text: &str) -> Option<Box<RawValue>> {
    (!text.trim().is_empty()).then(|| json::raw(&BlockOut::Text(text)))
}

fn opaque_block(block: &Opaque) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Redacted<'a> {
        #[serde(borrow, default)]
        r#type: Text<'a>,
        #[serde(borrow, default)]
        data: Text<'a>,
    }
    block.raw(Wire::BedrockConverse).or_else(|| {
        let redacted: Redacted = serde_json::from_str(&block.json).ok()?;
        let data = BlockOut::ReasoningContent(ReasoningOut::RedactedContent(&redacted.data));
        (&*redacted.r#type == "redacted_thinking").then(|| json::raw(&data))
    })
}

/// The messages of one more round: what the model said, and one message with all results.
pub(in crate::wire) fn round(reply: &Reply, results: &[ToolResult]) -> Vec<Box<RawValue>> {
    let blocks = reply.parts.iter().filter_map(|part| match part {
        Part::Text(text) => text_block(text),
        Part::Thinking { text, signature } => BlockOut::reasoning(text, signature.as_ref()).map(|block| json::raw(&block)),
        Part::ToolCall(call) => Some(json::raw(&BlockOut::from(call))),
        Part::Opaque(block) => opaque_block(block),
    });
    let mut turns = vec![json::raw(&TurnOut { role: "assistant", content: blocks.collect() })];
    if !results.is_empty() {
        let blocks = results.iter().map(|result| {
            let content = vec![json!({"text": result.content})];
            json::raw(&BlockOut::result(&result.call_id, content, result.is_error))
        });
        turns.push(json::raw(&TurnOut { role: "user", content: blocks.collect() }));
    }
    turns
}
