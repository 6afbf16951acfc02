//! Stage 6, relay: the provider's answer to the client. Untouched where both speak the same wire and no memory tool is on
//! offer; else read, memory tools carried out and hidden, and written in the client's wire.

mod affinity;
mod cached;
mod defaults;
mod draft;
mod echo;
mod listener;
mod member;
mod relayed;
mod shape;
mod source;
mod streamed;
mod untold;
mod whole;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use uuid::Uuid;

use self::echo::Echo;
pub use self::{
    affinity::conversation as affinity_of,
    cached::{cached, tell},
    draft::Draft,
    listener::{Listener, Patience},
    relayed::{Hand, Relayed},
    source::broken,
    streamed::{Cut, streamed},
    whole::{collect, whole},
};
use crate::{
    apart::is_long,
    bodies::Held,
    body::Body,
    error::{Reason, Refusal},
    gateway::Worker,
    memory_tools::{self, MemoryTool, Subject},
    metrics::UnderWay,
    providers::Operation,
    record::Recorder,
    remember::{Memory, State},
    request::Scan,
    routing::{Target, Upstream},
    snapshot::{Agent, Tools},
    told,
    upstream::{self, Answer, Failed, Outgoing, Words, Written},
    wire::{self, Reply, ToolCall, ToolResult, Wire, WireError, memory_tool},
};

/// A call that is ready to go: all that relaying it needs.
pub struct Outbound {
    /// The thread's connections, and what all threads share.
    pub worker: Arc<Worker>,
    /// The client's wire.
    pub wire: Wire,
    /// The client's request.
    pub body: Bytes,
    /// Where its parts are.
    pub scan: Scan,
    /// The query of its URL.
    pub query: Option<String>,
    /// Its headers.
    pub headers: HeaderMap,
    /// What it is for.
    pub target: Target,
    /// What goes into it.
    pub memory: Option<Memory>,
    /// The id that the client is to know its response by, in the one wire that goes on by ids.
    pub response_id: Option<String>,
    /// What was left out of the request, as the client names it.
    pub dropped: Mutex<Vec<String>>,
    /// Whether Anthropic's memory tool is carried out here.
    pub memory_tool: MemoryTool,
    /// Counts its body against the limit for all.
    pub room: Held,
    /// Counts it as under way for as long as it is relayed.
    pub under_way: UnderWay,
}

