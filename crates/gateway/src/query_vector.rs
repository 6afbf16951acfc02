//! The vector of what is searched for, from the configured embedder: within a time limit, past which the search goes by words
//! alone. Nothing here runs where no embedder is configured.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    config::EmbedderConfig,
    conversation::Conversation,
    gateway::Worker,
    metrics::Route,
    pipeline::admit_call,
    principal::Key,
    providers::Operation,
    record::{Call, Recorder},
    relay::collect,
    routing::{Target, Upstream},
    snapshot::Agent,
    upstream::{self, Outgoing},
    wire::{Usage, Wire},
};

/// How many vectors are kept: of 384 numbers, 3 MiB.
const KEPT: usize = 2_000;
/// How much of a text is embedded, in bytes: more than any of the common models reads.
const MAX_TEXT: usize = 8_192;
/// How long an embedder that took too long, or failed, is left alone.
const REST: Duration = Duration::from_secs(2);

/// How a recall was carried out; the response says so in `x-trunkline-recall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recalled {
    /// By words and by meaning.
    Hybrid,
    /// By words alone; the reason, where an embedder is configured.
    Lexical(Option<WordsAlone>),
}

/// Why a search went by words alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordsAlone {
    /// The time limit passed.
    Timeout,
    /// The embedder could not be reached, refused, or answered with something that is no vector.
    Failed,
    /// It took too long or failed a moment ago, and is left alone.
    Resting,
    /// A limit of the key, its team or its user has nothing left for it.
    Limit,
    /// The passages have no vectors of the embedder's model yet.
    NotEmbedded,
    /// The vector is not at hand, and nobody is asked for it.
    NotAsked,
}

impl Recalled {
    /// The value of the header.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Lexical(None) => "lexical",
            Self::Lexical(Some(WordsAlone::Timeout)) => "lexical; reason=timeout",
            Self::Lexical(Some(WordsAlone::Failed)) => "lexical; reason=embedder_failed",
            Self::Lexical(Some(WordsAlone::Resting)) => "lexical; reason=embedder_resting",
            Self::Lexical(Some(WordsAlone::Limit)) => "lexical; reason=limit",
            Self::Lexical(Some(WordsAlone::NotEmbedded)) => "lexical; reason=not_embedded",
            Self::Lexical(Some(WordsAlone::NotAsked)) => "lexical; reason=not_asked",
        }
    }
}

/// A text's vector.
pub type Vector = Arc<[f32]>;

/// What a search goes by beside its words.
pub struct QueryVector<'a> {
    vectors: &'a QueryVectors,
    /// The vector, or why there is none.
    pub vector: Result<Vector, WordsAlone>,
    /// The model that made it, or was to.
    pub model: Arc<str>,
}

impl QueryVector<'_> {
    /// Notes the model by which what an agent remembers of a user was searched: the next query is embedded by it. It is
    /// another than the configured one until all passages are embedded by that.
    pub fn searched_by(&self, agent: Uuid, user: &str, model: Option<&str>) {
        match model {
            Some(model) if *model != *self.model => {
                let subject = (agent, user.into());
                if *model == *self.vectors.model {
                    self.vectors.others.remove(&subject);
                } else {
                    self.vectors.others.insert(subject, model.into());
                }
            }
            _ => {}
        }
    }
}

/// The embedder as the gateway asks it.
pub struct QueryVectors {
    model: Arc<str>,
    limit: Duration,
    /// By tenant and SHA-256 of model and text: nobody learns by the time it takes what another tenant asked.
    kept: Cache<(Uuid, [u8; 32]), Vector>,
    /// Agents' users whose passages are still searched by another model.
    others: Cache<(Uuid, Box<str>), Arc<str>>,
    /// Until when the embedder is left alone, in nanoseconds on the process's clock.
    rests_until: AtomicU64,
}

/// The vector of the newest user message, for an agent that recalls; none where it does not, or no embedder is configured.
pub async fn of_newest<'a>(
    worker: &'a Arc<Worker>,
    key: &Arc<Key>,
    agent: &Agent,
    user: Option<&str>,
    conversation: &Conversation,
) -> Option<QueryVector<'a>> {
    let Searched { vectors, user, model, text } = searched(worker, agent, user, conversation)?;
    let vector = vectors.of(worker, key, user, &model, &text).await;
    Some(QueryVector { vectors, vector, model })
}

/// The same, of what is at hand: the embedder is not asked.
pub fn at_hand<'a>(
    worker: &'a Arc<Worker>,
    agent: &Agent,
    user: Option<&str>,
    conversation: &Conversation,
) -> Option<QueryVector<'a>> {
    let Searched { vectors, model, text, .. } = searched(worker, agent, user, conversation)?;
    let vector = vectors.kept.get(&place(agent.tenant, &model, readable(&text))).ok_or(WordsAlone::NotAsked);
    Some(QueryVector { vectors, vector, model })
}

/// A search that goes by a vector too.
struct Searched<'a, 'c> {
    vectors: &'a QueryVectors,
    user: &'c str,
    /// By which the text is embedded.
    model: Arc<str>,
    text: Cow<'c, str>,
}

fn searched<'a, 'c>(
    worker: &'a Arc<Worker>,
    agent: &Agent,
    user: Option<&'c str>,
    conversation: &'c Conversation,
) -> Option<Searched<'a, 'c>> {
    let vectors = worker.gateway.query_vectors.as_ref()?;
    let user = user.filter(|_| agent.remembers && agent.recall_tokens > 0)?;
    let text = conversation.newest_user_text().filter(|text| !text.trim().is_empty())?;
    let model = vectors.others.get(&(agent.id, user.into())).unwrap_or_else(|| Arc::clone(&vectors.model));
    Some(Searched { vectors, user, model, text })
}

