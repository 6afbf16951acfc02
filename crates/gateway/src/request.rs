//! What the gateway must know of a request, found by one validating pass over its bytes.

pub(crate) mod contents;
mod input;
pub(crate) mod json;
pub(crate) mod text;

use std::sync::Arc;

pub use self::input::Named;
pub(crate) use self::json::{Cursor, Fault};
pub use self::json::{Kind, Span, Value};
use crate::wire::Wire;

/// Where the parts of a request stand in its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The model asked for; absent if the client leaves the choice to the gateway.
    pub model: Option<Model>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// `OpenAI`'s `stream_options`.
    pub stream_options: Option<StreamOptions>,
    /// The array `messages`; `input` of a responses request, which may be a string; Gemini's `contents`.
    pub messages_span: Span,
    /// Its elements, in order; a string is one message.
    pub messages: Vec<Message>,
    /// Anthropic's `system`: a string, an array or null; `instructions` of a responses request: a string or null; Gemini's
    /// `systemInstruction`: an object or null.
    pub system: Option<Value>,
    /// `tools`: an array or null.
    pub tools: Option<Value>,
    /// The end user: `user` in `OpenAI`'s wires, `metadata.user_id` in Anthropic's.
    pub user: Option<String>,
    /// What a responses request says of what is kept.
    pub kept: Kept,
    /// The most tokens that the client asks to be answered with, all choices together; none: it does not say.
    pub output_tokens: Option<u64>,
    /// The oldest messages, where they are not to be sent.
    pub left_out: Option<LeftOut>,
    /// Index after the `{` of the body: new members go here. As `messages` is required, a member always follows.
    pub open: usize,
}

/// Messages that the session's log has, and that are not to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// All of them, with the separator before the first that is sent.
    pub span: Span,
    /// What the model is told instead.
    pub marker: Arc<str>,
    /// The number of the event that prompts begin with, where the log does not say so yet.
    pub kept_from: Option<i64>,
}

/// What a responses request says of what is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// `previous_response_id`: a string or null.
    pub response: Option<Value>,
    /// `conversation`: a string, an object or null.
    pub conversation: Option<Value>,
    conversation_id: Option<Value>,
    /// `store` is false: nothing of the turn is to be kept.
    pub forget: bool,
}

/// The requested model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The value with its quotes; empty where the model stands in the URL.
    pub span: Span,
    /// The name, escapes decoded.
    pub name: String,
}

/// `stream_options`, an object or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// The whole value.
    pub value: Value,
    /// The value of its `include_usage`, if that is there.
    pub include_usage: Option<Value>,
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The whole object.
    pub span: Span,
    /// Who speaks.
    pub role: Role,
    /// `content`: a string, an array or null; absent e.g. beside `tool_calls`.
    pub content: Option<Value>,
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `system` or `developer`.
    System,
    /// `user`.
    User,
    /// `assistant`.
    Assistant,
    /// `tool`, or `function` as it was called first.
    Tool,
}

/// Why a request cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// For the caller to read.
    pub message: String,
    /// The part of the request that is wrong, such as `messages[3].role`.
    pub param: Option<String>,
    /// Index of the byte where the text stops being JSON; absent if it is JSON.
    pub offset: Option<usize>,
}

impl From<Fault> for Malformed {
    fn from(fault: Fault) -> Self {
        Self {
            message: format!("The request body is not valid JSON: {} at byte {}", fault.what, fault.at),
            param: None,
            offset: Some(fault.at),
        }
    }
}

impl Malformed {
    fn param(param: impl Into<String>, problem: &str) -> Self {
        let param = param.into();
        Self { message: format!("{param} {problem}"), param: Some(param), offset: None }
    }
}

impl Scan {
    /// How many bytes of the body are not to be sent.
    pub fn left_out_bytes(&self) -> usize {
        self.left_out.as_ref().map_or(0, |left| left.span.end - left.span.start)
    }

    /// Whether `stream_options.include_usage` is set.
    pub fn include_usage(&self, body: &[u8]) -> bool {
        let value = self.stream_options.and_then(|options| options.include_usage);
        value.is_some_and(|value| value.span.of(body) == b"true")
    }
}

