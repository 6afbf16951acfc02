//! Stage 2, admit: the key's budget and its requests a minute. Atomics on the key; nothing is shared between gateways yet.

use http::StatusCode;

use crate::{error::Refusal, principal::Key};

/// Lets a call in, or says why not.
///
/// # Errors
/// 429 when the budget is spent (`insufficient_quota`) or too many requests came within a minute (`rate_limit_error`).
pub fn admit(key: &Key, now: u64) -> Result<(), Refusal> {
    let limits = &key.limits;
    if limits.exhausted() {
        let message = "The budget of this API key is spent. Raise it, or use another key.";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", message).code("insufficient_quota"));
    }
    limits.take(now).map_err(|wait| {
        let message =
            format!("This API key may make {} requests a minute. Try again in {wait} s.", limits.rpm().unwrap_or_default());
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("rate_limit_exceeded").retry_after(wait)
    })
}
