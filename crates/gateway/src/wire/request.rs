//! The neutral form of a request, and the edits that need no understanding of it.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::{Signature, ToolCall, Wire, WireError};

/// A request that every wire can say, [`Param`]s excepted.
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
    pub top_k: Option<u64>,
    pub seed: Option<Number>,
    pub presence_penalty: Option<Number>,
    pub frequency_penalty: Option<Number>,
    pub stream: bool,
    /// The end user's id. The gateway acts on it itself, so a wire without a place for it leaves it out.
    pub user: Option<String>,
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    pub effort: Option<String>,
    /// How many tokens the model may reason for; where a wire has only efforts, the nearest one says it.
    pub thinking_budget: Option<u64>,
    /// Whether the reasoning, or a summary of it, is to be shown; the provider decides if absent.
    pub show_thinking: Option<bool>,
    pub output: Option<Output>,
    /// `low`, `medium` or `high`.
    pub verbosity: Option<String>,
    /// In `OpenAI`'s words: `auto`, `default`, `flex`, `priority`, …
    pub service_tier: Option<String>,
    /// The caller's own marks on the call.
    pub metadata: Map<String, Value>,
    /// Whether the provider is to keep the answer for the caller to fetch.
    pub store: Option<bool>,
    /// Where to look for a cached prompt. A hint: a wire without a place for it leaves it out.
    pub cache_key: Option<String>,
}

/// A part of a request that not every wire can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Param {
    /// Several calls at once forbidden.
    SingleTool,
    Stop,
    TopK,
    Seed,
    PresencePenalty,
    FrequencyPenalty,
    /// Any JSON, of no given schema.
    JsonOutput,
    /// Other than medium.
    Verbosity,
    /// Other than the provider's default.
    ServiceTier,
    Metadata,
    Store,
}

impl Param {
    /// Its name in requests of `wire`.
    pub(super) fn name(self, wire: Wire) -> &'static str {
        let chat = wire == Wire::OpenaiChat;
        let gemini = wire == Wire::Gemini;
        let anthropic = wire == Wire::AnthropicMessages;
        match self {
            Self::SingleTool if anthropic => "tool_choice.disable_parallel_tool_use",
            Self::SingleTool => "parallel_tool_calls",
            Self::Stop if gemini => "generationConfig.stopSequences",
            Self::Stop if anthropic => "stop_sequences",
            Self::Stop => "stop",
            Self::TopK if gemini => "generationConfig.topK",
            Self::TopK => "top_k",
            Self::Seed if gemini => "generationConfig.seed",
            Self::Seed => "seed",
            Self::PresencePenalty if gemini => "generationConfig.presencePenalty",
            Self::PresencePenalty => "presence_penalty",
            Self::FrequencyPenalty if gemini => "generationConfig.frequencyPenalty",
            Self::FrequencyPenalty => "frequency_penalty",
            Self::JsonOutput if gemini => "generationConfig.responseMimeType",
            Self::JsonOutput if chat => "response_format",
            Self::JsonOutput => "text.format",
            Self::Verbosity if chat => "verbosity",
            Self::Verbosity => "text.verbosity",
            Self::ServiceTier => "service_tier",
            Self::Metadata => "metadata",
            Self::Store => "store",
        }
    }
}

/// What the answer must be.
#[derive(Debug)]
pub(super) enum Output {
    /// Any JSON object.
    Json,
    /// JSON of this schema.
    Schema { schema: Value, name: Option<String>, strict: Option<bool> },
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
    Document(Document),
    ToolCall(ToolCall),
    ToolResult {
        call_id: String,
        content: Vec<Content>,
        is_error: bool,
    },
    /// Earlier reasoning of the assistant, as in [`Part::Thinking`](super::Part::Thinking). A provider gets it back only with
    /// its own proof, or without any where it signs nothing (`OpenAI`'s chat wire); others answer without it.
    Thinking {
        text: String,
        signature: Option<Signature>,
    },
    /// Reasoning that only Claude can read (`data` of Anthropic's `redacted_thinking`); others answer without it.
    Redacted(String),
}

#[derive(Debug)]
pub(super) enum Image {
    Base64 { media_type: String, data: String },
    Url(String),
}

/// A file to be read, such as a PDF.
#[derive(Debug)]
pub(super) struct Document {
    pub name: Option<String>,
    pub source: DocumentSource,
}