impl Outbound {
    /// What a response repeats of its request, where it does and something of that is ours.
    fn echo(&self) -> Option<Echo<'_>> {
        self.response_id.as_ref().map(|id| Echo::new(id, &self.body))
    }

    fn agent(&self) -> Option<&Agent> {
        self.target.agent.as_deref()
    }

    /// Lets go of the client's request, where nothing is made of it any more: no further round, no echo of what it asked.
    fn forget_body(&mut self) {
        if !self.carries_out() && self.response_id.is_none() {
            self.body = Bytes::new();
            self.room.release();
        }
    }

    /// The memory tools on offer.
    fn tools(&self) -> Option<&Tools> {
        tools(self.agent(), self.memory.as_ref())
    }

    /// What is to be written for an upstream.
    fn draft(&self) -> Draft<'_> {
        let (agent, memory) = (self.agent(), self.memory.as_ref());
        Draft { wire: self.wire, body: &self.body, scan: &self.scan, agent, memory, memory_tool: self.memory_tool }
    }

    /// Whether the model may call a tool that is carried out here.
    fn carries_out(&self) -> bool {
        self.memory_tool != MemoryTool::None || self.tools().is_some()
    }

    /// Whether a tool of this name is. Anthropic's also where memory cannot be reached, which the model is told then: its client
    /// does not expect the call.
    fn is_ours(&self, name: &str) -> bool {
        (self.memory_tool != MemoryTool::None && name == memory_tool::NAME) || self.tools().is_some_and(|tools| tools.has(name))
    }

    /// The request as `upstream` is to get it.
    fn request(&self, upstream: &Upstream) -> Result<Bytes, Refusal> {
        self.draft().written(upstream).map(|(bytes, dropped)| self.without(bytes, dropped))
    }

    /// The same, elsewhere where it is long.
    fn written(&self, upstream: &Arc<Upstream>) -> Written<'_> {
        if !is_long(&self.body) {
            return Written::Now(self.request(upstream));
        }
        let (wire, body, scan, upstream) = (self.wire, self.body.clone(), self.scan.clone(), Arc::clone(upstream));
        let (agent, memory, memory_tool) = (self.target.agent.clone(), self.memory.clone(), self.memory_tool);
        Written::Later(Box::pin(async move {
            let work = move || {
                let (agent, memory) = (agent.as_deref(), memory.as_ref());
                let draft = Draft { wire, body: &body, scan: &scan, agent, memory, memory_tool };
                draft.written(&upstream)
            };
            let (bytes, dropped) = self.worker.gateway.apart.run(work).await??;
            Ok(self.without(bytes, dropped))
        }))
    }

    /// Notes what was left out of a request.
    fn without(&self, bytes: Bytes, dropped: Vec<String>) -> Bytes {
        if let Ok(mut noted) = self.dropped.lock() {
            *noted = dropped;
        }
        bytes
    }

    /// Sends the first round.
    async fn send(&self) -> Result<Answer, Failed> {
        let outgoing = self.outgoing(|upstream: &Arc<Upstream>| self.written(upstream));
        upstream::send(&self.worker, &self.target.group, || self.conversation(), &outgoing).await
    }

    /// Sends a further round to the upstream that the call is with.
    async fn send_round(&self, upstream: &Arc<Upstream>, body: &Bytes) -> Result<Answer, Failed> {
        let outgoing = self.outgoing(|_: &Arc<Upstream>| Written::from(body.clone()));
        upstream::send_to(&self.worker, &self.target.group, upstream, &outgoing).await
    }

    fn outgoing<'a, Body: Fn(&Arc<Upstream>) -> Written<'a>>(&'a self, body: Body) -> Outgoing<'a, Body> {
        Outgoing {
            wire: self.wire,
            operation: Operation::Chat { streamed: self.scan.stream },
            query: self.query.as_deref(),
            headers: &self.headers,
            content_type: None,
            body,
        }
    }

    /// Tells conversations apart, so that each finds its prompt cache: the session; else what the client says of its cache; else
    /// how the conversation begins. Only for models with several upstreams.
    fn conversation(&self) -> Option<u64> {
        if !self.target.group.routing.affinity {
            return None;
        }
        let session = self.memory.as_ref().map(|memory| memory.session).or(self.target.session);
        Some(affinity::conversation(session, &self.body, &self.scan))
    }

    /// Carries out memory tools and writes the request of the next round.
    async fn next_round(
        &self,
        record: &mut Recorder,
        upstream: &Upstream,
        request: &Bytes,
        reply: &Reply,
        ours: &[ToolCall],
    ) -> Result<Bytes, Refusal> {
        let results = self.carry_out(record, ours).await;
        wire::append_round(upstream.provider.wire, request, reply, &results).map(Bytes::from).map_err(refused)
    }

    /// Carries out memory tools, one after the other: the second may build on the first.
    async fn carry_out(&self, record: &mut Recorder, ours: &[ToolCall]) -> Vec<ToolResult> {
        let (Some(agent), Some(memory)) = (self.agent(), &self.memory) else { return Vec::new() };
        let gateway = &self.worker.gateway;
        let settings = gateway.settings.load_full();
        let subject = Subject {
            control_url: &settings.config.control_url,
            headers: &self.headers,
            agent: agent.id,
            user: self.target.user.as_deref(),
            session: memory.session,
            parent: memory.parent,
        };
        let mut results = Vec::with_capacity(ours.len());
        for call in ours {
            let event = Uuid::now_v7();
            let result = memory_tools::carry_out(&self.worker.client, &subject, event, call).await;
            record.hidden(event, call.clone(), result.clone());
            results.push(result);
        }
        gateway.memories.forget(agent.tenant, agent.id, self.target.user.as_deref());
        results
    }

    /// The memory tool calls of a reply.
    fn ours(&self, reply: &Reply) -> Vec<ToolCall> {
        reply.tool_calls().filter(|call| self.is_ours(&call.name)).cloned().collect()
    }
}

/// The memory tools on offer: where the agent has them and its memory can be reached.
fn tools<'a>(agent: Option<&'a Agent>, memory: Option<&Memory>) -> Option<&'a Tools> {
    let reachable = memory.is_some_and(|memory| memory.state != State::Unavailable);
    agent.filter(|_| reachable).and_then(|agent| agent.tools.as_ref())
}

