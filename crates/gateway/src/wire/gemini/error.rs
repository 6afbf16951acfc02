//! Errors as Google writes them.

use serde::Serialize;

use crate::wire::{ErrorBody, json};

#[derive(Serialize)]
struct Envelope<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
}

impl<'a> From<&ErrorBody<'a>> for Envelope<'a> {
    fn from(error: &ErrorBody<'a>) -> Self {
        Self { error: Fields { code: error.status, message: error.message, status: status_of(error.kind) } }
    }
}

/// Google's canonical code for a neutral kind.
fn status_of(kind: &str) -> &'static str {
    match kind {
        "invalid_request_error" | "request_too_large" => "INVALID_ARGUMENT",
        "authentication_error" => "UNAUTHENTICATED",
        "permission_error" => "PERMISSION_DENIED",
        "not_found_error" => "NOT_FOUND",
        "rate_limit_error" | "insufficient_quota" => "RESOURCE_EXHAUSTED",
        "overloaded_error" => "UNAVAILABLE",
        "timeout_error" => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

pub(in crate::wire) fn body(error: &ErrorBody) -> Vec<u8> {
    json::bytes(&Envelope::from(error))
}

/// The same as a server-sent event.
pub(in crate::wire) fn frame(error: &ErrorBody, out: &mut Vec<u8>) {
    json::frame(out, None, &Envelope::from(error));
}
