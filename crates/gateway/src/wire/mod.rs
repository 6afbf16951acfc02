//! Pure conversions between the wires that clients and providers speak. No I/O here.
//!
//! Each wire is a folder with a file per noun, and converts to and from one neutral form: `Request`,
//! [`Reply`], [`Event`] (a piece of a streamed reply) and [`ErrorBody`]. A new wire is one more folder, not one more pair.

mod anthropic_messages;
mod cause;
mod error;
mod event;
mod fields;
mod json;
mod openai_chat;
mod reply;
mod request;
mod tap;
mod text;

use serde::{Deserialize, Serialize};

pub use cause::{Cause, cause};
pub use error::{ErrorBody, WireError, error_body, error_event, translate_error};
pub use event::{Event, StreamReader, StreamWriter};
pub use reply::{Part, Reply, StopReason, ToolCall, ToolResult, Usage};
pub use tap::{Accumulator, Tap};

/// A protocol of model calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// `OpenAI`'s `POST /v1/chat/completions`, spoken by most providers.
    OpenaiChat,
    /// Anthropic's `POST /v1/messages`.
    AnthropicMessages,
}

impl Wire {
    /// The name used in settings: `openai_chat`, `anthropic_messages`.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenaiChat => "openai_chat",
            Self::AnthropicMessages => "anthropic_messages",
        }
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A whole request in wire `from`, said in wire `to` for the provider's `model`. Within one wire only `model` is replaced.
/// What `to` has no words for is an error that names the field.
pub fn translate_request(from: Wire, to: Wire, body: &[u8], model: &str) -> Result<Vec<u8>, WireError> {
    if from == to {
        return request::replace_model(body, model);
    }
    let mut request = match from {
        Wire::OpenaiChat => openai_chat::request::parse(body),
        Wire::AnthropicMessages => anthropic_messages::request::parse(body),
    }?;
    model.clone_into(&mut request.model);
    match to {
        Wire::OpenaiChat => openai_chat::request::write(request),
        Wire::AnthropicMessages => anthropic_messages::request::write(request),
    }
}

/// A request in the upstream's `wire` with one more round at the end of its messages: what the model said in `reply`, and
/// the results of the tools it called. All other bytes stay as they are.
pub fn append_round(wire: Wire, body: &[u8], reply: &Reply, results: &[ToolResult]) -> Result<Vec<u8>, WireError> {
    let messages = match wire {
        Wire::OpenaiChat => openai_chat::reply::round(reply, results),
        Wire::AnthropicMessages => anthropic_messages::reply::round(reply, results),
    };
    request::append_messages(body, &messages)
}

/// A provider's whole reply. The error speaks of what the provider sent.
pub fn parse_reply(wire: Wire, body: &[u8]) -> Result<Reply, WireError> {
    match wire {
        Wire::OpenaiChat => openai_chat::reply::parse(body),
        Wire::AnthropicMessages => anthropic_messages::reply::parse(body),
    }
}

/// The usage that a provider's whole reply tells; far cheaper than all of it.
pub fn parse_usage(wire: Wire, body: &[u8]) -> Option<Usage> {
    match wire {
        Wire::OpenaiChat => openai_chat::usage::only_usage(body),
        Wire::AnthropicMessages => anthropic_messages::usage::only_usage(body),
    }
}

/// A whole reply for the client; `created_unix` in seconds.
pub fn write_reply(wire: Wire, reply: &Reply, created_unix: u64) -> Vec<u8> {
    match wire {
        Wire::OpenaiChat => openai_chat::reply::write(reply, created_unix),
        Wire::AnthropicMessages => anthropic_messages::reply::write(reply),
    }
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
    }
}
