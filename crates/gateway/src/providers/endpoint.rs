//! A configured provider as requests see it: where each of its routes is, and the headers that each request has. What no
//! request decides is made once.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use super::{Family, anthropic, azure, bedrock, gemini, openai, percent, sigv4::Signer};
use crate::{
    config::{ProviderConfig, UpstreamConfig},
    connections::Reach,
    error::Refusal,
    wire::Wire,
};

/// What is asked of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A model call in the provider's wire.
    Chat {
        /// Whether the answer is to be streamed: some have a route of its own for that.
        streamed: bool,
    },
    /// Another route of `OpenAI`'s that names a model: `embeddings`, `audio/speech`.
    Openai(&'static str),
    /// How many tokens a prompt has.
    CountTokens,
}

impl Operation {
    const CALLS: [Self; 3] = [Self::Chat { streamed: false }, Self::Chat { streamed: true }, Self::CountTokens];

    fn words(self) -> &'static str {
        match self {
            Self::Chat { .. } => "model calls in its wire",
            Self::Openai(path) => path,
            Self::CountTokens => "token counting",
        }
    }
}

/// What decides a request beside its body.
pub struct Outline<'a> {
    /// What is asked.
    pub operation: Operation,
    /// The model's name at the provider.
    pub model: &'a str,
    /// The query of the client's URL, where the client speaks the provider's wire.
    pub query: Option<&'a str>,
    /// The client's headers, where the client speaks the provider's wire.
    pub client: Option<&'a HeaderMap>,
    /// What the body is, where it is no JSON.
    pub content_type: Option<&'a HeaderValue>,
}

/// A provider's routes.
pub struct Endpoint {
    name: String,
    family: Family,
    wire: Wire,
    base: String,
    reach: Reach,
    version: Option<String>,
    /// Routes that are the same for every model.
    fixed: Vec<(Operation, Uri)>,
    /// The headers of each request: our key, who we are.
    headers: HeaderMap,
    /// Our key as `OpenAI`'s routes want it, where the family has them beside its own.
    bearer: Option<HeaderValue>,
    signer: Option<Signer>,
}

/// Names in a query that carry credentials: a client's are ours to check, not a provider's to see.
const SECRET: [&str; 5] = ["key", "api_key", "api-key", "apikey", "access_token"];

