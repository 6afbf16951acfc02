//! What the prompts of a session begin with, kept so that providers find it in their caches: the blocks as they stood at its first
//! call (the prefix), and what has changed since, each change in the user message that it was first sent with (a delta).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    context::Placed,
    conversation::{Chain, Conversation},
    database::StoredPrompt,
    record::write_hex,
    snapshot::{PromptCache, bytes32},
    usage::estimate,
};

/// Blocks, and what says that they have changed. Immutable: a call that adds to it makes another.
#[derive(Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The agent's version that it was rendered for.
    version: i32,
    prefix: Arc<str>,
    /// The first sixteen bytes of the prefix's SHA-256.
    hash: u128,
    /// Whether the user's other sessions may begin with the same prefix: the session has no blocks and no stores of its own.
    shared: bool,
    /// In the order in which they were said.
    deltas: Vec<Delta>,
}

/// What was put into a user message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delta {
    /// The chain up to and with that message.
    at: Chain,
    text: Arc<str>,
}

/// What a call is to be recorded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// A delta.
    Delta,
    /// All of it: it is new, or was rendered anew.
    Whole,
}

/// What a session's last call had, if that is known.
pub struct Kept {
    /// What it began with.
    pub prompt: Arc<Prompt>,
    /// For how long the session has been idle.
    pub idle: Duration,
}

impl Kept {
    /// What Postgres has; none where that is not to be understood.
    pub fn stored(stored: StoredPrompt) -> Option<Self> {
        let idle = Duration::try_from_secs_f64(stored.idle).unwrap_or_default();
        Some(Self { prompt: Arc::new(Prompt::stored(stored.version, stored.prefix, &stored.deltas)?), idle })
    }
}

impl Prompt {
    /// Blocks as they stand now; `shared`: the user's other sessions may have the same.
    pub fn of(version: i32, blocks: Arc<str>, shared: bool) -> Self {
        Self { version, hash: hash(&blocks), prefix: blocks, shared, deltas: Vec::new() }
    }

    /// What Postgres keeps; none where that is no list of deltas.
    pub fn stored(version: i32, prefix: String, deltas: &str) -> Option<Self> {
        let rows: Vec<(String, String)> = serde_json::from_str(deltas).ok()?;
        let delta = |(hex, text): (String, String)| Some(Delta { at: bytes32(&hex)?, text: text.into() });
        let deltas = rows.into_iter().map(delta).collect::<Option<_>>()?;
        // It is not written again, so that nobody asks whether it is shared.
        Some(Self { deltas, ..Self::of(version, prefix.into(), false) })
    }

    /// The blocks that the prompt begins with.
    pub fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    /// A hash of these.
    pub fn hash(&self) -> u128 {
        self.hash
    }

    /// The first half of it.
    pub fn short_hash(&self) -> u64 {
        half(self.hash)
    }

    /// Whether the user's other sessions may begin with them.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// The same beginning, with other deltas.
    fn with(&self, deltas: Vec<Delta>) -> Arc<Self> {
        Arc::new(Self { version: self.version, prefix: Arc::clone(&self.prefix), hash: self.hash, shared: self.shared, deltas })
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.prefix.len() + self.deltas.iter().map(|delta| delta.text.len() + size_of::<Delta>()).sum::<usize>()
    }

    /// Its deltas, each with the message that it belongs into.
    pub fn placed(&self, conversation: &Conversation) -> Vec<Placed> {
        let placed = |delta: &Delta| Some(Placed { message: conversation.source_of(&delta.at)?, text: Arc::clone(&delta.text) });
        self.deltas.iter().filter_map(placed).collect()
    }

