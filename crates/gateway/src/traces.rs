//! A span for each model call, named as `OpenTelemetry`'s conventions for generative AI say, sent over OTLP in batches.
//! Nothing of this runs unless an endpoint is configured. What was said in a call is part of its span only where the
//! configuration asks for that.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry::{
    Array, InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    config::TracesConfig,
    connections::{Connections, Reach},
    record::Answer,
    wire::{StopReason, Usage, Wire, transcript},
};

/// Spans that may wait; more are dropped and counted, as tracing must not cost memory without bound.
const WAITING: usize = 8192;
/// Spans a request to the collector: the SDKs' default.
const BATCH: usize = 512;
/// How often they are sent.
const EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take: OTLP's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer of a collector that is read, in bytes.
const ANSWER: usize = 1 << 20;

/// Where a call that is traced belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    trace: TraceId,
    /// The client's span; `INVALID` where it has none.
    parent: SpanId,
}

/// What the span of a call tells.
pub struct Told<'a> {
    /// The call's id; the id of the trace where the client began none, so that `x-trunkline-call` finds it.
    pub call: Uuid,
    /// Microseconds since 1970.
    pub at_us: u64,
    /// From its first byte to its last.
    pub total: Duration,
    /// The part that was not spent waiting for a provider.
    pub overhead: Duration,
    /// Until the provider's first byte.
    pub first_byte: Option<Duration>,
    /// `chat`, `embeddings`, …: the conventions' name of what was done.
    pub operation: &'static str,
    /// The model as the client asked for it.
    pub asked: &'a str,
    /// The provider that answered, and its name for the model.
    pub upstream: Option<(&'a str, &'a str)>,
    /// The agent.
    pub agent: Option<Uuid>,
    /// The session.
    pub session: Option<Uuid>,
    /// The key, by its id.
    pub key: Uuid,
    /// The status that the client saw.
    pub status: u16,
    /// Why it failed, in a word.
    pub error: Option<&'a str>,
    /// Whether the answer was streamed.
    pub stream: bool,
    /// Tokens.
    pub usage: &'a Usage,
    /// US dollars.
    pub cost_usd: Option<f64>,
    /// Attempts after the first.
    pub retries: u32,
    /// Why the model stopped, where that is known.
    pub stop: Option<&'a StopReason>,
    /// What was said, where that is to be told.
    pub said: Option<Said<'a>>,
}

/// What was said in a call.
pub struct Said<'a> {
    /// The client's wire.
    pub wire: Wire,
    /// Its request.
    pub body: &'a [u8],
    /// What it was given.
    pub answer: &'a Answer,
}

/// The spans that wait to be sent.
pub struct Traces {
    config: TracesConfig,
    connections: Arc<Connections>,
    /// How much of what was said is told, in bytes of text each way; none: nothing.
    pub content: Option<usize>,
    scope: InstrumentationScope,
    waiting: Mutex<Vec<SpanData>>,
}

/// The way to a collector.
struct Collector(Arc<Connections>);

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Collector")
    }
}

impl HttpClient for Collector {
    fn send_bytes<'life, 'sent>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'life: 'sent,
        Self: 'sent,
    {
        Box::pin(async move {
            let exchange = async {
                let (head, body) = self.0.request(Reach::Configured, request.map(Full::new)).await?.into_parts();
                let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
                Ok(Response::from_parts(head, body))
            };
            timeout(TIMEOUT, exchange).await?
        })
    }
}

