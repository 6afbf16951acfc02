//! Gemini's `generateContent` and `streamGenerateContent`. The model, and whether to stream, stand in the URL.

pub(super) mod error;
pub(super) mod reply;
pub(super) mod request;
mod request_contents;
mod schema;
mod stream_reader;
mod stream_writer;
pub(super) mod usage;

use std::borrow::Cow;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};

pub use stream_reader::StreamReader;
pub use stream_writer::StreamWriter;

use super::{Signature, StopReason, Wire, WireError};

/// What Gemini takes instead of the signature of a tool call whose signature is lost, as after other wires or models.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// Signatures are bytes in base64 here, and Google's clients write them anew, so another provider's must be base64 too, with
/// letters that all of them leave as they are.
const MARKED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// How [`Signature::write`]'s mark begins in base64.
const MARK: &str = "dHJ1bmtsaW5l";

/// What stands where Gemini has its signatures: its own, or another provider's that we put there.
fn signature_in(text: String) -> Signature {
    let marked = if text.starts_with(MARK) { MARKED.decode(text.replace('+', "-").replace('/', "_")).ok() } else { None };
    Signature::read(Wire::Gemini, marked.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(text))
}

/// A signature for a client.
fn signature_out(signature: &Signature) -> Cow<'_, str> {
    match signature.fit_for(Wire::Gemini) {
        Some(ours) => Cow::Borrowed(ours),
        None => Cow::Owned(MARKED.encode(signature.write(Wire::Gemini).as_bytes())),
    }
}

/// Why a candidate ended. The error speaks of a reply that is not one, since the model broke off amid what it wanted to say.
fn stop_of(finish_reason: &str, message: &str, calls_tools: bool) -> Result<StopReason, WireError> {
    Ok(match finish_reason {
        // Also what ends a reply that calls tools.
        "STOP" if calls_tools => StopReason::ToolUse,
        "MAX_TOKENS" | "CONTINUATION" => StopReason::MaxTokens,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "OTHER"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "IMAGE_OTHER"
        | "NO_IMAGE"
        | "ESCALATION"
        | "MODEL_ARMOR"
        | "PUP_LIMITED_DISABLED" => StopReason::Refusal,
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE" => {
            let space = if message.is_empty() { "" } else { " " };
            return Err(WireError::new(format!("The model's answer broke off with {finish_reason}.{space}{message}")));
        }
        _ => StopReason::EndTurn,
    })
}

fn finish_reason_of(stop: &StopReason) -> &'static str {
    match stop {
        StopReason::EndTurn | StopReason::StopSequence(_) | StopReason::ToolUse => "STOP",
        // A paused turn is not whole either, and there is no other word for that.
        StopReason::MaxTokens | StopReason::PauseTurn => "MAX_TOKENS",
        StopReason::Refusal => "SAFETY",
    }
}

/// Older models give calls no id, but results must name one. `id` of the reply keeps it apart from those of other rounds.
fn made_up_call_id(reply_id: &str, index: usize) -> String {
    format!("call_{reply_id}_{index}")
}
