//! The neutral form of a request, and the edits that need no understanding of it.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::{ToolCall, WireError};

/// A request that every wire can say.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub model: String,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model may call several tools at once; the provider decides if absent.
    pub parallel_tools: Option<bool>,
    pub max_tokens: Option<u64>,
    pub stop: Vec<String>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub stream: bool,
    pub user: Option<String>,
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    pub effort: Option<String>,
    /// The JSON Schema the answer must follow.
    pub output_schema: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Message {
    pub role: Role,
    pub content: Vec<Content>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Anywhere in the conversation.
    System,
    /// Also carries tool results.
    User,
    Assistant,
}

#[derive(Debug)]
pub(super) enum Content {
    Text(String),
    Image(Image),
    ToolCall(ToolCall),
    ToolResult { call_id: String, content: Vec<Content>, is_error: bool },
}

#[derive(Debug)]
pub(super) enum Image {
    Base64 { media_type: String, data: String },
    Url(String),
}

#[derive(Debug)]
pub(super) struct Tool {
    pub name: String,
    pub description: Option<String>,
    pub schema: Value,
    pub strict: Option<bool>,
}

#[derive(Debug)]
pub(super) enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

#[derive(Deserialize)]
struct ModelField<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MessagesField<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

/// The same bytes with another model.
pub(super) fn replace_model(body: &[u8], model: &str) -> Result<Vec<u8>, WireError> {
    let found: ModelField = top_level(body)?;
    let raw = found.model.ok_or_else(|| WireError::at("model", "`model` is missing."))?;
    Ok(splice(body, range_of(body, raw), Value::from(model).to_string().as_bytes()))
}

/// The same bytes with `messages` after the last message.
pub(super) fn append_messages(body: &[u8], messages: &[Box<RawValue>]) -> Result<Vec<u8>, WireError> {
    let found: MessagesField = top_level(body)?;
    let raw = found.messages.filter(|raw| raw.get().starts_with('['));
    let raw = raw.ok_or_else(|| WireError::at("messages", "`messages` must be an array."))?;
    let mut empty = raw.get()[1..raw.get().len() - 1].trim().is_empty();
    let mut inserted = Vec::new();
    for message in messages {
        if !std::mem::take(&mut empty) {
            inserted.push(b',');
        }
        inserted.extend_from_slice(message.get().as_bytes());
    }
    let end = range_of(body, raw).end - 1;
    Ok(splice(body, end..end, &inserted))
}

/// One field of the body; serde would take a list for an object.
fn top_level<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, WireError> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(WireError::new("The request body must be a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| WireError::json(&error))
}

fn splice(body: &[u8], at: Range<usize>, with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + with.len());
    out.extend_from_slice(&body[..at.start]);
    out.extend_from_slice(with);
    out.extend_from_slice(&body[at.end..]);
    out
}

/// Where `raw`, which was borrowed from `body`, stands in it.
fn range_of(body: &[u8], raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}
