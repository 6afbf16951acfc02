//! The session's side of a call: what its log is to say of it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::{
    Answer,
    row::{EventRow, MessageRow, TurnRow},
};
use crate::{
    conversation::{self, Call as ClientCall, Chain, Conversation, EMPTY, reply_message},
    redaction::{AgentRedaction, Redaction},
    remember::Memory,
    request::Role,
    snapshot::Agent,
    wire::{ToolCall, ToolResult},
};

/// Says with which event prompts begin from then on.
pub const COMPACTED: &str = "agent.thread_context_compacted";
const CLIENT_TOOL: &str = "agent.custom_tool_use";

/// A memory tool that was carried out for the model: the client never saw it, the session's log has it.
pub struct Hidden {
    /// Its event, which the memory's version names as its source.
    pub event: Uuid,
    /// What the model called.
    pub call: ToolCall,
    /// What it was told.
    pub result: ToolResult,
}

/// The session's side of a call with an agent.
pub struct Turn {
    /// With which.
    pub agent: Arc<Agent>,
    /// The session that it goes on with.
    pub session: Uuid,
    parent: Uuid,
    /// The chain that the reply follows.
    head: Chain,
    /// What an Anthropic client began the reply with.
    prefill: String,
    prefix: Chain,
    /// What is new in it, or all.
    pub messages: Vec<MessageRow>,
    /// The number of the event that prompts begin with from this turn on, where it is another than before.
    pub kept_from: Option<i64>,
    /// In the order in which they were carried out.
    pub hidden: Vec<Hidden>,
}

fn row(event: conversation::Event) -> Option<EventRow> {
    let payload = RawValue::from_string(event.payload).ok()?;
    Some(EventRow { id: Uuid::now_v7(), kind: event.kind, payload })
}

impl Turn {
    /// What a call brings to its session's log.
    pub fn new(agent: &Arc<Agent>, memory: &Memory, conversation: &Conversation) -> Self {
        // Where the log is known to end at the client's history, only what is new; else all, for the store to match.
        let (first, prefix) = if memory.at_head { (conversation.tail_start(), conversation.prefix()) } else { (0, EMPTY) };
        let messages = (first..conversation.messages().len()).map(|index| {
            let message = &conversation.messages()[index];
            let role = match message.role {
                Role::Assistant => "assistant",
                Role::Tool => "tool",
                Role::User | Role::System => "user",
            };
            let (text, events) = conversation.said(index);
            // Tool results are the log's, not what anybody said: they are not recalled.
            let text = text.filter(|_| role != "tool").unwrap_or_default();
            MessageRow { chain: message.chain, role, text, events: events.into_iter().filter_map(row).collect() }
        });
        Self {
            agent: Arc::clone(agent),
            session: memory.session,
            parent: memory.parent,
            head: conversation.head(),
            prefill: conversation.prefill().to_owned(),
            prefix,
            messages: messages.collect(),
            kept_from: None,
            hidden: Vec::new(),
        }
    }

    /// One of which nothing is kept but whose it was.
    pub fn empty(agent: &Arc<Agent>, session: Uuid, parent: Uuid) -> Self {
        Self {
            agent: Arc::clone(agent),
            session,
            parent,
            head: EMPTY,
            prefill: String::new(),
            prefix: EMPTY,
            messages: Vec::new(),
            kept_from: None,
            hidden: Vec::new(),
        }
    }

