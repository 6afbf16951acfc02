//! Errors in each wire's shape, and a provider's error said in the client's wire.
//!
//! The neutral kinds are Anthropic's error types, with `insufficient_quota` beside them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::text::Text;
use super::{Wire, gemini, json, openai_responses};

/// A request or reply that cannot be converted. About a request, it is a 400 in the client's wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    /// What is wrong and what to do, for the caller to read.
    pub message: String,
    /// The field it is about, as `messages[0].content`.
    pub param: Option<String>,
    /// The field without which the request could be said in the other wire.
    pub(super) droppable: Option<String>,
}

impl WireError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None, droppable: None }
    }

    pub(super) fn at(path: &str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(path.to_owned()), droppable: None }
    }

    pub(super) fn json(error: &serde_json::Error) -> Self {
        Self::new(format!("The request body is not valid JSON for this endpoint: {error}."))
    }

    pub(super) fn reply(error: &serde_json::Error) -> Self {
        Self::new(format!("The provider's reply cannot be understood: {error}."))
    }

    /// Of a client that would speak Bedrock's wire.
    pub(super) fn no_client() -> Self {
        Self::new("Bedrock's wire is spoken to providers only. Ask for the model in one of the other wires.")
    }

    pub(super) fn untranslatable(path: &str) -> Self {
        let message = format!(
            "`{path}` has no equivalent with the provider of this model, which speaks another wire: leave it out, or choose \
             a model whose provider speaks the wire you use."
        );
        Self { droppable: Some(path.to_owned()), ..Self::at(path, message) }
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for WireError {}

/// What an error says, in every wire.
#[derive(Clone, Copy, Debug)]
pub struct ErrorBody<'a> {
    /// The HTTP status it goes with.
    pub status: u16,
    /// The neutral kind: `invalid_request_error`, `authentication_error`, `permission_error`, `not_found_error`,
    /// `request_too_large`, `rate_limit_error`, `insufficient_quota`, `api_error`, `overloaded_error`, `timeout_error`.
    pub kind: &'a str,
    /// What was wrong and what to do.
    pub message: &'a str,
    /// The field it is about. Only `OpenAI`'s wire has a place for it.
    pub param: Option<&'a str>,
    /// A finer code, where there is one. Only `OpenAI`'s wire has a place for it.
    pub code: Option<&'a str>,
    /// Our id of the request. Only Anthropic's wire has a place for it.
    pub request_id: &'a str,
}

#[derive(Serialize)]
struct OpenaiError<'a> {
    error: OpenaiErrorFields<'a>,
}

#[derive(Serialize)]
struct OpenaiErrorFields<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// What Amazon's clients read of an error's body.
#[derive(Serialize)]
struct BedrockError<'a> {
    message: &'a str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    r#type: &'static str,
    error: AnthropicErrorFields<'a>,
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicErrorFields<'a> {
    r#type: &'a str,
    message: &'a str,
}

/// An error as a response body.
pub fn error_body(wire: Wire, error: &ErrorBody) -> Vec<u8> {
    match wire {
        Wire::OpenaiChat | Wire::OpenaiResponses => json::bytes(&openai(error)),
        Wire::AnthropicMessages => json::bytes(&anthropic(error)),
        Wire::Gemini => gemini::error::body(error),
        Wire::BedrockConverse => json::bytes(&BedrockError { message: error.message }),
    }
}

/// The same as a server-sent event, for a stream that has begun; none in a wire whose streams are no such events.
pub fn error_event(wire: Wire, error: &ErrorBody) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match wire {
        Wire::OpenaiChat => openai_frame(error, &mut out),
        Wire::AnthropicMessages => anthropic_frame(error, &mut out),
        Wire::OpenaiResponses => openai_responses::error::frame(error, 0, &mut out),
        Wire::Gemini => gemini::error::frame(error, &mut out),
        Wire::BedrockConverse => return None,
    }
    Some(out)
}

/// An error as an event of `OpenAI`'s chat wire.
pub(super) fn openai_frame(error: &ErrorBody, out: &mut Vec<u8>) {
    json::frame(out, None, &openai(error));
}

/// The same in Anthropic's.
pub(super) fn anthropic_frame(error: &ErrorBody, out: &mut Vec<u8>) {
    json::frame(out, Some("error"), &anthropic(error));
}

/// The body of a provider's error response in the client's wire; the provider's own message is kept. Within one wire a body
/// of the right shape comes back unchanged. `request_id` is ours.
pub fn translate_error(from: Wire, to: Wire, status: u16, body: &[u8], request_id: &str) -> Vec<u8> {
    let found = ProviderError::parse(body);
    if from == to && found.well_formed {
        return body.to_vec();
    }
    let message = if found.message.is_empty() {
        format!("The provider answered with status {status} and no message.")
    } else {
        found.message
    };
    let kind = kind_of(status, &found.kind, &found.code);
    let code = Some(found.code.as_str()).filter(|code| !code.is_empty());
    let param = Some(found.param.as_str()).filter(|param| !param.is_empty());
    error_body(to, &ErrorBody { status, kind, message: &message, param, code, request_id })
}

/// The longest piece of a body that is not JSON (a proxy's HTML page, …) to be shown, in characters.
const MAX_FOREIGN_TEXT: usize = 500;

