//! Google's Gemini API: the model and the operation stand in the path.

use http::HeaderName;

use super::{Operation, openai, percent::segment};
use crate::wire::Wire;

/// Where an operation of a model is. A provider of this family that is configured with `OpenAI`'s wire has that under
/// `BASE/openai`, as Google serves it.
pub(super) fn url(base: &str, wire: Wire, operation: Operation, model: &str) -> Option<String> {
    if wire == Wire::OpenaiChat {
        return openai::path(wire, operation).map(|path| format!("{base}/openai/{path}"));
    }
    let verb = match operation {
        Operation::Chat { streamed: false } => "generateContent",
        Operation::Chat { streamed: true } => "streamGenerateContent?alt=sse",
        Operation::CountTokens => "countTokens",
        Operation::Embeddings | Operation::Completions => return None,
    };
    Some(format!("{base}/models/{}:{verb}", segment(model.strip_prefix("models/").unwrap_or(model))))
}

/// How a key is shown.
pub(super) fn credential(wire: Wire, key: &str) -> (HeaderName, String) {
    if wire == Wire::OpenaiChat {
        return openai::credential(key);
    }
    (HeaderName::from_static("x-goog-api-key"), key.to_owned())
}
