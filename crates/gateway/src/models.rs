//! `GET /v1/models`: the configured models, what is known of those that patterns stand for, and the tenant's agents, in the
//! list form of the client's wire.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{auth, body::Body, error::Refusal, gateway::Worker, providers::unescaped, wire::Wire};

/// Lists the models that a key may use, or shows one.
///
/// # Errors
/// 401 and 403 as for a model call, 404 for a model that is not there.
pub async fn models(worker: &Arc<Worker>, wire: Wire, request: &Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let gateway = &worker.gateway;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut key = auth::authenticate(&gateway.snapshots.load(), request.headers(), now)?;
    if key.is_none() {
        gateway.snapshots.refresh().await;
        key = auth::authenticate(&gateway.snapshots.load(), request.headers(), now)?;
    }
    let snapshot = gateway.snapshots.load();
    let key = key.ok_or_else(|| auth::unknown_key(&snapshot))?;
    let allowed = |name: &str| key.may_ask(&[name]);
    let agents = match key.agent {
        Some(id) => snapshot.agent(key.tenant, id).map(|agent| agent.name.as_str()).into_iter().collect(),
        None => snapshot.agent_names(key.tenant),
    };
    let settings = gateway.settings();
    let routes = &settings.routes;
    let prices = gateway.prices.load();
    // Of what patterns serve, those that have a price are known.
    let known = routes.known(|provider| prices.models(provider));
    let models = routes.names().iter().cloned().chain(known).filter(|name| allowed(name));
    let names: Vec<String> = models.chain(agents.into_iter().map(|name| format!("agent/{name}"))).collect();

    let path = request.uri().path();
    let base = if wire == Wire::Gemini { "/v1beta/models" } else { "/v1/models" };
    let answer = match path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/')) {
        None => list(wire, &names),
        Some(name) => {
            let name = unescaped(name);
            // What a pattern serves is there, though it is not listed: not everything that fits it is known.
            if !names.contains(&name) && (!allowed(&name) || routes.group(&name).is_none()) {
                return Err(Refusal::not_found(
                    format!("There is no model '{name}'. GET /v1/models lists those that are."),
                    "model_not_found",
                ));
            }
            entry(wire, &name)
        }
    };
    let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn list(wire: Wire, names: &[String]) -> Value {
    let data: Vec<Value> = names.iter().map(|name| entry(wire, name)).collect();
    match wire {
        Wire::AnthropicMessages => {
            json!({"data": data, "first_id": names.first(), "last_id": names.last(), "has_more": false})
        }
        Wire::Gemini => json!({"models": data}),
        _ => json!({"object": "list", "data": data}),
    }
}

fn entry(wire: Wire, name: &str) -> Value {
    match wire {
        // The time is not known: the start of time says so, as for dated models without one.
        Wire::AnthropicMessages => {
            json!({"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"})
        }
        Wire::Gemini => json!({
            "name": format!("models/{name}"),
            "displayName": name,
            "supportedGenerationMethods": ["generateContent", "streamGenerateContent"],
        }),
        _ => json!({"id": name, "object": "model", "created": 0, "owned_by": "trunkline"}),
    }
}