/// What is embedded of a text.
fn readable(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

/// Where a text's vector is kept.
fn place(tenant: Uuid, model: &str, text: &str) -> (Uuid, [u8; 32]) {
    (tenant, Sha256::new().chain_update(model).chain_update([0]).chain_update(text).finalize().into())
}

impl QueryVectors {
    /// For a configured embedder.
    pub fn new(config: &EmbedderConfig) -> Self {
        Self {
            model: config.model.as_str().into(),
            limit: Duration::from_millis(config.query_timeout_ms),
            kept: Cache::new(KEPT),
            others: Cache::new(KEPT),
            rests_until: AtomicU64::new(0),
        }
    }

    /// The vector of a text, as `key` may have it made: it is a call of its own in usage and limits.
    async fn of(&self, worker: &Arc<Worker>, key: &Arc<Key>, user: &str, model: &str, text: &str) -> Result<Vector, WordsAlone> {
        let text = readable(text);
        let place = place(key.tenant, model, text);
        if let Some(vector) = self.kept.get(&place) {
            return Ok(vector);
        }
        let gateway = &worker.gateway;
        if gateway.nanos() < self.rests_until.load(Relaxed) {
            return Err(WordsAlone::Resting);
        }
        // The model that still serves may not be served any more.
        let group = gateway.settings().routes.group(model).ok_or(WordsAlone::NotEmbedded)?;
        let target =
            Target { agent: None, user: Some(user.to_owned()), session: None, asked: model.to_owned(), model: None, group };
        let made = timeout(self.limit, made(worker, key, &target, text)).await.unwrap_or(Err(WordsAlone::Timeout));
        match &made {
            Ok(vector) => self.kept.insert(place, Arc::clone(vector)),
            Err(WordsAlone::Timeout | WordsAlone::Failed) => {
                let until = gateway.nanos() + u64::try_from(REST.as_nanos()).unwrap_or(u64::MAX);
                self.rests_until.store(until, Relaxed);
                tracing::warn!(model, reason = ?made, "a query was not embedded, recall goes by words alone");
            }
            Err(_) => {}
        }
        made
    }
}

/// Has a text embedded.
async fn made(worker: &Arc<Worker>, key: &Arc<Key>, target: &Target, text: &str) -> Result<Vector, WordsAlone> {
    let gateway = &worker.gateway;
    let admission = admit_call(worker, key, target, Some(0), text.len()).await.map_err(|_| WordsAlone::Limit)?;
    let call = Call::of(Wire::OpenaiChat, Route::Embeddings);
    let mut record = Recorder::new(gateway, call, key, target, false, text.len());
    record.reserved(admission);
    let outgoing = Outgoing {
        wire: Wire::OpenaiChat,
        operation: Operation::Openai("embeddings"),
        query: None,
        headers: &HeaderMap::new(),
        content_type: None,
        body: |upstream: &Arc<Upstream>| {
            let body = json!({"model": upstream.model, "input": [text], "encoding_format": "float"});
            Bytes::from(body.to_string()).into()
        },
    };
    let answer = match upstream::send(worker, &target.group, || None, &outgoing).await {
        Ok(answer) => answer,
        Err(failed) => {
            record.attempted(failed.waited, failed.retries);
            let _ = record.end(502, Some("provider_refused"));
            return Err(WordsAlone::Failed);
        }
    };
    record.answered(&answer.upstream, answer.waited, answer.retries);
    let (head, body) = answer.response.into_parts();
    let reading = Instant::now();
    let bytes = collect(gateway, &head.headers, body).await.unwrap_or_default();
    record.waited(reading.elapsed());
    let made = Made::read(&bytes);
    record.used(made.as_ref().and_then(Made::usage));
    let recorded = record.end(if made.is_some() { 200 } else { 502 }, made.is_none().then_some("upstream_unreadable"));
    made.and_then(Made::vector).filter(|_| recorded).ok_or(WordsAlone::Failed)
}

/// An answer of `/v1/embeddings` to one text.
#[derive(Deserialize)]
struct Made {
    data: Vec<Item>,
    #[serde(default)]
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Item {
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    prompt_tokens: u64,
}

impl Made {
    fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.as_ref().map(|used| Usage { input: used.prompt_tokens, ..Usage::default() })
    }

    /// The one vector, of unit length, if it is one that points somewhere.
    fn vector(mut self) -> Option<Vector> {
        let vector = self.data.pop().filter(|_| self.data.is_empty())?.embedding;
        let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        #[allow(clippy::cast_possible_truncation, reason = "as exact as the numbers that came")]
        (length.is_normal()).then(|| vector.iter().map(|number| (f64::from(*number) / length) as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_vector_that_points_somewhere_is_taken() {
        let vector = |text: &str| Made::read(text.as_bytes()).and_then(Made::vector);
        assert_eq!(vector(r#"{"data":[{"embedding":[1.5,-2]}],"usage":{"prompt_tokens":3}}"#).as_deref(), Some(&[0.6, -0.8][..]));
        for wrong in [
            r#"{"data":[]}"#,
            r#"{"data":[{"embedding":[1]},{"embedding":[1]}]}"#,
            r#"{"data":[{"embedding":[0,0]}]}"#,
            r#"{"data":[{"embedding":[1e60]}]}"#,
            r#"{"data":[{"embedding":[NaN]}]}"#,
            r#"{"data":[{"embedding":[null]}]}"#,
            r#"{"data":[{"embedding":[]}]}"#,
            r#"{"error":{"message":"no"}}"#,
        ] {
            assert_eq!(vector(wrong), None, "{wrong}");
        }
    }
}
