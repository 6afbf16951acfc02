//! Anthropic's API and the hosts that copy its paths.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Operation;

/// Names of the client's headers that say how its request is to be read.
const PASSED_ON: [&str; 2] = ["anthropic-version", "anthropic-beta"];

/// The path after the base of Anthropic's route for an operation.
pub(super) fn path(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Chat { .. } => Some("messages"),
        Operation::CountTokens => Some("messages/count_tokens"),
        Operation::Openai(_) => None,
    }
}

/// How a key is shown.
pub(super) fn credential(key: &str) -> (HeaderName, String) {
    (HeaderName::from_static("x-api-key"), key.to_owned())
}

/// Adds what every request says of itself: the client's words where it speaks this wire, else the version that we write.
pub(super) fn version(out: &mut HeaderMap, client: Option<&HeaderMap>) {
    for name in PASSED_ON {
        for value in client.into_iter().flat_map(|client| client.get_all(name)) {
            out.append(name, value.clone());
        }
    }
    out.entry("anthropic-version").or_insert(HeaderValue::from_static("2023-06-01"));
}