/// Validates `body` as JSON and finds what the gateway acts on.
///
/// Medians on a 2-core x86-64 VM, 12 messages: 2.6 µs for 16 KiB of prose, 3.6 µs for 16 KiB outside ASCII, 1.5 µs for 0.8 KiB
/// (a `serde_json` tree of the same: 8, 27 and 5 µs). Escapes cost most: 8 µs for 17 KiB with one every 25 bytes, 17 µs with one every 8.
///
/// A key the gateway acts on may come only once: JSON leaves the meaning of a repeated key open, and a provider that read the other
/// one would answer a request that the gateway neither admitted nor recorded. Other keys may repeat; they are not looked at.
pub fn scan(wire: Wire, body: &[u8]) -> Result<Scan, Malformed> {
    let mut cursor = Cursor::new(body);
    match cursor.peek() {
        Some(b'{') => {}
        None => {
            return Err(Malformed { message: "The request body is empty".into(), param: None, offset: Some(0) });
        }
        Some(_) => {
            cursor.value()?;
            cursor.end()?;
            return Err(Malformed { message: "The request body must be a JSON object".into(), param: None, offset: None });
        }
    }
    let mut found = Found::default();
    let open = cursor.position() + 1;
    cursor.object(|cursor, key| found.member(wire, cursor, key))?;
    cursor.end()?;
    let missing = || Malformed::param(conversation_key(wire), "is required");
    let (messages_span, messages) = found.messages.take().ok_or_else(missing)?;
    let user = found.user.take().filter(|value| value.kind == Kind::String);
    Ok(Scan {
        output_tokens: found.output_tokens(),
        model: found.model,
        stream: found.stream.unwrap_or(false),
        stream_options: found.stream_options,
        messages_span,
        messages,
        system: found.system,
        tools: found.tools,
        user: user.map(|value| text::decode(value.span.of(body)).into_owned()),
        kept: found.kept,
        left_out: None,
        open,
    })
}

/// Validates `body` as JSON and finds what it names, whatever it is a request for: model, stream, user. Other members may be
/// of any form.
///
/// # Errors
/// Where it is no JSON object, or names one of these twice: the provider could read the other one.
pub fn named(body: &[u8]) -> Result<Scan, Malformed> {
    let mut cursor = Cursor::new(body);
    if cursor.peek() != Some(b'{') {
        return Err(Malformed { message: "The request body must be a JSON object".into(), param: None, offset: None });
    }
    let open = cursor.position() + 1;
    let mut found = Found::default();
    cursor.object(|cursor, key| match key {
        b"model" | b"stream" | b"user" => {
            let value = cursor.value()?;
            let text = || text::decode(value.span.of(body)).into_owned();
            match (key, value.kind) {
                (b"model", Kind::String) => once(&mut found.model, Model { span: value.span, name: text() }, "model"),
                (b"stream", Kind::Bool) => once(&mut found.stream, value.span.of(body) == b"true", "stream"),
                (b"user", Kind::String) => once(&mut found.user, value, "user"),
                _ => Ok(()),
            }
        }
        b"stream_options" if cursor.peek() == Some(b'{') => {
            let options = stream_options(cursor)?;
            once(&mut found.stream_options, options, "stream_options")
        }
        key if bounds_answer(key) => found.bound(cursor, key),
        _ => {
            cursor.value()?;
            Ok::<_, Malformed>(())
        }
    })?;
    cursor.end()?;
    Ok(Scan {
        output_tokens: found.output_tokens(),
        model: found.model,
        stream: found.stream.unwrap_or(false),
        stream_options: found.stream_options,
        messages_span: Span { start: open, end: open },
        messages: Vec::new(),
        system: None,
        tools: None,
        user: found.user.map(|value| text::decode(value.span.of(body)).into_owned()),
        kept: Kept::default(),
        left_out: None,
        open,
    })
}

/// Where a wire has the conversation.
fn conversation_key(wire: Wire) -> &'static str {
    match wire {
        Wire::OpenaiResponses => "input",
        Wire::Gemini => "contents",
        Wire::OpenaiChat | Wire::AnthropicMessages | Wire::BedrockConverse => "messages",
    }
}