impl Endpoint {
    /// The routes of a configured provider in one of its wires, with what an upstream has of its own.
    ///
    /// # Errors
    /// Where its URL, a header or its credentials cannot be used.
    pub fn new(given: &ProviderConfig, own: &UpstreamConfig, wire: Wire) -> Result<Self, String> {
        let family = given.family.unwrap_or_else(|| Family::of(wire));
        let given_base = own.base_url.as_ref().or_else(|| given.base_urls.get(&wire)).unwrap_or(&given.base_url);
        let base = given_base.trim_end_matches('/').to_owned();
        let reach = if own.base_url.is_some() { Reach::Configured } else { given.reach };
        let wrong = |what: &str| format!("provider '{}': {what}", given.name);
        let uri: Uri = base.parse().map_err(|_| wrong(&format!("'{given_base}' is not a URL")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(wrong("base_url must begin with http:// or https://"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) || base.contains(['?', '#']) {
            return Err(wrong("base_url may hold neither credentials nor a query"));
        }
        if given.api_version.is_some() && family != Family::Azure {
            return Err(wrong("api_version is for the family azure"));
        }
        if (given.aws.is_some() || given.region.is_some()) && family != Family::Bedrock {
            return Err(wrong("region and access keys are for the family bedrock"));
        }
        let (mut headers, mut bearer) = (HeaderMap::new(), None);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("trunkline/", env!("CARGO_PKG_VERSION"))));
        // What comes compressed all the same is read, but nothing is won by it here.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(key) = own.api_key.as_ref().or(given.api_key.as_ref()) {
            let (name, text) = match family {
                Family::Openai | Family::Bedrock => openai::credential(key),
                Family::Anthropic => anthropic::credential(key),
                Family::Gemini => gemini::credential(wire, key),
                Family::Azure => azure::credential(key),
            };
            let mut value = HeaderValue::try_from(text).map_err(|_| wrong("its key holds characters that no header can"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
            if family == Family::Gemini {
                bearer = HeaderValue::try_from(openai::credential(key).1).ok();
            }
        }
        for (name, text) in &own.headers {
            let fault = || wrong(&format!("the header '{name}' cannot be sent"));
            let value = HeaderValue::try_from(text).map_err(|_| fault())?;
            headers.insert(HeaderName::try_from(name).map_err(|_| fault())?, value);
        }
        let signer = if family == Family::Bedrock && own.api_key.is_none() { bedrock::signer(given)? } else { None };
        let (name, version) = (given.name.clone(), given.api_version.clone());
        let mut endpoint = Self { name, family, wire, base, reach, version, fixed: Vec::new(), headers, bearer, signer };
        for operation in Operation::CALLS {
            let urls = (endpoint.url(operation, "a"), endpoint.url(operation, "b"));
            if let (Some(url), Some(other)) = urls
                && url == other
            {
                endpoint.fixed.push((operation, url.parse().map_err(|_| wrong("its base_url makes no URL"))?));
            }
        }
        if endpoint.url(Operation::Chat { streamed: false }, "a").is_none() {
            return Err(wrong(&format!("its family has no route for the wire {wire}")));
        }
        Ok(endpoint)
    }

    /// Which addresses its host may stand for.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// How it is addressed.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether it has a route for an operation.
    pub fn serves(&self, operation: Operation) -> bool {
        self.url(operation, "a").is_some()
    }

    /// Whether a text holds a credential of ours: a provider may repeat what it was sent.
    pub fn betrayed_by(&self, text: &[u8]) -> bool {
        self.keys().any(|key| memchr::memmem::find(text, key).is_some())
    }

    /// A provider's words with stars in place of what they repeat of our credentials, as long as they were.
    pub fn masked(&self, words: Bytes) -> Bytes {
        if !self.betrayed_by(&words) {
            return words;
        }
        let mut masked = BytesMut::from(words);
        for key in self.keys() {
            while let Some(start) = memchr::memmem::find(&masked, key) {
                masked[start..start + key.len()].fill(b'*');
            }
        }
        masked.freeze()
    }

    /// The same for a text.
    pub fn masked_text(&self, words: &str) -> String {
        String::from_utf8_lossy(&self.masked(Bytes::copy_from_slice(words.as_bytes()))).into_owned()
    }

    /// Our credentials as they are sent. Shorter ones are such as `ollama`: no secrets, and words that any answer may hold. One
    /// of stars alone would be found in its own mask.
    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let names = [header::AUTHORIZATION.as_str(), "x-api-key", "api-key", gemini::KEY];
        let values = names.into_iter().filter_map(|name| self.headers.get(name)).map(HeaderValue::as_bytes);
        let keys = values.map(|value| value.strip_prefix(b"Bearer ").unwrap_or(value));
        keys.filter(|key| key.len() >= 10 && key.iter().any(|byte| *byte != b'*'))
    }

    /// Whether each request is signed, body and all.
    pub fn signs(&self) -> bool {
        self.signer.is_some()
    }

    fn url(&self, operation: Operation, model: &str) -> Option<String> {
        let base = &self.base;
        match self.family {
            Family::Openai => openai::path(self.wire, operation).map(|path| format!("{base}/{path}")),
            Family::Anthropic => anthropic::path(operation).map(|path| format!("{base}/{path}")),
            Family::Gemini => gemini::url(base, self.wire, operation, model),
            Family::Azure => azure::url(base, self.wire, operation, model, self.version.as_deref()),
            Family::Bedrock => bedrock::url(base, self.wire, operation, model),
        }
    }

    /// Where an operation of a model is.
    ///
    /// # Errors
    /// 400 where the provider has no such route, or the model's name cannot stand in one.
    pub fn uri(&self, operation: Operation, model: &str) -> Result<Uri, Refusal> {
        if let Some((_, uri)) = self.fixed.iter().find(|(known, _)| *known == operation) {
            return Ok(uri.clone());
        }
        let url = self.url(operation, model).ok_or_else(|| {
            let message =
                format!("The provider '{}' of this model has no {}. Choose another model.", self.name, operation.words());
            Refusal::invalid(message, Some("model".to_owned()))
        })?;
        // Encoded, every other name is one segment of the path.
        if matches!(model, "" | "." | "..") {
            return Err(Refusal::invalid(format!("'{model}' is not the name of a model."), Some("model".to_owned())));
        }
        url.parse().map_err(|_| Refusal::invalid("The model's name makes no URL.", Some("model".to_owned())))
    }

    /// The request for an operation, credentials and all.
    ///
    /// # Errors
    /// 400 where the provider has no such route, or the client's query cannot be passed on.
    pub fn request(&self, outline: &Outline, body: Bytes) -> Result<Request<Full<Bytes>>, Refusal> {
        let mut uri = self.uri(outline.operation, outline.model)?;
        if let Some(query) = outline.query {
            uri = merged(&uri.to_string(), query)?;
        }
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 4);
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, outline.content_type.cloned().unwrap_or(json));
        self.authorize(&mut headers, outline.client);
        if let (Operation::Openai(_), Some(bearer)) = (outline.operation, &self.bearer) {
            headers.remove(gemini::KEY);
            headers.insert(header::AUTHORIZATION, bearer.clone());
        }
        self.sign(&Method::POST, &uri, &mut headers, &body);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Adds our key, and what the family's requests say of themselves.
    pub fn authorize(&self, headers: &mut HeaderMap, client: Option<&HeaderMap>) {
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        if self.family == Family::Anthropic {
            anthropic::version(headers, client);
        }
    }

