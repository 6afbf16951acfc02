//! Stage 3, resolve: which agent, user and session a call is for, and which upstreams serve its model.

mod order;
mod routes;
mod state;
mod upstream;

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use uuid::Uuid;

pub use self::{
    order::order,
    routes::{Group, Routes},
    state::{Busy, State},
    upstream::{Provider, Upstream},
};
use crate::{
    error::Refusal,
    principal::Key,
    request::Scan,
    snapshot::{Agent, Snapshot},
};

/// What a call is for and where it may go.
pub struct Target {
    /// The agent, if any: then memory and the session log come in.
    pub agent: Option<Arc<Agent>>,
    /// The end user's id.
    pub user: Option<String>,
    /// The session that the client named.
    pub session: Option<Uuid>,
    /// The model as the client asked for it.
    pub asked: String,
    /// The configured name of its model, where that is another: an agent's.
    pub model: Option<String>,
    /// Where its model is served.
    pub group: Arc<Group>,
}

/// Why a call could not be resolved.
pub enum Unresolved {
    /// The snapshot does not hold this agent; it may be newer than the snapshot.
    UnknownAgent(Refusal),
    /// Final.
    Refused(Refusal),
}

impl From<Refusal> for Unresolved {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Header: the agent's name or id.
pub const AGENT: HeaderName = HeaderName::from_static("x-trunkline-agent");
/// Header: the end user's id.
pub const USER: HeaderName = HeaderName::from_static("x-trunkline-user");
/// Header: the session's id.
pub const SESSION: HeaderName = HeaderName::from_static("x-trunkline-session");

const MAX_USER_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 512;

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Refusal::invalid(format!("The header {name} is not UTF-8."), Some(name.to_string())))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()))
}

/// Reads an id such as `sesn_` and 32 hexadecimal digits.
pub fn parse_id(prefix: &str, text: &str) -> Option<Uuid> {
    text.strip_prefix(prefix).filter(|rest| rest.len() == 32).and_then(|rest| Uuid::try_parse(rest).ok())
}

/// The end user that a call is for: the header's, else the body's.
///
/// # Errors
/// 400 for an id that is none.
pub fn user(headers: &HeaderMap, scan: Option<&Scan>) -> Result<Option<String>, Refusal> {
    let user = text(headers, &USER)?.map(str::to_owned).or_else(|| scan?.user.clone()).filter(|user| !user.is_empty());
    if user.as_ref().is_some_and(|user| user.len() > MAX_USER_BYTES || user.contains('\0')) {
        let message = format!("The user's id may have at most {MAX_USER_BYTES} bytes and no NUL.");
        return Err(Refusal::invalid(message, Some("user".to_owned())));
    }
    Ok(user)
}

/// Resolves a call. `pinned` is the agent that it names, in the version that it names.
///
/// # Errors
/// 400 for ids that are none, 403 for a model or agent that the key may not use, 404 for a model or agent that is not there.
pub fn resolve(
    routes: &Routes,
    snapshot: &Snapshot,
    key: &Key,
    headers: &HeaderMap,
    scan: &Scan,
    pinned: Option<&Arc<Agent>>,
) -> Result<Target, Unresolved> {
    let asked = scan.model.as_ref().map(|model| model.name.as_str());
    if asked.is_some_and(|model| model.len() > MAX_NAME_BYTES || model.contains('\0')) {
        let message = format!("The model's name may have at most {MAX_NAME_BYTES} bytes and no NUL.");
        return Err(Refusal::invalid(message, Some("model".to_owned())).into());
    }
    let named = asked.and_then(|model| model.strip_prefix("agent/"));
    let agent = match text(headers, &AGENT)?.or(named) {
        Some(_) if pinned.is_some() => pinned.cloned(),
        Some(name) => Some(find_agent(snapshot, key, name)?),
        None => key.agent.and_then(|id| snapshot.agent(key.tenant, id)).cloned(),
    };
    if key.agent.is_some_and(|id| agent.as_ref().is_none_or(|agent| agent.id != id)) {
        // The same words for an agent that is not there and for one that is another's.
        return Err(Unresolved::Refused(unknown_agent(text(headers, &AGENT)?.or(named).unwrap_or_default())));
    }

    // A key of one user speaks for that user, whatever its client says.
    let user = match &key.user {
        Some(user) => Some(user.clone()),
        None => user(headers, Some(scan))?,
    };
    let session = match text(headers, &SESSION)? {
        None => None,
        Some(id) => Some(parse_id("sesn_", id).ok_or_else(|| {
            let message = format!("'{id}' is not a session id. Send one that a response gave in {SESSION}, such as sesn_0193….");
            Refusal::invalid(message, Some(SESSION.to_string()))
        })?),
    };

    // A client that names the agent, or no model, leaves the model to the agent.
    let wanted = match asked.filter(|_| named.is_none()) {
        Some(model) => Some(model),
        None => agent.as_ref().and_then(|agent| agent.model.as_deref()).or(routes.default_model.as_deref()),
    };
    let Some(wanted) = wanted else {
        return Err(Refusal::unavailable(
            "No model is configured. Set a provider's key (such as OPENAI_API_KEY) or list models in trunkline.yaml, then restart.",
        )
        .into());
    };
    let Some(group) = routes.group(wanted) else {
        return Err(Refusal {
            param: Some("model".to_owned()),
            ..Refusal::not_found(
                format!("The model '{wanted}' is not configured. GET /v1/models lists those that are; trunkline.yaml adds more."),
                "model_not_found",
            )
        }
        .into());
    };
    if !key.may_ask(&[wanted, asked.unwrap_or(wanted)]) {
        return Err(Refusal::forbidden(format!("This API key may not use the model '{wanted}'.")).into());
    }
    let model = asked.filter(|asked| *asked != wanted).map(|_| wanted.to_owned());
    let asked = asked.unwrap_or(wanted).to_owned();
    Ok(Target { agent, user, session, asked, model, group })
}

fn find_agent(snapshot: &Snapshot, key: &Key, name: &str) -> Result<Arc<Agent>, Unresolved> {
    let found = match parse_id("agent_", name) {
        Some(id) => snapshot.agent(key.tenant, id),
        None => snapshot.agent_named(key.tenant, name),
    };
    found.cloned().ok_or_else(|| Unresolved::UnknownAgent(unknown_agent(name)))
}

fn unknown_agent(name: &str) -> Refusal {
    Refusal {
        param: Some("model".to_owned()),
        ..Refusal::not_found(
            format!(
                "There is no agent '{name}'. 'trunkline agent list' shows those that are; 'trunkline agent apply -f FILE' makes one."
            ),
            "agent_not_found",
        )
    }
}
