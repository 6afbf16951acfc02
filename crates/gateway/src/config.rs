//! The gateway's configuration: one JSON text, made by the control side with everything resolved. Nothing here reads
//! files or the environment.

mod cache;
mod record;
mod routing;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::cache::{CacheConfig, CacheStore, Namespace};
pub use self::record::{RecordConfig, StoredBodies};
pub use self::routing::{AliasConfig, RetryPolicy, RoutingConfig, Strategy};
use crate::{
    connections::Reach,
    providers::{self, Family, Quirk},
    stored::Stored,
    usage::PriceRow,
    wire::Wire,
};

/// First segments of paths that are not a provider's.
const RESERVED: [&str; 10] = ["", "v1", "v1beta", "healthz", "readyz", "metrics", "docs", "redoc", "openapi.json", "dashboard"];

/// All that the gateway needs to start.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Base URL of the control plane, to which all other paths are relayed.
    pub control_url: String,
    /// How to reach Postgres as the gateway's role: a libpq connection string or URL.
    pub database: String,
    /// Folder of the write-ahead spool; made if missing.
    pub spool_dir: PathBuf,
    /// How large the spool may grow, in bytes, before calls are refused.
    pub spool_max_bytes: u64,
    /// The largest request body taken, in bytes.
    pub max_body_bytes: usize,
    /// How many bytes of request bodies all calls together may hold at a time.
    #[serde(default = "max_bodies_bytes")]
    pub max_bodies_bytes: usize,
    /// Hosts that speak one of our wires.
    pub providers: Vec<ProviderConfig>,
    /// Named models, each with its upstreams in order of preference.
    #[serde(default)]
    pub models: Vec<ModelConfig>,
    /// Name patterns, tried in order after `models`.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
    /// The model of an agent that names none.
    #[serde(default)]
    pub default_model: Option<String>,
    /// How calls are spread over upstreams, repeated and sent elsewhere.
    #[serde(default)]
    pub routing: RoutingConfig,
    /// Prices that win over the store's.
    #[serde(default)]
    pub prices: Vec<PriceRow>,
    /// How many tokens a call is taken to be answered with at most, where it does not say so itself.
    #[serde(default = "output_tokens")]
    pub output_tokens: u64,
    /// For how long the store lends budgets to this gateway without hearing from it, in milliseconds.
    #[serde(default = "lease_ms")]
    pub lease_ms: u64,
    /// Limits in time.
    pub timeouts: Timeouts,
    /// Certificates (PEM) of authorities that providers' certificates may come from besides the public ones, such as a
    /// company's proxy has.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Where spans of calls are sent, if anywhere.
    #[serde(default)]
    pub traces: Option<TracesConfig>,
    /// Whether the same request is given the same answer for a while; not where absent.
    #[serde(default)]
    pub cache: Option<CacheConfig>,
    /// What makes the vectors of queries, for agents that recall; without it they recall by words alone.
    #[serde(default)]
    pub embedder: Option<EmbedderConfig>,
    /// What is stored of calls beside their usage; nothing where absent.
    #[serde(default)]
    pub record: Option<RecordConfig>,
    /// Threads that serve requests. One runtime each, so that a request never crosses cores: a cross-core wake costs
    /// 35 to 65 µs on a small virtual machine, as much as all of the gateway's own work. By default one a core, four at most.
    #[serde(default = "cores")]
    pub threads: usize,
}

fn max_bodies_bytes() -> usize {
    512 << 20
}

fn output_tokens() -> u64 {
    4096
}

fn lease_ms() -> u64 {
    120_000
}

/// With two threads on two cores, first tokens of 500 streams at 100 tokens a second waited half as long as with one (p50 7.5
/// against 14 ms more than without the gateway, p99 16 against 29 ms, 9 % more processor time); short calls of 50 connections
/// went as before. Each thread has a few connections to Postgres, so that a machine with many cores is not asked to use them all.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// A collector of traces that speaks OTLP over HTTP.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// Its base URL, such as `http://localhost:4318`; spans go to `/v1/traces` below it.
    pub endpoint: String,
    /// Headers that it asks for, such as its key.
    #[serde(default)]
    pub headers: HashMap<String, String>,
    /// The name that we have there.
    pub service_name: String,
    /// The share of calls that are traced where the client does not say, from 0 to 1.
    pub sample: f64,
    /// How much of what was said a span tells, in bytes of text each way; none: nothing.
    #[serde(default)]
    pub content_max_bytes: Option<usize>,
}

