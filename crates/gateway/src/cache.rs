//! The response cache: an answer that was given to a request is given again to the same request, byte for byte, for a while.
//! Off unless it is configured.
//!
//! What makes a request the same is hashed (SHA-256): tenant and namespace, route and URL, the model's resolved upstreams, the
//! agent, what its memory adds (instructions, blocks, recalled passages, tools) and the client's bytes. So memory is part of it:
//! an answer that was given before a fact was learned is not given after it.

mod memory;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri, header};
use memchr::memmem;
use metrics::Counter;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Mutex, mpsc},
    time::sleep,
};
use uuid::Uuid;

use self::memory::Memory;
use crate::{
    config::{CacheConfig, CacheStore, Namespace},
    database::{CacheWriter, Readers},
    error::Refusal,
    gateway::Worker,
    limits::allows,
    metrics::Route,
    principal::Key,
    record::Recorder,
    routing::Target,
};

/// The response's header: `hit`, `miss` or `bypass`; there only where a cache is configured.
pub const HEADER: &str = "x-trunkline-cache";
/// The request's header: for how many seconds its answer may be kept, at most as long as configured.
pub const TTL: &str = "x-trunkline-cache-ttl";
/// The largest answer that is kept, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Answers that may wait for Postgres; a further one is not kept.
const QUEUE: usize = 32;
/// How long nothing is sent to Postgres after it could not be reached.
const PAUSE: Duration = Duration::from_secs(1);
/// Client headers that providers of some wires are sent, and answer by.
const ANSWERED_BY: [&str; 3] = ["anthropic-version", "anthropic-beta", "openai-beta"];

/// An answer: always one with status 200 that came to its end.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The response's content type.
    pub content_type: String,
    /// Who gave it: `PROVIDER/MODEL`.
    pub upstream: String,
    /// The call that it was given to.
    pub call: Uuid,
    /// All of it.
    pub body: Bytes,
}

/// Under what an answer is kept.
pub struct Wanted {
    /// Whose.
    pub tenant: Uuid,
    /// The hash of the request.
    pub key: [u8; 32],
    /// For how long.
    pub ttl: Duration,
}

/// What the cache says to a request.
pub enum Looked {
    /// It was answered before.
    Hit(Entry),
    /// It was not, or is not to be.
    Other(State),
}

/// What the response says of the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Answered from it.
    Hit,
    /// Looked for and not there.
    Miss,
    /// Not looked for.
    Bypass,
}

impl State {
    /// Its name in the header and the metric.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// What a request is told apart by.
pub struct Asked<'a> {
    /// The route.
    pub route: Route,
    /// The URL; in Gemini's wire, the model stands there.
    pub uri: &'a Uri,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// What it is for.
    pub target: &'a Target,
    /// What memory adds to it.
    pub added: Vec<Option<&'a str>>,
    /// The client's bytes.
    pub body: &'a [u8],
    /// The provider answers from what it keeps itself, and that changes.
    pub moves: bool,
}

/// The cache.
pub struct Cache {
    config: CacheConfig,
    store: Arc<Store>,
}

enum Store {
    Memory(Memory),
    Postgres { sender: mpsc::Sender<(Wanted, Entry)>, receiver: Mutex<mpsc::Receiver<(Wanted, Entry)>> },
}

impl Cache {
    /// An empty one, or Postgres', or what an `earlier` one of the same store and size holds; `evictions` counts what was given up for
    /// want of room.
    pub fn new(config: &CacheConfig, earlier: Option<&Self>, evictions: Counter) -> Self {
        let same = |earlier: &&Self| (earlier.config.store, earlier.config.max_bytes) == (config.store, config.max_bytes);
        let store = earlier.filter(same).map(|earlier| Arc::clone(&earlier.store));
        let store = store.unwrap_or_else(|| {
            Arc::new(match config.store {
                CacheStore::Memory => Store::Memory(Memory::new(config.max_bytes, evictions)),
                CacheStore::Postgres => {
                    let (sender, receiver) = mpsc::channel(QUEUE);
                    Store::Postgres { sender, receiver: Mutex::new(receiver) }
                }
            })
        });
        Self { config: config.clone(), store }
    }

    /// Looks for an answer; where there is none, has `record` keep the one that comes. A store that cannot be read has none.
    ///
    /// # Errors
    /// 400 for a time to live that is none.
    pub async fn look(
        self: &Arc<Self>,
        worker: &Worker,
        key: &Key,
        asked: &Asked<'_>,
        record: &mut Recorder,
    ) -> Result<Looked, Refusal> {
        let ttl = self.ttl(asked.headers)?;
        let state = if directs(asked.headers, "no-store") || ttl.is_zero() || !self.serves(asked) {
            State::Bypass
        } else {
            let wanted = Wanted { tenant: key.tenant, key: self.hash(key, asked), ttl };
            let (found, state) = if directs(asked.headers, "no-cache") {
                (None, State::Bypass)
            } else {
                (self.get(&worker.readers, &wanted).await, State::Miss)
            };
            if let Some(entry) = found {
                worker.gateway.metrics.cache(State::Hit);
                return Ok(Looked::Hit(entry));
            }
            record.caches(Arc::clone(self), wanted);
            state
        };
        worker.gateway.metrics.cache(state);
        Ok(Looked::Other(state))
    }

