//! The way of one model call: the stages in their order, each a file of its own.

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::{
    admit::{self, Admission, Ask},
    apart::is_long,
    auth, bodies,
    body::Body,
    cache::{self, Looked},
    conversation::{Conversation, conversation},
    error::{Reason, Refusal},
    gateway::{Gateway, Worker},
    gemini_path, history,
    idempotency::{self, Begun},
    memory_tools::MemoryTool,
    metrics::UnderWay,
    principal::{Key, Scopes},
    query_vector,
    record::{Call, Recorder},
    relay::{Outbound, cached, streamed, tell, whole},
    remember::{Memory, State, remember},
    request::{Scan, scan},
    routing::{Target, Unresolved, resolve},
    snapshot::{Agent, Snapshot},
    stored::{Stored, When},
    told, versions,
    wire::Wire,
};

/// Carries out a model call; a refusal becomes an error in the client's wire.
pub async fn call(worker: &Arc<Worker>, wire: Wire, request: Request<Incoming>) -> Response<Body> {
    let call = Call::begin(wire);
    let id = call.id;
    let under_way = worker.gateway.metrics.under_way();
    match stages(worker, call, under_way, request).await {
        Ok(response) => response,
        Err(refusal) => told::refused(worker, &refusal, wire, id),
    }
}

async fn stages(
    worker: &Arc<Worker>,
    call: Call,
    under_way: UnderWay,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let gateway = &worker.gateway;
    let wire = call.wire;
    let (mut head, body) = request.into_parts();
    let asked = gemini_path::asked(wire, &mut head).inspect_err(|refusal| count(worker, &call, refusal))?;

    // 1. Who is it? Before the body is read, so that a stranger costs nothing.
    let key = enter(worker, &call, &head.headers).await?;
    let (mut body, room) =
        bodies::read(worker, &head.headers, body).await.inspect_err(|refusal| count(worker, &call, refusal))?;
    // 2. What is it for? One validating pass finds what the later stages need.
    let mut scan = scanned(gateway, wire, &body).await.inspect_err(|refusal| count(worker, &call, refusal))?;
    if let Some(asked) = asked {
        asked.say(&mut scan);
    }
    // What the client itself sent: a history that the session log adds has grown when the call is sent again.
    let asked =
        idempotency::asked(call.route, &head.uri, &head.headers, &body).inspect_err(|refusal| count(worker, &call, refusal))?;
    let stored = stored(worker, &key, &head.headers).inspect_err(|refusal| count(worker, &call, refusal))?;
    let stored = stored.map(|stored| (stored, body.clone()));
    let mut target = target(worker, &key, &head.headers, &scan).await.inspect_err(|refusal| count(worker, &call, refusal))?;
    if let Some(agent) = target.agent.clone() {
        (body, scan) = history::recalled(worker, &agent, &mut target, body, scan)
            .await
            .inspect_err(|refusal| count(worker, &call, refusal))?;
    }
    // 3. May it come in? After what it is for, since that decides whose limits it is under and what it may cost.
    let admission = admit_call(worker, &key, &target, scan.output_tokens, body.len() - scan.left_out_bytes())
        .await
        .inspect_err(|refusal| count(worker, &call, refusal))?;

    let mut record = Recorder::new(gateway, call, &key, &target, scan.stream, body.len() - scan.left_out_bytes());
    record.reserved(admission);
    record.with_trace(&head.headers, &body);
    if let Some(((stored, when), asked)) = stored.filter(|_| !scan.kept.forget) {
        record.stores(stored, when, Some(&asked));
    }
    let survives = asked.is_some() && key.scopes.has(Scopes::RUNTIME);
    if let Some(asked) = asked {
        match idempotency::begin(worker, record, &key, &asked).await? {
            Begun::First(first) => record = *first,
            Begun::Again(response) => return Ok(*response),
        }
    }
    // 4. What does the agent remember? Before the request is written, since it goes into it.
    let memory = match &target.agent {
        None => None,
        Some(agent) => {
            let conversation = match hashed(gateway, wire, &body, &scan, agent).await {
                Ok(conversation) => conversation,
                Err(refusal) => return Err(record.refused(refusal)),
            };
            let searched = query_vector::of_newest(worker, &key, agent, target.user.as_deref(), &conversation).await;
            match remember(&gateway.memories, &gateway.spool, &worker.readers, agent, &target, &conversation, searched).await {
                Ok(memory) => {
                    if let Err(refusal) = record.with_turn(agent, &memory, conversation, !scan.kept.forget).await {
                        return Err(record.refused(refusal));
                    }
                    record.compacts(scan.left_out.as_ref().and_then(|left| left.kept_from));
                    Some(memory)
                }
                Err(refusal) => return Err(record.refused(refusal)),
            }
        }
    };
    gateway.metrics.memory(memory.as_ref().map_or(State::None, |memory| memory.state));
    let response_id = (wire == Wire::OpenaiResponses && memory.is_some()).then(|| record.call().response_name());
    // 5. Was it answered before? After memory, which is a part of what is asked.
    let mut state = None;
    let cache = gateway.settings().cache.clone();
    if let Some(cache) = &cache {
        let asked = cache::Asked {
            route: record.call().route,
            uri: &head.uri,
            headers: &head.headers,
            target: &target,
            added: added(wire, &target, memory.as_ref(), &scan),
            body: &body,
            moves: scan.kept.named(&body).is_some(),
        };
        match cache.look(worker, &key, &asked, &mut record).await {
            Ok(Looked::Hit(entry)) => return cached(gateway, record, entry, memory.as_ref(), response_id.as_deref()),
            Ok(Looked::Other(other)) => state = Some(other),
            Err(refusal) => return Err(record.refused(refusal)),
        }
    }
    // 6. to 8. Send it, relay the answer, and record both before the client sees the last byte.
    let query = head.uri.query().map(str::to_owned);
    let streams = scan.stream;
    let memory_tool = MemoryTool::of(wire, &body, &scan, target.agent.as_deref(), memory.as_ref());
    let outbound = Outbound {
        worker: Arc::clone(worker),
        wire,
        body,
        scan,
        query,
        headers: head.headers,
        target,
        memory,
        response_id,
        dropped: Mutex::default(),
        memory_tool,
        room,
        under_way,
    };
    let response = relayed(outbound, record, streams, survives).await?;
    Ok(tell(response, state))
}

