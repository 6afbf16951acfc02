//! Token counts of a response.

use serde::{Deserialize, Serialize};

use crate::wire::Usage;

#[derive(Debug, Default, Deserialize)]
pub(super) struct UsageIn {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<InputDetails>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Default, Deserialize)]
struct InputDetails {
    cached_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct OutputDetails {
    reasoning_tokens: Option<u64>,
}

impl From<UsageIn> for Usage {
    fn from(usage: UsageIn) -> Self {
        let input = usage.input_tokens_details.unwrap_or_default();
        Self {
            input: usage.input_tokens.unwrap_or_default(),
            output: usage.output_tokens.unwrap_or_default(),
            cache_read: input.cached_tokens.unwrap_or_default(),
            cache_write: input.cache_write_tokens.unwrap_or_default(),
            reasoning: usage.output_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct UsageOut {
    input_tokens: u64,
    input_tokens_details: InputDetailsOut,
    output_tokens: u64,
    output_tokens_details: OutputDetailsOut,
    total_tokens: u64,
}

#[derive(Debug, Serialize)]
struct InputDetailsOut {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Debug, Serialize)]
struct OutputDetailsOut {
    reasoning_tokens: u64,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input,
            input_tokens_details: InputDetailsOut { cached_tokens: usage.cache_read, cache_write_tokens: usage.cache_write },
            output_tokens: usage.output,
            output_tokens_details: OutputDetailsOut { reasoning_tokens: usage.reasoning },
            total_tokens: usage.input + usage.output,
        }
    }
}

/// Reads the member of a whole reply that tells the usage.
pub(in crate::wire) fn read(member: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<Option<UsageIn>>(member).ok()?.map(Usage::from)
}
