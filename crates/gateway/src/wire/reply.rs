//! The neutral form of what a model answered.

use std::borrow::Cow;
use std::ops::AddAssign;

use serde_json::value::RawValue;

use super::{Wire, json};

/// Tokens of one or more model calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All prompt tokens, cached ones included (`OpenAI`'s `prompt_tokens`).
    pub input: u64,
    /// All tokens the model wrote, reasoning included.
    pub output: u64,
    /// Prompt tokens read from the provider's cache; part of `input`.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache; part of `input`.
    pub cache_write: u64,
    /// Tokens of hidden or shown reasoning; part of `output`.
    pub reasoning: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.output += other.output;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.reasoning += other.reasoning;
    }
}

/// Why the model stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StopReason {
    /// It was done.
    #[default]
    EndTurn,
    /// It reached the token limit of the request or of the model.
    MaxTokens,
    /// It wrote one of the request's stop sequences; which one, where the wire says so.
    StopSequence(Option<String>),
    /// It waits for the results of its tool calls.
    ToolUse,
    /// It, or a filter of the provider, declined.
    Refusal,
    /// A tool run by the provider takes long; the client should send the reply back to go on.
    PauseTurn,
}

impl StopReason {
    /// What OpenTelemetry's conventions for generative AI call it.
    pub fn finish_reason(&self) -> &'static str {
        match self {
            Self::EndTurn | Self::StopSequence(_) | Self::PauseTurn => "stop",
            Self::MaxTokens => "length",
            Self::ToolUse => "tool_call",
            Self::Refusal => "content_filter",
        }
    }
}

/// A tool the model wants called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The call's id, to be named by its result.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments as JSON text, as the model wrote them; `{}` if it wrote none.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments as a JSON object. A model can write broken JSON; a wire that has only an object for arguments then
    /// carries the text under `unparsed_arguments`, so that the caller can tell the model.
    pub(super) fn object(&self) -> Box<RawValue> {
        if self.arguments.trim_start().starts_with('{')
            && let Ok(object) = RawValue::from_string(self.arguments.clone())
        {
            return object;
        }
        let text = self.arguments.trim();
        let object = if text.is_empty() || text == "null" {
            serde_json::json!({})
        } else {
            serde_json::json!({ "unparsed_arguments": self.arguments })
        };
        json::raw(&object)
    }
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// The id of the call.
    pub call_id: String,
    /// Text for the model.
    pub content: String,
    /// The call failed; `content` says why.
    pub is_error: bool,
}

/// A piece of a reply, in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the reader.
    Text(String),
    /// Reasoning shown by the model.
    Thinking {
        /// The reasoning; empty where the provider shows only its signature.
        text: String,
        /// The provider's proof that it is the model's own; most providers that sign want it back. Where there is no text,
        /// the proof belongs to the text or call that follows (Gemini signs those themselves).
        signature: Option<Signature>,
    },
    /// A tool to call.
    ToolCall(ToolCall),
    /// A block only its own wire knows (Anthropic's `redacted_thinking`, `server_tool_use`, …). Goes back to that wire
    /// unchanged and cannot be said in another.
    Opaque(Opaque),
}

/// A block of one wire as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The wire that it is of.
    pub of: Wire,
    /// The block.
    pub json: String,
}

impl Opaque {
    /// The block for a writer of `wire`, if it is that wire's own.
    pub(super) fn raw(&self, wire: Wire) -> Option<Box<RawValue>> {
        RawValue::from_string(self.json.clone()).ok().filter(|_| self.of == wire)
    }
}

/// A provider's proof that reasoning is its model's own. No other provider takes it, so a client of another wire is given
/// it with a mark of where it came from, and brings it back so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The wire of the provider that signed.
    pub of: Wire,
    /// The proof as that wire carries it.
    pub text: String,
}

impl Signature {
    const MARK: &str = "trunkline.";

    /// What stands where `wire` has its proofs: its own, or another's with our mark.
    pub(super) fn read(wire: Wire, text: String) -> Self {
        let marked = text.strip_prefix(Self::MARK).and_then(|rest| rest.split_once('.'));
        match marked.and_then(|(name, proof)| Some((Wire::named(name)?, proof))) {
            Some((of, proof)) => Self { of, text: proof.to_owned() },
            None => Self { of: wire, text },
        }
    }

    /// What is to stand where `wire` has its proofs.
    pub(super) fn write(&self, wire: Wire) -> Cow<'_, str> {
        if self.of == wire { Cow::Borrowed(&self.text) } else { Cow::Owned(format!("{}{}.{}", Self::MARK, self.of, self.text)) }
    }

    /// The proof, if a provider of `wire` takes it. Claude's are good with Anthropic and on Bedrock alike.
    pub(super) fn fit_for(&self, wire: Wire) -> Option<&str> {
        let claude = |wire| matches!(wire, Wire::AnthropicMessages | Wire::BedrockConverse);
        (self.of == wire || (claude(self.of) && claude(wire))).then_some(self.text.as_str())
    }
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The provider's id of the reply.
    pub id: String,
    /// The model that answered, as the provider names it.
    pub model: String,
    /// The content, in order.
    pub parts: Vec<Part>,
    /// Why it ended.
    pub stop: StopReason,
    /// What it cost, if the provider says.
    pub usage: Option<Usage>,
}

impl Reply {
    /// All text, joined.
    pub fn text(&self) -> String {
        let texts = self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The tool calls, in order.
    pub fn tool_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.parts.iter().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            _ => None,
        })
    }
}
