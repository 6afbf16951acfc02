//! `GET /v1/sessions/{id}/context`: the request that a session's next turn would send. The control plane writes what a worker would
//! ask, from the session's log; here memory goes into it, and it is put into the provider's wire. No model is asked, nothing is recorded.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    auth,
    body::Body,
    control,
    conversation::Conversation,
    error::Refusal,
    gateway::Worker,
    memory_tools::MemoryTool,
    pipeline::{authenticated, hashed, scanned},
    query_vector,
    relay::{Draft, affinity_of},
    remember::{Memory, remember},
    request::{Role, Scan},
    routing::{Target, parse_id},
    snapshot::Agent,
    upstream::in_order,
    versions,
    wire::Wire,
};

/// The wire of workers.
const WIRE: Wire = Wire::AnthropicMessages;

/// What the control plane says of a session, and what is said of it here: `request` as it goes out, and the last two.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    #[serde(rename = "type")]
    kind: String,
    session_id: String,
    agent: AgentVersion,
    user_id: Option<String>,
    asks_model: bool,
    compaction: Option<Box<RawValue>>,
    tools_of_worker: Box<RawValue>,
    request: Box<RawValue>,
    #[serde(default)]
    memory: Option<Remembered>,
    #[serde(default)]
    upstream: Option<Place>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct AgentVersion {
    id: String,
    version: i32,
}

/// The parts of the request that are memory's.
#[derive(Deserialize, Serialize)]
struct Remembered {
    /// As in `x-trunkline-memory`.
    state: String,
    /// The blocks that it begins with.
    blocks: Option<String>,
    /// What has changed of them since, as it stands in user messages.
    updates: Vec<String>,
    /// Passages in the newest user message.
    recall: Option<String>,
    /// How they were looked for, as in `x-trunkline-recall`.
    recalled_by: Option<String>,
}

/// Where it would go first, and in which wire.
#[derive(Deserialize, Serialize)]
struct Place {
    provider: String,
    model: String,
    wire: String,
    /// What is left out because the wire has no words for it.
    dropped: Vec<String>,
}

/// Whether a path is of a session's next prompt.
pub fn is_asked(path: &str) -> bool {
    let id = path.strip_prefix("/v1/sessions/").and_then(|rest| rest.strip_suffix("/context"));
    id.is_some_and(|id| !id.contains('/'))
}

/// Answers as the control plane does, with memory and in the provider's wire.
///
/// # Errors
/// As [`control::relay`], and what a call would be refused for before it is sent.
pub async fn shown(worker: &Arc<Worker>, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    // It is read here.
    request.headers_mut().remove(header::ACCEPT_ENCODING);
    let headers = request.headers().clone();
    let answer = control::relay(worker, request).await?;
    if answer.status() != StatusCode::OK {
        return Ok(answer);
    }
    let tenant = authenticated(worker, &headers, auth::known).await?.tenant;
    let (mut head, body) = answer.into_parts();
    let most = worker.gateway.settings().config.max_body_bytes;
    let bytes = Limited::new(body, most).collect().await.map_err(|error| unreadable(&*error))?.to_bytes();
    let prompt: Prompt = serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))?;
    let prompt = completed(worker, tenant, prompt).await?;
    let text = serde_json::to_vec(&prompt).map_err(|error| unreadable(&error))?;
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(head, Body::from(text)))
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(%error, "the control plane's answer cannot be read");
    Refusal::new(StatusCode::BAD_GATEWAY, "api_error", "The control plane's answer cannot be read.")
}

/// The prompt with all that a call would add to it.
async fn completed(worker: &Arc<Worker>, tenant: Uuid, mut prompt: Prompt) -> Result<Prompt, Refusal> {
    let gateway = &worker.gateway;
    let ids = parse_id("sesn_", &prompt.session_id).zip(parse_id("agent_", &prompt.agent.id));
    let Some((session, agent)) = ids else { return Err(Refusal::not_found("There is no such session.", "session_not_found")) };
    let agent = versions::of(worker, tenant, agent, prompt.agent.version).await?;
    let body = Bytes::from(prompt.request.get().to_owned());
    let scan = scanned(gateway, WIRE, &body).await?;
    let target = target(worker, &agent, session, &prompt, &scan)?;
    let conversation = hashed(gateway, WIRE, &body, &scan, &agent).await?;
    let memory = memory(worker, &agent, &target, &conversation, &scan).await?;
    let key = target.group.routing.affinity.then(|| affinity_of(Some(memory.session), &body, &scan));
    let Some(upstream) = in_order(worker, &target.group, key).first().map(|upstream| upstream.speaking(WIRE)) else {
        return Err(Refusal::unavailable("The agent's model is served nowhere."));
    };
    let memory_tool = MemoryTool::of(WIRE, &body, &scan, Some(&agent), Some(&memory));
    let draft = Draft { wire: WIRE, body: &body, scan: &scan, agent: Some(&agent), memory: Some(&memory), memory_tool };
    let (written, dropped) = draft.written(&upstream)?;
    prompt.request = serde_json::from_slice(&written).map_err(|error| unreadable(&error))?;
    prompt.upstream = Some(Place {
        provider: upstream.provider.name.clone(),
        model: upstream.model.clone(),
        wire: upstream.provider.wire.name().to_owned(),
        dropped,
    });
    prompt.memory = Some(Remembered {
        state: memory.state.name().to_owned(),
        blocks: memory.blocks.as_deref().map(str::to_owned),
        updates: memory.deltas.iter().map(|delta| delta.text.trim().to_owned()).collect(),
        recall: memory.recall.clone(),
        recalled_by: memory.recalled.filter(|_| memory.recall.is_some()).map(|how| how.name().to_owned()),
    });
    Ok(prompt)
}

/// As a worker's call is resolved.
fn target(worker: &Worker, agent: &Arc<Agent>, session: Uuid, prompt: &Prompt, scan: &Scan) -> Result<Target, Refusal> {
    let settings = worker.gateway.settings();
    let Some(wanted) = agent.model.as_deref().or(settings.routes.default_model.as_deref()) else {
        return Err(Refusal::unavailable("No model is configured: the agent names none, and there is no default."));
    };
    let Some(group) = settings.routes.group(wanted) else {
        let message = format!("The agent's model '{wanted}' is not configured. GET /v1/models lists those that are.");
        return Err(Refusal::not_found(message, "model_not_found"));
    };
    Ok(Target {
        agent: Some(Arc::clone(agent)),
        user: prompt.user_id.clone(),
        session: Some(session),
        asked: scan.model.as_ref().map(|model| model.name.clone()).unwrap_or_default(),
        model: Some(wanted.to_owned()),
        group,
    })
}

/// What the call would be given. With an embedder, passages are looked for by the newest message's vector if that is at hand.
async fn memory(
    worker: &Arc<Worker>,
    agent: &Agent,
    target: &Target,
    said: &Conversation,
    scan: &Scan,
) -> Result<Memory, Refusal> {
    let gateway = &worker.gateway;
    let searched = query_vector::at_hand(worker, agent, target.user.as_deref(), said);
    let mut memory = remember(&gateway.memories, &gateway.spool, &worker.readers, agent, target, said, searched).await?;
    // What is recalled is recalled for a message that waits for its answer.
    if scan.messages.last().is_none_or(|message| message.role == Role::Assistant) {
        memory.recall = None;
    }
    Ok(memory)
}