#[derive(Default)]
struct Found {
    model: Option<Model>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    messages: Option<(Span, Vec<Message>)>,
    system: Option<Value>,
    tools: Option<Value>,
    user: Option<Value>,
    metadata: Option<()>,
    kept: Kept,
    store: Option<()>,
    output_tokens: Option<u64>,
    choices: Option<u64>,
}

impl Found {
    fn member(&mut self, wire: Wire, cursor: &mut Cursor, key: &[u8]) -> Result<(), Malformed> {
        match (key, wire) {
            (b"model", Wire::OpenaiChat | Wire::AnthropicMessages | Wire::OpenaiResponses) => {
                let value = typed(cursor, &[Kind::String], "model", "must be a string")?;
                let name = text::decode(cursor.text(value)).into_owned();
                once(&mut self.model, Model { span: value.span, name }, "model")
            }
            (b"messages", Wire::OpenaiChat | Wire::AnthropicMessages | Wire::BedrockConverse) => {
                let messages = messages(cursor)?;
                once(&mut self.messages, messages, "messages")
            }
            (b"stream", Wire::OpenaiChat | Wire::AnthropicMessages | Wire::OpenaiResponses) => {
                let value = typed(cursor, &[Kind::Bool, Kind::Null], "stream", "must be true or false")?;
                once(&mut self.stream, cursor.text(value) == b"true", "stream")
            }
            (b"tools", _) => {
                let value = typed(cursor, &[Kind::Array, Kind::Null], "tools", "must be an array")?;
                once(&mut self.tools, value, "tools")
            }
            (b"stream_options", Wire::OpenaiChat) => {
                let options = stream_options(cursor)?;
                once(&mut self.stream_options, options, "stream_options")
            }
            (b"user", Wire::OpenaiChat | Wire::OpenaiResponses) => {
                let user = user(cursor, "user")?;
                once(&mut self.user, user, "user")
            }
            (key, _) if bounds_answer(key) => self.bound(cursor, key),
            (b"system", Wire::AnthropicMessages | Wire::BedrockConverse) => {
                let kinds = &[Kind::String, Kind::Array, Kind::Null];
                let value = typed(cursor, kinds, "system", "must be a string or an array of text blocks")?;
                once(&mut self.system, value, "system")
            }
            (b"metadata", Wire::AnthropicMessages) => {
                self.metadata(cursor)?;
                once(&mut self.metadata, (), "metadata")
            }
            (b"input", Wire::OpenaiResponses) => {
                let input = input::input(cursor)?;
                once(&mut self.messages, input, "input")
            }
            (b"instructions", Wire::OpenaiResponses) => {
                let value = typed(cursor, &[Kind::String, Kind::Null], "instructions", "must be a string")?;
                once(&mut self.system, value, "instructions")
            }
            (b"previous_response_id", Wire::OpenaiResponses) => self.kept.response(cursor),
            (b"conversation", Wire::OpenaiResponses) => self.kept.conversation(cursor),
            (b"store", Wire::OpenaiResponses) => {
                let value = typed(cursor, &[Kind::Bool, Kind::Null], "store", "must be true or false")?;
                self.kept.forget = cursor.text(value) == b"false";
                once(&mut self.store, (), "store")
            }
            (b"contents", Wire::Gemini) => {
                let contents = contents::contents(cursor)?;
                once(&mut self.messages, contents, "contents")
            }
            (b"systemInstruction" | b"system_instruction", Wire::Gemini) => {
                let value = typed(cursor, &[Kind::Object, Kind::Null], "systemInstruction", "must be an object")?;
                once(&mut self.system, value, "systemInstruction")
            }
            _ => {
                cursor.value()?;
                Ok(())
            }
        }
    }

    /// Notes a bound of the answer. The provider checks it; here it only bounds what the call may cost.
    fn bound(&mut self, cursor: &mut Cursor, key: &[u8]) -> Result<(), Malformed> {
        let value = cursor.value()?;
        let number = number(cursor.text(value));
        let slot = if key == b"n" { &mut self.choices } else { &mut self.output_tokens };
        *slot = (*slot).max(number);
        Ok(())
    }

    fn output_tokens(&self) -> Option<u64> {
        self.output_tokens.map(|tokens| tokens.saturating_mul(self.choices.unwrap_or(1).max(1)))
    }

