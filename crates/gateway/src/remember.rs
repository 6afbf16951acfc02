//! Stage 4, remember: the session that a call goes on with, and the memory that it is to be given.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use memchr::memmem;
use quick_cache::{Weighter, sync::Cache};
use uuid::Uuid;

use crate::{
    context::Placed,
    conversation::{Chain, Conversation, EMPTY},
    database::{Context, ContextQuery, DatabaseError, Readers, RecallQuery},
    error::{Reason, Refusal},
    prompt::{Change, Kept, Last, Prompt},
    query_vector::{QueryVector, Recalled, WordsAlone},
    record::TurnRow,
    routing::{SESSION, Target},
    snapshot::Agent,
    spool::Spool,
};

/// Where a call's memory came from; the response says so in `x-trunkline-memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The call has no agent, or its agent no memory.
    None,
    /// A copy that no change has been told of.
    Cached,
    /// The committed state, read for this call.
    Fresh,
    /// Postgres could not be asked; the call went on without.
    Unavailable,
}

impl State {
    /// Its name in headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cached => "cached",
            Self::Fresh => "fresh",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What a call goes on with.
#[derive(Clone)]
pub struct Memory {
    /// The session.
    pub session: Uuid,
    /// The session that this one parts from with this call, mostly itself: an edited history becomes a fork.
    pub parent: Uuid,
    /// Whether its log ends where the client's history does, so that only what is new need be recorded.
    pub at_head: bool,
    /// The rendered blocks, as the session's prompts begin with them.
    pub blocks: Option<Arc<str>>,
    /// What was said since of how they have changed.
    pub deltas: Vec<Placed>,
    /// Both, where they are kept for the session, and whether that is to be recorded.
    pub prompt: Option<(Arc<Prompt>, Change)>,
    /// A hash of the agent's instructions and the blocks, where these are kept.
    pub prefix_hash: Option<u64>,
    /// Passages that match the newest user message, each a line.
    pub recall: Option<String>,
    /// How passages were looked for; none where they were not.
    pub recalled: Option<Recalled>,
    /// Where it came from.
    pub state: State,
}

impl Memory {
    /// Nothing but the session that goes on.
    fn of(session: Uuid, state: State) -> Self {
        Self {
            session,
            parent: session,
            at_head: true,
            blocks: None,
            deltas: Vec::new(),
            prompt: None,
            prefix_hash: None,
            recall: None,
            recalled: None,
            state,
        }
    }

    /// With the blocks as they are `now`; where the session keeps what its prompts begin with, that and what has changed since.
    fn with(mut self, agent: &Agent, now: Option<&Arc<Prompt>>, kept: Option<Kept>, conversation: &Conversation) -> Self {
        let now = now.filter(|now| !now.prefix().is_empty());
        let Some(settings) = &agent.prompt_cache else {
            self.blocks = now.map(|now| Arc::clone(now.prefix()));
            return self;
        };
        // Rotated, so that equal texts in both places do not cancel out.
        let hash = |blocks: u64| Some(settings.instructions.rotate_left(1) ^ blocks);
        self.prefix_hash = hash(0);
        if let Some(now) = now {
            let (prompt, change) = Prompt::next(kept, now, settings, conversation);
            self.prefix_hash = hash(prompt.short_hash());
            self.blocks = Some(Arc::clone(prompt.prefix()));
            self.deltas = prompt.placed(conversation);
            self.prompt = Some((prompt, change));
        }
        self
    }
}

/// How long the store is given to take up the turns that this gateway has recorded, before the session is looked for.
const SETTLE: Duration = Duration::from_millis(250);

/// How long a copy may be used at most; changes are told by NOTIFY, and this bounds what a lost one can do.
const MAX_AGE: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject {
    tenant: Uuid,
    agent: Uuid,
    user: Option<Box<str>>,
}

struct Copy {
    version: i32,
    blocks: Option<Arc<Prompt>>,
    read_at: Instant,
}

/// For how long a text that was said to Postgres is taken to be there. Postgres keeps it for a day.
const SAID_FOR: Duration = Duration::from_secs(3600);

/// How much the prompts of sessions may take in all, in bytes.
const PROMPTS_BYTES: u64 = 64 << 20;

#[derive(Clone)]
struct Bytes;

impl Weighter<Uuid, Last> for Bytes {
    fn weight(&self, _: &Uuid, last: &Last) -> u64 {
        last.prompt.bytes() as u64 + size_of::<Last>() as u64
    }
}

/// Copies of rendered blocks, and the heads of the sessions that went through this gateway.
pub struct Memories {
    copies: Cache<Subject, Arc<Copy>>,
    /// Counts changes, so that a read that began before one is not kept after it.
    changes: AtomicU64,
    /// Whether changes are being told; otherwise no copy is trusted.
    listening: AtomicBool,
    /// The session of a history, by its agent, user and hash.
    heads: Cache<(Uuid, Option<Box<str>>, Chain), Uuid>,
    /// Where each session's log ends.
    ends: Cache<Uuid, Chain>,
    /// What each session's prompts began with at its last call.
    prompts: Cache<Uuid, Last, Bytes>,
    /// When Postgres was told the text that a user's sessions with an agent begin with, by all three.
    said: Cache<(Uuid, Box<str>, u128), Instant>,
    /// How far the spool was written after the last turn of an agent and user.
    told: Cache<(Uuid, Box<str>), u64>,
    /// Sessions that stores are attached to: what they are given is no copy for others, nor the other way round.
    attached: Cache<Uuid, ()>,
}

impl Default for Memories {
    fn default() -> Self {
        Self {
            copies: Cache::new(10_000),
            changes: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            heads: Cache::new(20_000),
            ends: Cache::new(20_000),
            prompts: Cache::with_weighter(20_000, PROMPTS_BYTES, Bytes),
            said: Cache::new(20_000),
            told: Cache::new(20_000),
            attached: Cache::new(20_000),
        }
    }
}

impl Memories {
    /// Forgets the copies that a change makes old; `told` is NOTIFY's text: tenant, scope, agent, subject.
    pub fn changed(&self, told: &str) {
        self.changes.fetch_add(1, SeqCst);
        let mut parts = told.splitn(4, ' ');
        let (tenant, scope, agent, subject) = (parts.next(), parts.next(), parts.next(), parts.next());
        let ids = tenant.and_then(|id| Uuid::try_parse(id).ok()).zip(agent.and_then(|id| Uuid::try_parse(id).ok()));
        match (scope, ids, subject) {
            (Some("user"), Some((tenant, agent)), Some(user)) => {
                self.copies.remove(&Subject { tenant, agent, user: Some(user.into()) });
            }
            // No copy is kept of what an agent with session blocks is given.
            (Some("session"), ..) => {}
            // What was erased must not be said from a copy.
            (Some("prompts"), ..) => self.forget_prompts(),
            _ => self.copies.clear(),
        }
    }

