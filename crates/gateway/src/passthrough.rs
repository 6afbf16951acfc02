//! `/PROVIDER/…`: a provider's own paths under its own name, whatever they are, with our key in place of the client's. Bodies
//! stream both ways. Key, limits and models are enforced as for model calls, and usage is recorded where it can be read.
//!
//! A call of a model needs the scope `inference`. All else (files, batches, fine-tuning, settings) belongs to the provider's
//! account, which all keys of the installation share, and needs the scope `passthrough`.

pub mod answer;
mod headers;
pub mod multipart;
mod named;
mod usage;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use self::named::Named;
use crate::{
    admit::{self, Ask},
    bodies::{self, Held},
    body::Body,
    connections::Streaming,
    context::{self, Additions},
    error::Refusal,
    gateway::Worker,
    idempotency::{self, Begun},
    metrics::Route,
    pipeline,
    principal::{Key, Scopes},
    record::{Call, Recorder},
    request, routing,
    routing::Upstream,
    upstream::{Answer, Failure, unreachable},
    wire::Wire,
};

/// How much of a form that streams is looked at for its model.
const FORM: usize = 8 << 10;

/// Paths under a provider's name: the provider, if a path is one.
pub fn host(worker: &Worker, path: &str) -> Option<Arc<Upstream>> {
    let name = path.strip_prefix('/')?.split('/').next()?;
    worker.gateway.settings().routes.host(name)
}

/// Passes a request on to a provider and its answer back.
pub async fn pass_through(worker: &Arc<Worker>, host: Arc<Upstream>, request: Request<Incoming>) -> Response<Body> {
    let call = Call::of(host.provider.wire, Route::PassThrough);
    let (wire, id) = (call.wire, call.id);
    answer::finish(worker, stages(worker, call, host, request).await, wire, id)
}

