//! Token counts of a message. Anthropic's `input_tokens` leaves out cached ones.

use serde::{Deserialize, Serialize};

use crate::wire::Usage;

/// Counts as they come: a stream says some of them first and some last, each time as a total so far.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct UsageIn {
    input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl UsageIn {
    /// These counts where they say something, else the earlier ones.
    pub(super) fn over(self, earlier: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.or(earlier.input_tokens),
            cache_read_input_tokens: self.cache_read_input_tokens.or(earlier.cache_read_input_tokens),
            cache_creation_input_tokens: self.cache_creation_input_tokens.or(earlier.cache_creation_input_tokens),
            output_tokens: self.output_tokens.or(earlier.output_tokens),
            output_tokens_details: self.output_tokens_details.or(earlier.output_tokens_details),
        }
    }
}

impl From<UsageIn> for Usage {
    fn from(usage: UsageIn) -> Self {
        let cache_read = usage.cache_read_input_tokens.unwrap_or_default();
        let cache_write = usage.cache_creation_input_tokens.unwrap_or_default();
        let reasoning = usage.output_tokens_details.and_then(|details| details.thinking_tokens);
        Self {
            input: usage.input_tokens.unwrap_or_default() + cache_read + cache_write,
            output: usage.output_tokens.unwrap_or_default(),
            cache_read,
            cache_write,
            reasoning: reasoning.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct UsageOut {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputDetailsOut>,
}

#[derive(Debug, Serialize)]
struct OutputDetailsOut {
    thinking_tokens: u64,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input.saturating_sub(usage.cache_read + usage.cache_write),
            cache_creation_input_tokens: usage.cache_write,
            cache_read_input_tokens: usage.cache_read,
            output_tokens: usage.output,
            output_tokens_details: (usage.reasoning > 0).then_some(OutputDetailsOut { thinking_tokens: usage.reasoning }),
        }
    }
}

/// Reads the member of a whole reply that tells the usage.
pub(in crate::wire) fn read(member: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<Option<UsageIn>>(member).ok()?.map(Usage::from)
}
