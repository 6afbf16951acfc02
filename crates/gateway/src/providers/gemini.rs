//! Google's Gemini API: the model and the operation stand in the path.

use http::HeaderName;

use super::{Operation, openai, percent::segment};
use crate::wire::Wire;

/// The header of a key.
pub(super) const KEY: &str = "x-goog-api-key";

/// Where an operation of a model is. `OpenAI`'s routes, and its wire where that is configured, are under `BASE/openai`, as
/// Google serves them.
pub(super) fn url(base: &str, wire: Wire, operation: Operation, model: &str) -> Option<String> {
    if wire == Wire::OpenaiChat || matches!(operation, Operation::Openai(_)) {
        return openai::path(wire, operation).map(|path| format!("{base}/openai/{path}"));
    }
    let verb = match operation {
        Operation::Chat { streamed: false } => "generateContent",
        Operation::Chat { streamed: true } => "streamGenerateContent?alt=sse",
        Operation::CountTokens => "countTokens",
        Operation::Openai(_) => return None,
    };
    Some(format!("{base}/models/{}:{verb}", segment(model.strip_prefix("models/").unwrap_or(model))))
}

/// How a key is shown.
pub(super) fn credential(wire: Wire, key: &str) -> (HeaderName, String) {
    if wire == Wire::OpenaiChat {
        return openai::credential(key);
    }
    (HeaderName::from_static(KEY), key.to_owned())
}
