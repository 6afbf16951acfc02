//! Which model a request to a provider's own path names: in its path, in a JSON body, or in a form.

use bytes::Bytes;
use http::HeaderMap;

use super::{content_type, multipart};
use crate::{
    error::Refusal,
    request::{self, Scan},
};

/// What a request names.
#[derive(Default)]
pub struct Named {
    /// The model.
    pub model: Option<String>,
    /// The parts of a JSON body.
    pub scan: Option<Scan>,
}

/// The ends of paths that call a model, and leave nothing behind at the provider but their answer.
const CALLS: [&str; 24] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/moderations",
    "/images/generations",
    "/images/edits",
    "/images/variations",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/rerank",
    "/messages",
    "/messages/count_tokens",
    ":generateContent",
    ":streamGenerateContent",
    ":countTokens",
    ":embedContent",
    ":batchEmbedContents",
    ":predict",
    "/converse",
    "/converse-stream",
    "/invoke",
    "/invoke-with-response-stream",
];

/// Whether a path calls a model.
pub fn is_model_call(path: &str) -> bool {
    // Under these, OpenAI keeps what others have put there: threads have messages too.
    let kept = ["threads", "assistants", "fine_tuning", "batches", "conversations", "vector_stores"];
    CALLS.iter().any(|end| path.ends_with(end)) && !path.split('/').any(|segment| kept.contains(&segment))
}

/// Whether a path of its own asks for a stream, where others say it in the body.
pub fn is_streamed(path: &str) -> bool {
    ["/converse-stream", "/invoke-with-response-stream", ":streamGenerateContent"].iter().any(|end| path.ends_with(end))
}

impl Named {
    /// What a request names. The path goes first: where it names a model, the provider does not look for one in the body.
    ///
    /// # Errors
    /// 400 for a JSON body that is none, or that names its model twice.
    pub fn find(path: &str, headers: &HeaderMap, body: Option<&Bytes>) -> Result<Self, Refusal> {
        let in_path = in_path(path);
        let Some(body) = body.filter(|body| !body.is_empty()) else { return Ok(Self { model: in_path, scan: None }) };
        if content_type(headers) == "multipart/form-data" {
            let part = multipart::field(headers, body, "model")?;
            let model = part.and_then(|span| std::str::from_utf8(span.of(body)).ok()).map(str::to_owned);
            return Ok(Self { model: in_path.or(model), scan: None });
        }
        match request::named(body) {
            Ok(scan) => {
                Ok(Self { model: in_path.or_else(|| scan.model.as_ref().map(|model| model.name.clone())), scan: Some(scan) })
            }
            // An array, for example, which some routes take and which names no model; or something only to be signed.
            Err(malformed) if malformed.offset.is_none() && malformed.param.is_none() => Ok(Self { model: in_path, scan: None }),
            Err(malformed) => Err(Refusal::invalid(format!("{}.", malformed.message), malformed.param)),
        }
    }
}

/// The segment after `models` (Gemini, up to the verb), `model` (Bedrock) or `deployments` (Azure).
fn in_path(path: &str) -> Option<String> {
    if !is_model_call(path) {
        return None;
    }
    let mut segments = path.split('/');
    let named = segments.by_ref().find(|segment| matches!(*segment, "models" | "model" | "deployments"))?;
    let model = segments.next()?;
    let model = if named == "models" { model.rsplit_once(':')?.0 } else { model };
    Some(crate::providers::unescaped(model)).filter(|model| !model.is_empty())
}
