//! `OpenAI`'s responses.

pub(super) mod error;
pub(super) mod reply;
pub(super) mod request;
mod request_input;
mod stream_reader;
mod stream_writer;
pub(super) mod usage;

pub use stream_reader::StreamReader;
pub use stream_writer::StreamWriter;

use serde_json::{Value, json};

use super::{Signature, StopReason, Wire};

/// Why a response ended: its `status`, and the `reason` of its `incomplete_details`. A reply that calls tools just ends.
fn stop_of(status: &str, reason: &str, calls_tools: bool) -> StopReason {
    match (status, reason) {
        ("incomplete", "content_filter") => StopReason::Refusal,
        ("incomplete", _) => StopReason::MaxTokens,
        _ if calls_tools => StopReason::ToolUse,
        _ => StopReason::EndTurn,
    }
}

/// `status` and `incomplete_details`.
fn status_of(stop: &StopReason) -> (&'static str, Value) {
    match stop {
        StopReason::EndTurn | StopReason::StopSequence(_) | StopReason::ToolUse => ("completed", Value::Null),
        // A paused turn is not whole either, and there is no other word for that.
        StopReason::MaxTokens | StopReason::PauseTurn => ("incomplete", json!({"reason": "max_output_tokens"})),
        StopReason::Refusal => ("incomplete", json!({"reason": "content_filter"})),
    }
}

/// The proof of a reasoning item: `encrypted_content`, and the item's id, which goes back with it.
fn signature(id: &str, encrypted: String) -> Signature {
    let read = Signature::read(Wire::OpenaiResponses, encrypted);
    if read.of == Wire::OpenaiResponses { Signature { text: format!("{id}:{}", read.text), ..read } } else { read }
}

/// The id and `encrypted_content` of a proof, if a provider of this wire made it.
fn native(signature: &Signature) -> Option<(&str, &str)> {
    signature.fit_for(Wire::OpenaiResponses).and_then(|text| text.split_once(':'))
}

/// What stands as `encrypted_content` for a client; the id, where the proof has one.
fn encrypted(signature: &Signature) -> (Option<&str>, String) {
    match native(signature) {
        Some((id, encrypted)) => (Some(id), encrypted.to_owned()),
        None => (None, signature.write(Wire::OpenaiResponses).into_owned()),
    }
}

/// A response's id begins so; ids of other wires are made to.
fn response_id(id: &str) -> String {
    if id.starts_with("resp_") { id.to_owned() } else { format!("resp_{id}") }
}

/// The id of an output item, unlike that of any other.
fn item_id(kind: &str, response: &str, index: usize) -> String {
    format!("{kind}_{}_{index}", response.strip_prefix("resp_").unwrap_or(response))
}