/// What makes vectors: a model like any other, asked over `/embeddings`.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedderConfig {
    /// The model's name, as clients would ask for it.
    pub model: String,
    /// How long a query's vector may take, in milliseconds, before the search goes by words alone.
    pub query_timeout_ms: u64,
}

/// A provider: where it is, what it speaks, and our key for it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// Its name in `PROVIDER/model`.
    pub name: String,
    /// The wires it speaks: a client of one of them is not translated, the first is spoken for all others.
    #[serde(alias = "wire", deserialize_with = "providers::wires")]
    pub wires: Vec<Wire>,
    /// Up to and including the version, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// Which addresses that URL's host may stand for: only public ones where it is a known provider's, not the operator's word.
    #[serde(default)]
    pub reach: Reach,
    /// Where single wires are, if not there.
    #[serde(default)]
    pub base_urls: BTreeMap<Wire, String>,
    /// Our key for it; none for a host that asks for none.
    #[serde(default)]
    pub api_key: Option<String>,
    /// How it is addressed; by its wire where absent.
    #[serde(default)]
    pub family: Option<Family>,
    /// Azure's `api-version`; with it, the deployment stands in the path.
    #[serde(default)]
    pub api_version: Option<String>,
    /// The AWS region that requests are signed for.
    #[serde(default)]
    pub region: Option<String>,
    /// What requests to Bedrock are signed with, where there is no `api_key`.
    #[serde(default)]
    pub aws: Option<AwsCredentials>,
    /// Where it departs from its wire.
    #[serde(default)]
    pub quirks: Vec<Quirk>,
    /// Whether parameters that its wire has no words for are left out of requests in other wires; else such are refused.
    #[serde(default)]
    pub drop_params: bool,
}

/// Access keys of AWS.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsCredentials {
    /// Whose it is; no secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// The token of keys that are only lent.
    #[serde(default)]
    pub session_token: Option<String>,
}

/// A named model.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What clients ask for; with a `*`, a pattern of it.
    pub name: String,
    /// Where it is served, in order of preference.
    pub upstreams: Vec<UpstreamConfig>,
}

/// One place where a model is served.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// A provider's name.
    pub provider: String,
    /// The model's name there; in a pattern its `*` stands for what the name asked for has there.
    pub model: String,
    /// The wires that the model is served in, where they are not all of the provider's.
    #[serde(default)]
    pub wires: Option<Vec<Wire>>,
    /// Our key for it, instead of the provider's.
    #[serde(default)]
    pub api_key: Option<String>,
    /// Where it is, instead of the provider's base URL.
    #[serde(default)]
    pub base_url: Option<String>,
    /// Headers of each request to it, beside ours.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Members of the request's body, in the provider's wire, for what the client leaves out.
    #[serde(default)]
    pub body: BTreeMap<String, Box<RawValue>>,
    /// The provider's `drop_params`, where this place has its own.
    #[serde(default)]
    pub drop_params: Option<bool>,
    /// Its share of the calls, against the others'.
    #[serde(default = "whole")]
    pub weight: f64,
    /// Those with the least go first; those with none last.
    #[serde(default)]
    pub order: Option<u32>,
    /// Until it answers with a head, in milliseconds, instead of `timeouts.first_byte_ms`.
    #[serde(default)]
    pub first_byte_ms: Option<u64>,
    /// The same for streams.
    #[serde(default)]
    pub stream_first_byte_ms: Option<u64>,
}

fn whole() -> f64 {
    1.0
}

impl UpstreamConfig {
    /// A provider's model, with nothing of its own.
    pub fn new(provider: &str, model: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
            wires: None,
            api_key: None,
            base_url: None,
            headers: BTreeMap::new(),
            body: BTreeMap::new(),
            drop_params: None,
            weight: whole(),
            order: None,
            first_byte_ms: None,
            stream_first_byte_ms: None,
        }
    }
}