/// What any provider's error says: `{"error": {…}}`, `{"error": "text"}`, `{"message": …}`, `{"detail": …}`, in a list or not.
#[derive(Default)]
pub(super) struct ProviderError {
    pub kind: String,
    pub message: String,
    param: String,
    pub code: String,
    /// `{"error": {"message": …}}`, as both wires have it.
    well_formed: bool,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    /// Amazon writes it in both ways.
    #[serde(borrow, default, alias = "Message")]
    message: Text<'a>,
    #[serde(borrow, default)]
    detail: Text<'a>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    /// Google's word for the kind; its `code` is the HTTP status again.
    #[serde(borrow, default)]
    status: Text<'a>,
    #[serde(borrow, default)]
    message: Text<'a>,
    #[serde(borrow, default)]
    param: Text<'a>,
    #[serde(borrow, default)]
    code: Text<'a>,
}

impl ProviderError {
    pub(super) fn parse(body: &[u8]) -> Self {
        let envelope = if body.trim_ascii_start().starts_with(b"[") {
            serde_json::from_slice::<Vec<Envelope>>(body).ok().and_then(|listed| listed.into_iter().next())
        } else {
            serde_json::from_slice::<Envelope>(body).ok()
        };
        let Some(envelope) = envelope else {
            let text = String::from_utf8_lossy(body);
            return Self { message: text.trim().chars().take(MAX_FOREIGN_TEXT).collect(), ..Self::default() };
        };
        match envelope.error {
            Some(error) => Self::details(error),
            None if envelope.message.is_empty() => Self { message: envelope.detail.0.into_owned(), ..Self::default() },
            None => Self { message: envelope.message.0.into_owned(), ..Self::default() },
        }
    }

    /// The value of `error`.
    pub(super) fn details(error: &RawValue) -> Self {
        if let Ok(details) = serde_json::from_str::<Details>(error.get()) {
            Self {
                well_formed: !details.message.is_empty(),
                message: details.message.0.into_owned(),
                param: details.param.0.into_owned(),
                code: details.code.given().filter(|_| details.status.is_empty()).unwrap_or_default(),
                kind: details.r#type.given().or(details.status.given()).unwrap_or_default(),
            }
        } else {
            let text = serde_json::from_str::<Text>(error.get()).unwrap_or_default();
            Self { message: text.0.into_owned(), ..Self::default() }
        }
    }
}

/// The neutral kind of a provider's error. `status` 0: unknown, as in mid-stream, where the words must do.
pub(super) fn kind_of(status: u16, kind: &str, code: &str) -> &'static str {
    match status {
        401 => return "authentication_error",
        403 => return "permission_error",
        404 => return "not_found_error",
        408 | 504 => return "timeout_error",
        413 => return "request_too_large",
        503 | 529 => return "overloaded_error",
        // Bedrock, where the model failed.
        424 => return "api_error",
        _ => {}
    }
    match (kind, code) {
        ("insufficient_quota" | "billing_error", _) | (_, "insufficient_quota") => "insufficient_quota",
        _ if status == 402 => "insufficient_quota",
        _ if status == 429 => "rate_limit_error",
        _ if status >= 500 => "api_error",
        ("authentication_error" | "UNAUTHENTICATED", _) | (_, "invalid_api_key") => "authentication_error",
        ("permission_error" | "PERMISSION_DENIED", _) => "permission_error",
        ("not_found_error" | "NOT_FOUND", _) | (_, "model_not_found") => "not_found_error",
        ("request_too_large", _) => "request_too_large",
        ("rate_limit_error" | "requests" | "tokens" | "RESOURCE_EXHAUSTED" | "throttlingException", _)
        | (_, "rate_limit_exceeded") => "rate_limit_error",
        ("overloaded_error" | "UNAVAILABLE" | "serviceUnavailableException", _) | (_, "overloaded" | "503" | "529") => {
            "overloaded_error"
        }
        ("timeout_error" | "DEADLINE_EXCEEDED", _) | (_, "timeout" | "504") => "timeout_error",
        ("invalid_request_error" | "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "validationException", _) => {
            "invalid_request_error"
        }
        _ if status >= 400 => "invalid_request_error",
        _ => "api_error",
    }
}

fn openai<'a>(error: &ErrorBody<'a>) -> OpenaiError<'a> {
    // OpenAI has few types and tells apart by codes.
    let (kind, code) = match error.kind {
        "authentication_error" => ("invalid_request_error", Some("invalid_api_key")),
        "permission_error" => ("invalid_request_error", Some("permission_denied")),
        "not_found_error" => ("invalid_request_error", Some("not_found")),
        "request_too_large" => ("invalid_request_error", Some("request_too_large")),
        "rate_limit_error" => ("rate_limit_error", Some("rate_limit_exceeded")),
        "insufficient_quota" | "billing_error" => ("insufficient_quota", Some("insufficient_quota")),
        "api_error" => ("server_error", None),
        "overloaded_error" => ("server_error", Some("overloaded")),
        "timeout_error" => ("server_error", Some("timeout")),
        other => (other, None),
    };
    let code = error.code.or(code);
    OpenaiError { error: OpenaiErrorFields { message: error.message, r#type: kind, param: error.param, code } }
}

fn anthropic<'a>(error: &ErrorBody<'a>) -> AnthropicError<'a> {
    let kind = if error.kind == "insufficient_quota" { "billing_error" } else { error.kind };
    AnthropicError {
        r#type: "error",
        error: AnthropicErrorFields { r#type: kind, message: error.message },
        request_id: Some(error.request_id).filter(|id| !id.is_empty()),
    }
}
