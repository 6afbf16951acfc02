//! Pure conversions between the wires that clients and providers speak. No I/O here.

use serde::{Deserialize, Serialize};

/// The form of request and answer that a client or provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// `OpenAI`'s `/v1/chat/completions`.
    OpenaiChat,
    /// Anthropic's `/v1/messages`.
    AnthropicMessages,
}