async fn stages(
    worker: &Arc<Worker>,
    call: Call,
    host: Arc<Upstream>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let gateway = &worker.gateway;
    let under_way = gateway.metrics.under_way();
    let (head, body) = request.into_parts();
    let key = pipeline::enter(worker, &call, &head.headers).await?;
    let counted = |refusal: &Refusal| pipeline::count(worker, &call, refusal);
    let path = &head.uri.path()[1 + host.provider.name.len()..];
    let uri = acceptable(&head, path).and_then(|()| host.endpoint.relayed(path, head.uri.query())).inspect_err(counted)?;
    let (whole, _room) = read(worker, &key, &host, &head, path, body).await.inspect_err(counted)?;
    let repeats = match &whole {
        Whole::Read(bytes) if head.method == Method::POST => idempotency::asked(call.route, &head.uri, &head.headers, bytes),
        _ => Ok(None),
    };
    let repeats = repeats.inspect_err(counted)?;
    let not_kept = repeats.is_none() && head.method == Method::POST && head.headers.contains_key(idempotency::HEADER);
    let stored = pipeline::stored(worker, &key, &head.headers).inspect_err(counted)?;
    let named = Named::find(path, &head.headers, whole.bytes()).inspect_err(counted)?;
    allowed(&key, &host, &head.method, path, &named).inspect_err(counted)?;
    let user = match &key.user {
        Some(user) => Some(user.clone()),
        None => routing::user(&head.headers, named.scan.as_ref()).inspect_err(counted)?,
    };

    let model_call = named::is_model_call(path);
    let streams = named.scan.as_ref().is_some_and(|scan| scan.stream) || named::is_streamed(path);
    let bytes = match &whole {
        Whole::Read(bytes) => bytes.len(),
        Whole::Streams(_) => 0,
    };
    let asked = named.model.clone().unwrap_or_default();
    let output = named.scan.as_ref().and_then(|scan| scan.output_tokens).unwrap_or(gateway.settings().config.output_tokens);
    let cost = |input: u64, output: u64| gateway.prices.load().most(&host.provider.name, &asked, input, output);
    let ask = Ask {
        user: user.as_deref(),
        models: &[&asked, &format!("{}/{asked}", host.provider.name)],
        bytes: if model_call { bytes } else { 0 },
        output_tokens: if model_call { output } else { 0 },
        cost: &cost,
    };
    let admission = admit::admit(&gateway.leases, &key, &ask).await.inspect_err(counted)?;
    let mut record = Recorder::of(gateway, call, &key, (asked, user), streams, if model_call { bytes } else { 0 });
    record.reserved(admission);
    if let Some((stored, when)) = stored {
        record.stores(stored, when, whole.bytes());
    }
    if let Some(repeats) = repeats {
        match idempotency::begin(worker, record, &key, &repeats).await? {
            Begun::First(first) => record = *first,
            Begun::Again(response) => return Ok(*response),
        }
    }
    let mut headers = headers::to_provider(&head.headers);
    if let Some(own) = headers.get(idempotency::HEADER).and_then(|given| idempotency::for_provider(&key, given)) {
        headers.insert(idempotency::HEADER, own);
    }
    host.endpoint.authorize(&mut headers, Some(&head.headers));
    headers.remove(header::ACCEPT_ENCODING);
    let (body, hides_usage) = match whole {
        Whole::Read(bytes) => {
            // Undone in reading it.
            headers.remove(header::CONTENT_ENCODING);
            let (bytes, hides_usage) = with_usage(&host, path, &named, bytes);
            host.endpoint.sign(&head.method, &uri, &mut headers, &bytes);
            (Whole::Read(bytes), hides_usage)
        }
        Whole::Streams(body) => (Whole::Streams(body), false),
    };
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (head.method, uri, headers);

    let begun = Instant::now();
    let first_byte = gateway.settings().config.timeouts.first_byte();
    let reach = host.endpoint.reach();
    let sent = async {
        match body {
            Whole::Read(bytes) => worker.client.request(reach, request.map(|()| Full::new(bytes))).await,
            Whole::Streams(body) => worker.client.stream(reach, request.map(|()| body)).await,
        }
    };
    let response = match timeout(first_byte, sent).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            host.meters.failed(Failure::Connect);
            return Err(record.refused(unreachable(&host, &error)));
        }
        Err(_) => {
            host.meters.failed(Failure::Timeout);
            let message = format!("The provider '{}' did not answer within {} s.", host.provider.name, first_byte.as_secs());
            let refusal = Refusal::new(StatusCode::GATEWAY_TIMEOUT, "api_error", message).code("upstream_timeout");
            return Err(record.refused(refusal));
        }
    };
    let upstream = match named.model {
        Some(model) => Arc::new(host.with_model(model)),
        None => host,
    };
    let answer = Answer { response, upstream, waited: begun.elapsed(), retries: 0, busy: None };
    let mut response = answer::pass_on(worker, answer, record, answer::Reading { model_call, hides_usage }, under_way)?;
    if not_kept {
        response.headers_mut().insert(idempotency::NOT_KEPT, HeaderValue::from_static("not-kept"));
    }
    Ok(response)
}

/// What cannot be passed on at all.
fn acceptable(head: &Parts, path: &str) -> Result<(), Refusal> {
    if head.headers.contains_key(header::UPGRADE) {
        let message = "WebSockets and other upgraded connections are not passed on. Use the provider's HTTP routes.";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "api_error", message).code("upgrade_not_supported"));
    }
    if path.is_empty() {
        return Err(Refusal::not_found("Say which of the provider's paths: /openai/v1/files, for example.", "unknown_path"));
    }
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if !methods.contains(&head.method) {
        let message = format!("The method {} is not passed on.", head.method);
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message));
    }
    Ok(())
}

/// The body of a request.
enum Whole {
    /// All of it.
    Read(Bytes),
    /// As it comes.
    Streams(Streaming),
}

impl Whole {
    /// What is known of it: all, or its beginning.
    fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Read(bytes) => Some(bytes),
            Self::Streams(body) => body.first(),
        }
    }
}

