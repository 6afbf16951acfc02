//! A whole reply.

use serde_json::value::RawValue;

use crate::wire::{Reply, ToolResult, WireError};

pub(in crate::wire) fn parse(_body: &[u8]) -> Result<Reply, WireError> {
    Err(WireError::new("not written yet"))
}

/// The messages of one more round: what the model said, and the results of the tools it called.
pub(in crate::wire) fn round(_reply: &Reply, _results: &[ToolResult]) -> Vec<Box<RawValue>> {
    Vec::new()
}
