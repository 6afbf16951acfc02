//! Anthropic's messages.

pub mod memory_tool;
pub(super) mod reply;
pub(super) mod request;
mod request_messages;
mod stream_reader;
mod stream_writer;
pub(super) mod usage;

pub use stream_reader::StreamReader;
pub use stream_writer::StreamWriter;

use super::StopReason;

/// The provider's cache is asked for block by block here, and used by itself elsewhere.
const CACHE_CONTROL: &str = "cache_control";

fn stop_of(stop_reason: &str, stop_sequence: Option<String>) -> StopReason {
    match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
        "stop_sequence" => StopReason::StopSequence(stop_sequence),
        "tool_use" => StopReason::ToolUse,
        "refusal" => StopReason::Refusal,
        "pause_turn" => StopReason::PauseTurn,
        _ => StopReason::EndTurn,
    }
}

/// `stop_reason` and `stop_sequence`.
fn stop_fields_of(stop: &StopReason) -> (&'static str, Option<&str>) {
    match stop {
        StopReason::EndTurn => ("end_turn", None),
        StopReason::MaxTokens => ("max_tokens", None),
        StopReason::StopSequence(sequence) => ("stop_sequence", sequence.as_deref()),
        StopReason::ToolUse => ("tool_use", None),
        StopReason::Refusal => ("refusal", None),
        StopReason::PauseTurn => ("pause_turn", None),
    }
}
