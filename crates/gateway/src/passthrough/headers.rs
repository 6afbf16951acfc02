//! Which headers go along. To a provider only those of this list: what a client or a proxy before us says of itself is none
//! of its business, and what it does not know it cannot misread. Back to the client, all that are not the connection's or a secret.

use http::{HeaderMap, HeaderName, header};

use crate::{control, providers::Endpoint};

/// Headers that say what the request is.
const PASSED_ON: [&str; 17] = [
    "accept",
    "accept-language",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-range",
    "content-type",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "openai-beta",
    "range",
    "x-client-request-id",
    "x-session-affinity",
];
/// Beginnings of the names of more of them: resumable uploads, Bedrock's guardrails.
const FAMILIES: [&str; 2] = ["x-goog-upload-", "x-amzn-bedrock-"];
/// Headers of an answer that speak of the provider's connection, or would be kept for our host.
const KEPT_BACK: [&str; 6] =
    ["set-cookie", "alt-svc", "strict-transport-security", "www-authenticate", "clear-site-data", "content-security-policy"];

/// The client's headers that a provider is to see.
pub fn to_provider(client: &HeaderMap) -> HeaderMap {
    let named = control::named_in_connection(client);
    let passes = |name: &HeaderName| {
        let text = name.as_str();
        PASSED_ON.contains(&text) || FAMILIES.iter().any(|start| text.starts_with(start))
    };
    client
        .iter()
        .filter(|(name, _)| passes(name) && !named.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The provider's headers that the client is to see.
pub fn to_client(mut provider: HeaderMap, endpoint: &Endpoint) -> HeaderMap {
    control::strip(&mut provider);
    for name in KEPT_BACK {
        provider.remove(name);
    }
    provider.remove(header::DATE);
    let betrayed: Vec<HeaderName> =
        provider.iter().filter(|(_, value)| endpoint.betrayed_by(value.as_bytes())).map(|(name, _)| name.clone()).collect();
    for name in betrayed {
        provider.remove(name);
    }
    provider
}
