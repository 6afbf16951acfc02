//! What the request path needs to know of keys and agents: an immutable copy, swapped as a whole. A change is
//! told by NOTIFY, found by asking for the revision every two seconds, or wanted by a request whose key or agent the
//! copy does not hold.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    limits::Limits,
    principal::{Bounds, Key, Scopes},
    prompt::{half, hash},
    redaction::AgentRedaction,
    subject::{Name, Subject},
    wire::Wire,
};

/// An agent as the request path needs it, in one version: the current one, unless a session is pinned to another.
#[allow(clippy::struct_excessive_bools)] // each is a column of its own
#[derive(Clone)]
pub struct Agent {
    /// Whose it is.
    pub tenant: Uuid,
    /// Its id.
    pub id: Uuid,
    /// Its name in `agent/NAME`.
    pub name: String,
    /// The version that calls are made with.
    pub version: i32,
    /// The model it asks for; none: the first configured one.
    pub model: Option<String>,
    /// Its instructions, put before the client's own.
    pub instructions: Option<String>,
    /// Whether it has a memory at all.
    pub remembers: bool,
    /// Whether each call reads the committed state; otherwise a copy serves until NOTIFY tells of a change.
    pub refresh: bool,
    /// Whether a call fails when memory cannot be read.
    pub fail_without_memory: bool,
    /// How many tokens of past turns a call may be given; 0: none.
    pub recall_tokens: i32,
    /// Whether it declares blocks.
    pub has_blocks: bool,
    /// Whether stores are attached to it: these are recalled from whoever calls.
    pub has_stores: bool,
    /// Whether some of them belong to one session, so that no copy of them serves another.
    pub has_session_blocks: bool,
    /// How what prompts begin with is kept for providers' caches; none: blocks are put as they stand at each call.
    pub prompt_cache: Option<PromptCache>,
    /// How much of a conversation that the log adds stands in its prompts; none: all of it.
    pub context: Option<Context>,
    /// The memory tools that it offers to the model.
    pub tools: Option<Tools>,
    /// What is kept of what is said with it is redacted by this.
    pub redaction: Option<Arc<AgentRedaction>>,
}

impl Agent {
    /// Reads the JSON of `trunkline.gateway_agent()`.
    ///
    /// # Errors
    /// Where it is not of that form, which means another version of the schema.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<AgentRow>(text).map(Self::from)
    }
}

impl From<AgentRow> for Agent {
    fn from(row: AgentRow) -> Self {
        Self {
            tools: Tools::new(&row.memory_tools),
            prompt_cache: row.prompt_cache.map(|cache| PromptCache {
                ttl: Duration::from_secs(cache.ttl_seconds.into()),
                delta_tokens: cache.delta_tokens,
                breakpoints: cache.cache_control,
                instructions: half(hash(row.instructions.as_deref().unwrap_or_default())),
            }),
            context: row.context,
            tenant: row.tenant,
            id: row.id,
            name: row.name,
            version: row.version,
            model: row.model,
            instructions: row.instructions.filter(|text| !text.is_empty()),
            remembers: row.memory_enabled,
            refresh: row.memory_refresh,
            fail_without_memory: row.memory_fail,
            recall_tokens: row.recall_tokens,
            has_blocks: row.has_blocks,
            has_stores: row.has_stores,
            has_session_blocks: row.has_session_blocks,
            redaction: row.redact.map(|redact| Arc::new(AgentRedaction::new(redact.detect.get(), redact.log))),
        }
    }
}

/// How much of a conversation prompts hold.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Past so many tokens its oldest turns leave, until half of that is left.
    pub tokens: u64,
    /// The newest turns that stay in any case.
    pub turns: usize,
}

/// How what a session's prompts begin with is kept.
#[derive(Clone)]
pub struct PromptCache {
    /// For how long a provider's cache holds after a call.
    pub ttl: Duration,
    /// How many tokens of changes may stand in a prompt before its beginning is rendered anew.
    pub delta_tokens: usize,
    /// Whether breakpoints are placed for providers that want to be told.
    pub breakpoints: bool,
    /// A hash of the agent's instructions, which come before the blocks.
    pub instructions: u64,
}

/// Memory tools, in each wire's own form: the elements of a `tools` array (with Gemini, of its `functionDeclarations`) without
/// its brackets.
#[derive(Clone, Default)]
pub struct Tools {
    names: Vec<String>,
    openai: String,
    anthropic: String,
    responses: String,
    gemini: String,
}

impl Tools {
    /// Whether a tool of this name is ours to carry out.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The tools as `wire` writes them.
    pub fn text(&self, wire: Wire) -> &str {
        match wire {
            Wire::OpenaiChat => &self.openai,
            // No client's wire: nothing is spliced into it.
            Wire::AnthropicMessages | Wire::BedrockConverse => &self.anthropic,
            Wire::OpenaiResponses => &self.responses,
            Wire::Gemini => &self.gemini,
        }
    }

