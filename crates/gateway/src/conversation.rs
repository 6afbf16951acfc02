//! A client's messages as the session log knows them: a hash chain to find where the log and the client agree, and the events
//! of what is new.

mod calls;
mod kept;
mod normal;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use self::calls::Calls;
use self::kept::{kept, storable};
use self::normal::{Part, each_normal, write};
use crate::apart::is_long;
use crate::redaction::AgentRedaction;
use crate::request::text::escape_into;
use crate::request::{Kind, Message as Source, Role, Scan};
use crate::wire::Wire;

/// What a conversation was up to some message: `SHA-256(chain before || normal form of the message)`; zeros before the first.
/// Where the log is redacted, the message is hashed as the log keeps it: so a history that was read from there is the same.
pub type Chain = [u8; 32];

/// The chain of no messages.
pub const EMPTY: Chain = [0; 32];

/// The messages of one request, system text left out, the same for all wires.
#[derive(Debug, Clone)]
pub struct Conversation {
    wire: Wire,
    body: Bytes,
    sources: Vec<Source>,
    messages: Vec<Message>,
    calls: Calls,
    prefill: String,
    /// Messages that begin before are in the log alone.
    sent_from: usize,
    redaction: Option<Arc<AgentRedaction>>,
}

/// One message in normal form: a user's text, an assistant's text and tool calls, or one tool result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks; never `System`.
    pub role: Role,
    /// The chain up to and with this message.
    pub chain: Chain,
    /// The places of what it is made of among the sources: one, or several items of one turn.
    sources: (usize, usize),
    nth_of_source: usize,
    /// The place of its first call, or of the call it answers, among all calls.
    call: usize,
}

/// The assistant's reply as the client will echo it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The chain up to and with the reply.
    pub chain: Chain,
    /// `agent.message` if there is text or no call, then an `agent.custom_tool_use` for each call.
    pub events: Vec<Event>,
}

/// A session event, not yet numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Such as `user.message`.
    pub kind: &'static str,
    /// A JSON object that Postgres takes as `jsonb` (no NUL in any text, numbers within range).
    pub payload: String,
}

/// A call of one of the client's own tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// The provider's id of the call.
    pub id: &'a str,
    /// The tool's name.
    pub name: &'a str,
    /// JSON text; blank means `{}`.
    pub arguments: &'a str,
}

/// Hashes the messages of a request; `scan` must come from `body`. Nothing else is built before it is asked for. What the agent's
/// `redaction` finds is in nothing that it gives.
///
/// On a 2-core x86-64 VM (best of 50; SHA-256 takes most of it): 12 µs for 16 KiB of prose in 12 messages, 32 µs for 18 KiB of code with an
/// escape every 7 bytes.
pub fn conversation(wire: Wire, body: &Bytes, scan: &Scan, redaction: Option<Arc<AgentRedaction>>) -> Conversation {
    let of_log = redaction.as_ref().and_then(|redaction| redaction.of_log());
    let mut messages: Vec<Message> = Vec::with_capacity(scan.messages.len());
    let mut chain = EMPTY;
    let mut bytes = Vec::new();
    let mut calls = Calls::default();
    let sources: Vec<Source> = scan.messages.iter().filter(|message| message.role != Role::System).copied().collect();
    // What the model said in one turn stands in items of its own in a responses request, and Gemini's clients send back each
    // chunk of a stream as a content of its own.
    let in_pieces = matches!(wire, Wire::OpenaiResponses | Wire::Gemini);
    let one_turn = |one: &Source, next: &Source| in_pieces && one.role == Role::Assistant && next.role == Role::Assistant;
    let mut start = 0;
    for turn in sources.chunk_by(one_turn) {
        let mut nth_of_source = 0;
        each_normal(wire, body, turn, |role, parts| {
            let call = calls.read(parts);
            chain = link(chain, role, &kept(parts, of_log), call, &mut bytes);
            let call = call.unwrap_or(calls.made.len());
            messages.push(Message { role, chain, sources: (start, start + turn.len()), nth_of_source, call });
            nth_of_source += 1;
        });
        start += turn.len();
    }
    let sent_from = scan.left_out.as_ref().map_or(0, |left| left.span.end);
    let mut conversation =
        Conversation { wire, body: body.clone(), sources, messages, calls, prefill: String::new(), sent_from, redaction };
    if wire == Wire::AnthropicMessages {
        conversation.take_prefill();
    }
    conversation
}

