//! What a responses request leaves to the session log: the conversation that `previous_response_id` or `conversation` names,
//! put before its own input. From then on the call is one whose client sent all of it; the oldest turns of a long one are not
//! sent on.

mod window;

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use self::window::{Part, first_sent, marker};
use crate::{
    context::continued,
    error::Refusal,
    gateway::Worker,
    record::COMPACTED,
    request::{LeftOut, Named, Role, Scan, Span, scan},
    routing::{Target, parse_id},
    snapshot::Agent,
    usage::estimate,
    wire::Wire,
};

const SEARCH: &str = "memory_search";

/// How long the store is given to take up a turn that has just been recorded.
const SETTLE: Duration = Duration::from_millis(250);

/// An event of the log: its type and payload.
#[derive(Deserialize)]
struct Logged(String, Payload);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload {
    content: Vec<Content>,
    id: String,
    name: String,
    input: Value,
    custom_tool_use_id: String,
    /// Of a user's message.
    seq: i64,
    /// Of a compaction.
    kept_from_seq: i64,
    summary: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    r#type: String,
    text: Option<String>,
}

/// The request with the history it names before its input, and its scan; the same where it names none.
///
/// # Errors
/// 404 for a response or conversation that is not this agent's and user's, 400 where one is named wrongly or holds what is not
/// kept, 503 where the log cannot be read.
pub async fn recalled(
    worker: &Worker,
    agent: &Agent,
    target: &mut Target,
    body: Bytes,
    found: Scan,
) -> Result<(Bytes, Scan), Refusal> {
    let Some(named) = found.kept.named(&body) else { return Ok((body, found)) };
    let (param, id, call, session) = match named {
        Named::Response(id) => ("previous_response_id", id.clone(), parse_id("resp_", &id), None),
        Named::Conversation(id) => ("conversation", id.clone(), None, parse_id("conv_", &id)),
        Named::Both => {
            let message = "Give either `previous_response_id` or `conversation`: each names the whole of what came before.";
            return Err(Refusal::invalid(message, Some("previous_response_id".to_owned())));
        }
    };
    if target.session.is_some() && session.is_some() && target.session != session {
        let message = "`conversation` and the header x-trunkline-session name two sessions: give one of them.";
        return Err(Refusal::invalid(message, Some(param.to_owned())));
    }
    if call.is_none() && session.is_none() {
        return Err(unknown(param, &id));
    }
    // The turn may have been recorded a moment ago.
    let spool = &worker.gateway.spool;
    if spool.pending() > 0 {
        spool.settled(SETTLE).await;
    }
    let read = worker.readers.history(agent.tenant, agent.id, target.user.as_deref(), call, session).await;
    let read = read.map_err(|error| {
        tracing::warn!(%error, agent = agent.name, "the history of a call could not be read");
        Refusal::unavailable(format!("The conversation that `{param}` names cannot be read at the moment. Try again."))
            .retry_after(1)
    })?;
    let (session, events) = read.ok_or_else(|| unknown(param, &id))?;
    if param == "conversation" {
        target.session = Some(session);
    }
    let events: Vec<Logged> = serde_json::from_str(&events).map_err(|error| {
        tracing::error!(%error, "a session's events could not be understood");
        Refusal::unavailable("The conversation could not be understood.")
    })?;
    let past = Past::of(events, param)?;
    let body = continued(&body, &found, &past.items);
    let mut scan =
        scan(Wire::OpenaiResponses, &body).map_err(|fault| Refusal::invalid(format!("{}.", fault.message), fault.param))?;
    scan.left_out = past.left_out(agent, &scan);
    Ok((body, scan))
}

fn unknown(param: &str, id: &str) -> Refusal {
    let message = match param {
        "conversation" => format!("There is no conversation '{id}' for this agent and user."),
        _ => format!("Previous response with id '{id}' not found: it is not of this agent and user, or was not stored."),
    };
    let code = if param == "conversation" { "conversation_not_found" } else { "previous_response_not_found" };
    Refusal { param: Some(param.to_owned()), ..Refusal::not_found(message, code) }
}