/// Models by pattern: `gpt-*` goes to `openai` under the same name.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// A name with at most one `*`.
    pub pattern: String,
    /// A provider's name.
    pub provider: String,
}

/// Limits in time, in milliseconds.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect_ms: u64,
    /// Until the provider answers with a head.
    pub first_byte_ms: u64,
    /// From the head of a stream to its first token: a model may reason in silence for minutes.
    #[serde(default = "ten_minutes")]
    pub first_token_ms: u64,
    /// Between two pieces of an answer, once there is a token.
    pub idle_ms: u64,
    /// For a call in all.
    pub total_ms: u64,
    /// How long a client's stream may be silent before it gets a sign of life; 0: it gets none.
    #[serde(default = "fifteen_seconds")]
    pub ping_ms: u64,
    /// How long a client's connection may be without a request, and how long a request's head and its body may each take to
    /// come. Longer than the minute after which common load balancers let go of an idle connection: who lets go first must
    /// not be the one that is not asked.
    #[serde(default = "seventy_five_seconds")]
    pub client_idle_ms: u64,
}

fn seventy_five_seconds() -> u64 {
    75_000
}

fn ten_minutes() -> u64 {
    600_000
}

fn fifteen_seconds() -> u64 {
    15_000
}

impl Timeouts {
    /// Until a connection stands.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// Until the provider answers with a head.
    pub fn first_byte(&self) -> Duration {
        Duration::from_millis(self.first_byte_ms)
    }

    /// For a call in all.
    pub fn total(&self) -> Duration {
        Duration::from_millis(self.total_ms)
    }

    /// From the head of a stream to its first token.
    pub fn first_token(&self) -> Duration {
        Duration::from_millis(self.first_token_ms)
    }

    /// Between two pieces of an answer, once there is a token.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// How long a client may take to send a request's head, or its body.
    pub fn client_idle(&self) -> Duration {
        Duration::from_millis(self.client_idle_ms)
    }

    /// How long a client's stream may be silent; none where it may be for ever.
    pub fn ping(&self) -> Option<Duration> {
        (self.ping_ms > 0).then(|| Duration::from_millis(self.ping_ms))
    }
}

impl Config {
    /// For how long the store lends budgets without hearing from this gateway.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// Names the key that is missing, unknown or of the wrong type, and providers that a model refers to but nobody defined.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|error| format!("the gateway's configuration: {error}"))?;
        let known = |name: &str| config.providers.iter().any(|provider| provider.name == name);
        for model in &config.models {
            if model.upstreams.is_empty() {
                return Err(format!("model '{}' has no upstream", model.name));
            }
            for upstream in &model.upstreams {
                if !known(&upstream.provider) {
                    return Err(format!(
                        "model '{}' names the provider '{}', which is not configured",
                        model.name, upstream.provider
                    ));
                }
                if !(upstream.weight >= 0.0 && upstream.weight.is_finite()) {
                    return Err(format!("model '{}': a weight must be a number of 0 or more", model.name));
                }
            }
        }
        if let Some(provider) = config.providers.iter().find(|provider| RESERVED.contains(&provider.name.as_str())) {
            return Err(format!("a provider cannot be named '{}': that path is the gateway's own", provider.name));
        }
        for route in &config.routes {
            if !known(&route.provider) {
                return Err(format!(
                    "route '{}' names the provider '{}', which is not configured",
                    route.pattern, route.provider
                ));
            }
        }
        if let Some(fault) = config.cache.as_ref().and_then(CacheConfig::fault) {
            return Err(fault);
        }
        if config.max_bodies_bytes < config.max_body_bytes {
            return Err(
                "max_bodies_bytes must be at least max_body_bytes: else a body of that size would never be taken".to_owned()
            );
        }
        Stored::new(&config)?;
        if config.threads == 0 {
            return Err("threads must be at least 1".to_owned());
        }
        Ok(config)
    }
}
