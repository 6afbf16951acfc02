//! Token counts of a Converse reply. Its `inputTokens` leave out cached ones.

use serde::Deserialize;

use crate::wire::Usage;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct UsageIn {
    #[serde(rename = "inputTokens")]
    input: Option<u64>,
    #[serde(rename = "outputTokens")]
    output: Option<u64>,
    #[serde(rename = "cacheReadInputTokens")]
    cache_read: Option<u64>,
    #[serde(rename = "cacheWriteInputTokens")]
    cache_write: Option<u64>,
}

impl From<UsageIn> for Usage {
    fn from(usage: UsageIn) -> Self {
        let cache_read = usage.cache_read.unwrap_or_default();
        let cache_write = usage.cache_write.unwrap_or_default();
        Self {
            input: usage.input.unwrap_or_default() + cache_read + cache_write,
            output: usage.output.unwrap_or_default(),
            cache_read,
            cache_write,
            reasoning: 0,
        }
    }
}

/// Reads the member of a whole reply that tells the usage.
pub(in crate::wire) fn read(member: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<Option<UsageIn>>(member).ok()?.map(Usage::from)
}
