//! A whole `GenerateContentResponse`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::usage::{UsageIn, UsageOut};
use super::{finish_reason_of, made_up_call_id, signature_in, signature_out, stop_of};
use crate::wire::text::Text;
use crate::wire::{Opaque, Part, Reply, Signature, StopReason, ToolCall, ToolResult, Usage, Wire, WireError, json};

/// A reply, or a chunk of a streamed one: they have one shape.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResponseIn<'a> {
    #[serde(borrow, default)]
    pub response_id: Text<'a>,
    #[serde(borrow, default)]
    pub model_version: Text<'a>,
    #[serde(borrow)]
    pub candidates: Option<Vec<CandidateIn<'a>>>,
    #[serde(borrow)]
    pub prompt_feedback: Option<PromptFeedback<'a>>,
    pub usage_metadata: Option<UsageIn>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CandidateIn<'a> {
    #[serde(default)]
    pub index: u32,
    #[serde(borrow)]
    pub content: Option<ContentIn<'a>>,
    #[serde(borrow, default)]
    pub finish_reason: Text<'a>,
    #[serde(borrow, default)]
    pub finish_message: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct ContentIn<'a> {
    #[serde(borrow)]
    pub parts: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PromptFeedback<'a> {
    #[serde(borrow, default)]
    pub block_reason: Text<'a>,
}

/// A part, as far as it is understood.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartIn<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(default)]
    thought: bool,
    #[serde(borrow, default)]
    thought_signature: Text<'a>,
    #[serde(borrow)]
    function_call: Option<FunctionCallIn<'a>>,
}

#[derive(Deserialize)]
struct FunctionCallIn<'a> {
    #[serde(borrow, default)]
    id: Text<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

/// What `raw` says, at most two parts. The signature of a call comes before it as reasoning without text, that of a text after
/// it. `calls` counts the reply's tool calls.
pub(super) fn read_part(raw: &RawValue, reply_id: &str, calls: &mut usize) -> Result<Vec<Part>, WireError> {
    let part: PartIn = serde_json::from_str(raw.get()).map_err(|error| WireError::reply(&error))?;
    let signature = part.thought_signature.given().map(signature_in);
    let proof = signature.is_some().then(|| Part::Thinking { text: String::new(), signature: signature.clone() });
    let mut parts = Vec::with_capacity(1);
    match (part.text, part.function_call) {
        (Some(text), _) if part.thought => {
            if !text.is_empty() || signature.is_some() {
                parts.push(Part::Thinking { text: text.0.into_owned(), signature });
            }
        }
        (Some(text), _) => {
            parts.extend(text.given().map(Part::Text));
            parts.extend(proof);
        }
        (None, Some(call)) => {
            let id = call.id.given().unwrap_or_else(|| made_up_call_id(reply_id, *calls));
            let arguments = call.args.map_or("{}", RawValue::get).to_owned();
            *calls += 1;
            parts.extend(proof);
            parts.push(Part::ToolCall(ToolCall { id, name: call.name.0.into_owned(), arguments }));
        }
        (None, None) => parts.push(Part::Opaque(Opaque { of: Wire::Gemini, json: raw.get().to_owned() })),
    }
    Ok(parts)
}

pub(in crate::wire) fn parse(body: &[u8]) -> Result<Reply, WireError> {
    let response: ResponseIn = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    let id = response.response_id.0.into_owned();
    let mut parts = Vec::new();
    let stop = match response.candidates.into_iter().flatten().next() {
        Some(candidate) => {
            let mut calls = 0;
            for raw in candidate.content.and_then(|content| content.parts).unwrap_or_default() {
                for part in read_part(raw, &id, &mut calls)? {
                    join(&mut parts, part);
                }
            }
            stop_of(&candidate.finish_reason, &candidate.finish_message, calls > 0)?
        }
        // The prompt was blocked, so there is nothing but the reason.
        None if response.prompt_feedback.is_some_and(|feedback| !feedback.block_reason.is_empty()) => StopReason::Refusal,
        None => return Err(WireError::new("The provider's reply has no `candidates`.")),
    };
    let usage = response.usage_metadata.map(Usage::from);
    Ok(Reply { id, model: response.model_version.0.into_owned(), parts, stop, usage })
}

/// Adds a part; a text goes on with the one before it, a thought as long as that has no signature.
fn join(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Text(so_far)), Part::Text(more)) => so_far.push_str(&more),
        (Some(Part::Thinking { text, signature: open @ None }), Part::Thinking { text: more, signature }) => {
            text.push_str(&more);
            *open = signature;
        }
        (_, part) => parts.push(part),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResponseOut<'a> {
    pub candidates: [CandidateOut<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_metadata: Option<UsageOut>,
    pub model_version: &'a str,
    pub response_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CandidateOut<'a> {
    pub content: ContentOut<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<&'static str>,
    pub index: u8,
}

#[derive(Serialize)]
pub(super) struct ContentOut<'a> {
    pub parts: Vec<PartOut<'a>>,
    pub role: &'static str,
}

/// A part to be written.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum PartOut<'a> {
    #[serde(rename_all = "camelCase")]
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        thought: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<Cow<'a, str>>,
    },
    #[serde(rename_all = "camelCase")]
    Call {
        function_call: FunctionCallOut<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<Cow<'a, str>>,
    },
    #[serde(rename_all = "camelCase")]
    Result {
        function_response: FunctionResponseOut<'a>,
    },
    Raw(Box<RawValue>),
}

#[derive(Serialize)]
pub(super) struct FunctionCallOut<'a> {
    id: &'a str,
    name: &'a str,
    args: Box<RawValue>,
}

