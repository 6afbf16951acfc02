//! How calls are spread over upstreams, repeated and sent elsewhere.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Deserialize;

/// Which of a model's upstreams goes first, among those of the lowest `order` that are awake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Each as often as its weight says.
    #[default]
    Shuffle,
    /// The one with the fewest calls under way.
    LeastBusy,
    /// The one that lately began to answer soonest.
    LowestLatency,
    /// The one with the lowest price.
    LowestCost,
    /// As they are listed.
    Order,
}

/// How many attempts may follow the first within one model, by what went wrong; none: as [`RoutingConfig::retries`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The provider said 429.
    pub rate_limit: Option<u32>,
    /// No answer in time, or the connection broke with the request in hand. Only what stands here allows an attempt after that,
    /// since the model may be at work already.
    pub timeout: Option<u32>,
    /// The provider answered that it failed (500 and above).
    pub server: Option<u32>,
    /// No connection could be made.
    pub connect: Option<u32>,
    /// The provider's filter refused the content.
    pub content_policy: Option<u32>,
    /// The provider refused our key (401, 402, 403).
    pub auth: Option<u32>,
    /// The provider refused the request.
    pub bad_request: Option<u32>,
}

/// Another name for a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasConfig {
    /// The model's name.
    pub model: String,
    /// Whether `GET /v1/models` leaves it out.
    #[serde(default)]
    pub hidden: bool,
}

/// How calls are spread over upstreams, repeated and sent elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoutingConfig {
    /// Whether only models that are listed are served, and none by the name of their provider or by a provider's patterns.
    pub listed_only: bool,
    /// Which upstream goes first.
    pub strategy: Strategy,
    /// Whether calls of one conversation go to the same upstream while it is awake, so that it finds its prompt cache.
    pub affinity: bool,
    /// Attempts after the first within one model; none: each upstream once, and the last once more.
    pub retries: Option<u32>,
    /// The same by what went wrong.
    pub retry_policy: RetryPolicy,
    /// The same for single models, by name.
    pub model_retry_policies: HashMap<String, RetryPolicy>,
    /// The shortest pause before the same upstream is tried again, in milliseconds.
    pub min_pause_ms: u64,
    /// Failures within a minute after which an upstream is not yet left alone.
    pub allowed_fails: u32,
    /// How long an upstream is left alone that did not say for how long, in milliseconds; 0: never.
    pub cooldown_ms: u64,
    /// Other names for models.
    pub aliases: BTreeMap<String, AliasConfig>,
    /// Models that a call goes on to when a model failed, by the model's name.
    pub fallbacks: HashMap<String, Vec<String>>,
    /// The same where the request is longer than the model's context.
    pub context_window_fallbacks: HashMap<String, Vec<String>>,
    /// The same where the provider's filter refused the content.
    pub content_policy_fallbacks: HashMap<String, Vec<String>>,
    /// For models that have none of their own.
    pub default_fallbacks: Vec<String>,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            listed_only: false,
            strategy: Strategy::Shuffle,
            affinity: true,
            retries: None,
            retry_policy: RetryPolicy::default(),
            model_retry_policies: HashMap::new(),
            min_pause_ms: 0,
            allowed_fails: 0,
            cooldown_ms: 5_000,
            aliases: BTreeMap::new(),
            fallbacks: HashMap::new(),
            context_window_fallbacks: HashMap::new(),
            content_policy_fallbacks: HashMap::new(),
            default_fallbacks: Vec::new(),
        }
    }
}

impl RoutingConfig {
    /// The shortest pause before the same upstream is tried again.
    pub fn min_pause(&self) -> Duration {
        Duration::from_millis(self.min_pause_ms)
    }

    /// The retry policy of a model.
    pub fn retry_policy(&self, model: &str) -> RetryPolicy {
        self.model_retry_policies.get(model).copied().unwrap_or(self.retry_policy)
    }
}