    /// Forgets one user's copy at once: this gateway itself carried out a change.
    pub fn forget(&self, tenant: Uuid, agent: Uuid, user: Option<&str>) {
        self.changes.fetch_add(1, SeqCst);
        self.copies.remove(&Subject { tenant, agent, user: user.map(Into::into) });
    }

    /// Forgets all copies: a client has changed memory through this gateway.
    pub fn forget_all(&self) {
        self.changes.fetch_add(1, SeqCst);
        self.copies.clear();
    }

    /// Keeps a copy of the blocks that one user of a tenant's agent is given, in the agent's version.
    pub fn keep(&self, (tenant, agent, user): (Uuid, Uuid, Option<&str>), version: i32, blocks: Option<Arc<str>>) {
        let subject = Subject { tenant, agent, user: user.map(Into::into) };
        let blocks = blocks.map(|blocks| Arc::new(Prompt::of(version, blocks, true)));
        self.keep_prompt(subject, version, blocks);
    }

    fn keep_prompt(&self, subject: Subject, version: i32, blocks: Option<Arc<Prompt>>) {
        self.copies.insert(subject, Arc::new(Copy { version, blocks, read_at: Instant::now() }));
    }

    /// Says whether changes are being told.
    pub fn listening(&self, yes: bool) {
        if !yes {
            self.copies.clear();
            self.forget_prompts();
        }
        self.listening.store(yes, SeqCst);
    }

    fn forget_prompts(&self) {
        self.prompts.clear();
        self.said.clear();
    }

    /// Whether Postgres was told what a user's sessions begin with, a while ago; if not, that is done now.
    pub fn says(&self, agent: Uuid, user: Option<&str>, prompt: &Prompt) -> bool {
        let key = (agent, user.unwrap_or_default().into(), prompt.hash());
        let said = self.said.get(&key).is_some_and(|at| at.elapsed() < SAID_FOR);
        if !said {
            self.said.insert(key, Instant::now());
        }
        said
    }

    /// Remembers where a turn leaves its session. Where another call took the log on from `prefix` meanwhile, the store
    /// makes `fork` of the turn, unless both say the same. `prompt` is what it was asked with.
    pub fn ended(&self, turn: &TurnRow, chain: Chain, prompt: Option<&Arc<Prompt>>) {
        let session = if turn.forks { turn.fork } else { turn.session };
        let head = (turn.agent, turn.user.as_deref().map(Into::into), chain);
        let overtaken = turn.prefix != EMPTY && self.ends.get(&session).is_some_and(|end| end != turn.prefix);
        if overtaken && self.heads.get(&head).is_some() {
            return;
        }
        let session = if overtaken { turn.fork } else { session };
        self.heads.insert(head, session);
        self.ends.insert(session, chain);
        if let Some(prompt) = prompt {
            self.prompts.insert(session, Last { chain, at: Instant::now(), prompt: Arc::clone(prompt) });
        }
    }