    fn new(definitions: &[ToolRow]) -> Option<Self> {
        if definitions.is_empty() {
            return None;
        }
        let mut tools = Self::default();
        for tool in definitions {
            let separator = if tools.names.is_empty() { "" } else { "," };
            for (wire, text) in [
                (Wire::OpenaiChat, &mut tools.openai),
                (Wire::OpenaiResponses, &mut tools.responses),
                (Wire::Gemini, &mut tools.gemini),
                (Wire::AnthropicMessages, &mut tools.anthropic),
            ] {
                *text += separator;
                *text += &function(wire, &tool.name, &tool.description, tool.input_schema.get());
            }
            tools.names.push(tool.name.clone());
        }
        Some(tools)
    }
}

/// A function as `wire` declares it to the model.
pub fn function(wire: Wire, name: &str, description: &str, schema: &str) -> String {
    let (name, description) = (serde_json::Value::from(name), serde_json::Value::from(description));
    match wire {
        Wire::OpenaiChat => {
            format!(r#"{{"type":"function","function":{{"name":{name},"description":{description},"parameters":{schema}}}}}"#)
        }
        // Strict is what this wire takes where nothing is said; our schemas have optional fields.
        Wire::OpenaiResponses => {
            format!(r#"{{"type":"function","name":{name},"description":{description},"parameters":{schema},"strict":false}}"#)
        }
        Wire::Gemini => format!(r#"{{"name":{name},"description":{description},"parametersJsonSchema":{schema}}}"#),
        Wire::AnthropicMessages | Wire::BedrockConverse => {
            format!(r#"{{"name":{name},"description":{description},"input_schema":{schema}}}"#)
        }
    }
}

#[derive(Deserialize)]
struct ToolRow {
    name: String,
    description: String,
    input_schema: Box<RawValue>,
}

#[derive(Deserialize)]
struct KeyRow {
    hash: String,
    tenant: Uuid,
    id: Uuid,
    name: String,
    scopes: Vec<String>,
    agent: Option<Uuid>,
    team: Option<Uuid>,
    user: Option<String>,
    models: Option<Vec<String>>,
    /// Missing in a schema of before it.
    store_bodies: Option<bool>,
    expires_at: Option<f64>,
    limits: Option<Limits>,
    limits_users: bool,
}

#[derive(Deserialize)]
struct TeamRow {
    tenant: Uuid,
    id: Uuid,
    name: String,
    limits: Option<Limits>,
    limits_users: bool,
}

#[derive(Deserialize)]
#[allow(clippy::struct_excessive_bools)] // each is a column of its own
struct AgentRow {
    tenant: Uuid,
    id: Uuid,
    name: String,
    version: i32,
    model: Option<String>,
    instructions: Option<String>,
    memory_enabled: bool,
    memory_refresh: bool,
    memory_fail: bool,
    recall_tokens: i32,
    memory_tools: Vec<ToolRow>,
    #[serde(default)]
    prompt_cache: Option<PromptCacheRow>,
    #[serde(default)]
    context: Option<Context>,
    has_blocks: bool,
    #[serde(default)]
    has_stores: bool,
    has_session_blocks: bool,
    #[serde(default)]
    redact: Option<RedactRow>,
}

#[derive(Deserialize)]
struct RedactRow {
    detect: Box<RawValue>,
    /// Whether sessions' logs are redacted too.
    log: bool,
}

#[derive(Deserialize)]
struct PromptCacheRow {
    ttl_seconds: u32,
    delta_tokens: usize,
    cache_control: bool,
}

#[derive(Deserialize)]
struct SnapshotRow {
    revision: i64,
    keys: Vec<KeyRow>,
    teams: Vec<TeamRow>,
    agents: Vec<AgentRow>,
    tenants_with_user_limits: Vec<Uuid>,
}

/// One consistent copy.
#[derive(Default)]
pub struct Snapshot {
    /// The store's count of changes when this was read; 0: nothing read yet.
    pub revision: i64,
    keys: HashMap<[u8; 32], Arc<Key>>,
    subjects: HashMap<Name, Arc<Subject>>,
    agents: HashMap<(Uuid, Uuid), Arc<Agent>>,
    agents_by_name: HashMap<(Uuid, String), Arc<Agent>>,
    /// Once each, as they were compiled for the copies before.
    redactions: HashSet<Arc<AgentRedaction>>,
}

/// A hash of its 64 hexadecimal digits.
pub fn bytes32(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl Snapshot {
    /// Reads `trunkline.gateway_snapshot()`'s JSON; what `previous` has counted goes on.
    ///
    /// # Errors
    /// Where the JSON is not of that form, which means another version of the schema.
    pub fn parse(text: &str, previous: &Self) -> Result<Self, serde_json::Error> {
        let rows: SnapshotRow = serde_json::from_str(text)?;
        let mut snapshot = Self { revision: rows.revision, ..Self::default() };
        let mut teams = HashMap::new();
        for row in rows.teams {
            let title = format!("the team '{}'", row.name);
            let subject = snapshot.subject(previous, (row.tenant, "team", row.id), title, row.limits);
            teams.insert((row.tenant, row.id), (subject, row.limits_users));
        }
        for row in rows.keys {
            let Some(hash) = bytes32(&row.hash) else { continue };
            let title = format!("the API key '{}'", row.name);
            let own = snapshot.subject(previous, (row.tenant, "key", row.id), title, row.limits);
            let team = row.team.map(|id| teams.get(&(row.tenant, id)));
            let users = row.limits_users
                || team.flatten().is_some_and(|(_, users)| *users)
                || rows.tenants_with_user_limits.contains(&row.tenant);
            let orphan = team.is_some_and(|team| team.is_none());
            let of_team = team.flatten().and_then(|(subject, _)| subject.clone());
            let bounds = Bounds { subjects: own.into_iter().chain(of_team).collect(), users, orphan };
            let key = Key {
                tenant: row.tenant,
                id: row.id,
                hash,
                scopes: Scopes::from_names(&row.scopes),
                agent: row.agent,
                team: row.team,
                user: row.user,
                models: row.models,
                stores_bodies: row.store_bodies,
                expires_at: row.expires_at,
                bounds: (!bounds.subjects.is_empty() || bounds.users || bounds.orphan).then_some(bounds),
            };
            snapshot.keys.insert(hash, Arc::new(key));
        }
        for row in rows.agents {
            let mut agent = Agent::from(row);
            agent.redaction = agent.redaction.map(|redaction| snapshot.redaction(previous, redaction));
            let agent = Arc::new(agent);
            snapshot.agents_by_name.insert((agent.tenant, agent.name.clone()), Arc::clone(&agent));
            snapshot.agents.insert((agent.tenant, agent.id), agent);
        }
        Ok(snapshot)
    }

    fn redaction(&mut self, previous: &Self, redaction: Arc<AgentRedaction>) -> Arc<AgentRedaction> {
        let known = self.redactions.get(&redaction).or_else(|| previous.redactions.get(&redaction));
        let redaction = known.map_or(redaction, Arc::clone);
        self.redactions.insert(Arc::clone(&redaction));
        redaction
    }

    /// The subject of a key or team with these limits: the one that is known, with what is held of it, or a new one.
    fn subject(
        &mut self,
        previous: &Self,
        (tenant, kind, id): (Uuid, &str, Uuid),
        title: String,
        limits: Option<Limits>,
    ) -> Option<Arc<Subject>> {
        let limits = limits?;
        let name = (tenant, kind.to_owned(), id.to_string());
        // A key of the runtime's that calls in another's name is that key, with what is held of it.
        if let Some(known) = self.subjects.get(&name) {
            return Some(Arc::clone(known));
        }
        let subject = match previous.subjects.get(&name) {
            Some(known) => {
                known.learn(limits);
                Arc::clone(known)
            }
            None => Subject::new(name.clone(), title, None, limits),
        };
        self.subjects.insert(name, Arc::clone(&subject));
        Some(subject)
    }

    /// The key with this SHA-256.
    pub fn key(&self, hash: &[u8; 32]) -> Option<&Arc<Key>> {
        self.keys.get(hash)
    }

    /// The tenant's agent with this id.
    pub fn agent(&self, tenant: Uuid, id: Uuid) -> Option<&Arc<Agent>> {
        self.agents.get(&(tenant, id))
    }

    /// The tenant's agent with this name.
    pub fn agent_named(&self, tenant: Uuid, name: &str) -> Option<&Arc<Agent>> {
        self.agents_by_name.get(&(tenant, name.to_owned()))
    }

    /// The names of the tenant's agents, sorted.
    pub fn agent_names(&self, tenant: Uuid) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.agents.values().filter(|agent| agent.tenant == tenant).map(|agent| agent.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

/// The current snapshot, and the wish for a newer one.
pub struct Snapshots {
    current: ArcSwap<Snapshot>,
    wanted: Notify,
    begun: AtomicU64,
    finished: watch::Sender<u64>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { current: ArcSwap::default(), wanted: Notify::new(), begun: AtomicU64::new(0), finished: watch::Sender::new(0) }
    }
}

impl Snapshots {
    /// The current one.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Makes `snapshot` the current one.
    pub fn replace(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
    }

    /// Asks for a check of the revision and waits until one that began after this call has ended, at most a second.
    pub async fn refresh(&self) {
        let enough = self.begun.load(SeqCst) + 1;
        let mut finished = self.finished.subscribe();
        self.wanted.notify_one();
        let _ = tokio::time::timeout(Duration::from_secs(1), finished.wait_for(|count| *count >= enough)).await;
    }

    /// Waits until somebody wants a check or `period` is over.
    pub async fn wanted(&self, period: Duration) {
        let _ = tokio::time::timeout(period, self.wanted.notified()).await;
    }

    /// Asks for a check without waiting for it.
    pub fn hint(&self) {
        self.wanted.notify_one();
    }

    /// Marks the begin of a check; give what it returns to `end`.
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, SeqCst) + 1
    }

    /// Marks the end of the check.
    pub fn end(&self, check: u64) {
        self.finished.send_replace(check);
    }
}