/// Relays the answer. One that `survives` comes to its end whether its client waits for it or not: a worker of ours that dies is
/// followed by another, which asks under the same idempotency key and is given what was paid for.
async fn relayed(outbound: Outbound, record: Recorder, streams: bool, survives: bool) -> Result<Response<Body>, Refusal> {
    if streams {
        return streamed(outbound, record).await;
    }
    if !survives {
        return whole(&outbound, record).await;
    }
    tokio::spawn(async move { whole(&outbound, record).await }).await.map_err(|error| {
        tracing::error!(%error, "a call could not be carried on");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", "The call could not be carried on.")
    })?
}

/// Where the parts of a request are.
///
/// # Errors
/// 400 for what is no request.
pub async fn scanned(gateway: &Gateway, wire: Wire, body: &Bytes) -> Result<Scan, Refusal> {
    let found = if is_long(body) {
        let body = body.clone();
        gateway.apart.run(move || scan(wire, &body)).await?
    } else {
        scan(wire, body)
    };
    found.map_err(|malformed| Refusal::invalid(format!("{}.", malformed.message), malformed.param))
}

/// What the client says, as the session's log knows it.
///
/// # Errors
/// 503 while this is stopping.
pub async fn hashed(gateway: &Gateway, wire: Wire, body: &Bytes, scan: &Scan, agent: &Agent) -> Result<Conversation, Refusal> {
    let redaction = agent.redaction.clone();
    if !is_long(body) {
        return Ok(conversation(wire, body, scan, redaction));
    }
    let (body, scan) = (body.clone(), scan.clone());
    gateway.apart.run(move || conversation(wire, &body, &scan, redaction)).await
}

/// What stores a call's bodies, and when, if they are to be stored.
///
/// # Errors
/// 400 for a wish that is none.
pub fn stored(worker: &Worker, key: &Key, headers: &HeaderMap) -> Result<Option<(Arc<Stored>, When)>, Refusal> {
    let settings = worker.gateway.settings();
    let Some(stored) = &settings.stored else { return Ok(None) };
    Ok(stored.wanted(headers, key.stores_bodies)?.map(|when| (Arc::clone(stored), when)))
}