impl<'a> From<&'a ToolCall> for FunctionCallOut<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self { id: &call.id, name: &call.name, args: call.object() }
    }
}

#[derive(Serialize)]
pub(super) struct FunctionResponseOut<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub response: Value,
    /// Images, which stand beside the response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Value>,
}

/// What a tool returned, under the names that Google's guide gives to results and to failures.
pub(super) fn result_object(content: impl Into<Value>, is_error: bool) -> Value {
    if is_error { json!({"error": content.into()}) } else { json!({"output": content.into()}) }
}

/// Lines up parts. Gemini's signatures of reasoning go on the text or call that follows it, since that is where Gemini has
/// them; those of other providers stay with the reasoning.
pub(super) struct PartsOut<'a> {
    parts: Vec<PartOut<'a>>,
    signature: Option<&'a str>,
    /// For Gemini, rather than for a client: it takes no other provider's signature, and reads nothing of thoughts but that.
    upstream: bool,
}

impl<'a> PartsOut<'a> {
    pub(super) fn new(upstream: bool) -> Self {
        Self { parts: Vec::new(), signature: None, upstream }
    }

    pub(super) fn push(&mut self, part: PartOut<'a>) {
        self.parts.push(part);
    }

    pub(super) fn text(&mut self, text: &'a str) {
        let thought_signature = self.signature.take().map(Cow::Borrowed);
        self.parts.push(PartOut::Text { text, thought: false, thought_signature });
    }

    pub(super) fn thinking(&mut self, text: &'a str, signature: Option<&'a Signature>) {
        let ours = signature.and_then(|signature| signature.fit_for(Wire::Gemini));
        let thought_signature = signature.filter(|_| ours.is_none()).map(signature_out);
        if !self.upstream && (!text.is_empty() || thought_signature.is_some()) {
            self.parts.push(PartOut::Text { text, thought: true, thought_signature });
        }
        if ours.is_some() {
            self.close();
            self.signature = ours;
        }
    }

    /// A signature with nothing to stand on gets an empty text, as from Gemini itself.
    fn close(&mut self) {
        if self.signature.is_some() {
            self.text("");
        }
    }

    /// `unsigned`: what to say for a missing signature.
    pub(super) fn call(&mut self, call: &'a ToolCall, unsigned: Option<&'a str>) {
        let thought_signature = self.signature.take().or(unsigned).map(Cow::Borrowed);
        self.parts.push(PartOut::Call { function_call: call.into(), thought_signature });
    }

    pub(super) fn finish(mut self) -> Vec<PartOut<'a>> {
        self.close();
        self.parts
    }
}

fn content(reply: &Reply, upstream: bool) -> ContentOut<'_> {
    let mut out = PartsOut::new(upstream);
    for part in &reply.parts {
        match part {
            Part::Text(text) => out.text(text),
            Part::Thinking { text, signature } => out.thinking(text, signature.as_ref()),
            Part::ToolCall(call) => out.call(call, None),
            Part::Opaque(block) => out.parts.extend(block.raw(Wire::Gemini).map(PartOut::Raw)),
        }
    }
    ContentOut { parts: out.finish(), role: "model" }
}

pub(in crate::wire) fn write(reply: &Reply) -> Vec<u8> {
    let finish_reason = Some(finish_reason_of(&reply.stop));
    json::bytes(&ResponseOut {
        candidates: [CandidateOut { content: content(reply, false), finish_reason, index: 0 }],
        usage_metadata: reply.usage.map(UsageOut::from),
        model_version: &reply.model,
        response_id: &reply.id,
    })
}

/// Only the first candidate is rewritten: memory rounds are played with one.
pub(in crate::wire) fn rewrite(body: &[u8], reply: &Reply) -> Result<Vec<u8>, WireError> {
    let mut response: Map<String, Value> = serde_json::from_slice(body).map_err(|error| WireError::reply(&error))?;
    response.insert("responseId".to_owned(), json!(reply.id));
    response.insert("modelVersion".to_owned(), json!(reply.model));
    let candidates = response.get_mut("candidates").and_then(|candidates| candidates.get_mut(0));
    let candidate = candidates.and_then(Value::as_object_mut);
    let candidate = candidate.ok_or_else(|| WireError::new("The provider's reply has no `candidates`."))?;
    candidate.insert("content".to_owned(), json!(content(reply, false)));
    candidate.insert("finishReason".to_owned(), json!(finish_reason_of(&reply.stop)));
    if let Some(usage) = reply.usage {
        match (response.get_mut("usageMetadata"), json!(UsageOut::from(usage))) {
            (Some(Value::Object(old)), Value::Object(counts)) => old.extend(counts),
            (_, counts) => {
                response.insert("usageMetadata".to_owned(), counts);
            }
        }
    }
    Ok(json::bytes(&response))
}

/// The contents of one more round: what the model said, and one content with all results.
pub(in crate::wire) fn round(reply: &Reply, results: &[ToolResult]) -> Vec<Box<RawValue>> {
    let mut turns = vec![json::raw(&content(reply, true))];
    if !results.is_empty() {
        let parts = results.iter().map(|result| {
            let name = reply.tool_calls().find(|call| call.id == result.call_id).map_or("", |call| call.name.as_str());
            let response = result_object(result.content.as_str(), result.is_error);
            PartOut::Result { function_response: FunctionResponseOut { id: &result.call_id, name, response, parts: Vec::new() } }
        });
        turns.push(json::raw(&ContentOut { parts: parts.collect(), role: "user" }));
    }
    turns
}
