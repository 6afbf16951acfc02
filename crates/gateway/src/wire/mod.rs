//! Pure conversions between the wires that clients and providers speak. No I/O here.
//!
//! Each wire is a folder with a file per noun, and converts to and from one neutral form: `Request`,
//! [`Reply`], [`Event`] (a piece of a streamed reply) and [`ErrorBody`]. A new wire is one more folder, not one more pair.

mod anthropic_messages;
mod bedrock_converse;
mod cause;
mod error;
mod event;
mod fields;
mod gemini;
mod json;
mod lossy;
mod openai_chat;
mod openai_responses;
mod reply;
mod request;
mod tap;
mod text;
pub mod transcript;

use serde::{Deserialize, Serialize};

pub use anthropic_messages::memory_tool;
pub use bedrock_converse::event_stream;
pub use cause::{Cause, cause};
pub use error::{ErrorBody, WireError, error_body, error_event, translate_error};
pub use event::{Event, StreamReader, StreamWriter, sign_of_life};
pub use reply::{Opaque, Part, Reply, Signature, StopReason, ToolCall, ToolResult, Usage};
pub use tap::{Accumulator, Tap};

use crate::request::json::{Cursor, Fault};

/// A protocol of model calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// `OpenAI`'s `POST /v1/chat/completions`, spoken by most providers.
    OpenaiChat,
    /// Anthropic's `POST /v1/messages`.
    AnthropicMessages,
    /// `OpenAI`'s `POST /v1/responses`.
    OpenaiResponses,
    /// Google's `POST /v1beta/models/{model}:generateContent`.
    Gemini,
    /// Amazon's `POST /model/{model}/converse`. Spoken to providers only: it is no client's wire.
    BedrockConverse,
}

impl Wire {
    const ALL: [Self; 5] =
        [Self::OpenaiChat, Self::AnthropicMessages, Self::OpenaiResponses, Self::Gemini, Self::BedrockConverse];

    /// The name used in settings: `openai_chat`, `anthropic_messages`, `openai_responses`, `gemini`, `bedrock_converse`.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenaiChat => "openai_chat",
            Self::AnthropicMessages => "anthropic_messages",
            Self::OpenaiResponses => "openai_responses",
            Self::Gemini => "gemini",
            Self::BedrockConverse => "bedrock_converse",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|wire| wire.name() == name)
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A request in the provider's wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The request's body.
    pub body: Vec<u8>,
    /// Fields that were left out because the provider's wire has no words for them, as the client names them.
    pub dropped: Vec<String>,
}

/// A whole request in wire `from`, said in wire `to` for the provider's `model`. Within one wire only `model` is replaced.
///
/// `stream`: whether the answer is to be streamed; where a wire says it in the body, it is said so.
/// What `to` has no words for is an error that names the field; with `drop`, a parameter or a tool is left out instead. What
/// stands in the messages is never left out.
pub fn translate_request(
    from: Wire,
    to: Wire,
    body: &[u8],
    model: &str,
    stream: bool,
    drop: bool,
) -> Result<Translated, WireError> {
    if from == to {
        let body = if from == Wire::Gemini { body.to_vec() } else { request::replace_model(body, model)? };
        return Ok(Translated { body, dropped: Vec::new() });
    }
    let (mut request, mut dropped) = if drop { lossy::parse(from, body)? } else { (parse_request(from, body)?, Vec::new()) };
    model.clone_into(&mut request.model);
    request.stream = stream;
    for param in unsayable(to, model).iter().copied().filter(|param| request.has(*param)).collect::<Vec<_>>() {
        if !drop {
            return Err(WireError::untranslatable(param.name(from)));
        }
        request.clear(param);
        dropped.push(param.name(from).to_owned());
    }
    let body = match to {
        Wire::OpenaiChat => openai_chat::request::write(request),
        Wire::AnthropicMessages => anthropic_messages::request::write(request),
        Wire::OpenaiResponses => openai_responses::request::write(request),
        Wire::Gemini => gemini::request::write(request),
        Wire::BedrockConverse => bedrock_converse::request::write(request),
    }?;
    Ok(Translated { body, dropped })
}

fn parse_request(wire: Wire, body: &[u8]) -> Result<request::Request, WireError> {
    match wire {
        Wire::OpenaiChat => openai_chat::request::parse(body),
        Wire::AnthropicMessages => anthropic_messages::request::parse(body),
        Wire::OpenaiResponses => openai_responses::request::parse(body),
        Wire::Gemini => gemini::request::parse(body),
        Wire::BedrockConverse => Err(WireError::no_client()),
    }
}

