//! What an answer tells of its call, in headers that all routes share.

use std::{io::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use uuid::Uuid;

use crate::{
    body::Body,
    error::Refusal,
    gateway::Worker,
    record::CallName,
    remember::{Memory, State},
    routing::SESSION,
    wire::Wire,
};

/// The call's id.
pub const CALL: HeaderName = HeaderName::from_static("x-trunkline-call");
/// The provider that answered, and its name for the model.
pub const UPSTREAM: HeaderName = HeaderName::from_static("x-trunkline-upstream");
/// A hash of what the session's prompts begin with: the agent's instructions and the blocks.
pub const PREFIX: HeaderName = HeaderName::from_static("x-trunkline-prefix-hash");
/// Where the call's memory came from.
pub const MEMORY: HeaderName = HeaderName::from_static("x-trunkline-memory");
/// How passages were looked for.
pub const RECALL: HeaderName = HeaderName::from_static("x-trunkline-recall");
/// US dollars, as the call's usage has them. Left out where they are not known yet when the head is sent, as of streams, and
/// where the model has no price.
pub const COST: HeaderName = HeaderName::from_static("x-trunkline-cost");
/// Microseconds from the request's head until the provider's, without those that a provider was waited for.
pub const OVERHEAD: HeaderName = HeaderName::from_static("x-trunkline-overhead-us");
/// Attempts after the first, at whichever upstream.
pub const RETRIES: HeaderName = HeaderName::from_static("x-trunkline-retries");

/// What was measured of a call by the time that its answer's head is written.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Attempts after the first.
    pub retries: u32,
    /// Our own part of the time until the provider's head.
    pub overhead: Duration,
    /// US dollars, where they are known by now.
    pub cost: Option<f64>,
}

/// Puts into an answer's head what every answer tells, whoever gave it. `upstream` is who did, where somebody did; `memory` what
/// went into the call, where something did.
pub fn tell(headers: &mut HeaderMap, call: CallName, upstream: Option<&HeaderValue>, memory: Option<&Memory>, figures: &Figures) {
    headers.insert(CALL, call.header());
    if let Some(upstream) = upstream {
        headers.insert(UPSTREAM, upstream.clone());
    }
    let state = memory.map_or(State::None, |memory| memory.state);
    headers.insert(MEMORY, HeaderValue::from_static(state.name()));
    if let Some(memory) = memory {
        headers.insert(SESSION, session(memory.session));
        prefix(headers, memory.prefix_hash);
        if let Some(recalled) = memory.recalled {
            headers.insert(RECALL, recalled.header());
        }
    }
    headers.insert(OVERHEAD, HeaderValue::from(u64::try_from(figures.overhead.as_micros()).unwrap_or(u64::MAX)));
    headers.insert(RETRIES, count(figures.retries));
    if let Some(cost) = figures.cost {
        headers.insert(COST, usd(cost));
    }
}

/// A session's id as clients see it.
pub fn session(id: Uuid) -> HeaderValue {
    let mut text = *b"sesn_................................";
    id.simple().encode_lower(&mut text[5..]);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Puts the hash of what the prompt begins with into an answer's head.
fn prefix(headers: &mut HeaderMap, hash: Option<u64>) {
    let Some(hash) = hash else { return };
    let digits = |byte: u8| [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    let text = hash.to_be_bytes().map(digits);
    if let Ok(value) = HeaderValue::from_bytes(text.as_flattened()) {
        headers.insert(PREFIX, value);
    }
}

/// The answer to a call that the gateway itself refuses, in the client's wire.
pub fn refused(worker: &Worker, refusal: &Refusal, wire: Wire, call: Uuid) -> Response<Body> {
    worker.gateway.metrics.refused(refusal.reason);
    let name = CallName::of(call);
    let mut response = refusal.response(wire, &name);
    response.headers_mut().insert(CALL, name.header());
    if refusal.retries > 0 {
        response.headers_mut().insert(RETRIES, count(refusal.retries));
    }
    response
}

fn count(retries: u32) -> HeaderValue {
    if retries == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(retries) }
}

/// US dollars in decimals, to a billionth of a thousandth: what a token costs has no more places.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a cost is not below nothing, nor above 18 million
pub fn usd(cost: f64) -> HeaderValue {
    // Above this, a float has no more places than those.
    let parts = if cost < 1e3 { (cost * 1e12).round() as u64 } else { (cost * 1e9).round() as u64 * 1_000 };
    let (whole, rest) = (parts / 1_000_000_000_000, parts % 1_000_000_000_000);
    if rest == 0 {
        return HeaderValue::from(whole);
    }
    let mut text = [0; 33];
    let mut left = &mut text[..];
    // There is room for all digits of both.
    let _ = write!(left, "{whole}.{rest:012}");
    let end = text.iter().rposition(|digit| !matches!(digit, 0 | b'0')).map_or(0, |last| last + 1);
    HeaderValue::from_bytes(&text[..end]).unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_told_in_decimals() {
        for (cost, text) in [
            (0.0, "0"),
            (3.0, "3"),
            (0.1 + 0.2, "0.3"),
            (0.000_123_456, "0.000123456"),
            (1e-12, "0.000000000001"),
            (1e-13, "0"),
            (1_234.5, "1234.5"),
            (10_000_000.25, "10000000.25"),
        ] {
            assert_eq!(usd(cost), text);
        }
    }
}
