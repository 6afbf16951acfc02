//! Token counts of a Gemini reply. Its `candidatesTokenCount` leaves out thoughts.

use serde::{Deserialize, Serialize};

use crate::wire::Usage;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct UsageIn {
    #[serde(rename = "promptTokenCount")]
    prompt: Option<u64>,
    /// Results of tools that Google runs, given to the model as more prompt.
    #[serde(rename = "toolUsePromptTokenCount")]
    tool_use_prompt: Option<u64>,
    #[serde(rename = "cachedContentTokenCount")]
    cached_content: Option<u64>,
    #[serde(rename = "candidatesTokenCount")]
    candidates: Option<u64>,
    #[serde(rename = "thoughtsTokenCount")]
    thoughts: Option<u64>,
}

impl From<UsageIn> for Usage {
    fn from(usage: UsageIn) -> Self {
        let reasoning = usage.thoughts.unwrap_or_default();
        Self {
            input: usage.prompt.unwrap_or_default() + usage.tool_use_prompt.unwrap_or_default(),
            output: usage.candidates.unwrap_or_default() + reasoning,
            cache_read: usage.cached_content.unwrap_or_default(),
            cache_write: 0,
            reasoning,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct UsageOut {
    #[serde(rename = "promptTokenCount")]
    prompt: u64,
    #[serde(rename = "candidatesTokenCount")]
    candidates: u64,
    #[serde(rename = "totalTokenCount")]
    total: u64,
    #[serde(rename = "cachedContentTokenCount", skip_serializing_if = "Option::is_none")]
    cached_content: Option<u64>,
    #[serde(rename = "thoughtsTokenCount", skip_serializing_if = "Option::is_none")]
    thoughts: Option<u64>,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            prompt: usage.input,
            candidates: usage.output.saturating_sub(usage.reasoning),
            total: usage.input + usage.output,
            cached_content: Some(usage.cache_read).filter(|count| *count > 0),
            thoughts: Some(usage.reasoning).filter(|count| *count > 0),
        }
    }
}

/// Reads the member of a whole reply that tells the usage.
pub(in crate::wire) fn read(member: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<Option<UsageIn>>(member).ok()?.map(Usage::from)
}