/// What the neutral form can say and `wire` cannot, to this model.
fn unsayable(wire: Wire, model: &str) -> &'static [request::Param] {
    match wire {
        Wire::OpenaiChat => openai_chat::request::UNSAYABLE,
        Wire::AnthropicMessages => anthropic_messages::request::UNSAYABLE,
        Wire::OpenaiResponses => openai_responses::request::UNSAYABLE,
        Wire::Gemini => gemini::request::UNSAYABLE,
        Wire::BedrockConverse => bedrock_converse::request::unsayable(model),
    }
}

/// A request in the upstream's `wire` with one more round at the end of its messages: what the model said in `reply`, and
/// the results of the tools it called. All other bytes stay as they are.
pub fn append_round(wire: Wire, body: &[u8], reply: &Reply, results: &[ToolResult]) -> Result<Vec<u8>, WireError> {
    match wire {
        Wire::OpenaiChat => request::append_messages(body, &openai_chat::reply::round(reply, results)),
        Wire::AnthropicMessages => request::append_messages(body, &anthropic_messages::reply::round(reply, results)),
        Wire::OpenaiResponses => request::append_input(body, &openai_responses::reply::round(reply, results)),
        Wire::Gemini => request::append_contents(body, &gemini::reply::round(reply, results)),
        Wire::BedrockConverse => request::append_messages(body, &bedrock_converse::reply::round(reply, results)),
    }
}

/// A provider's whole reply. The error speaks of what the provider sent.
pub fn parse_reply(wire: Wire, body: &[u8]) -> Result<Reply, WireError> {
    match wire {
        Wire::OpenaiChat => openai_chat::reply::parse(body),
        Wire::AnthropicMessages => anthropic_messages::reply::parse(body),
        Wire::OpenaiResponses => openai_responses::reply::parse(body),
        Wire::Gemini => gemini::reply::parse(body),
        Wire::BedrockConverse => bedrock_converse::reply::parse(body),
    }
}

/// The usage that a provider's whole reply tells, far cheaper than all of it; none where the reply is no JSON.
pub fn parse_usage(wire: Wire, body: &[u8]) -> Option<Usage> {
    let member = member(body, if wire == Wire::Gemini { b"usageMetadata" } else { b"usage" })?;
    match wire {
        Wire::OpenaiChat => openai_chat::usage::read(member),
        Wire::AnthropicMessages => anthropic_messages::usage::read(member),
        Wire::OpenaiResponses => openai_responses::usage::read(member),
        Wire::Gemini => gemini::usage::read(member),
        Wire::BedrockConverse => bedrock_converse::usage::read(member),
    }
}

/// A member of the object that is all of `body`, which is validated to its end.
fn member<'b>(body: &'b [u8], name: &[u8]) -> Option<&'b [u8]> {
    let mut cursor = Cursor::new(body);
    let mut found = None;
    cursor.peek().filter(|first| *first == b'{')?;
    let read = cursor.object(|cursor, key| {
        let value = cursor.value()?;
        if key == name {
            found = Some(value.span.of(body));
        }
        Ok::<_, Fault>(())
    });
    read.and_then(|_| cursor.end()).ok()?;
    found
}

/// A whole reply for the client; `created_unix` in seconds. An error for `BedrockConverse`, which is no client's wire.
pub fn write_reply(wire: Wire, reply: &Reply, created_unix: u64) -> Result<Vec<u8>, WireError> {
    Ok(match wire {
        Wire::OpenaiChat => openai_chat::reply::write(reply, created_unix),
        Wire::AnthropicMessages => anthropic_messages::reply::write(reply),
        Wire::OpenaiResponses => openai_responses::reply::write(reply, created_unix),
        Wire::Gemini => gemini::reply::write(reply),
        Wire::BedrockConverse => return Err(WireError::no_client()),
    })
}

/// The provider's reply `body` with id, model, content, tool calls, stop reason and usage of `reply`, and with all else it
/// had. `body` comes back unchanged if it already says the same as `reply`.
pub fn rewrite_reply(wire: Wire, body: &[u8], reply: &Reply) -> Result<Vec<u8>, WireError> {
    if parse_reply(wire, body)? == *reply {
        return Ok(body.to_vec());
    }
    match wire {
        Wire::OpenaiChat => openai_chat::reply::rewrite(body, reply),
        Wire::AnthropicMessages => anthropic_messages::reply::rewrite(body, reply),
        Wire::OpenaiResponses => openai_responses::reply::rewrite(body, reply),
        Wire::Gemini => gemini::reply::rewrite(body, reply),
        Wire::BedrockConverse => Err(WireError::no_client()),
    }
}
