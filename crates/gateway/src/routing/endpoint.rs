//! Where an upstream's requests go and what each of them bears. The one place that makes URLs and credentials.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::{
    config::{ProviderConfig, UpstreamConfig},
    wire::Wire,
};

/// A host of models.
pub struct Provider {
    /// Its name in `PROVIDER/model`.
    pub name: String,
    /// The wire it speaks.
    pub wire: Wire,
}

/// What is the same for each request to an upstream, made once, when the configuration is read.
pub struct Endpoint {
    /// Where its wire's one route is.
    pub uri: Uri,
    /// Our key and the content type.
    pub headers: HeaderMap,
}

impl Endpoint {
    /// The endpoint of a provider, with what an upstream has of its own.
    ///
    /// # Errors
    /// Where the URL, the key or a header cannot be used.
    pub fn new(provider: &ProviderConfig, own: &UpstreamConfig) -> Result<Arc<Self>, String> {
        let base_url = own.base_url.as_deref().unwrap_or(&provider.base_url);
        let path = match provider.wire {
            Wire::OpenaiChat => "chat/completions",
            Wire::AnthropicMessages => "messages",
        };
        let text = format!("{}/{path}", base_url.trim_end_matches('/'));
        let uri: Uri = text.parse().map_err(|_| format!("provider '{}': '{base_url}' is not a URL", provider.name))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!("provider '{}': base_url must begin with http:// or https://", provider.name));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("trunkline/", env!("CARGO_PKG_VERSION"))));
        if let Some(key) = own.api_key.as_ref().or(provider.api_key.as_ref()) {
            let (name, text) = credentials(provider.wire, key);
            let mut value = HeaderValue::try_from(text)
                .map_err(|_| format!("provider '{}': its key holds characters that no header can", provider.name))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        for (name, text) in &own.headers {
            let fault = || format!("provider '{}': the header '{name}' cannot be sent", provider.name);
            let value = HeaderValue::try_from(text).map_err(|_| fault())?;
            headers.insert(HeaderName::try_from(name).map_err(|_| fault())?, value);
        }
        Ok(Arc::new(Self { uri, headers }))
    }
}

/// The header that a wire's hosts take a key in.
fn credentials(wire: Wire, key: &str) -> (HeaderName, String) {
    match wire {
        Wire::OpenaiChat => (header::AUTHORIZATION, format!("Bearer {key}")),
        Wire::AnthropicMessages => (HeaderName::from_static("x-api-key"), key.to_owned()),
    }
}