#[derive(Debug)]
pub(super) enum DocumentSource {
    Base64 {
        media_type: String,
        data: String,
    },
    Url(String),
    /// Plain text.
    Text(String),
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

impl ToolChoice {
    /// The choices that `OpenAI`'s wires say in one word.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "auto" => Some(Self::Auto),
            "required" => Some(Self::Required),
            _ => None,
        }
    }
}

impl Request {
    /// Whether it says something that only wires with `param` can say.
    pub(super) fn has(&self, param: Param) -> bool {
        match param {
            Param::SingleTool => self.parallel_tools == Some(false) && !self.tools.is_empty(),
            Param::Stop => !self.stop.is_empty(),
            Param::TopK => self.top_k.is_some(),
            Param::Seed => self.seed.is_some(),
            Param::PresencePenalty => says(self.presence_penalty.as_ref()),
            Param::FrequencyPenalty => says(self.frequency_penalty.as_ref()),
            Param::JsonOutput => matches!(self.output, Some(Output::Json)),
            Param::Verbosity => self.verbosity.as_deref().is_some_and(|verbosity| verbosity != "medium"),
            Param::ServiceTier => self.service_tier.as_deref().is_some_and(|tier| !matches!(tier, "auto" | "default")),
            Param::Metadata => !self.metadata.is_empty(),
            Param::Store => self.store == Some(true),
        }
    }

    /// Say it no more.
    pub(super) fn clear(&mut self, param: Param) {
        match param {
            Param::SingleTool => self.parallel_tools = None,
            Param::Stop => self.stop.clear(),
            Param::TopK => self.top_k = None,
            Param::Seed => self.seed = None,
            Param::PresencePenalty => self.presence_penalty = None,
            Param::FrequencyPenalty => self.frequency_penalty = None,
            Param::JsonOutput => self.output = None,
            Param::Verbosity => self.verbosity = None,
            Param::ServiceTier => self.service_tier = None,
            Param::Metadata => self.metadata.clear(),
            Param::Store => self.store = None,
        }
    }

    /// The effort that the client asked for, or the nearest one to its budget of tokens.
    pub(super) fn nearest_effort(&self) -> Option<String> {
        self.effort.clone().or_else(|| self.thinking_budget.map(|budget| effort_of(budget).to_owned()))
    }
}

/// Zero is what all providers take where nothing is said.
fn says(penalty: Option<&Number>) -> bool {
    penalty.is_some_and(|penalty| penalty.as_f64() != Some(0.0))
}

/// The nearest effort for a thinking budget in tokens. Anthropic's least budget is 1024; its guide calls 16 thousand a good
/// start for hard tasks.
fn effort_of(budget: u64) -> &'static str {
    match budget {
        0 => "none",
        1..4096 => "low",
        4096..16_000 => "medium",
        _ => "high",
    }
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

#[derive(Deserialize)]
struct InputField<'a> {
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ContentsField<'a> {
    #[serde(borrow)]
    contents: Option<&'a RawValue>,
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
    append(body, found.messages, "messages", messages)
}

/// The same for the `contents` of Gemini's wire.
pub(super) fn append_contents(body: &[u8], contents: &[Box<RawValue>]) -> Result<Vec<u8>, WireError> {
    let found: ContentsField = top_level(body)?;
    append(body, found.contents, "contents", contents)
}

/// The same for the `input` of `OpenAI`'s responses. A text becomes the message that it stands for.
pub(super) fn append_input(body: &[u8], items: &[Box<RawValue>]) -> Result<Vec<u8>, WireError> {
    let found: InputField = top_level(body)?;
    if let Some(text) = found.input.filter(|raw| raw.get().starts_with('"')) {
        let mut input = format!(r#"[{{"role":"user","content":{}}}"#, text.get()).into_bytes();
        for item in items {
            input.push(b',');
            input.extend_from_slice(item.get().as_bytes());
        }
        input.push(b']');
        return Ok(splice(body, range_of(body, text), &input));
    }
    append(body, found.input, "input", items)
}

fn append(body: &[u8], array: Option<&RawValue>, name: &str, elements: &[Box<RawValue>]) -> Result<Vec<u8>, WireError> {
    let raw = array.filter(|raw| raw.get().starts_with('['));
    let raw = raw.ok_or_else(|| WireError::at(name, format!("`{name}` must be an array.")))?;
    let mut empty = raw.get()[1..raw.get().len() - 1].trim().is_empty();
    let mut inserted = Vec::new();
    for element in elements {
        if !std::mem::take(&mut empty) {
            inserted.push(b',');
        }
        inserted.extend_from_slice(element.get().as_bytes());
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