/// Header: what was left out of the request because the provider's wire has no words for it.
const DROPPED: HeaderName = HeaderName::from_static("x-trunkline-dropped");

/// A refusal for what cannot be said in the provider's wire.
pub fn refused(error: WireError) -> Refusal {
    Refusal::invalid(error.message, error.param)
}

/// Whether a header of a model's answer is of use here: what the client is to see, and how the body is written.
pub fn heard(name: &[u8]) -> bool {
    const WHOLE: [&str; 5] = ["retry-after", "request-id", "x-request-id", "content-type", "content-encoding"];
    const BEGUN: [&str; 3] = ["x-ratelimit-", "openai-", "anthropic-ratelimit-"];
    let begins = |start: &&str| name.get(..start.len()).is_some_and(|name| name.eq_ignore_ascii_case(start.as_bytes()));
    BEGUN.iter().any(begins) || WHOLE.iter().any(|whole| name.eq_ignore_ascii_case(whole.as_bytes()))
}

/// A response with the headers that each answer of a model has. `from` is what the provider's head holds of [`heard`].
fn response(
    outbound: &Outbound,
    record: &Recorder,
    from: HeaderMap,
    upstream: &Upstream,
    status: StatusCode,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    *headers = from;
    // It was undone, and what the body is now is for whoever writes it to say.
    headers.remove(header::CONTENT_ENCODING);
    headers.remove(header::CONTENT_TYPE);
    // Ours are what holds for the client; a provider's hold for us.
    record.admission().headers(outbound.worker.gateway.nanos(), headers);
    told::tell(headers, record.call().name(), upstream.title.as_ref(), outbound.memory.as_ref(), &record.figures());
    if upstream.provider.wire != outbound.wire
        && let Ok(dropped) = outbound.dropped.lock()
        && !dropped.is_empty()
        && let Ok(value) = HeaderValue::try_from(dropped.join(", "))
    {
        headers.insert(DROPPED, value);
    }
    response
}

fn json(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Pieces in a row; one alone is not copied.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        all.extend_from_slice(piece);
    }
    all.freeze()
}

/// The answer for a call that no upstream answered: the provider's words in the client's wire with its status, or ours.
fn failed(outbound: &Outbound, mut record: Recorder, failed: Failed) -> Result<Response<Body>, Refusal> {
    let (upstream, head, bytes) = match failed.words {
        Words::Ours(refusal) => {
            record.attempted(failed.waited, failed.retries);
            return Err(record.refused(*refusal));
        }
        Words::Provider(upstream, head, bytes) => (upstream, head, bytes),
    };
    record.answered(&upstream, failed.waited, failed.retries);
    if !head.status.is_client_error() && !head.status.is_server_error() {
        let message = format!(
            "The provider '{}' answered {}, which is no answer to a model call. Check its base_url in trunkline.yaml.",
            upstream.provider.name,
            head.status.as_u16()
        );
        return Err(record.refused(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code("upstream_unreadable")));
    }
    let (from, status) = (upstream.provider.wire, head.status);
    // Words that broke off are none: it is refused all the same.
    let bytes = if from == outbound.wire && !bytes.is_empty() {
        bytes
    } else {
        Bytes::from(wire::translate_error(from, outbound.wire, status.as_u16(), &bytes, &record.call().name()))
    };
    record.gives(&bytes);
    record.reckon(status.as_u16());
    let response = json(response(outbound, &record, head.headers, &upstream, status, Body::from(bytes)));
    // Nothing was promised: a refusal that could not be recorded is still the provider's.
    let _ = record.end(status.as_u16(), Some("provider_refused"));
    Ok(response)
}

/// The refusal for a call that takes longer than any may.
fn too_long(total: Duration) -> Refusal {
    let message = format!("The call took longer than {} s (timeouts.total_ms in trunkline.yaml).", total.as_secs_f64());
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", message).code("call_timeout")
}

/// The refusal for a call whose record could not be written: what is not recorded must not be acknowledged.
pub fn unrecorded() -> Refusal {
    Refusal::unavailable("The call could not be recorded: the gateway's disk is full or failing. Nothing was stored.")
        .because(Reason::Spool)
}
