//! What a call came for.

use serde::Deserialize;

use crate::wire::Wire;

/// What a call came for, as metrics and usage name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names of the routes")]
pub enum Route {
    OpenaiChat,
    AnthropicMessages,
    OpenaiResponses,
    Gemini,
    Embeddings,
    Completions,
    Images,
    Audio,
    Moderations,
    PassThrough,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::OpenaiChat,
        Self::AnthropicMessages,
        Self::OpenaiResponses,
        Self::Gemini,
        Self::Embeddings,
        Self::Completions,
        Self::Images,
        Self::Audio,
        Self::Moderations,
        Self::PassThrough,
    ];

    /// The route of model calls in a wire.
    pub fn of(wire: Wire) -> Self {
        match wire {
            Wire::OpenaiChat => Self::OpenaiChat,
            Wire::AnthropicMessages => Self::AnthropicMessages,
            Wire::OpenaiResponses => Self::OpenaiResponses,
            Wire::Gemini => Self::Gemini,
            // No client's wire: such a provider is only called by its own paths.
            Wire::BedrockConverse => Self::PassThrough,
        }
    }

    /// Its name: a wire's, or the route's own.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenaiChat => Wire::OpenaiChat.name(),
            Self::AnthropicMessages => Wire::AnthropicMessages.name(),
            Self::OpenaiResponses => Wire::OpenaiResponses.name(),
            Self::Gemini => Wire::Gemini.name(),
            Self::Embeddings => "embeddings",
            Self::Completions => "completions",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Moderations => "moderations",
            Self::PassThrough => "pass_through",
        }
    }

    /// What OpenTelemetry's conventions for generative AI call it.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Completions => "text_completion",
            Self::Gemini => "generate_content",
            Self::Images | Self::Audio | Self::Moderations | Self::PassThrough => self.name(),
            Self::OpenaiChat | Self::AnthropicMessages | Self::OpenaiResponses => "chat",
        }
    }
}