/// The reply that follows `before`. `text` is all text of the reply, joined, as the client saw it, with white space kept.
///
/// The client's echo gets the same chain, whichever wire it comes in, because an assistant message is its text and calls only:
/// thinking, refusals, audio and calls of the provider's own tools are left out on both sides. What is told by `redaction` is
/// neither hashed nor in the events, as in [`conversation`].
pub fn reply_message(before: Chain, text: &str, calls: &[Call], redaction: Option<&AgentRedaction>) -> Reply {
    let text = Some(text).filter(|text| !text.is_empty()).map(|text| Part::Text(text.into()));
    let calls = calls.iter().map(|call| Part::call(call.id.into(), call.name.into(), call.arguments));
    let parts: Vec<Part> = text.into_iter().chain(calls).collect();
    let parts = kept(&parts, redaction.and_then(AgentRedaction::of_log));
    Reply { chain: link(before, Role::Assistant, &parts, None, &mut Vec::new()), events: events_of(Role::Assistant, &parts) }
}

impl Conversation {
    /// Whether it stands in a long body.
    pub fn is_long(&self) -> bool {
        is_long(&self.body)
    }

    /// All messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The chain of the last message: what a reply follows.
    pub fn head(&self) -> Chain {
        self.messages.last().map_or(EMPTY, |message| message.chain)
    }

    /// The user message that ends with this chain, as the client wrote it, if it is sent.
    pub fn source_of(&self, chain: &Chain) -> Option<Source> {
        let message = self.messages.iter().find(|message| message.chain == *chain && message.role == Role::User)?;
        self.sources.get(message.sources.0).filter(|source| source.span.start >= self.sent_from).copied()
    }

    /// The chain of the newest message, if that is a user's and has text or a list of parts that more can be put beside.
    pub fn newest_place(&self) -> Option<Chain> {
        let new = &self.messages[self.tail_start()..];
        let newest = new.iter().rev().find(|message| message.role == Role::User)?;
        let content = self.sources.get(newest.sources.0)?.content?;
        let list = content.kind == Kind::Array && !content.is_empty(&self.body);
        (list || content.kind == Kind::String).then_some(newest.chain)
    }

    /// Index of the first message after the last assistant's: what is new in this call.
    pub fn tail_start(&self) -> usize {
        let assistant = self.messages.iter().rposition(|message| message.role == Role::Assistant);
        assistant.map_or(0, |last| last + 1)
    }

    /// The chain just before the tail.
    pub fn prefix(&self) -> Chain {
        self.tail_start().checked_sub(1).map_or(EMPTY, |last| self.messages[last].chain)
    }

    /// The start of the reply that an Anthropic client gave as its last message, mostly empty. It is no message of its own:
    /// the reply is this text followed by what the model wrote.
    pub fn prefill(&self) -> &str {
        &self.prefill
    }

    /// The text of the newest user message, if that has any; tool results are not the user's.
    pub fn newest_user_text(&self) -> Option<Cow<'_, str>> {
        let newest = self.messages.iter().rev().find(|message| message.role == Role::User)?;
        let mut text = None;
        self.parts(newest, |parts| text = text_of(parts));
        text.map(|text| self.redacted(text))
    }

    fn redacted<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        match &self.redaction {
            Some(redaction) => redaction.redaction().text(&text).into_owned().into(),
            None => text,
        }
    }

    /// What message `index` is kept as: its text, if it has any, as recall may find it, and its events, at least one; the message's
    /// chain belongs to the last of them.
    pub fn said(&self, index: usize) -> (Option<String>, Vec<Event>) {
        let (mut text, mut events) = (None, Vec::new());
        if let Some(message) = self.messages.get(index) {
            let of_log = self.redaction.as_ref().and_then(|redaction| redaction.of_log());
            self.parts(message, |parts| {
                text = text_of(parts).map(|text| storable(&text).into_owned());
                events = events_of(message.role, &kept(parts, of_log));
            });
        }
        (text.map(|text| self.redacted(text.into()).into_owned()), events)
    }

    fn parts<'a>(&'a self, message: &Message, mut then: impl FnMut(&[Part<'a>])) {
        let mut nth = 0;
        let sources = &self.sources[message.sources.0..message.sources.1];
        each_normal(self.wire, &self.body, sources, |_, parts| {
            if nth == message.nth_of_source {
                match self.calls.named(parts, message.call) {
                    Some(named) => then(&named),
                    None => then(parts),
                }
            }
            nth += 1;
        });
    }

    fn take_prefill(&mut self) {
        let Some(last) = self.messages.last().filter(|message| message.role == Role::Assistant) else {
            return;
        };
        let mut prefill = None;
        self.parts(last, |parts| {
            let only_text = parts.iter().all(|part| matches!(part, Part::Text(_)));
            prefill = text_of(parts).filter(|_| only_text).map(Cow::into_owned);
        });
        if let Some(prefill) = prefill {
            self.prefill = prefill;
            self.messages.pop();
        }
    }
}

