//! Stage 7, record: the turn and its usage, into the spool before the client sees the last byte.

mod call;
mod ending;
mod given;
mod row;
mod turn;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use uuid::Uuid;

pub use self::{
    call::{Call, CallName},
    ending::CLIENT_GONE,
    given::Given,
    row::{CallRows, TurnRow, write_hex},
    turn::COMPACTED,
};
use self::{
    ending::Sum,
    row::Source,
    turn::{Hidden, Turn},
};
use crate::{
    admit::Admission,
    cache::{self, Cache, Wanted},
    conversation::Conversation,
    error::Refusal,
    gateway::Gateway,
    idempotency::{self, Reserves},
    principal::{Key, Scopes},
    prompt::{Change, Prompt},
    remember::Memory,
    routing::{Target, Upstream},
    snapshot::Agent,
    stored::{Kept, Stored, When},
    told::Figures,
    traces::{Place, Traces},
    wire::{Part, Reply, StopReason, ToolCall, ToolResult, Usage},
};

/// What is recorded of a call. Dropped without an end, it records that the client went away.
pub struct Recorder {
    gateway: Arc<Gateway>,
    call: Call,
    key: Arc<Key>,
    user: Option<String>,
    asked: String,
    stream: bool,
    /// Length of the request, for an estimate where the provider tells no usage.
    request_bytes: usize,
    upstream: Option<Arc<Upstream>>,
    turn: Option<Turn>,
    /// What its session's prompts begin with, and whether that is new.
    prompt: Option<(Arc<Prompt>, Change)>,
    usage: Usage,
    /// What the round under way has told of its usage so far.
    heard: Option<Usage>,
    rounds: u32,
    /// Rounds whose usage the provider told to the end.
    told: u32,
    retries: u32,
    waited: Duration,
    first_byte: Option<Duration>,
    /// The part of that which was ours.
    before: Duration,
    /// What it comes to, once that is reckoned.
    sum: Option<Sum>,
    /// Its place in a trace, if it is traced.
    trace: Option<(Arc<Traces>, Place)>,
    /// What the client asked, where its span is to tell.
    asked_with: Option<Bytes>,
    /// What the client has been given so far.
    answer: Answer,
    source: Source,
    /// The idempotency key that it has to itself.
    reserves: Option<Reserves>,
    /// Its bodies, where they are to be stored.
    stores: Option<(Arc<Stored>, Kept)>,
    /// Why it was refused, in its client's words.
    refusal: Option<Vec<u8>>,
    /// What its answer is kept under in the response cache.
    caches: Option<(Arc<Cache>, Wanted)>,
    /// Memory tools were carried out for it.
    used_tools: bool,
    /// What the client was given word for word, where somebody wants it.
    given: Option<Given>,
    open: bool,
    /// What was reserved for it.
    admission: Admission,
}

/// The reply as the client saw it.
#[derive(Default)]
pub struct Answer {
    /// All text, joined.
    pub text: String,
    /// Length of what was said beside the text, in bytes: reasoning, arguments of tools.
    pub beside: usize,
    /// The calls of its own tools.
    pub calls: Vec<ToolCall>,
    /// Why the model stopped, where that was read.
    pub stop: Option<StopReason>,
}

impl Recorder {
    /// Begins the record of a call that was let in.
    pub fn new(gateway: &Arc<Gateway>, call: Call, key: &Arc<Key>, target: &Target, stream: bool, request_bytes: usize) -> Self {
        Self::of(gateway, call, key, (target.asked.clone(), target.user.clone()), stream, request_bytes)
    }

