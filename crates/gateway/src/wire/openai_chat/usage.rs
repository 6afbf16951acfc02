//! Token counts of a chat completion.

use serde::{Deserialize, Serialize};

use crate::wire::Usage;

#[derive(Debug, Default, Deserialize)]
pub(super) struct UsageIn {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// `DeepSeek`'s name for the cached tokens.
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl From<UsageIn> for Usage {
    fn from(usage: UsageIn) -> Self {
        let prompt = usage.prompt_tokens_details.unwrap_or_default();
        Self {
            input: usage.prompt_tokens.unwrap_or_default(),
            output: usage.completion_tokens.unwrap_or_default(),
            cache_read: prompt.cached_tokens.or(usage.prompt_cache_hit_tokens).unwrap_or_default(),
            cache_write: prompt.cache_write_tokens.unwrap_or_default(),
            reasoning: usage.completion_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct UsageOut {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetailsOut,
    completion_tokens_details: CompletionDetailsOut,
}

#[derive(Debug, Serialize)]
struct PromptDetailsOut {
    cached_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cache_write_tokens: u64,
}

#[derive(Debug, Serialize)]
struct CompletionDetailsOut {
    reasoning_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input,
            completion_tokens: usage.output,
            total_tokens: usage.input + usage.output,
            prompt_tokens_details: PromptDetailsOut { cached_tokens: usage.cache_read, cache_write_tokens: usage.cache_write },
            completion_tokens_details: CompletionDetailsOut { reasoning_tokens: usage.reasoning },
        }
    }
}

/// Reads the member of a whole reply that tells the usage.
pub(in crate::wire) fn read(member: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<Option<UsageIn>>(member).ok()?.map(Usage::from)
}