impl Traces {
    /// Spans for the endpoint of `config`, over `connections` of their own.
    pub fn new(config: &TracesConfig, connections: Connections) -> Self {
        let scope = InstrumentationScope::builder("trunkline.gateway").with_version(env!("CARGO_PKG_VERSION")).build();
        Self {
            config: config.clone(),
            connections: Arc::new(connections),
            content: config.content_max_bytes,
            scope,
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// What it was made of.
    pub fn config(&self) -> &TracesConfig {
        &self.config
    }

    /// The place of a call; none where it is not traced. A client that traces decides for itself (W3C Trace Context,
    /// `traceparent`); of other calls the configured share is traced.
    pub fn begin(&self, headers: &HeaderMap, call: Uuid) -> Option<Place> {
        let told = headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(traceparent);
        if let Some((place, sampled)) = told {
            return sampled.then_some(place);
        }
        // The last half of a UUIDv7 is random but for two bits at its start.
        #[allow(clippy::cast_possible_truncation)]
        let random = f64::from(call.as_u64_pair().1 as u32) / (f64::from(u32::MAX) + 1.0);
        (random < self.config.sample).then(|| Place { trace: TraceId::from_bytes(call.into_bytes()), parent: SpanId::INVALID })
    }

    /// Takes the span of a call that ended; false where too many wait.
    pub fn ended(&self, place: Place, told: &Told) -> bool {
        let span = self.span(place, told);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = waiting.len() < WAITING;
        if room {
            waiting.push(span);
        }
        room
    }

    fn span(&self, place: Place, told: &Told) -> SpanData {
        // Its own id need only be unique within the trace; the call's random half is.
        let span = SpanId::from(told.call.as_u64_pair().1);
        let started = UNIX_EPOCH + Duration::from_micros(told.at_us);
        let status = told.error.map_or(Status::Unset, |error| Status::error(error.to_owned()));
        SpanData {
            span_context: SpanContext::new(place.trace, span, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: place.parent,
            parent_span_is_remote: place.parent != SpanId::INVALID,
            span_kind: SpanKind::Client,
            name: format!("{} {}", told.operation, told.asked).into(),
            start_time: started,
            end_time: started + told.total,
            attributes: attributes(told, self.content),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// Sends what waits, again and again. A collector that is away costs the spans of that time and a line in the log. Ends only
    /// where the settings cannot be used.
    pub async fn run(&self) {
        let exporter = match self.exporter() {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::error!(%error, "traces cannot be sent: see `traces` in trunkline.yaml");
                return;
            }
        };
        loop {
            sleep(EVERY).await;
            self.connections.prune();
            self.send(&exporter).await;
        }
    }

    async fn send(&self, exporter: &SpanExporter) {
        let mut spans = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        while !spans.is_empty() {
            let rest = spans.split_off(spans.len().min(BATCH));
            let count = spans.len();
            if let Err(error) = exporter.export(std::mem::replace(&mut spans, rest)).await {
                tracing::warn!(%error, count, "spans could not be sent to the collector and are lost");
            }
        }
    }

    /// Sends what still waits, at the end.
    pub async fn flush(&self) {
        if let Ok(exporter) = self.exporter() {
            self.send(&exporter).await;
        }
    }

    fn exporter(&self) -> Result<SpanExporter, String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(Arc::clone(&self.connections)))
            .with_endpoint(format!("{}/v1/traces", self.config.endpoint.trim_end_matches('/')))
            .with_headers(self.config.headers.clone())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(&Resource::builder_empty().with_service_name(self.config.service_name.clone()).build());
        Ok(exporter)
    }
}

/// The conventions' names; what has none there is under `trunkline.`.
fn attributes(told: &Told, content: Option<usize>) -> Vec<KeyValue> {
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    let micros = |time: Duration| count(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    let id = |prefix: &str, id: Uuid| format!("{prefix}_{}", id.simple());
    let usage = told.usage;
    let mut all = vec![
        KeyValue::new("gen_ai.operation.name", told.operation),
        KeyValue::new("gen_ai.request.model", told.asked.to_owned()),
        KeyValue::new("gen_ai.usage.input_tokens", count(usage.input)),
        KeyValue::new("gen_ai.usage.cache_read.input_tokens", count(usage.cache_read)),
        KeyValue::new("gen_ai.usage.cache_creation.input_tokens", count(usage.cache_write)),
        KeyValue::new("gen_ai.usage.output_tokens", count(usage.output)),
        KeyValue::new("gen_ai.usage.reasoning.output_tokens", count(usage.reasoning)),
        KeyValue::new("http.response.status_code", i64::from(told.status)),
        KeyValue::new("trunkline.call.id", id("call", told.call)),
        KeyValue::new("trunkline.key.id", id("key", told.key)),
        KeyValue::new("trunkline.overhead_us", micros(told.overhead)),
        KeyValue::new("trunkline.retries", i64::from(told.retries)),
    ];
    if let Some((provider, model)) = told.upstream {
        all.push(KeyValue::new("gen_ai.provider.name", provider_name(provider).to_owned()));
        all.push(KeyValue::new("gen_ai.response.model", model.to_owned()));
    }
    if told.stream {
        all.push(KeyValue::new("gen_ai.request.stream", true));
    }
    if let Some(stop) = told.stop {
        let reasons = Array::String(vec![stop.finish_reason().into()]);
        all.push(KeyValue::new("gen_ai.response.finish_reasons", Value::Array(reasons)));
    }
    all.extend(told.session.map(|session| KeyValue::new("gen_ai.conversation.id", id("sesn", session))));
    all.extend(told.agent.map(|agent| KeyValue::new("gen_ai.agent.id", id("agent", agent))));
    all.extend(told.first_byte.map(|time| KeyValue::new("trunkline.first_byte_us", micros(time))));
    all.extend(told.cost_usd.map(|usd| KeyValue::new("trunkline.cost_usd", usd)));
    all.extend(told.error.map(|error| KeyValue::new("error.type", error.to_owned())));
    if let (Some(said), Some(limit)) = (&told.said, content) {
        all.extend(contents(said, limit));
    }
    all
}

/// What was said, as texts of JSON: the exporter knows no nested values.
fn contents(said: &Said, limit: usize) -> Vec<KeyValue> {
    let mut all = Vec::new();
    let asked = transcript::asked(said.wire, said.body, limit);
    let (answered, cut) = transcript::answered(&said.answer.text, &said.answer.calls, limit);
    if cut || asked.as_ref().is_some_and(|asked| asked.cut) {
        all.push(KeyValue::new("trunkline.content.cut", true));
    }
    if let Some(asked) = asked {
        all.extend(asked.instructions.map(|text| KeyValue::new("gen_ai.system_instructions", text)));
        all.push(KeyValue::new("gen_ai.input.messages", asked.messages));
    }
    if !said.answer.text.is_empty() || !said.answer.calls.is_empty() {
        all.push(KeyValue::new("gen_ai.output.messages", answered));
    }
    all
}

/// The conventions' name of a provider, where it differs from ours.
fn provider_name(name: &str) -> &str {
    match name {
        "azure" => "azure.ai.openai",
        "bedrock" => "aws.bedrock",
        "gemini" => "gcp.gemini",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        other => other,
    }
}

/// Reads `00-TRACE-SPAN-FLAGS`: the parent, and whether the client records it. What is malformed is as if it were not there.
fn traceparent(text: &str) -> Option<(Place, bool)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = version.len() == 2 && version != "ff" && (version != "00" || parts.next().is_none());
    if !known || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let place = Place { trace: TraceId::from_hex(trace).ok()?, parent: SpanId::from_hex(span).ok()? };
    let valid = place.trace != TraceId::INVALID && place.parent != SpanId::INVALID;
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    valid.then_some((place, sampled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(sample: f64) -> Traces {
        let config = TracesConfig {
            endpoint: "http://127.0.0.1:9".to_owned(),
            headers: std::collections::HashMap::new(),
            service_name: "trunkline".to_owned(),
            sample,
            content_max_bytes: None,
        };
        let timeouts = serde_json::json!({"connect_ms": 1, "first_byte_ms": 1, "idle_ms": 1, "total_ms": 1});
        let timeouts = serde_json::from_value(timeouts).unwrap();
        Traces::new(&config, Connections::new(&timeouts, crate::connections::Tls::new(None).unwrap()))
    }

    fn told(call: Uuid) -> Told<'static> {
        Told {
            call,
            at_us: 1_764_000_000_000_000,
            total: Duration::from_millis(2),
            overhead: Duration::from_micros(60),
            first_byte: None,
            operation: "chat",
            asked: "fast",
            upstream: Some(("mistral", "mistral-small")),
            agent: None,
            session: None,
            key: Uuid::nil(),
            status: 200,
            error: None,
            stream: false,
            usage: &Usage { input: 10, output: 2, cache_read: 4, cache_write: 0, reasoning: 0 },
            cost_usd: Some(0.5),
            retries: 0,
            stop: Some(&StopReason::MaxTokens),
            said: None,
        }
    }

    #[test]
    fn only_a_well_formed_traceparent_is_a_parent() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(traceparent(good).unwrap().1);
        assert!(!traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").unwrap().1);
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319z-b7ad6b7169203331-01",
        ] {
            assert_eq!(traceparent(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_client_that_traces_decides_and_of_others_the_share_is_taken() {
        let mut headers = HeaderMap::new();
        let calls = || (0..2000).map(|_| Uuid::now_v7());
        assert!(calls().all(|call| traces(1.0).begin(&headers, call).is_some()));
        assert!(calls().all(|call| traces(0.0).begin(&headers, call).is_none()));
        let half = calls().filter(|call| traces(0.5).begin(&headers, *call).is_some()).count();
        assert!((800..1200).contains(&half), "{half} of 2000");
        headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00".parse().unwrap());
        assert_eq!(traces(1.0).begin(&headers, Uuid::now_v7()), None);
        headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap());
        assert!(traces(0.0).begin(&headers, Uuid::now_v7()).is_some());
    }

    #[test]
    fn a_call_without_a_parent_is_found_by_its_id() {
        let call = Uuid::now_v7();
        let traces = traces(1.0);
        let span = traces.span(traces.begin(&HeaderMap::new(), call).unwrap(), &told(call));
        assert_eq!(span.span_context.trace_id().to_bytes(), call.into_bytes());
        assert_eq!(span.name, "chat fast");
        assert_eq!(span.end_time.duration_since(span.start_time).unwrap(), Duration::from_millis(2));
        let provider = span.attributes.iter().find(|attribute| attribute.key.as_str() == "gen_ai.provider.name");
        assert_eq!(provider.unwrap().value.as_str(), "mistral_ai");
        let stop = span.attributes.iter().find(|attribute| attribute.key.as_str() == "gen_ai.response.finish_reasons");
        assert_eq!(stop.unwrap().value.as_str(), r#"["length"]"#);
    }

    #[test]
    fn spans_that_nobody_takes_are_bounded() {
        let traces = traces(1.0);
        let call = Uuid::now_v7();
        let place = traces.begin(&HeaderMap::new(), call).unwrap();
        let taken = (0..WAITING + 10).filter(|_| traces.ended(place, &told(call))).count();
        assert_eq!(taken, WAITING);
    }
}