    /// Begins the record of a call that was let in for a model and a user of these names.
    pub fn of(
        gateway: &Arc<Gateway>,
        call: Call,
        key: &Arc<Key>,
        (asked, user): (String, Option<String>),
        stream: bool,
        request_bytes: usize,
    ) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            call,
            key: Arc::clone(key),
            user,
            asked,
            stream,
            request_bytes,
            upstream: None,
            turn: None,
            prompt: None,
            usage: Usage::default(),
            heard: None,
            rounds: 0,
            told: 0,
            retries: 0,
            waited: Duration::ZERO,
            first_byte: None,
            before: Duration::ZERO,
            sum: None,
            trace: None,
            asked_with: None,
            answer: Answer::default(),
            source: Source::Provider,
            reserves: None,
            stores: None,
            refusal: None,
            caches: None,
            used_tools: false,
            given: None,
            open: true,
            admission: Admission::default(),
        }
    }

    /// Holds what was reserved for the call until it ends.
    pub fn reserved(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// What was reserved for the call.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The call.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Has the call traced if it is to be; `body` is what its client asked.
    pub fn with_trace(&mut self, headers: &HeaderMap, body: &Bytes) {
        let settings = self.gateway.settings();
        let Some(traces) = &settings.traces else { return };
        let Some(place) = traces.begin(headers, self.call.id) else { return };
        self.asked_with = traces.content.map(|_| body.clone());
        self.trace = Some((Arc::clone(traces), place));
    }

    /// Whether what is answered must be read to the end for it to be told.
    pub fn tells(&self) -> bool {
        self.asked_with.is_some()
    }

    /// Adds the session's side. Our own runtime writes its sessions' logs itself; for it only usage is recorded.
    /// `keep` is false where the client asked for nothing to be kept.
    ///
    /// # Errors
    /// 500 where the conversation cannot be put into words.
    pub async fn with_turn(
        &mut self,
        agent: &Arc<Agent>,
        memory: &Memory,
        conversation: Conversation,
        keep: bool,
    ) -> Result<(), Refusal> {
        if keep {
            self.prompt.clone_from(&memory.prompt);
        }
        self.turn = Some(if !keep || self.key.scopes.has(Scopes::RUNTIME) {
            Turn::empty(agent, memory.session, memory.parent)
        } else if conversation.is_long() {
            let (agent, memory) = (Arc::clone(agent), memory.clone());
            self.gateway.apart.run(move || Turn::new(&agent, &memory, &conversation)).await?
        } else {
            Turn::new(agent, memory, &conversation)
        });
        Ok(())
    }

    /// Notes with which event of its session prompts begin from this call on, where that is another than before.
    pub fn compacts(&mut self, kept_from: Option<i64>) {
        if let Some(turn) = &mut self.turn {
            turn.kept_from = kept_from;
        }
    }

    /// Notes an answer's head: from where, after how long, in which attempt.
    pub fn answered(&mut self, upstream: &Arc<Upstream>, waited: Duration, retries: u32) {
        self.rounds += 1;
        self.retries += retries;
        self.waited += waited;
        if self.first_byte.is_none() {
            let elapsed = self.call.begun.elapsed();
            self.first_byte = Some(elapsed);
            self.before = elapsed.saturating_sub(self.waited);
        }
        self.upstream = Some(Arc::clone(upstream));
    }

    /// What the head of the answer tells.
    pub fn figures(&self) -> Figures {
        // What no provider was asked for is all ours.
        let overhead =
            if self.first_byte.is_some() { self.before } else { self.call.begun.elapsed().saturating_sub(self.waited) };
        Figures { retries: self.retries, overhead, cost: self.sum.and_then(|sum| sum.cost) }
    }

    /// Names an answer that its provider left nameless, as Bedrock does: by our call, and by the model that was asked.
    pub fn name(&self, id: &mut String, model: &mut String) {
        if id.is_empty() {
            *id = self.call.name().to_string();
        }
        if let (true, Some(upstream)) = (model.is_empty(), &self.upstream) {
            model.clone_from(&upstream.model);
        }
    }

    /// Notes attempts that no provider answered.
    pub fn attempted(&mut self, waited: Duration, retries: u32) {
        self.retries += retries;
        self.waited += waited;
    }

    /// Notes time spent waiting for the provider in the middle of its answer.
    pub fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Notes what a stream tells of its usage on the way: all that is known should it break off.
    pub fn hears(&mut self, usage: Usage) {
        self.heard = Some(usage);
    }

    /// Adds the usage of a round that came to its end; none where the provider told none.
    pub fn used(&mut self, usage: Option<Usage>) {
        self.heard = None;
        if let Some(usage) = usage {
            self.usage += usage;
            self.told += 1;
        }
    }

    /// The usage of all rounds so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// What the client has been given so far.
    pub fn answer(&mut self) -> &mut Answer {
        &mut self.answer
    }

    /// Notes text of the answer: word for word only where there is a log, a span or a store for it.
    pub fn says(&mut self, text: &str) {
        if self.turn.is_some() || self.asked_with.is_some() || self.stores.is_some() {
            self.answer.text.push_str(text);
        } else {
            self.answer.beside += text.len();
        }
    }

    /// Keeps what the client is given, under its idempotency key.
    pub fn reserves(&mut self, reserves: Reserves) {
        self.reserves = Some(reserves);
        self.holds(idempotency::MAX_BYTES);
    }

    /// Keeps what the client is given in the response cache, should it be an answer that came in one round.
    pub fn caches(&mut self, cache: Arc<Cache>, wanted: Wanted) {
        self.caches = Some((cache, wanted));
        self.holds(cache::MAX_BYTES);
    }

    /// Stores what it was asked and answered; `request` is none where that streams past.
    pub fn stores(&mut self, stored: Arc<Stored>, when: When, request: Option<&Bytes>) {
        let limit = stored.holds();
        let kept = Kept { when, request: request.map(|bytes| stored.beginning(bytes)) };
        self.stores = Some((stored, kept));
        self.holds(limit);
    }

    fn holds(&mut self, limit: usize) {
        self.given.get_or_insert_with(|| Given::new(limit, content_type(self.stream))).widen(limit);
    }

    /// Notes a head that the client is about to be given, where it is not that of its wire's answers.
    pub fn heads(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(given) = &mut self.given {
            given.status = status.as_u16();
            let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
            kind.unwrap_or_default().clone_into(&mut given.content_type);
        }
    }

    /// Notes bytes that the client is about to be given.
    pub fn gives(&mut self, bytes: &[u8]) {
        if let Some(given) = &mut self.given {
            given.push(bytes);
        }
    }

    /// Notes that the client is given what an earlier call was.
    pub fn replays(&mut self) {
        self.source = Source::Replay;
    }

    /// Notes that the client is given what is in the response cache.
    pub fn from_cache(&mut self) {
        self.source = Source::Cache;
    }

    /// Notes a memory tool that was carried out; `event` is the id that the memory's version names as its source.
    pub fn hidden(&mut self, event: Uuid, call: ToolCall, result: ToolResult) {
        self.gateway.metrics.memory_tool();
        self.used_tools = true;
        if let Some(turn) = &mut self.turn {
            turn.hidden.push(Hidden { event, call, result });
        }
    }

    /// Takes what the client got from a whole reply.
    pub fn answered_with(&mut self, reply: &Reply) {
        self.answer.text = reply.text();
        self.answer.beside = reply.parts.iter().map(beside).sum();
        self.answer.calls = reply.tool_calls().cloned().collect();
        self.answer.stop = Some(reply.stop.clone());
    }
}

/// The content type of a wire's answers.
pub fn content_type(stream: bool) -> &'static str {
    if stream { "text/event-stream; charset=utf-8" } else { "application/json" }
}

/// The length of a part that is no text, in bytes.
fn beside(part: &Part) -> usize {
    match part {
        Part::Text(_) => 0,
        Part::Thinking { text, .. } => text.len(),
        Part::ToolCall(call) => call.name.len() + call.arguments.len(),
        Part::Opaque(block) => block.json.len(),
    }
}
