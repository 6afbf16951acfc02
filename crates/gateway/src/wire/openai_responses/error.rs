//! The error event of a stream. Whole errors are those of `OpenAI`'s chat wire.

use serde::Serialize;

use crate::wire::{ErrorBody, json};

/// `OpenAI`'s SDKs read these events like the others, so all members are there.
#[derive(Serialize)]
struct ErrorEvent<'a> {
    r#type: &'static str,
    sequence_number: u64,
    code: &'a str,
    message: &'a str,
    param: Option<&'a str>,
}

/// An `error` event at the end of `out`. `sequence` is the number that the stream has come to; 0 where nobody counts.
pub(in crate::wire) fn frame(error: &ErrorBody, sequence: u64, out: &mut Vec<u8>) {
    let event = ErrorEvent {
        r#type: "error",
        sequence_number: sequence,
        code: error.code.unwrap_or(error.kind),
        message: error.message,
        param: error.param,
    };
    json::frame(out, Some("error"), &event);
}
