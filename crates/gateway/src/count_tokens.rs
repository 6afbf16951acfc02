//! `POST /v1/messages/count_tokens`: asked of a provider that counts itself, else estimated. Costs nothing and is not recorded.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use crate::{
    bodies,
    body::Body,
    context::{self, Additions},
    error::Refusal,
    gateway::Worker,
    metrics::Route,
    passthrough::answer,
    pipeline,
    providers::Operation,
    record::Call,
    relay::collect,
    request::{Scan, scan},
    routing::Upstream,
    told::{self, Figures},
    upstream::{self, Outgoing, Words},
    usage::estimate,
    wire::Wire,
};

/// Says of an answer that we estimated it.
pub const ESTIMATED: &str = "x-trunkline-estimated";

/// Answers how many input tokens a request would have; a refusal becomes an error in Anthropic's form.
pub async fn call(worker: &Arc<Worker>, request: Request<Incoming>) -> Response<Body> {
    let call = Call::of(Wire::AnthropicMessages, Route::AnthropicMessages);
    let id = call.id;
    answer::finish(worker, stages(worker, &call, request).await, Wire::AnthropicMessages, id)
}

async fn stages(worker: &Arc<Worker>, call: &Call, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let key = pipeline::enter(worker, call, &head.headers).await?;
    let (body, _room) = bodies::read(worker, &head.headers, body).await?;
    let scan = scan(Wire::AnthropicMessages, &body)
        .map_err(|malformed| Refusal::invalid(format!("{}.", malformed.message), malformed.param))?;
    let target = pipeline::target(worker, &key, &head.headers, &scan).await?;
    let counts = |upstream: &&Arc<Upstream>| {
        upstream.provider.wire == Wire::AnthropicMessages && upstream.endpoint.serves(Operation::CountTokens)
    };
    let Some(upstream) = target.group.upstreams.iter().find(counts) else {
        let mut response = estimated(&body, &scan);
        let figures = Figures { retries: 0, overhead: call.begun.elapsed(), cost: Some(0.0) };
        told::tell(response.headers_mut(), call.name(), None, None, &figures);
        return Ok(response);
    };
    let outgoing = Outgoing {
        wire: Wire::AnthropicMessages,
        operation: Operation::CountTokens,
        query: head.uri.query(),
        headers: &head.headers,
        content_type: None,
        body: |upstream: &Arc<Upstream>| {
            let additions = Additions { model: Some(&upstream.model), ..Additions::default() };
            context::splice(Wire::AnthropicMessages, &body, &scan, &additions).into()
        },
    };
    match upstream::send_to(worker, &target.group, upstream, &outgoing).await {
        Ok(answer) => {
            let overhead = call.begun.elapsed().saturating_sub(answer.waited);
            let (head, body) = answer.response.into_parts();
            let bytes = collect(&worker.gateway, &head.headers, body).await?;
            let mut response = json(head.status, bytes);
            let figures = Figures { retries: answer.retries, overhead, cost: Some(0.0) };
            told::tell(response.headers_mut(), call.name(), answer.upstream.title.as_ref(), None, &figures);
            Ok(response)
        }
        Err(failed) => match failed.words {
            Words::Ours(refusal) => Err(refusal.after(failed.retries)),
            Words::Provider(upstream, head, bytes) => {
                let overhead = call.begun.elapsed().saturating_sub(failed.waited);
                let figures = Figures { retries: failed.retries, overhead, cost: Some(0.0) };
                let mut response = json(head.status, bytes);
                told::tell(response.headers_mut(), call.name(), upstream.title.as_ref(), None, &figures);
                Ok(response)
            }
        },
    }
}

fn json(status: http::StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A token for every four bytes of `system`, `messages` and `tools` as the client wrote them: `OpenAI`'s rule of thumb for
/// English text, too much for JSON's own signs and too little for other scripts.
fn estimated(body: &[u8], scan: &Scan) -> Response<Body> {
    let parts = [scan.system, scan.tools].into_iter().flatten().map(|value| value.span).chain([scan.messages_span]);
    let bytes: usize = parts.map(|span| span.of(body).len()).sum();
    let text = serde_json::json!({"input_tokens": estimate(bytes)}).to_string();
    let mut response = json(http::StatusCode::OK, Bytes::from(text));
    response.headers_mut().insert(ESTIMATED, HeaderValue::from_static("true"));
    response
}
