//! Stage 7, record: the turn and its usage, into the spool before the client sees the last byte.

mod call;
mod given;
mod row;
mod turn;

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::value::RawValue;
use uuid::Uuid;

pub use self::{
    call::{Call, CallName},
    given::Given,
    row::{CallRows, TurnRow, write_hex},
};
use self::{
    row::{CallRow, Source, tokens},
    turn::{Hidden, Turn},
};
use crate::{
    admit::Admission,
    cache::{self, Cache, Entry, Wanted},
    conversation::Conversation,
    error::Refusal,
    gateway::Gateway,
    idempotency::{self, Reserves},
    principal::{Key, Scopes},
    prompt::{Change, Prompt, PromptRow},
    remember::Memory,
    routing::{Target, Upstream},
    snapshot::Agent,
    stored::{self, Kept, Stored},
    told::Figures,
    traces::{Place, Said, Told, Traces},
    usage::estimate,
    wire::{self, Part, Reply, StopReason, ToolCall, ToolResult, Usage},
};

/// The status of a call whose client went away before the end (nginx' number for it).
pub const CLIENT_GONE: u16 = 499;

/// What a call comes to.
#[derive(Clone, Copy)]
struct Sum {
    /// Whether some of its tokens had to be estimated.
    estimated: bool,
    /// US dollars; none where no price is known.
    cost: Option<f64>,
}

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
    pub fn stores(&mut self, stored: Arc<Stored>, request: Option<&Bytes>) {
        let limit = stored.holds();
        let kept = Kept { request: request.map(|bytes| stored.beginning(bytes)) };
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

    /// Ends the record. When this returns true, the record survives this process.
    #[must_use]
    pub fn end(mut self, status: u16, error: Option<&str>) -> bool {
        self.write(status, error)
    }

    /// Ends the record with a refusal, which the client gets.
    #[must_use]
    pub fn refused(mut self, refusal: Refusal) -> Refusal {
        if self.stores.is_some() {
            self.refusal = Some(wire::error_body(self.call.wire, &refusal.body(&self.call.name())));
        }
        self.write(refusal.status.as_u16(), Some(refusal.code.unwrap_or(refusal.kind)));
        refusal.after(self.retries)
    }

    /// Reckons what the call comes to, before it ends, so that the head of its answer can tell. Nothing is used after this.
    pub fn reckon(&mut self, status: u16) {
        self.sum(status);
    }

    fn sum(&mut self, status: u16) -> Sum {
        if let Some(sum) = self.sum {
            return sum;
        }
        let estimated = self.count(status);
        let cost = match &self.upstream {
            Some(upstream) => self.gateway.prices.load().cost(&upstream.provider.name, &upstream.model, &self.usage),
            None => Some(0.0),
        };
        *self.sum.insert(Sum { estimated, cost })
    }

    /// Counts the tokens of all rounds; true where some of them had to be estimated.
    fn count(&mut self, status: u16) -> bool {
        self.usage += self.heard.take().unwrap_or_default();
        // A provider that refused has done no work; one that broke off, or was left by the client, has.
        let worked = status < 400 || status == CLIENT_GONE || !self.answer.text.is_empty() || self.answer.beside > 0;
        let estimated = worked && self.told < self.rounds;
        if estimated {
            if self.usage.input == 0 {
                self.usage.input = estimate(self.request_bytes);
            }
            self.usage.output = self.usage.output.max(estimate(self.answer.text.len() + self.answer.beside));
        }
        estimated
    }

    fn write(&mut self, status: u16, error: Option<&str>) -> bool {
        self.open = false;
        let total = self.call.begun.elapsed();
        let Sum { estimated, cost } = self.sum(status);
        let holder = self.admission.holder();
        // What was reserved beyond is given back.
        self.admission.settle(cost.unwrap_or_default(), self.usage.input.saturating_add(self.usage.output));
        let overhead = total.saturating_sub(self.waited);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let turn = self.turn.take();
        let (agent, session) = (turn.as_ref().map(|turn| turn.agent.id), turn.as_ref().map(|turn| turn.session));
        // A turn without any answer leaves the log as it was: the client will send its message again.
        let told = status < 400 || (status == CLIENT_GONE && !self.answer.text.is_empty());
        let turn = turn
            .filter(|turn| told && !turn.messages.is_empty())
            .map(|turn| turn.finish(&self.answer, self.user.as_deref(), status == CLIENT_GONE));
        let prompt = self.prompt.take().filter(|_| told);
        if let Some((row, chain)) = &turn {
            self.gateway.memories.ended(row, *chain, prompt.as_ref().map(|(prompt, _)| prompt));
        }
        let prompt = prompt.and_then(|prompt| prompt_row(&prompt, turn.as_ref().map(|(turn, _)| turn), session));
        let row = CallRow {
            tenant: self.key.tenant,
            call: self.call.id,
            at_us: self.call.at_us,
            key: self.key.id,
            team: self.key.team,
            agent,
            session,
            user: self.user.as_deref().map(Cow::from),
            model: Cow::from(&self.asked),
            provider: self.upstream.as_ref().map(|upstream| Cow::from(&upstream.provider.name)),
            upstream_model: self.upstream.as_ref().map(|upstream| Cow::from(&upstream.model)),
            wire: Cow::from(self.call.route.name()),
            stream: self.stream,
            status,
            error_type: error.map(Cow::from),
            input_tokens: tokens(self.usage.input),
            output_tokens: tokens(self.usage.output),
            cached_tokens: tokens(self.usage.cache_read),
            cache_write_tokens: tokens(self.usage.cache_write),
            reasoning_tokens: tokens(self.usage.reasoning),
            estimated,
            cost_usd: cost,
            source: self.source,
            rounds: self.rounds,
            retries: self.retries,
            first_byte_us: self.first_byte.map(micros),
            total_us: micros(total),
            overhead_us: micros(overhead),
            holder,
            turn: turn.map(|(row, _)| row),
            idempotency: self.reserves.take().and_then(|reserves| {
                let given = self.given.as_ref().filter(|_| (200..300).contains(&status));
                reserves.row(given, self.upstream_name(), session)
            }),
            bodies: self.bodies(status),
            prompt,
        };
        let metrics = &self.gateway.metrics;
        metrics.ended(
            self.call.route,
            status,
            total.as_secs_f64(),
            overhead.as_secs_f64(),
            self.first_byte.map(|time| time.as_secs_f64()),
        );
        metrics.tokens(&self.usage);
        if let Some((traces, place)) = self.trace.take() {
            let told = Told {
                call: self.call.id,
                at_us: self.call.at_us,
                total,
                overhead,
                first_byte: self.first_byte,
                operation: self.call.route.operation(),
                asked: &self.asked,
                upstream: row.provider.as_deref().zip(row.upstream_model.as_deref()),
                agent,
                session,
                key: self.key.id,
                status,
                error,
                stream: self.stream,
                usage: &self.usage,
                cost_usd: cost,
                retries: self.retries,
                stop: self.answer.stop.as_ref(),
                said: self.asked_with.as_deref().map(|body| Said { wire: self.call.wire, body, answer: &self.answer }),
            };
            if !traces.ended(place, &told) {
                metrics.span_dropped();
            }
        }
        let written = self.append(&row);
        if let Some((agent, user)) = row.turn.as_ref().and_then(|turn| Some((turn.agent, turn.user.as_deref()?))) {
            self.gateway.memories.wrote(agent, user, self.gateway.spool.end());
        }
        if written && status == 200 {
            self.put_into_cache();
        }
        written
    }

    /// What is stored of its bodies. What was answered with another call's answer is stored with that.
    fn bodies(&self, status: u16) -> Option<Box<RawValue>> {
        let (bodies, held) = self.stores.as_ref()?;
        if self.source != Source::Provider || !bodies.of(status) {
            return None;
        }
        if self.gateway.spool.is_half_full() {
            self.gateway.metrics.bodies_skipped();
            return None;
        }
        let (told, given) = (self.refusal.as_deref(), self.given.as_ref().and_then(Given::beginning));
        let said = !self.answer.text.is_empty() || !self.answer.calls.is_empty();
        let stream = (self.stream && said).then(|| stored::assembled(&self.answer, told));
        let response = match &stream {
            Some(stream) => Some((&stream[..], stream.len())),
            None => told.map(|told| (told, told.len())).or(given),
        };
        bodies.row(held.request.as_ref().map(|(bytes, length)| (&bytes[..], *length)), response)
    }

    /// Keeps a whole answer for the same request. One that memory tools had a part in is not: they would not be carried out again.
    fn put_into_cache(&mut self) {
        let Some((cache, wanted)) = self.caches.take() else { return };
        let given = self.given.as_ref().filter(|_| self.rounds == 1 && !self.used_tools);
        let Some((given, bytes)) = given.and_then(|given| Some((given, given.bytes(cache::MAX_BYTES)?))) else { return };
        let entry = Entry {
            content_type: given.content_type.clone(),
            upstream: self.upstream_name().unwrap_or_default(),
            call: self.call.id,
            body: Bytes::copy_from_slice(bytes),
        };
        cache.put(wanted, entry);
    }

    fn upstream_name(&self) -> Option<String> {
        self.upstream.as_ref().map(|upstream| format!("{}/{}", upstream.provider.name, upstream.model))
    }

    /// Into the spool; when this returns true, the record survives this process.
    fn append(&self, row: &CallRow<TurnRow>) -> bool {
        let mut line = Vec::with_capacity(1024);
        let written = serde_json::to_writer(&mut line, row).map_err(std::io::Error::from).and_then(|()| {
            line.push(b'\n');
            self.gateway.spool.append(&line)
        });
        if let Err(error) = &written {
            tracing::error!(%error, call = %self.call.name(), "a call could not be recorded");
        }
        written.is_ok()
    }
}

/// What its session's prompts begin with; a worker's call, which has no turn, says that it was made as well.
fn prompt_row((prompt, change): &(Arc<Prompt>, Change), turn: Option<&TurnRow>, session: Option<Uuid>) -> Option<Box<RawValue>> {
    let row = match turn {
        Some(turn) => PromptRow::new(turn.session, Some(turn.fork), prompt, *change, false)?,
        None => PromptRow::new(session?, None, prompt, *change, true)?,
    };
    serde_json::value::to_raw_value(&row).ok()
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

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.open {
            self.write(CLIENT_GONE, Some("client_closed_request"));
        }
    }
}