    fn ttl(&self, headers: &HeaderMap) -> Result<Duration, Refusal> {
        let Some(text) = headers.get(TTL) else { return Ok(self.config.ttl()) };
        let seconds = text
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Refusal::invalid(format!("{TTL} is a number of seconds, such as 600."), Some(TTL.to_owned())))?;
        Ok(self.config.ttl().min(Duration::from_secs(seconds)))
    }

    async fn get(&self, readers: &Readers, wanted: &Wanted) -> Option<Entry> {
        match &*self.store {
            Store::Memory(memory) => memory.get(&wanted.key),
            Store::Postgres { .. } => readers.cached(wanted).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the response cache could not be read");
                None
            }),
        }
    }

    /// Keeps an answer. Never waits: what the store has no room for is not kept.
    pub fn put(&self, wanted: Wanted, entry: Entry) {
        match &*self.store {
            Store::Memory(memory) => memory.put(wanted.key, entry, Instant::now() + wanted.ttl),
            Store::Postgres { sender, .. } => {
                let _ = sender.try_send((wanted, entry));
            }
        }
    }

    /// Brings answers to Postgres, where it is the store. Ends when dropped.
    pub async fn run(&self, mut writer: CacheWriter) {
        let Store::Postgres { receiver, .. } = &*self.store else { return std::future::pending().await };
        let mut receiver = receiver.lock().await;
        while let Some((wanted, entry)) = receiver.recv().await {
            if let Err(error) = writer.put(&wanted, &entry).await {
                tracing::warn!(%error, "an answer could not be put into the response cache");
                sleep(PAUSE).await;
            }
        }
    }

    /// Whether requests like this are looked for at all.
    fn serves(&self, asked: &Asked<'_>) -> bool {
        let named = |name: &str| self.config.models.as_ref().is_none_or(|models| allows(models, name));
        // An answer in the background is none yet.
        let later = asked.route == Route::OpenaiResponses && memmem::find(asked.body, b"\"background\"").is_some();
        !asked.moves
            && !later
            && self.config.routes.contains(&asked.route)
            && (named(&asked.target.asked) || named(&asked.target.group.name))
    }

    fn hash(&self, key: &Key, asked: &Asked<'_>) -> [u8; 32] {
        let (kind, id) = match (self.config.namespace, key.team) {
            (Namespace::Tenant, _) => ("tenant", key.tenant),
            (Namespace::Team, Some(team)) => ("team", team),
            (Namespace::Key, _) | (Namespace::Team, None) => ("key", key.id),
        };
        let mut hash = Parts(Sha256::new());
        hash.part(key.tenant.as_bytes());
        hash.part(kind.as_bytes());
        hash.part(id.as_bytes());
        hash.part(asked.route.name().as_bytes());
        hash.part(asked.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes());
        hash.part(asked.target.group.name.as_bytes());
        for upstream in &asked.target.group.upstreams {
            hash.part(upstream.provider.name.as_bytes());
            hash.part(upstream.model.as_bytes());
        }
        hash.part(&[]);
        hash.part(asked.target.agent.as_ref().map_or(&[][..], |agent| agent.id.as_bytes()));
        for added in &asked.added {
            hash.part(added.unwrap_or_default().as_bytes());
        }
        for name in ANSWERED_BY {
            hash.part(asked.headers.get(name).map_or(&[][..], HeaderValue::as_bytes));
        }
        hash.part(asked.headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes));
        hash.part(asked.body);
        hash.0.finalize().into()
    }
}

/// Parts in a row, each with its length: no two rows of parts are the same bytes.
struct Parts(Sha256);

impl Parts {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// Whether `Cache-Control` holds a directive.
fn directs(headers: &HeaderMap, directive: &str) -> bool {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(directive))
}

/// The entry as a call with the response id `ours` is given it: its client goes on by that id, and not by the first call's.
pub fn renamed(entry: Entry, ours: Option<&str>) -> Entry {
    let Some(ours) = ours else { return entry };
    let first = format!("resp_{}", entry.call.simple());
    let mut body = Vec::with_capacity(entry.body.len());
    let mut from = 0;
    for at in memmem::find_iter(&entry.body, &first) {
        body.extend_from_slice(&entry.body[from..at]);
        body.extend_from_slice(ours.as_bytes());
        from = at + first.len();
    }
    body.extend_from_slice(&entry.body[from..]);
    Entry { body: Bytes::from(body), ..entry }
}