    /// What a call is given where `now` is how the blocks stand, and whether that is to be recorded.
    ///
    /// It is rendered anew where the provider's cache is of no use any more: after an idle time, for another version of the agent;
    /// where its deltas have become too long; and where a block is gone, which no delta can take back.
    pub fn next(kept: Option<Kept>, now: &Arc<Self>, settings: &PromptCache, conversation: &Conversation) -> (Arc<Self>, Change) {
        let Some(Kept { prompt, idle }) = kept else { return (Arc::clone(now), Change::Whole) };
        let same = prompt.prefix == now.prefix;
        if same && prompt.deltas.is_empty() && prompt.version == now.version {
            return (prompt, Change::None);
        }
        if prompt.version != now.version || idle > settings.ttl {
            return (Arc::clone(now), Change::Whole);
        }
        // What was said in messages that this history does not have, was not said.
        let here = |delta: &&Delta| conversation.source_of(&delta.at).is_some();
        let mut deltas: Vec<Delta> = prompt.deltas.iter().filter(here).cloned().collect();
        let edited = deltas.len() < prompt.deltas.len();
        let Some(changed) = changed(&prompt.prefix, &deltas, &now.prefix) else { return (Arc::clone(now), Change::Whole) };
        // A delta waits for a user's own words: results of tools are no place that all providers allow.
        let newest = conversation.newest_place().filter(|_| !changed.is_empty());
        let Some(at) = newest else {
            if edited {
                return (prompt.with(deltas), Change::None);
            }
            return (prompt, Change::None);
        };
        let text = format!("{OPENING}{}{CLOSING}", changed.join("\n"));
        let tokens = |text: &str| usize::try_from(estimate(text.len())).unwrap_or(usize::MAX);
        if deltas.iter().map(|delta| tokens(&delta.text)).sum::<usize>() + tokens(&text) > settings.delta_tokens {
            return (Arc::clone(now), Change::Whole);
        }
        deltas.push(Delta { at, text: text.into() });
        (prompt.with(deltas), Change::Delta)
    }
}

const OPENING: &str = "<trunkline-memory-update>\nWhat follows has changed, and supersedes what is said of it above.\n";
const CLOSING: &str = "\n</trunkline-memory-update>\n\n";
const BLOCK: &str = "<memory ";
const END: &str = "</memory>";

/// The blocks of a text. The renderer escapes angle brackets, so that no value can look like an end.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let from = &rest[rest.find(BLOCK)?..];
        let (block, after) = from.split_at(from.find(END)? + END.len());
        rest = after;
        Some(block)
    })
}

/// What names a block: its tag.
fn tag(block: &str) -> &str {
    block.find('>').map_or(block, |end| &block[..=end])
}

/// The blocks of `now` that are not as they were said last; none where one of those is gone, or `now` is more than blocks.
fn changed<'a>(prefix: &str, deltas: &[Delta], now: &'a str) -> Option<Vec<&'a str>> {
    let mut said: Vec<&str> = blocks(prefix).collect();
    for block in deltas.iter().flat_map(|delta| blocks(&delta.text)) {
        match said.iter_mut().find(|known| tag(known) == tag(block)) {
            Some(known) => *known = block,
            None => said.push(block),
        }
    }
    let stand: Vec<&str> = blocks(now).collect();
    let whole = stand.iter().map(|block| block.len() + 1).sum::<usize>() == now.len() + 1;
    let there = said.iter().all(|block| stand.iter().any(|other| tag(other) == tag(block)));
    (whole && there).then(|| stand.into_iter().filter(|block| !said.contains(block)).collect())
}

/// The first half of a hash.
#[allow(clippy::cast_possible_truncation)] // nothing is left to truncate
pub fn half(hash: u128) -> u64 {
    (hash >> 64) as u64
}

/// The first sixteen bytes of SHA-256.
pub fn hash(text: &str) -> u128 {
    Sha256::digest(text).iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// What a session's prompts begin with, on its way to Postgres.
#[derive(Serialize)]
pub struct PromptRow<'a> {
    session: Uuid,
    /// Where the turn becomes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    fork: Option<Uuid>,
    version: i32,
    /// Where it is new, and shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    /// Where it is new, and was not said with another session.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deltas: Vec<(String, &'a str)>,
    /// By a worker, whose sessions have other events at other times.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    used: bool,
}

impl<'a> PromptRow<'a> {
    /// What is to be written of a call; none where all of it is. `said`: the shared text was said a while ago.
    pub fn new(session: Uuid, fork: Option<Uuid>, prompt: &'a Prompt, change: Change, said: bool, used: bool) -> Option<Self> {
        if change == Change::None && !used {
            return None;
        }
        let new = change == Change::Whole;
        let hash = (new && prompt.shared).then(|| format!("{:032x}", prompt.hash));
        let prefix = (new && !(prompt.shared && said)).then_some(&*prompt.prefix);
        let deltas = prompt.deltas.iter().map(|delta| (write_hex(&delta.at), &*delta.text)).collect();
        Some(Self { session, fork, version: prompt.version, hash, prefix, deltas, used })
    }
}

/// A session's prompt as its last call through this gateway left it.
#[derive(Clone)]
pub struct Last {
    /// Where the session's log ended then.
    pub chain: Chain,
    /// When.
    pub at: Instant,
    /// What its prompts begin with.
    pub prompt: Arc<Prompt>,
}
