//! `OpenAI`'s routes that name a model but are no chat: embeddings, completions, images, audio, moderations. Sent where the
//! model is served, with the same retries; of the body only the model's name changes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::{
    bodies,
    body::Body,
    cache::{self, Looked},
    context::{self, Additions},
    error::Refusal,
    gateway::Worker,
    idempotency::{self, Begun},
    metrics::Route,
    passthrough::{
        answer::{self, Reading},
        content_type, multipart,
    },
    pipeline,
    providers::Operation,
    record::{Call, Recorder},
    relay::{cached, tell},
    request::{self, Model, Scan},
    routing::Upstream,
    upstream::{self, Outgoing},
    wire::Wire,
};

/// The routes, by their path after `/v1/`.
const ROUTES: [(&str, Route); 9] = [
    ("embeddings", Route::Embeddings),
    ("completions", Route::Completions),
    ("images/generations", Route::Images),
    ("images/edits", Route::Images),
    ("images/variations", Route::Images),
    ("audio/speech", Route::Audio),
    ("audio/transcriptions", Route::Audio),
    ("audio/translations", Route::Audio),
    ("moderations", Route::Moderations),
];

/// The route of a path, if it is one of these.
pub fn find(path: &str) -> Option<(&'static str, Route)> {
    let rest = path.strip_prefix("/v1/")?;
    ROUTES.into_iter().find(|(known, _)| *known == rest)
}

/// Carries out a call of one of these routes; a refusal becomes an error in `OpenAI`'s form.
pub async fn call(worker: &Arc<Worker>, (path, route): (&'static str, Route), request: Request<Incoming>) -> Response<Body> {
    let call = Call::of(Wire::OpenaiChat, route);
    let id = call.id;
    answer::finish(worker, stages(worker, call, path, request).await, Wire::OpenaiChat, id)
}

/// A body whose model is known.
struct Named {
    body: Bytes,
    scan: Scan,
    /// Whether it is a form, whose values have no quotes.
    form: bool,
}

async fn stages(
    worker: &Arc<Worker>,
    call: Call,
    path: &'static str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let gateway = &worker.gateway;
    let under_way = gateway.metrics.under_way();
    let (head, body) = request.into_parts();
    let key = pipeline::enter(worker, &call, &head.headers).await?;
    let counted = |refusal: &Refusal| pipeline::count(worker, &call, refusal);
    let (body, _room) = bodies::read(worker, &head.headers, body).await.inspect_err(counted)?;
    let asked = idempotency::asked(call.route, &head.uri, &head.headers, &body).inspect_err(counted)?;
    let stored = pipeline::stored(worker, &key, &head.headers).inspect_err(counted)?;
    let named = Named::read(&head.headers, body).inspect_err(counted)?;
    let target = pipeline::target(worker, &key, &head.headers, &named.scan).await.inspect_err(counted)?;

    let reading = Reading {
        model_call: matches!(call.route, Route::Embeddings | Route::Completions),
        hides_usage: path == "completions" && named.scan.stream && !named.scan.include_usage(&named.body),
    };
    let bytes = if reading.model_call { named.body.len() } else { 0 };
    // Only completions are answered with tokens.
    let output = if call.route == Route::Completions { named.scan.output_tokens } else { Some(0) };
    let admission = pipeline::admit_call(worker, &key, &target, output, bytes).await.inspect_err(counted)?;
    let mut record = Recorder::new(gateway, call, &key, &target, named.scan.stream, bytes);
    record.reserved(admission);
    if let Some((stored, when)) = stored {
        record.stores(stored, when, Some(&named.body));
    }
    if let Some(asked) = asked {
        match idempotency::begin(worker, record, &key, &asked).await? {
            Begun::First(first) => record = *first,
            Begun::Again(response) => return Ok(*response),
        }
    }
    let mut state = None;
    let cache = gateway.settings().cache.clone();
    if let Some(cache) = &cache {
        let asked = cache::Asked {
            route: record.call().route,
            uri: &head.uri,
            headers: &head.headers,
            target: &target,
            added: Vec::new(),
            body: &named.body,
            moves: false,
        };
        match cache.look(worker, &key, &asked, &mut record).await {
            Ok(Looked::Hit(entry)) => return cached(gateway, record, entry, None, None),
            Ok(Looked::Other(other)) => state = Some(other),
            Err(refusal) => return Err(record.refused(refusal)),
        }
    }
    let outgoing = Outgoing {
        wire: Wire::OpenaiChat,
        operation: Operation::Openai(path),
        query: head.uri.query(),
        headers: &head.headers,
        content_type: head.headers.get(header::CONTENT_TYPE).filter(|_| named.form),
        body: |upstream: &Arc<Upstream>| named.written(upstream, path == "completions").into(),
    };
    // There is no conversation whose prompt cache could be lost.
    let response = match upstream::send(worker, &target.group, || None, &outgoing).await {
        Ok(answer) => answer::pass_on(worker, answer, record, reading, under_way),
        Err(failed) => answer::failed(record, failed),
    };
    Ok(tell(response?, state))
}

impl Named {
    fn read(headers: &HeaderMap, body: Bytes) -> Result<Self, Refusal> {
        let missing = || {
            let message = "model is required: it decides which provider the call goes to.";
            Refusal::invalid(message, Some("model".to_owned()))
        };
        match content_type(headers).as_str() {
            "multipart/form-data" => {
                let place = multipart::field(headers, &body, "model")?.ok_or_else(missing)?;
                let name = std::str::from_utf8(place.of(&body)).map_err(|_| missing())?.to_owned();
                let scan = Scan { model: Some(Model { span: place, name }), ..Scan::default() };
                Ok(Self { body, scan, form: true })
            }
            // Clients that forget to say so send JSON.
            "application/json" | "" => {
                let scan = request::named(&body)
                    .map_err(|malformed| Refusal::invalid(format!("{}.", malformed.message), malformed.param))?;
                if scan.model.is_none() {
                    return Err(missing());
                }
                Ok(Self { body, scan, form: false })
            }
            other => Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request_error",
                format!("The body is '{other}'. Send application/json, or multipart/form-data where there are files."),
            )),
        }
    }

    /// The body as an upstream is to get it: with its name for the model, and asking for the usage of a streamed completion.
    fn written(&self, upstream: &Upstream, streams: bool) -> Bytes {
        let Some(model) = self.scan.model.as_ref() else { return self.body.clone() };
        let renamed = Some(upstream.model.as_str()).filter(|name| *name != model.name);
        if !self.form {
            let include_usage = streams && self.scan.stream && upstream.provider.quirks.stream_options();
            let additions = Additions { model: renamed, include_usage, ..Additions::default() };
            return context::splice(Wire::OpenaiChat, &self.body, &self.scan, &additions);
        }
        let Some(name) = renamed else { return self.body.clone() };
        let mut out = BytesMut::with_capacity(self.body.len() + name.len());
        out.extend_from_slice(&self.body[..model.span.start]);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&self.body[model.span.end..]);
        out.freeze()
    }
}
