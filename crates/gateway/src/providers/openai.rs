//! `OpenAI` and the many hosts that copy its paths.

use http::{HeaderName, header};

use super::Operation;
use crate::wire::Wire;

/// The path after the base of `OpenAI`'s route for an operation.
pub(super) fn path(wire: Wire, operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Chat { .. } => match wire {
            Wire::OpenaiChat => Some("chat/completions"),
            Wire::OpenaiResponses => Some("responses"),
            _ => None,
        },
        Operation::Openai(path) => Some(path),
        Operation::CountTokens => None,
    }
}

/// How a key is shown.
pub(super) fn credential(key: &str) -> (HeaderName, String) {
    (header::AUTHORIZATION, format!("Bearer {key}"))
}
