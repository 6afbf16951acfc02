//! Agents in versions that are not their current ones, for sessions that are pinned to them. A version never changes, so one
//! that was read is kept.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use uuid::Uuid;

use crate::{
    error::Refusal,
    gateway::Worker,
    principal::Key,
    routing::{AGENT, parse_id},
    snapshot::Agent,
};

/// Header: the version of the agent that [`AGENT`] names by its id.
pub const VERSION: HeaderName = HeaderName::from_static("x-trunkline-agent-version");

/// How many are kept.
const KEPT: usize = 1024;

/// The versions that were asked for.
pub struct Versions(Cache<(Uuid, Uuid, i32), Arc<Agent>>);

impl Default for Versions {
    fn default() -> Self {
        Self(Cache::new(KEPT))
    }
}

/// The agent in the version that the request names; none where it names none.
///
/// # Errors
/// 400 for a version that is none, 404 for one that is not there, 503 while it cannot be read.
pub async fn pinned(worker: &Worker, key: &Key, headers: &HeaderMap) -> Result<Option<Arc<Agent>>, Refusal> {
    let Some(given) = headers.get(VERSION) else { return Ok(None) };
    let version = given.to_str().ok().and_then(|text| text.parse::<i32>().ok());
    let agent = headers.get(AGENT).map(HeaderValue::to_str).and_then(Result::ok).and_then(|text| parse_id("agent_", text));
    let (Some(version), Some(agent)) = (version, agent) else {
        let message = format!("{VERSION} is the number of a version of the agent whose id {AGENT} has.");
        return Err(Refusal::invalid(message, Some(VERSION.to_string())));
    };
    of(worker, key.tenant, agent, version).await.map(Some)
}

/// A tenant's agent in one of its versions.
///
/// # Errors
/// 404 where there is none, 503 while it cannot be read.
pub async fn of(worker: &Worker, tenant: Uuid, agent: Uuid, version: i32) -> Result<Arc<Agent>, Refusal> {
    let current = worker.gateway.snapshots.load().agent(tenant, agent).cloned();
    if let Some(current) = current.as_ref().filter(|current| current.version == version) {
        return Ok(Arc::clone(current));
    }
    let versions = &worker.gateway.versions.0;
    if let Some(kept) = versions.get(&(tenant, agent, version)) {
        return Ok(redacted_as(kept, current.as_deref()));
    }
    let found = worker.readers.agent(tenant, agent, version).await.map_err(|error| {
        tracing::warn!(%error, "a version of an agent could not be read");
        Refusal::unavailable("Postgres is away, so that this version of the agent cannot be read. Try again.").retry_after(1)
    })?;
    let Some(text) = found else {
        return Err(Refusal::not_found(format!("The agent has no version {version}."), "agent_not_found"));
    };
    let agent = Arc::new(Agent::parse(&text).map_err(|error| {
        tracing::error!(%error, "a version of an agent cannot be understood");
        Refusal::unavailable("This version of the agent cannot be read: the database has another version of the schema.")
    })?);
    versions.insert((agent.tenant, agent.id, agent.version), Arc::clone(&agent));
    Ok(redacted_as(agent, current.as_deref()))
}

/// What is redacted is said by the current version: whoever asks for more means sessions that go on, too.
fn redacted_as(agent: Arc<Agent>, current: Option<&Agent>) -> Arc<Agent> {
    match current {
        Some(current) if current.redaction != agent.redaction => {
            Arc::new(Agent { redaction: current.redaction.clone(), ..(*agent).clone() })
        }
        _ => agent,
    }
}
