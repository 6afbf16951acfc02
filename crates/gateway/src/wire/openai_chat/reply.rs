//! A whole chat completion.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::usage::{UsageIn, UsageOut};
use super::{finish_reason_of, stop_of};
use crate::wire::text::Text;
use crate::wire::{Part, Reply, Signature, StopReason, ToolCall, ToolResult, Usage, Wire, WireError, json};

#[derive(Deserialize)]
struct CompletionIn<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    model: Text<'a>,
    #[serde(borrow)]
    choices: Vec<ChoiceIn<'a>>,
    usage: Option<UsageIn>,
}

#[derive(Deserialize)]
struct ChoiceIn<'a> {
    #[serde(borrow)]
    message: MessageIn<'a>,
    #[serde(borrow, default)]
    finish_reason: Text<'a>,
}

#[derive(Deserialize)]
struct MessageIn<'a> {
    #[serde(borrow, default)]
    content: Text<'a>,
    #[serde(borrow, default)]
    refusal: Text<'a>,
    /// `DeepSeek`, vLLM and others.
    #[serde(borrow, default)]
    reasoning_content: Text<'a>,
    /// `OpenRouter`, newer vLLM.
    #[serde(borrow, default)]
    reasoning: Text<'a>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCallIn<'a>>>,
}

#[derive(Deserialize)]
struct ToolCallIn<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow)]
    function: FunctionIn<'a>,
    #[serde(borrow)]
    extra_content: Option<ExtraContent<'a>>,
}

/// Google's host of this wire keeps Gemini's proofs beside the calls: `{"google": {"thought_signature": …}}`.
#[derive(Deserialize)]
pub(super) struct ExtraContent<'a> {
    #[serde(borrow)]
    google: Option<GoogleContent<'a>>,
}

#[derive(Deserialize)]
struct GoogleContent<'a> {
    #[serde(borrow, default)]
    thought_signature: Text<'a>,
}

impl ExtraContent<'_> {
    pub(super) fn signature(self) -> Option<Signature> {
        let proof = self.google?.thought_signature.given()?;
        Some(Signature::read(Wire::Gemini, proof))
    }
}

#[derive(Deserialize)]
struct FunctionIn<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// The arguments are JSON in a string; some providers forget the string, or the arguments.
fn arguments_of(raw: Option<&RawValue>) -> String {
    let text = raw.map_or("", RawValue::get);
    let text = serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned());
    if matches!(text.trim(), "" | "null") { "{}".to_owned() } else { text }
}

/// Some providers give calls no id, but results must name one. `id` of the reply keeps it apart from those of other rounds.
pub(super) fn made_up_call_id(reply_id: &str, index: usize) -> String {
    format!("call_{reply_id}_{index}")
}

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Reply, WireError> {
    let completion: CompletionIn = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    let choice = completion.choices.into_iter().next();
    let choice = choice.ok_or_else(|| WireError::new("The provider's reply has no `choices`."))?;
    let message = choice.message;
    let mut parts = Vec::new();
    let thinking = message.reasoning_content.given().or(message.reasoning.given());
    parts.extend(thinking.map(|text| Part::Thinking { text, signature: None }));
    parts.extend(message.content.given().map(Part::Text));
    let calls = message.tool_calls.unwrap_or_default();
    let mut stop = stop_of(&choice.finish_reason, !calls.is_empty());
    if let Some(refusal) = message.refusal.given() {
        parts.push(Part::Text(refusal));
        stop = StopReason::Refusal;
    }
    for (index, call) in calls.into_iter().enumerate() {
        let signature = call.extra_content.and_then(ExtraContent::signature);
        parts.extend(signature.map(|signature| Part::Thinking { text: String::new(), signature: Some(signature) }));
        parts.push(Part::ToolCall(ToolCall {
            id: call.id.given().unwrap_or_else(|| made_up_call_id(&completion.id, index)),
            name: call.function.name.0.into_owned(),
            arguments: arguments_of(call.function.arguments),
        }));
    }
    let usage = completion.usage.map(Usage::from);
    Ok(Reply { id: completion.id.0.into_owned(), model: completion.model.0.into_owned(), parts, stop, usage })
}

#[derive(Serialize)]
struct CompletionOut<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [ChoiceOut<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageOut>,
}

#[derive(Serialize)]
struct ChoiceOut<'a> {
    index: u8,
    message: MessageOut<'a>,
    logprobs: (),
    finish_reason: &'static str,
}

/// What the model said, as an answer and as a message of the next request alike.
#[derive(Serialize)]
struct MessageOut<'a> {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallOut<'a>>,
}

