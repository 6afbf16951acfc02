//! Token counts of a Gemini reply. Its `candidatesTokenCount` leaves out thoughts.

use serde::{Deserialize, Serialize};

use crate::wire::Usage;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageIn {
    prompt_token_count: Option<u64>,
    /// Results of tools that Google runs, given to the model as more prompt.
    tool_use_prompt_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
}

impl From<UsageIn> for Usage {
    fn from(usage: UsageIn) -> Self {
        let reasoning = usage.thoughts_token_count.unwrap_or_default();
        Self {
            input: usage.prompt_token_count.unwrap_or_default() + usage.tool_use_prompt_token_count.unwrap_or_default(),
            output: usage.candidates_token_count.unwrap_or_default() + reasoning,
            cache_read: usage.cached_content_token_count.unwrap_or_default(),
            cache_write: 0,
            reasoning,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageOut {
    prompt_token_count: u64,
    candidates_token_count: u64,
    total_token_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_content_token_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thoughts_token_count: Option<u64>,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_token_count: usage.input,
            candidates_token_count: usage.output.saturating_sub(usage.reasoning),
            total_token_count: usage.input + usage.output,
            cached_content_token_count: Some(usage.cache_read).filter(|count| *count > 0),
            thoughts_token_count: Some(usage.reasoning).filter(|count| *count > 0),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnlyUsage {
    usage_metadata: Option<UsageIn>,
}

/// The usage of a whole reply, all else passed over.
pub(in crate::wire) fn only_usage(body: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<OnlyUsage>(body).ok()?.usage_metadata.map(Usage::from)
}