    /// The row, and the chain that the session's log ends with. `interrupted`: the client left before the answer's end.
    pub fn finish(mut self, answer: &Answer, user: Option<&str>, interrupted: bool) -> (TurnRow, Chain) {
        let text = format!("{}{}", self.prefill, answer.text);
        let calls: Vec<ClientCall> =
            answer.calls.iter().map(|call| ClientCall { id: &call.id, name: &call.name, arguments: &call.arguments }).collect();
        let redaction = self.agent.redaction.as_deref();
        let reply = reply_message(self.head, &text, &calls, redaction);
        let of_log = redaction.and_then(AgentRedaction::of_log);
        let compacted = |kept_from_seq| event(Uuid::now_v7(), COMPACTED, &Compacted { kept_from_seq });
        let mut events: Vec<EventRow> = self.kept_from.and_then(compacted).into_iter().collect();
        events.extend(self.hidden.drain(..).flat_map(|hidden| hidden.rows(of_log)));
        events.extend(reply.events.into_iter().filter_map(row));
        let waiting: Vec<String> =
            events.iter().filter(|event| event.kind == CLIENT_TOOL).map(|event| event_name(event.id)).collect();
        let stop_reason = if interrupted {
            StopReason::RetriesExhausted
        } else if waiting.is_empty() {
            StopReason::EndTurn
        } else {
            StopReason::RequiresAction { event_ids: waiting }
        };
        let why = interrupted.then(|| event(Uuid::now_v7(), "session.error", &client_gone())).flatten();
        let idle = event(Uuid::now_v7(), "session.status_idle", &Idle { stop_reason });
        let text = text.replace('\0', "\u{fffd}");
        let text = redaction.map(|redaction| redaction.redaction().text(&text).into_owned()).unwrap_or(text);
        self.messages.push(MessageRow { chain: reply.chain, role: "assistant", text, events });
        let forks = self.session != self.parent;
        let row = TurnRow {
            session: self.parent,
            fork: if forks { self.session } else { Uuid::now_v7() },
            forks,
            store: Uuid::now_v7(),
            agent: self.agent.id,
            agent_version: self.agent.version,
            user: user.map(str::to_owned),
            prefix: self.prefix,
            remember: self.agent.remembers,
            messages: self.messages,
            after: why.into_iter().chain(idle).collect(),
        };
        (row, reply.chain)
    }
}

/// What a turn's end is told by.
#[derive(Serialize)]
struct Idle {
    stop_reason: StopReason,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StopReason {
    EndTurn,
    RequiresAction {
        event_ids: Vec<String>,
    },
    /// The client left. The vocabulary has no word for it: "the turn is dead, send a new prompt" is what this one stands for, and
    /// the error before it says why.
    RetriesExhausted,
}

#[derive(Serialize)]
struct Compacted {
    kept_from_seq: i64,
}

fn client_gone() -> Value {
    serde_json::json!({"error": {
        "type": "unknown_error",
        "message": "The client went away before the answer came to its end; the log has what was relayed until then.",
        "retry_status": {"type": "exhausted"},
    }})
}

impl Hidden {
    fn rows(mut self, redaction: Option<&Redaction>) -> Vec<EventRow> {
        let mut input: Value = serde_json::from_str(&self.call.arguments).unwrap_or_default();
        if let Some(redaction) = redaction {
            input = redaction.value(input);
            self.result.content = redaction.text(&self.result.content).into_owned();
        }
        let used = serde_json::json!({"name": self.call.name, "input": input});
        let result = serde_json::json!({
            "tool_use_id": event_name(self.event),
            "content": [{"type": "text", "text": self.result.content}],
            "is_error": self.result.is_error,
        });
        [event(self.event, "agent.tool_use", &storable(used)), event(Uuid::now_v7(), "agent.tool_result", &storable(result))]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// An event of our own making; its payload holds no NUL.
fn event(id: Uuid, kind: &'static str, payload: &impl Serialize) -> Option<EventRow> {
    let payload = serde_json::value::to_raw_value(payload).ok()?;
    Some(EventRow { id, kind, payload })
}

fn event_name(id: Uuid) -> String {
    format!("sevt_{}", id.simple())
}

/// Postgres' jsonb holds no NUL.
fn storable(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => items.into_iter().map(storable).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name.replace('\0', "\u{fffd}"), storable(value))).collect()
        }
        other => other,
    }
}