#[derive(Serialize)]
pub(super) struct ToolCallOut<'a> {
    id: &'a str,
    r#type: &'static str,
    function: FunctionOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<Value>,
}

impl ToolCallOut<'_> {
    /// With Gemini's proof of the reasoning before it, which its models want back.
    pub(super) fn signed(self, signature: Option<&Signature>) -> Self {
        Self { extra_content: signature.and_then(extra_content), ..self }
    }
}

/// Where Google's host of this wire keeps Gemini's proofs.
pub(super) fn extra_content(signature: &Signature) -> Option<Value> {
    (signature.of == Wire::Gemini).then(|| json!({"google": {"thought_signature": signature.text}}))
}

#[derive(Serialize)]
struct FunctionOut<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> From<&'a ToolCall> for ToolCallOut<'a> {
    fn from(call: &'a ToolCall) -> Self {
        let function = FunctionOut { name: &call.name, arguments: &call.arguments };
        Self { id: &call.id, r#type: "function", function, extra_content: None }
    }
}

impl<'a> From<&'a Reply> for MessageOut<'a> {
    fn from(reply: &'a Reply) -> Self {
        let text = reply.text();
        // Other proofs than Gemini's and opaque blocks have no place here, and only their own providers could read them.
        let thinking = reply.parts.iter().filter_map(|part| match part {
            Part::Thinking { text, .. } if !text.is_empty() => Some(text.as_str()),
            _ => None,
        });
        let thinking: String = thinking.collect();
        let mut proof = None;
        let mut tool_calls = Vec::new();
        for part in &reply.parts {
            match part {
                Part::Thinking { signature, .. } => proof = signature.as_ref(),
                Part::ToolCall(call) => tool_calls.push(ToolCallOut::from(call).signed(proof.take())),
                _ => {}
            }
        }
        Self {
            role: "assistant",
            content: (!text.is_empty()).then_some(text),
            reasoning_content: (!thinking.is_empty()).then_some(thinking),
            tool_calls,
        }
    }
}

pub(in crate::wire) fn write(reply: &Reply, created: u64) -> Vec<u8> {
    let finish_reason = finish_reason_of(&reply.stop);
    let choice = ChoiceOut { index: 0, message: MessageOut::from(reply), logprobs: (), finish_reason };
    json::bytes(&CompletionOut {
        id: &reply.id,
        object: "chat.completion",
        created,
        model: &reply.model,
        choices: [choice],
        usage: reply.usage.map(UsageOut::from),
    })
}

/// Only the first choice is rewritten: memory rounds are played with one.
pub(in crate::wire) fn rewrite(body: &[u8], reply: &Reply) -> Result<Vec<u8>, WireError> {
    let mut completion: Map<String, Value> = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    completion.insert("id".to_owned(), json!(reply.id));
    completion.insert("model".to_owned(), json!(reply.model));
    let choice = completion.get_mut("choices").and_then(|choices| choices.get_mut(0)).and_then(Value::as_object_mut);
    let choice = choice.ok_or_else(|| WireError::new("The provider's reply has no `choices`."))?;
    choice.insert("finish_reason".to_owned(), json!(finish_reason_of(&reply.stop)));
    if let Some(message) = choice.get_mut("message").and_then(Value::as_object_mut) {
        for replaced in ["reasoning_content", "reasoning", "refusal", "tool_calls"] {
            message.shift_remove(replaced);
        }
        if let Value::Object(said) = json!(MessageOut::from(reply)) {
            message.extend(said);
        }
    }
    if let Some(usage) = reply.usage {
        merge(completion.entry("usage").or_insert(Value::Null), json!(UsageOut::from(usage)));
    }
    Ok(json::bytes(&completion))
}

/// `new` over `old`, keeping what only `old` has.
fn merge(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

#[derive(Serialize)]
struct ToolMessageOut<'a> {
    role: &'static str,
    tool_call_id: &'a str,
    content: String,
}

/// This wire has no flag for a failed call, so the text says it.
pub(in crate::wire) fn result_text(content: String, is_error: bool) -> String {
    if is_error { format!("Error: {content}") } else { content }
}

/// The messages of one more round: what the model said, and a message for each result.
pub(in crate::wire) fn round(reply: &Reply, results: &[ToolResult]) -> Vec<Box<RawValue>> {
    let mut messages = vec![json::raw(&MessageOut::from(reply))];
    messages.extend(results.iter().map(|result| {
        let content = result_text(result.content.clone(), result.is_error);
        json::raw(&ToolMessageOut { role: "tool", tool_call_id: &result.call_id, content })
    }));
    messages
}
