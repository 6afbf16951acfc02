//! Gemini's URLs: the model, whether to stream, and sometimes the key stand there and not in the body.

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts};

use crate::{
    auth,
    error::Refusal,
    request::{Model, Scan, Span},
    wire::Wire,
};

/// What a URL asks for.
pub struct Asked {
    model: String,
    stream: bool,
}

/// The model and the method of `/v1beta/models/{model}:{method}`, or of a tuned model's; none for another path.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let rest = ["/v1beta/", "/v1/", "/v1alpha/"].iter().find_map(|version| path.strip_prefix(version))?;
    let named = rest.strip_prefix("models/").or_else(|| rest.starts_with("tunedModels/").then_some(rest))?;
    named.rsplit_once(':').filter(|(model, _)| !model.is_empty())
}

/// Whether a path is that of a model call in Gemini's wire.
pub fn is_call(path: &str) -> bool {
    split(path).is_some_and(|(_, method)| matches!(method, "generateContent" | "streamGenerateContent"))
}

/// What the URL of a request in Gemini's wire asks for; none in other wires. A key in its query becomes a header, so that it
/// is checked like any other, and goes nowhere.
///
/// # Errors
/// 400 for a stream that is not asked for as server-sent events.
pub fn asked(wire: Wire, head: &mut Parts) -> Result<Option<Asked>, Refusal> {
    if wire != Wire::Gemini {
        return Ok(None);
    }
    let query = head.uri.query().unwrap_or_default();
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let (key, sse) = (value("key").map(str::to_owned), value("alt") == Some("sse"));
    if let Some(key) = key {
        if auth::credential(&head.headers).is_none() {
            show(&mut head.headers, &key);
        }
        let left: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("key=")).collect();
        let path = head.uri.path();
        let left = if left.is_empty() { path.to_owned() } else { format!("{path}?{}", left.join("&")) };
        head.uri = left.parse::<Uri>().map_err(|_| Refusal::invalid("The URL cannot be read.", None))?;
    }
    let Some((model, method)) = split(head.uri.path()) else {
        return Err(Refusal::invalid("The URL names no model.", None));
    };
    let stream = method == "streamGenerateContent";
    if stream && !sse {
        let message = "Streams are given as server-sent events: add alt=sse to the URL's query, as Google's SDKs do.";
        return Err(Refusal::invalid(message, Some("alt".to_owned())));
    }
    let model = model.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":");
    Ok(Some(Asked { model, stream }))
}

fn show(headers: &mut HeaderMap, key: &str) {
    if let Ok(mut value) = HeaderValue::try_from(key) {
        value.set_sensitive(true);
        headers.remove(header::AUTHORIZATION);
        headers.insert(HeaderName::from_static("x-goog-api-key"), value);
    }
}

impl Asked {
    /// Puts it where other wires have it.
    pub fn say(self, scan: &mut Scan) {
        scan.model = Some(Model { span: Span { start: 0, end: 0 }, name: self.model });
        scan.stream = self.stream;
    }
}