fn link(before: Chain, role: Role, parts: &[Part], answers: Option<usize>, bytes: &mut Vec<u8>) -> Chain {
    bytes.clear();
    write(bytes, role, parts, answers);
    Sha256::new().chain_update(before).chain_update(bytes).finalize().into()
}

fn text_of<'b>(parts: &[Part<'b>]) -> Option<Cow<'b, str>> {
    let mut text: Option<Cow<'b, str>> = None;
    for part in parts {
        if let Part::Text(more) = part {
            match &mut text {
                Some(text) => text.to_mut().push_str(more),
                None => text = Some(more.clone()),
            }
        }
    }
    text
}

fn events_of(role: Role, parts: &[Part]) -> Vec<Event> {
    let calls = parts.iter().filter(|part| matches!(part, Part::Call { .. }));
    let mut events = Vec::new();
    match role {
        Role::Assistant => {
            if calls.clone().next().is_none() || parts.iter().any(|part| matches!(part, Part::Text(_))) {
                events.push(event("agent.message", |payload| content(payload, parts)));
            }
            for call in calls {
                events.push(event("agent.custom_tool_use", |payload| {
                    custom_tool_use(payload, call);
                }));
            }
        }
        Role::Tool => events.push(event("user.custom_tool_result", |payload| {
            if let Some(Part::Result { call_id, is_error, .. }) = parts.first() {
                string(payload, r#""custom_tool_use_id":"#, call_id);
                payload.extend_from_slice(if *is_error { br#","is_error":true,"# } else { b"," });
            }
            content(payload, parts);
        })),
        Role::User | Role::System => {
            events.push(event("user.message", |payload| content(payload, parts)));
        }
    }
    events
}

fn event(kind: &'static str, fill: impl FnOnce(&mut Vec<u8>)) -> Event {
    let mut payload = b"{".to_vec();
    fill(&mut payload);
    payload.push(b'}');
    Event { kind, payload: String::from_utf8(payload).unwrap_or_default() }
}

fn custom_tool_use(payload: &mut Vec<u8>, call: &Part) {
    if let Part::Call { id, name, arguments } = call {
        string(payload, r#""id":"#, id);
        string(payload, r#","name":"#, name);
        payload.extend_from_slice(br#","input":"#);
        match arguments {
            normal::Arguments::Json(json) => payload.extend_from_slice(json.as_bytes()),
            normal::Arguments::Raw(raw) => string(payload, "", raw),
        }
    }
}

/// `"content":[…]`, adjacent texts as one.
fn content(payload: &mut Vec<u8>, parts: &[Part]) {
    payload.extend_from_slice(br#""content":["#);
    let mut separator = "";
    let shown = |part: &&Part| matches!(part, Part::Text(_) | Part::Other { .. });
    let mut parts = parts.iter().filter(shown).peekable();
    while let Some(part) = parts.next() {
        payload.extend_from_slice(separator.as_bytes());
        separator = ",";
        match part {
            Part::Text(text) => {
                payload.extend_from_slice(br#"{"type":"text","text":""#);
                escape_into(payload, &storable(text));
                while let Some(Part::Text(more)) = parts.next_if(|part| matches!(part, Part::Text(_))) {
                    escape_into(payload, &storable(more));
                }
                payload.extend_from_slice(b"\"}");
            }
            Part::Other { kind, sha256 } => {
                string(payload, r#"{"type":"#, kind);
                payload.extend_from_slice(br#","sha256":""#);
                for byte in sha256 {
                    let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                    payload.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
                }
                payload.push(b'"');
                payload.push(b'}');
            }
            Part::Call { .. } | Part::Result { .. } => {}
        }
    }
    payload.push(b']');
}

fn string(payload: &mut Vec<u8>, before: &str, text: &str) {
    payload.extend_from_slice(before.as_bytes());
    payload.push(b'"');
    escape_into(payload, &storable(text));
    payload.push(b'"');
}
