//! Amazon Bedrock's `Converse` and `ConverseStream`. Only spoken to providers. The model, and whether to stream, stand in the
//! URL.

pub mod event_stream;
pub(super) mod reply;
pub(super) mod request;
mod request_messages;
mod stream_reader;
pub(super) mod usage;

use std::borrow::Cow;
use std::fmt::Write;

use sha2::{Digest, Sha256};

pub use stream_reader::StreamReader;

use super::{StopReason, WireError};

/// Why the model stopped. The error speaks of a reply that is not one, since the model broke off amid what it wanted to say.
fn stop_of(stop_reason: &str) -> Result<StopReason, WireError> {
    Ok(match stop_reason {
        "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
        "stop_sequence" => StopReason::StopSequence(None),
        "tool_use" => StopReason::ToolUse,
        "guardrail_intervened" | "content_filtered" => StopReason::Refusal,
        "malformed_model_output" | "malformed_tool_use" => {
            return Err(WireError::new(format!("The model's answer broke off with {stop_reason}.")));
        }
        _ => StopReason::EndTurn,
    })
}

/// The longest id of a call that Bedrock takes.
const MAX_CALL_ID: usize = 64;

/// Bedrock takes only letters, digits, `_` and `-` in the ids of calls, and not many; some providers write others.
fn call_id(id: &str) -> Cow<'_, str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.len() > MAX_CALL_ID {
        let mut short = String::from("call_");
        for byte in &Sha256::digest(id)[..16] {
            let _ = write!(short, "{byte:02x}");
        }
        Cow::Owned(short)
    } else if id.chars().all(allowed) {
        Cow::Borrowed(id)
    } else {
        Cow::Owned(id.chars().map(|c| if allowed(c) { c } else { '_' }).collect())
    }
}