    fn metadata(&mut self, cursor: &mut Cursor) -> Result<(), Malformed> {
        if cursor.peek() != Some(b'{') {
            typed(cursor, &[Kind::Null], "metadata", "must be an object")?;
            return Ok(());
        }
        cursor.object(|cursor, key| {
            if key == b"user_id" {
                let user = user(cursor, "metadata.user_id")?;
                return once(&mut self.user, user, "metadata.user_id");
            }
            cursor.value()?;
            Ok(())
        })?;
        Ok(())
    }
}

/// Whether a member says how much the client wants to be answered with at most.
fn bounds_answer(key: &[u8]) -> bool {
    matches!(key, b"max_tokens" | b"max_completion_tokens" | b"max_output_tokens" | b"n")
}

/// A whole number as JSON writes it mostly; none for anything else.
fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn once<T>(slot: &mut Option<T>, value: T, param: &str) -> Result<(), Malformed> {
    if slot.replace(value).is_some() { Err(Malformed::param(param, "is given twice")) } else { Ok(()) }
}

fn typed(cursor: &mut Cursor, kinds: &[Kind], param: &str, problem: &str) -> Result<Value, Malformed> {
    let value = cursor.value()?;
    if kinds.contains(&value.kind) { Ok(value) } else { Err(Malformed::param(param, problem)) }
}

fn user(cursor: &mut Cursor, param: &str) -> Result<Value, Malformed> {
    typed(cursor, &[Kind::String, Kind::Null], param, "must be a string")
}

fn stream_options(cursor: &mut Cursor) -> Result<StreamOptions, Malformed> {
    if cursor.peek() != Some(b'{') {
        let value = typed(cursor, &[Kind::Null], "stream_options", "must be an object")?;
        return Ok(StreamOptions { value, include_usage: None });
    }
    let mut include_usage = None;
    let value = cursor.object(|cursor, key| {
        if key == b"include_usage" {
            let param = "stream_options.include_usage";
            let value = typed(cursor, &[Kind::Bool, Kind::Null], param, "must be true or false")?;
            return once(&mut include_usage, value, param);
        }
        cursor.value()?;
        Ok::<_, Malformed>(())
    })?;
    Ok(StreamOptions { value, include_usage })
}

fn messages(cursor: &mut Cursor) -> Result<(Span, Vec<Message>), Malformed> {
    let problem = "must be an array of objects";
    if cursor.peek() != Some(b'[') {
        cursor.value()?;
        return Err(Malformed::param("messages", problem));
    }
    let mut messages = Vec::with_capacity(32);
    let array = cursor.array(|cursor, index| {
        if cursor.peek() != Some(b'{') {
            cursor.value()?;
            return Err(Malformed::param(format!("messages[{index}]"), "must be an object"));
        }
        messages.push(message(cursor, index)?);
        Ok(())
    })?;
    Ok((array.span, messages))
}

fn message(cursor: &mut Cursor, index: usize) -> Result<Message, Malformed> {
    let fault = |field: &str, problem: &str| Malformed::param(format!("messages[{index}].{field}"), problem);
    let (mut role, mut content) = (None, None);
    let object = cursor.object(|cursor, key| match key {
        b"role" => {
            let value = cursor.value()?;
            if value.kind != Kind::String {
                return Err(fault("role", "must be a string"));
            }
            let known = Role::named(&text::decode(cursor.text(value)));
            let known = known.ok_or_else(|| fault("role", "must be system, developer, user, assistant or tool"))?;
            role.replace(known).map_or(Ok(()), |_| Err(fault("role", "is given twice")))
        }
        b"content" => {
            let value = cursor.value()?;
            if !matches!(value.kind, Kind::String | Kind::Array | Kind::Null) {
                return Err(fault("content", "must be a string or an array"));
            }
            content.replace(value).map_or(Ok(()), |_| Err(fault("content", "is given twice")))
        }
        _ => {
            cursor.value()?;
            Ok(())
        }
    })?;
    let role = role.ok_or_else(|| fault("role", "is required"))?;
    Ok(Message { span: object.span, role, content })
}

impl Role {
    fn named(name: &str) -> Option<Self> {
        match name {
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "tool" | "function" => Some(Self::Tool),
            "system" | "developer" => Some(Self::System),
            _ => None,
        }
    }
}