/// What memory adds to a request, in the order of [`cache::Asked::added`].
fn added<'a>(wire: Wire, target: &'a Target, memory: Option<&'a Memory>, scan: &'a Scan) -> Vec<Option<&'a str>> {
    let agent = target.agent.as_deref();
    let reachable = memory.is_some_and(|memory| memory.state != State::Unavailable);
    let tools = agent.filter(|_| reachable).and_then(|agent| agent.tools.as_ref());
    let deltas = memory.map_or(&[][..], |memory| &memory.deltas);
    let always = [
        agent.and_then(|agent| agent.instructions.as_deref()),
        memory.and_then(|memory| memory.blocks.as_deref()),
        memory.and_then(|memory| memory.recall.as_deref()),
        tools.map(|tools| tools.text(wire)),
    ];
    let said = deltas.iter().map(|delta| &*delta.text).chain(scan.left_out.iter().map(|left| &*left.marker));
    always.into_iter().chain(said.map(Some)).collect()
}

/// Stage 1, the same for every route that costs money: the key, and room to record the call.
///
/// # Errors
/// 401, 403; 503 where the call could not be recorded.
pub async fn enter(worker: &Worker, call: &Call, headers: &HeaderMap) -> Result<Arc<Key>, Refusal> {
    let gateway = &worker.gateway;
    let key = authenticated(worker, headers, auth::authenticate).await.inspect_err(|refusal| count(worker, call, refusal))?;
    if !gateway.spool.has_room().await {
        let message = "Postgres is away and the spool is full: the call could not be recorded. Try again.";
        let refusal = Refusal::unavailable(message).because(Reason::Spool).retry_after(5);
        count(worker, call, &refusal);
        return Err(refusal);
    }
    Ok(key)
}

/// The key of a request, by [`auth::authenticate`] or [`auth::known`].
///
/// # Errors
/// As these, and 401 for a key that is not known.
pub async fn authenticated(
    worker: &Worker,
    headers: &HeaderMap,
    find: fn(&Snapshot, &HeaderMap, f64) -> auth::Found,
) -> Result<Arc<Key>, Refusal> {
    let snapshots = &worker.gateway.snapshots;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if let Some(key) = find(&snapshots.load(), headers, now)? {
        return Ok(key);
    }
    // The key may have been made a moment ago.
    snapshots.refresh().await;
    let snapshot = snapshots.load();
    find(&snapshot, headers, now)?.ok_or_else(|| auth::unknown_key(&snapshot))
}

/// Stage 2: what the call is for. An agent that the snapshot does not hold may be new: then it is read anew once.
pub async fn target(worker: &Worker, key: &Key, headers: &HeaderMap, scan: &Scan) -> Result<Target, Refusal> {
    let gateway = &worker.gateway;
    let pinned = versions::pinned(worker, key, headers).await?;
    let pinned = pinned.as_ref();
    match resolve(&gateway.settings().routes, &gateway.snapshots.load(), key, headers, scan, pinned) {
        Ok(target) => return Ok(target),
        Err(Unresolved::Refused(refusal)) => return Err(refusal),
        Err(Unresolved::UnknownAgent(_)) => gateway.snapshots.refresh().await,
    }
    resolve(&gateway.settings().routes, &gateway.snapshots.load(), key, headers, scan, pinned).map_err(|unresolved| {
        match unresolved {
            Unresolved::Refused(refusal) | Unresolved::UnknownAgent(refusal) => refusal,
        }
    })
}

/// Stage 3: what the call may cost is reserved, from whoever has limits.
pub async fn admit_call(
    worker: &Worker,
    key: &Key,
    target: &Target,
    output_tokens: Option<u64>,
    bytes: usize,
) -> Result<Admission, Refusal> {
    let gateway = &worker.gateway;
    // The dearest of the places that may serve it.
    let cost = |input: u64, output: u64| {
        let prices = gateway.prices.load();
        let costs = target.group.upstreams.iter().filter_map(|up| prices.most(&up.provider.name, &up.model, input, output));
        costs.max_by(f64::total_cmp)
    };
    let ask = Ask {
        user: target.user.as_deref(),
        models: &[target.model.as_deref().unwrap_or(&target.asked), &target.asked],
        bytes,
        output_tokens: output_tokens.unwrap_or(gateway.settings().config.output_tokens),
        cost: &cost,
    };
    admit::admit(&gateway.leases, key, &ask).await
}

/// Counts a call that was refused before there was anything to record.
pub fn count(worker: &Worker, call: &Call, refusal: &Refusal) {
    let seconds = call.begun.elapsed().as_secs_f64();
    worker.gateway.metrics.ended(call.route, refusal.status.as_u16(), seconds, seconds, None);
}