/// Reads the body where something must be known of it: JSON, for its model; a form, for a key that may not use every model;
/// anything that is to be signed; what came with an idempotency key and says that it is no longer than a body may be. All else
/// streams; what has no body need not. Of a form that calls a model and streams the beginning is read, where most clients name
/// the model.
async fn read(
    worker: &Worker,
    key: &Key,
    host: &Upstream,
    head: &Parts,
    path: &str,
    body: Incoming,
) -> Result<(Whole, Option<Held>), Refusal> {
    if body.is_end_stream() {
        return Ok((Whole::Read(Bytes::new()), None));
    }
    let kind = content_type(&head.headers);
    let json = kind == "application/json" || kind.ends_with("+json");
    let form = kind == "multipart/form-data" && named::is_model_call(path);
    let most = worker.gateway.settings().config.max_body_bytes as u64;
    let repeatable = head.method == Method::POST
        && head.headers.contains_key(idempotency::HEADER)
        && body.size_hint().upper().is_some_and(|length| length <= most);
    if json || (form && key.models.is_some()) || repeatable || host.endpoint.signs() {
        let (bytes, room) = bodies::read(worker, &head.headers, body).await?;
        return Ok((Whole::Read(bytes), Some(room)));
    }
    let mut body = Streaming::from(body);
    if form {
        let begun = timeout(worker.gateway.settings().config.timeouts.client_idle(), body.begin(FORM)).await;
        begun.unwrap_or(Ok(())).map_err(|error| worker.gateway.body_refusal(&error))?;
    }
    Ok((Whole::Streams(body), None))
}

/// The media type of a body, in lower case, without its parameters.
pub fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether the key may make this request.
fn allowed(key: &Key, host: &Upstream, method: &Method, path: &str, named: &Named) -> Result<(), Refusal> {
    if key.scopes.has(Scopes::PASS_THROUGH) {
        return match (&named.model, &key.models) {
            (Some(model), Some(_)) => model_allowed(key, host, model),
            _ => Ok(()),
        };
    }
    let provider = &host.provider.name;
    if key.agent.is_some() {
        let message = "This API key acts for one agent only, and a provider's own paths know no agents: use /v1/… instead.";
        return Err(Refusal::forbidden(message).code("missing_scope"));
    }
    if !named::is_model_call(path) || *method != Method::POST {
        let message = format!(
            "This API key may call models, but {method} /{provider}{path} is about the provider's account, which is shared: that needs \
             the scope 'passthrough'."
        );
        return Err(Refusal::forbidden(message).code("missing_scope"));
    }
    match (&named.model, &key.models) {
        (_, None) => Ok(()),
        (Some(model), Some(_)) => model_allowed(key, host, model),
        (None, Some(_)) => {
            let message = "This API key may use certain models only, and this request names none that could be read: name it in \
                a JSON or form body, or use a key with the scope 'passthrough'.";
            Err(Refusal { param: Some("model".to_owned()), ..Refusal::forbidden(message) })
        }
    }
}

fn model_allowed(key: &Key, host: &Upstream, model: &str) -> Result<(), Refusal> {
    let full = format!("{}/{model}", host.provider.name);
    if key.may_ask(&[model, &full]) {
        return Ok(());
    }
    Err(Refusal::forbidden(format!("This API key may not use the model '{model}'.")))
}

/// A streamed call asks for its usage, which is kept from a client that did not.
fn with_usage(host: &Upstream, path: &str, named: &Named, body: Bytes) -> (Bytes, bool) {
    let speaks =
        path.ends_with("/completions") && host.provider.wire == Wire::OpenaiChat && host.provider.quirks.stream_options();
    match &named.scan {
        Some(scan) if scan.stream && speaks => {
            let additions = Additions { include_usage: true, ..Additions::default() };
            let hides = !request::Scan::include_usage(scan, &body);
            (context::splice(Wire::OpenaiChat, &body, scan, &additions), hides)
        }
        _ => (body, false),
    }
}
