//! A whole response.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::usage::{UsageIn, UsageOut};
use super::{encrypted, item_id, native, response_id, signature, status_of, stop_of};
use crate::wire::openai_chat::result_text;
use crate::wire::text::Text;
use crate::wire::{Opaque, Part, Reply, StopReason, ToolCall, ToolResult, Usage, Wire, WireError, json};

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
    #[serde(borrow)]
    output: Vec<&'a RawValue>,
    usage: Option<UsageIn>,
}

#[derive(Deserialize)]
pub(super) struct IncompleteIn<'a> {
    #[serde(borrow, default)]
    pub reason: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct ErrorIn<'a> {
    #[serde(borrow, default)]
    pub code: Text<'a>,
    #[serde(borrow, default)]
    pub message: Text<'a>,
}

/// An item of the output, as far as it is understood.
#[derive(Deserialize)]
pub(super) struct ItemIn<'a> {
    #[serde(borrow, default)]
    pub r#type: Text<'a>,
    #[serde(borrow, default)]
    pub id: Text<'a>,
    #[serde(borrow, default)]
    pub call_id: Text<'a>,
    #[serde(borrow, default)]
    pub name: Text<'a>,
    #[serde(borrow, default)]
    pub arguments: Text<'a>,
    #[serde(borrow)]
    content: Option<Vec<ContentIn<'a>>>,
    #[serde(borrow)]
    summary: Option<Vec<ContentIn<'a>>>,
    #[serde(borrow, default)]
    encrypted_content: Text<'a>,
}

#[derive(Deserialize)]
struct ContentIn<'a> {
    #[serde(borrow, default)]
    text: Text<'a>,
    #[serde(borrow, default)]
    refusal: Text<'a>,
}

impl<'a> ItemIn<'a> {
    pub(super) fn parse(raw: &'a RawValue) -> Result<Self, WireError> {
        serde_json::from_str(raw.get()).map_err(|error| WireError::reply(&error))
    }

    /// Whether the model declined in it.
    pub(super) fn refuses(&self) -> bool {
        self.content.iter().flatten().any(|content| !content.refusal.is_empty())
    }

    /// What the item says; an item of a kind that is not understood stays as it is.
    pub(super) fn part(self, raw: &RawValue) -> Option<Part> {
        Some(match &*self.r#type {
            "message" => {
                let texts = self.content.unwrap_or_default();
                let text: String = texts.iter().flat_map(|content| [&*content.text, &*content.refusal]).collect();
                return (!text.is_empty()).then_some(Part::Text(text));
            }
            "reasoning" => {
                let of = |texts: Option<Vec<ContentIn>>| {
                    let texts: Vec<String> =
                        texts.unwrap_or_default().into_iter().filter_map(|content| content.text.given()).collect();
                    Some(texts.join("\n\n")).filter(|text| !text.is_empty())
                };
                // Hosts of open models show the reasoning itself; `OpenAI` a summary.
                let text = of(self.content).or_else(|| of(self.summary)).unwrap_or_default();
                let proof = self.encrypted_content.given().map(|encrypted| signature(&self.id, encrypted));
                return (!text.is_empty() || proof.is_some()).then_some(Part::Thinking { text, signature: proof });
            }
            "function_call" => {
                let arguments = self.arguments.given().unwrap_or_else(|| "{}".to_owned());
                Part::ToolCall(ToolCall { id: self.call_id.0.into_owned(), name: self.name.0.into_owned(), arguments })
            }
            _ => Part::Opaque(Opaque { of: Wire::OpenaiResponses, json: raw.get().to_owned() }),
        })
    }
}

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Reply, WireError> {
    let response: ResponseIn = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    if let (Some(error), "failed") = (response.error, &*response.status) {
        return Err(WireError::new(format!("The provider failed: {}", &*error.message)));
    }
    let mut parts = Vec::with_capacity(response.output.len());
    let mut refused = false;
    for raw in response.output {
        let item = ItemIn::parse(raw)?;
        refused |= item.refuses();
        parts.extend(item.part(raw));
    }
    let calls_tools = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let reason = response.incomplete_details.map(|details| details.reason).unwrap_or_default();
    let stop = if refused { StopReason::Refusal } else { stop_of(&response.status, &reason, calls_tools) };
    let usage = response.usage.map(Usage::from);
    Ok(Reply { id: response.id.0.into_owned(), model: response.model.0.into_owned(), parts, stop, usage })
}

/// A response as its client reads it: what our translation cannot know says what goes without saying.
#[derive(Serialize)]
pub(super) struct ResponseOut<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created_at: u64,
    pub completed_at: Option<u64>,
    pub status: &'static str,
    pub background: bool,
    pub error: Option<Value>,
    pub incomplete_details: Value,
    pub instructions: (),
    pub max_output_tokens: (),
    pub metadata: Map<String, Value>,
    pub model: &'a str,
    pub output: &'a [Value],
    pub parallel_tool_calls: bool,
    pub previous_response_id: (),
    pub temperature: (),
    pub text: Value,
    pub tool_choice: &'static str,
    pub tools: [(); 0],
    pub top_p: (),
    pub truncation: &'static str,
    pub usage: Option<UsageOut>,
}