    /// The copy of the blocks as they are for this version, if it can be trusted.
    fn copied(&self, subject: &Subject, version: i32) -> Option<Arc<Copy>> {
        let copy = self.copies.get(subject).filter(|_| self.listening.load(SeqCst))?;
        (copy.version == version && copy.read_at.elapsed() < MAX_AGE).then_some(copy)
    }

    /// What a session's prompts began with when its log ended with `chain`, if that was here and nothing was missed since.
    fn kept(&self, session: Uuid, chain: Option<Chain>) -> Option<Kept> {
        let last = self.prompts.get(&session).filter(|last| Some(last.chain) == chain && self.listening.load(SeqCst))?;
        Some(Kept { idle: last.at.elapsed(), prompt: last.prompt })
    }

    /// Whether stores are attached to a session, which is remembered: its `blocks` tell.
    fn attach(&self, session: Uuid, blocks: Option<&str>) -> bool {
        let attached = blocks.is_some_and(shows_stores);
        if attached {
            self.attached.insert(session, ());
        }
        attached
    }

    /// Remembers that a turn of an agent and user stands in the spool before `end`.
    pub fn wrote(&self, agent: Uuid, user: &str, end: u64) {
        self.told.insert((agent, user.into()), end);
    }
}

/// Finds the session of a call with an agent and reads what the agent remembers.
///
/// # Errors
/// 404 for a session that is not this agent's and user's; 503 when memory cannot be read and the agent must not answer without.
pub async fn remember(
    memories: &Memories,
    spool: &Spool,
    readers: &Readers,
    agent: &Agent,
    target: &Target,
    conversation: &Conversation,
    searched: Option<QueryVector<'_>>,
) -> Result<Memory, Refusal> {
    let user = target.user.as_deref();
    let history = Some(conversation.prefix()).filter(|chain| *chain != EMPTY);
    let here = history.and_then(|chain| memories.heads.get(&(agent.id, user.map(Into::into), chain)));
    // A history that the log has gone on from is one that the client has edited.
    let left = here.filter(|session| memories.ends.get(session) != history);
    let here = here.filter(|_| left.is_none());
    // Known without asking: a conversation that begins now, or one whose last turn went through this gateway.
    let known = match (target.session, here) {
        (None, Some(session)) => Some(session),
        (Some(named), Some(session)) if named == session => Some(session),
        (None, None) if history.is_none() => Some(Uuid::now_v7()),
        _ => None,
    };
    let recall_tokens = if user.is_some() || agent.has_stores { agent.recall_tokens } else { 0 };
    let subject = Subject { tenant: agent.tenant, agent: agent.id, user: user.map(Into::into) };
    let mut kept = None;
    if let Some(session) = known {
        let attached = agent.remembers && memories.attached.get(&session).is_some();
        if !agent.remembers || (!agent.has_blocks && !agent.has_stores && recall_tokens == 0 && !attached) {
            return Ok(Memory::of(session, State::None).with(agent, None, None, conversation));
        }
        kept = memories.kept(session, history).filter(|_| agent.prompt_cache.is_some());
        let may_copy = !agent.refresh && !agent.has_session_blocks && recall_tokens == 0 && !attached;
        // A session that was begun elsewhere has its beginning there.
        let begun_here = history.is_none() || kept.is_some() || agent.prompt_cache.is_none();
        if let Some(copy) = memories.copied(&subject, agent.version).filter(|_| may_copy && begun_here) {
            return Ok(Memory::of(session, State::Cached).with(agent, copy.blocks.as_ref(), kept, conversation));
        }
    }

    let text = conversation.newest_user_text().filter(|_| recall_tokens > 0);
    // The history's last turn may have been recorded a moment ago, by a call that this thread did not serve; and what the user said
    // in another session a moment ago is to be recalled in a new one.
    let waits = || match (history, user) {
        (Some(_), _) => known.is_none(),
        (None, Some(user)) if text.is_some() => {
            memories.told.get(&(agent.id, user.into())).is_some_and(|end| !spool.has_sent(end))
        }
        (None, _) => false,
    };
    if spool.pending() > 0 && waits() {
        spool.settled(SETTLE).await;
    }
    let changes = memories.changes.load(SeqCst);
    let query = ContextQuery {
        tenant: agent.tenant,
        agent: agent.id,
        version: agent.version,
        user,
        session: known.or(target.session).or(left),
        chain: history.as_ref().map(<[u8; 32]>::as_slice),
        // With an embedder, passages are asked for apart: the session that is left out is known after this.
        text: text.as_deref().filter(|_| searched.is_none()),
        recall_tokens,
        prompt: agent.prompt_cache.is_some() && kept.is_none() && (history.is_some() || target.session.is_some()),
    };
    match readers.context(&query).await {
        Ok(context) if context.refused => Err(Refusal {
            param: Some(SESSION.to_string()),
            ..Refusal::not_found("There is no such session for this agent and user.", "session_not_found")
        }),
        Ok(context) => {
            let parent = known.or(context.session).or(target.session).unwrap_or_else(Uuid::now_v7);
            let shared = !memories.attach(parent, context.blocks.as_deref()) && !agent.has_session_blocks;
            let at_head = known.is_some() || context.at_head;
            let forks = !at_head && parts(&context, conversation);
            let blocks = context.blocks.map(|blocks| Arc::new(Prompt::of(agent.version, blocks.into(), shared)));
            if !agent.refresh && shared && memories.changes.load(SeqCst) == changes {
                memories.keep_prompt(subject, agent.version, blocks.clone());
            }
            let (recall, recalled) = match (text, searched) {
                (Some(text), Some(searched)) if agent.remembers => {
                    let query = RecallQuery {
                        tenant: agent.tenant,
                        agent: agent.id,
                        version: agent.version,
                        user: user.unwrap_or_default(),
                        text: &text,
                        tokens: recall_tokens,
                        session: Some(parent),
                        vector: searched.vector.as_deref().ok(),
                        model: &searched.model,
                    };
                    recalled(readers, &query, &searched).await
                }
                (Some(_), None) if agent.remembers => (context.recall, Some(Recalled::Lexical(None))),
                _ => (None, None),
            };
            let memory = Memory {
                session: if forks { Uuid::now_v7() } else { parent },
                parent,
                at_head,
                recall,
                recalled,
                ..Memory::of(parent, if agent.remembers { State::Fresh } else { State::None })
            };
            Ok(memory.with(
                agent,
                blocks.as_ref().filter(|_| agent.remembers),
                kept.or(context.prompt.and_then(Kept::stored)),
                conversation,
            ))
        }
        Err(error) => without(agent, known.or(target.session).or(left), (known.is_some(), left.is_some()), &error),
    }
}

/// Whether a prompt's memory tells of stores that are attached to the session. No value can look like it: the renderer escapes
/// angle brackets.
pub fn shows_stores(blocks: &str) -> bool {
    memmem::find(blocks.as_bytes(), b"<memory store=").is_some()
}

/// Whether a log that ends elsewhere is left as it is: it goes on only if its end is in the client's history.
fn parts(context: &Context, conversation: &Conversation) -> bool {
    let ends_in = |head: &Vec<u8>| conversation.messages().iter().any(|message| message.chain[..] == head[..]);
    context.head.as_ref().is_some_and(|head| !ends_in(head))
}

/// Recalls by a text and, where there is one, its vector. A call goes on without passages where that fails.
async fn recalled(readers: &Readers, query: &RecallQuery<'_>, searched: &QueryVector<'_>) -> (Option<String>, Option<Recalled>) {
    match readers.recall(query).await {
        Ok(recall) => {
            searched.searched_by(query.agent, query.user, recall.model.as_deref());
            let how = match searched.vector {
                Ok(_) if recall.hybrid => Recalled::Hybrid,
                Ok(_) => Recalled::Lexical(Some(WordsAlone::NotEmbedded)),
                Err(reason) => Recalled::Lexical(Some(reason)),
            };
            (recall.text, Some(how))
        }
        Err(error) => {
            tracing::warn!(%error, "a call goes on without what could be recalled");
            (None, None)
        }
    }
}

fn without(
    agent: &Agent,
    session: Option<Uuid>,
    (at_head, forks): (bool, bool),
    error: &DatabaseError,
) -> Result<Memory, Refusal> {
    tracing::warn!(%error, agent = agent.name, "the memory of a call could not be read");
    if agent.fail_without_memory {
        let message =
            "The agent's memory cannot be read at the moment, and it is set to fail without (memory.on_unavailable). Try again.";
        return Err(Refusal::unavailable(message).because(Reason::Memory).retry_after(1));
    }
    let parent = session.unwrap_or_else(Uuid::now_v7);
    Ok(Memory { session: if forks { Uuid::now_v7() } else { parent }, parent, at_head, ..Memory::of(parent, State::Unavailable) })
}
