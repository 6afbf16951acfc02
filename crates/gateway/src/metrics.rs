//! Every metric, declared once; handles are made at the start, so that counting one is an atomic addition.

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;

use crate::{
    cache,
    remember::State,
    wire::{Usage, Wire},
};

/// Statuses counted one by one; others count as the last.
const STATUSES: [u16; 14] = [200, 400, 401, 403, 404, 408, 413, 422, 429, 499, 500, 502, 503, 504];

/// What a call came for, as metrics and usage name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names of the routes")]
pub enum Route {
    OpenaiChat,
    AnthropicMessages,
    OpenaiResponses,
    Gemini,
    Embeddings,
    Completions,
    Images,
    Audio,
    Moderations,
    PassThrough,
}

impl Route {
    const ALL: [Self; 10] = [
        Self::OpenaiChat,
        Self::AnthropicMessages,
        Self::OpenaiResponses,
        Self::Gemini,
        Self::Embeddings,
        Self::Completions,
        Self::Images,
        Self::Audio,
        Self::Moderations,
        Self::PassThrough,
    ];

    /// The route of model calls in a wire.
    pub fn of(wire: Wire) -> Self {
        match wire {
            Wire::OpenaiChat => Self::OpenaiChat,
            Wire::AnthropicMessages => Self::AnthropicMessages,
            Wire::OpenaiResponses => Self::OpenaiResponses,
            Wire::Gemini => Self::Gemini,
            // No client's wire: such a provider is only called by its own paths.
            Wire::BedrockConverse => Self::PassThrough,
        }
    }

    /// Its name: a wire's, or the route's own.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenaiChat => Wire::OpenaiChat.name(),
            Self::AnthropicMessages => Wire::AnthropicMessages.name(),
            Self::OpenaiResponses => Wire::OpenaiResponses.name(),
            Self::Gemini => Wire::Gemini.name(),
            Self::Embeddings => "embeddings",
            Self::Completions => "completions",
            Self::Images => "images",
            Self::Audio => "audio",
            Self::Moderations => "moderations",
            Self::PassThrough => "pass_through",
        }
    }
}

impl Route {
    /// What OpenTelemetry's conventions for generative AI call it.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Completions => "text_completion",
            Self::Gemini => "generate_content",
            Self::Images | Self::Audio | Self::Moderations | Self::PassThrough => self.name(),
            Self::OpenaiChat | Self::AnthropicMessages | Self::OpenaiResponses => "chat",
        }
    }
}

struct Handles {
    statuses: [Counter; STATUSES.len()],
    seconds: Histogram,
    overhead: Histogram,
    first_byte: Histogram,
}

/// A call under way.
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// All metrics of the gateway.
pub struct Metrics {
    handle: PrometheusHandle,
    routes: [Handles; Route::ALL.len()],
    input_tokens: Counter,
    output_tokens: Counter,
    cached_tokens: Counter,
    memory: [Counter; 4],
    memory_tools: Counter,
    retries: Counter,
    spans_dropped: Counter,
    cache: [Counter; 3],
    /// Answers that the response cache gave up for want of room.
    pub cache_evictions: Counter,
    in_flight: Gauge,
    /// Bytes in the spool that Postgres does not have.
    pub spool_pending: Gauge,
}