impl<'a> ResponseOut<'a> {
    /// A response that has just begun.
    pub(super) fn begun(id: &'a str, model: &'a str, created_at: u64) -> Self {
        Self {
            id,
            object: "response",
            created_at,
            completed_at: None,
            status: "in_progress",
            background: false,
            error: None,
            incomplete_details: Value::Null,
            instructions: (),
            max_output_tokens: (),
            metadata: Map::new(),
            model,
            output: &[],
            parallel_tool_calls: true,
            previous_response_id: (),
            temperature: (),
            text: json!({"format": {"type": "text"}}),
            tool_choice: "auto",
            tools: [],
            top_p: (),
            truncation: "disabled",
            usage: None,
        }
    }
}

pub(super) fn message_item(id: &str, text: &str, status: &str) -> Value {
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": [text_part(text)]})
}

pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn reasoning_item(id: &str, text: &str, encrypted: Option<String>) -> Value {
    let summary = if text.is_empty() { json!([]) } else { json!([{"type": "summary_text", "text": text}]) };
    let mut item = json!({"id": id, "type": "reasoning", "summary": summary});
    if let Some(encrypted) = encrypted {
        item["encrypted_content"] = encrypted.into();
    }
    item
}

pub(super) fn call_item(id: &str, call: &ToolCall, status: &str) -> Value {
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    json!({
        "id": id, "type": "function_call", "status": status, "call_id": call.id, "name": call.name, "arguments": arguments,
    })
}

/// The reply's output items.
fn output(reply: &Reply, response: &str) -> Vec<Value> {
    let (status, _) = status_of(&reply.stop);
    let items = reply.parts.iter().enumerate().filter_map(|(index, part)| match part {
        Part::Text(text) if text.is_empty() => None,
        Part::Text(text) => Some(message_item(&item_id("msg", response, index), text, status)),
        Part::Thinking { text, signature } => {
            let (id, proof) = signature.as_ref().map(encrypted).unzip();
            let id = id.flatten().map_or_else(|| item_id("rs", response, index), str::to_owned);
            Some(reasoning_item(&id, text, proof))
        }
        Part::ToolCall(call) => Some(call_item(&item_id("fc", response, index), call, "completed")),
        Part::Opaque(block) => block.raw(Wire::OpenaiResponses).map(|raw| json!(raw)),
    });
    items.collect()
}

pub(in crate::wire) fn write(reply: &Reply, created: u64) -> Vec<u8> {
    let id = response_id(&reply.id);
    let output = output(reply, &id);
    let (status, incomplete_details) = status_of(&reply.stop);
    json::bytes(&ResponseOut {
        completed_at: Some(created),
        status,
        incomplete_details,
        output: &output,
        usage: reply.usage.map(UsageOut::from),
        ..ResponseOut::begun(&id, &reply.model, created)
    })
}

pub(in crate::wire) fn rewrite(body: &[u8], reply: &Reply) -> Result<Vec<u8>, WireError> {
    let mut response: Map<String, Value> = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    let id = response_id(&reply.id);
    let (status, incomplete_details) = status_of(&reply.stop);
    response.insert("output".to_owned(), output(reply, &id).into());
    response.insert("id".to_owned(), id.into());
    response.insert("model".to_owned(), reply.model.as_str().into());
    response.insert("status".to_owned(), status.into());
    response.insert("incomplete_details".to_owned(), incomplete_details);
    if let Some(usage) = reply.usage {
        response.insert("usage".to_owned(), json!(UsageOut::from(usage)));
    }
    Ok(json::bytes(&response))
}

/// The items of one more round: what the model said, and an item for each result.
pub(in crate::wire) fn round(reply: &Reply, results: &[ToolResult]) -> Vec<Box<RawValue>> {
    let said = reply.parts.iter().filter_map(|part| match part {
        Part::Text(text) => (!text.is_empty()).then(|| json::raw(&json!({"role": "assistant", "content": text}))),
        Part::Thinking { text, signature } => {
            let (id, encrypted) = signature.as_ref().and_then(native)?;
            Some(json::raw(&reasoning_item(id, text, Some(encrypted.to_owned()))))
        }
        Part::ToolCall(call) => Some(json::raw(&call_out(call))),
        Part::Opaque(block) => block.raw(Wire::OpenaiResponses),
    });
    let results = results.iter().map(|result| {
        let output = result_text(result.content.clone(), result.is_error);
        json::raw(&json!({"type": "function_call_output", "call_id": result.call_id, "output": output}))
    });
    said.chain(results).collect()
}

/// An earlier call of the model in a request; the item's own id is the provider's affair.
pub(super) fn call_out(call: &ToolCall) -> Value {
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    json!({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments})
}