    /// Signs a request that is otherwise complete, where the provider asks for that.
    pub fn sign(&self, method: &Method, uri: &Uri, headers: &mut HeaderMap, body: &[u8]) {
        if let Some(signer) = &self.signer {
            signer.sign(method, uri, headers, body, SystemTime::now());
        }
    }

    /// Where a path of the provider's own is: `path` begins with a slash, and is the client's. If it begins with a version
    /// (`/v1`, `/v1beta`), that takes the place of the one that the base URL ends with.
    ///
    /// # Errors
    /// 400 for a path that could lead elsewhere than it says.
    pub fn relayed(&self, path: &str, query: Option<&str>) -> Result<Uri, Refusal> {
        if let Some(what) = misleading(path) {
            let message = format!("The path '{path}' {what}: it is not passed on. Write it without.");
            return Err(Refusal::invalid(message, None).code("invalid_path"));
        }
        let mut base = if self.family == Family::Azure { azure::root(&self.base) } else { &self.base };
        let first = path[1..].split('/').next().unwrap_or_default();
        // The scheme's slashes are before the first segment of a path, which a version may only follow.
        if let Some((rest, last)) = base.rsplit_once('/')
            && !rest.ends_with('/')
            && is_version(first)
            && is_version(last)
        {
            base = rest;
        }
        let mut url = format!("{base}{path}");
        if let (Family::Azure, Some(version)) = (self.family, &self.version) {
            url.push_str("?api-version=");
            url.push_str(&percent::segment(version));
        }
        match query {
            Some(query) => merged(&url, query),
            None => url.parse().map_err(|_| unusable()),
        }
    }
}

impl Family {
    /// How a host is addressed that is only known by its wire.
    pub fn of(wire: Wire) -> Self {
        match wire {
            Wire::OpenaiChat | Wire::OpenaiResponses => Self::Openai,
            Wire::AnthropicMessages => Self::Anthropic,
            Wire::Gemini => Self::Gemini,
            Wire::BedrockConverse => Self::Bedrock,
        }
    }
}

fn unusable() -> Refusal {
    Refusal::invalid("The URL cannot be passed on.", None).code("invalid_path")
}

/// `v1`, `v1beta`, `v4`.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').map(|rest| rest.trim_end_matches(|letter: char| letter.is_ascii_lowercase()));
    digits.is_some_and(|digits| digits.bytes().next().is_some_and(|byte| byte.is_ascii_digit()))
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Why a client's path could be read in two ways; none where it cannot. What stands between its slashes is what it says.
fn misleading(path: &str) -> Option<&'static str> {
    let lower = path.to_ascii_lowercase();
    if !path.starts_with('/') {
        return Some("does not begin with a slash");
    }
    if path.contains("//") {
        return Some("has an empty segment");
    }
    if path.contains('\\') || lower.contains("%5c") {
        return Some("has a backslash");
    }
    if lower.contains("%2f") {
        return Some("has an encoded slash");
    }
    let decoded = percent::decode(path);
    if decoded.iter().any(u8::is_ascii_control) {
        return Some("has a control character");
    }
    if decoded.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b"..")) {
        return Some("has a segment of dots");
    }
    // What is encoded twice would be decoded once more on the way.
    lower.contains("%25").then_some("has an encoded percent sign")
}

/// A URL with a client's query: without credentials, and without what the URL itself says.
fn merged(url: &str, query: &str) -> Result<Uri, Refusal> {
    let name = |part: &str| {
        let name = part.split_once('=').map_or(part, |(name, _)| name);
        String::from_utf8_lossy(&percent::decode(&name.replace('+', " "))).to_ascii_lowercase()
    };
    let own: Vec<String> = url.split_once('?').map_or("", |(_, own)| own).split('&').map(name).collect();
    let mut out = url.to_owned();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let name = name(part);
        if SECRET.contains(&name.as_str()) || name.starts_with("x-amz-") || own.contains(&name) {
            continue;
        }
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(part);
    }
    out.parse().map_err(|_| unusable())
}
