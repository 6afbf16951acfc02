//! `OpenAI`'s chat completions, and the dialects of the providers that follow it.

pub(super) mod reply;
pub(super) mod request;
mod request_messages;
mod stream_reader;
mod stream_writer;
pub(super) mod usage;

pub(super) use reply::result_text;
pub(super) use request::named_schema;
pub(super) use request_messages::{document_of, image_of};
pub use stream_reader::StreamReader;
pub use stream_writer::StreamWriter;

use super::StopReason;

/// `tool_calls` says less than it should with some providers, and with all where the client forced a tool: there, `stop` ends a
/// reply that calls tools.
fn stop_of(finish_reason: &str, calls_tools: bool) -> StopReason {
    match finish_reason {
        "length" => StopReason::MaxTokens,
        "content_filter" => StopReason::Refusal,
        "tool_calls" | "function_call" => StopReason::ToolUse,
        _ if calls_tools => StopReason::ToolUse,
        _ => StopReason::EndTurn,
    }
}

fn finish_reason_of(stop: &StopReason) -> &'static str {
    match stop {
        StopReason::EndTurn | StopReason::StopSequence(_) => "stop",
        // A paused turn is not whole either, and there is no other word for that.
        StopReason::MaxTokens | StopReason::PauseTurn => "length",
        StopReason::ToolUse => "tool_calls",
        StopReason::Refusal => "content_filter",
    }
}