/// What the log holds.
#[derive(Default)]
struct Past {
    /// Input items, joined by commas.
    items: String,
    /// The same, as the window sees them.
    parts: Vec<Part>,
    /// The number of the event that prompts begin with.
    kept_from: Option<i64>,
    summary: Option<String>,
}

impl Past {
    fn of(events: Vec<Logged>, param: &str) -> Result<Self, Refusal> {
        let mut found = Self::default();
        // Calls without a result: between these no turn begins.
        let mut open = 0_usize;
        for Logged(kind, payload) in events {
            if kind == COMPACTED {
                found.kept_from = Some(payload.kept_from_seq);
                found.summary = payload.summary.or(found.summary);
                continue;
            }
            let seq = payload.seq;
            let Some(item) = item(&kind, payload, param)? else { continue };
            let mut part = Part { tokens: estimate(item.len()), turn: None, said: kind.starts_with("agent.") };
            match kind.as_str() {
                "user.message" if open == 0 && found.parts.last().is_none_or(|before| before.said) => part.turn = Some(seq),
                "agent.custom_tool_use" => open += 1,
                "user.custom_tool_result" => open = open.saturating_sub(1),
                _ => {}
            }
            found.parts.push(part);
            if !found.items.is_empty() {
                found.items.push(',');
            }
            found.items.push_str(&item);
        }
        Ok(found)
    }

    /// What of it is not to be sent: `scan` is of the request that begins with it.
    fn left_out(&self, agent: &Agent, scan: &Scan) -> Option<LeftOut> {
        let context = agent.context.as_ref()?;
        let logged = self.parts.len();
        let before = self.parts.iter().position(|part| part.turn.is_some() && part.turn == self.kept_from).unwrap_or(0);
        let said = scan.messages.get(logged)?;
        // Pictures take less than their bytes tell: what the client adds does not drive out all that is there.
        let more = estimate(scan.messages_span.end.saturating_sub(said.span.start)).min(context.tokens / 2);
        let opens = said.role == Role::User && self.parts.last().is_some_and(|part| part.said);
        let first = first_sent(&self.parts, before, more, opens, context);
        if first == 0 {
            return None;
        }
        let searches = agent.tools.as_ref().is_some_and(|tools| tools.has(SEARCH));
        Some(LeftOut {
            span: Span { start: scan.messages.first()?.span.start, end: scan.messages.get(first)?.span.start },
            marker: marker(searches, self.summary.as_deref()).into(),
            kept_from: self.parts[first].turn.filter(|_| first != before),
        })
    }
}

/// An event as an input item; none where it says nothing.
fn item(kind: &str, payload: Payload, param: &str) -> Result<Option<String>, Refusal> {
    let text = text(&payload.content, param)?;
    let item = match kind {
        "user.message" => json!({"role": "user", "content": text}),
        "agent.message" if text.is_empty() => return Ok(None),
        "agent.message" => json!({"role": "assistant", "content": text}),
        "agent.custom_tool_use" => {
            // What the model wrote was no JSON where a text was kept.
            let arguments = match payload.input {
                Value::String(raw) => raw,
                input => input.to_string(),
            };
            json!({"type": "function_call", "call_id": payload.id, "name": payload.name, "arguments": arguments})
        }
        "user.custom_tool_result" => {
            json!({"type": "function_call_output", "call_id": payload.custom_tool_use_id, "output": text})
        }
        _ => return Ok(None),
    };
    Ok(Some(item.to_string()))
}

fn text<'a>(content: &'a [Content], param: &str) -> Result<Cow<'a, str>, Refusal> {
    let mut text = Cow::Borrowed("");
    for part in content {
        match &part.text {
            Some(more) if text.is_empty() => text = Cow::Borrowed(more),
            Some(more) => text.to_mut().push_str(more),
            None => {
                let message = format!(
                    "The conversation that `{param}` names holds a part of type '{}', which the session log tells apart but does \
                     not keep: send the whole conversation in `input`.",
                    part.r#type
                );
                return Err(Refusal::invalid(message, Some(param.to_owned())));
            }
        }
    }
    Ok(text)
}