impl Metrics {
    /// Declares them.
    ///
    /// # Errors
    /// Where the exporter refuses the buckets.
    pub fn new() -> Result<Self, String> {
        // From a tenth of a millisecond, where our own work is, to minutes, where models are.
        let buckets =
            [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
        let recorder = PrometheusBuilder::new().set_buckets(&buckets).map_err(|error| error.to_string())?.build_recorder();
        let handle = recorder.handle();
        Ok(metrics::with_local_recorder(&recorder, || {
            metrics::describe_counter!("trunkline_requests_total", "Model calls by route and the status the client saw");
            metrics::describe_histogram!("trunkline_request_seconds", Unit::Seconds, "Time from a call's first byte to its last");
            metrics::describe_histogram!(
                "trunkline_overhead_seconds",
                Unit::Seconds,
                "The part of a call not spent waiting for a provider"
            );
            metrics::describe_histogram!("trunkline_first_byte_seconds", Unit::Seconds, "Time until the provider's first byte");
            metrics::describe_counter!("trunkline_tokens_total", "Tokens by kind; input includes cached");
            metrics::describe_counter!("trunkline_memory_total", "Calls by where their memory came from");
            metrics::describe_counter!("trunkline_memory_tool_calls_total", "Memory tools carried out for models");
            metrics::describe_counter!(
                "trunkline_upstream_retries_total",
                "Attempts after the first, on the same or another upstream"
            );
            metrics::describe_counter!("trunkline_spans_dropped_total", "Spans that the collector was too slow to take");
            metrics::describe_counter!("trunkline_cache_total", "Calls by what the response cache had for them");
            metrics::describe_counter!(
                "trunkline_cache_evictions_total",
                "Answers that the response cache in memory gave up for want of room"
            );
            metrics::describe_gauge!("trunkline_in_flight", "Calls under way");
            metrics::describe_gauge!(
                "trunkline_spool_pending_bytes",
                Unit::Bytes,
                "Recorded calls that Postgres does not have yet"
            );
            let tokens = |kind: &'static str| metrics::counter!("trunkline_tokens_total", "kind" => kind);
            let memory = |state: State| metrics::counter!("trunkline_memory_total", "state" => state.name());
            let cache = |state: cache::State| metrics::counter!("trunkline_cache_total", "result" => state.name());
            Self {
                handle,
                routes: Route::ALL.map(Handles::new),
                input_tokens: tokens("input"),
                output_tokens: tokens("output"),
                cached_tokens: tokens("cached"),
                memory: [State::None, State::Cached, State::Fresh, State::Unavailable].map(memory),
                memory_tools: metrics::counter!("trunkline_memory_tool_calls_total"),
                retries: metrics::counter!("trunkline_upstream_retries_total"),
                spans_dropped: metrics::counter!("trunkline_spans_dropped_total"),
                cache: [cache::State::Hit, cache::State::Miss, cache::State::Bypass].map(cache),
                cache_evictions: metrics::counter!("trunkline_cache_evictions_total"),
                in_flight: metrics::gauge!("trunkline_in_flight"),
                spool_pending: metrics::gauge!("trunkline_spool_pending_bytes"),
            }
        }))
    }

    /// Counts a call as under way until the guard is dropped, also when its client goes away and it is dropped half done.
    pub fn under_way(&self) -> UnderWay {
        self.in_flight.increment(1);
        UnderWay(self.in_flight.clone())
    }

    /// Counts a call that ended: times in seconds.
    pub fn ended(&self, route: Route, status: u16, seconds: f64, overhead: f64, first_byte: Option<f64>) {
        let route = &self.routes[route as usize];
        let place = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
        route.statuses[place].increment(1);
        route.seconds.record(seconds);
        route.overhead.record(overhead);
        if let Some(seconds) = first_byte {
            route.first_byte.record(seconds);
        }
    }

    /// Counts tokens.
    pub fn tokens(&self, usage: &Usage) {
        self.input_tokens.increment(usage.input);
        self.output_tokens.increment(usage.output);
        self.cached_tokens.increment(usage.cache_read);
    }

    /// Counts where a call's memory came from.
    pub fn memory(&self, state: State) {
        self.memory[state as usize].increment(1);
    }

    /// Counts what the response cache had for a call.
    pub fn cache(&self, state: cache::State) {
        self.cache[state as usize].increment(1);
    }

    /// Counts a memory tool carried out.
    pub fn memory_tool(&self) {
        self.memory_tools.increment(1);
    }

    /// Counts attempts after a call's first.
    pub fn retried(&self, count: u32) {
        self.retries.increment(u64::from(count));
    }

    /// Counts a span that was dropped.
    pub fn span_dropped(&self) {
        self.spans_dropped.increment(1);
    }

    /// The exposition text. Also drains what histograms have collected: call it, or `upkeep`, now and then.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps the histograms' memory bounded while nobody scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl Handles {
    fn new(route: Route) -> Self {
        let name = route.name();
        Self {
            statuses: STATUSES
                .map(|status| metrics::counter!("trunkline_requests_total", "route" => name, "status" => status.to_string())),
            seconds: metrics::histogram!("trunkline_request_seconds", "route" => name),
            overhead: metrics::histogram!("trunkline_overhead_seconds", "route" => name),
            first_byte: metrics::histogram!("trunkline_first_byte_seconds", "route" => name),
        }
    }
}
