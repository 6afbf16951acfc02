//! The metrics' names, units and meanings, each written here and nowhere else.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;

/// A metric as Prometheus and its readers know it.
pub struct Name {
    text: &'static str,
    unit: Unit,
    help: &'static str,
}

/// Labels and their values.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

impl Name {
    const fn count(text: &'static str, help: &'static str) -> Self {
        Self { text, unit: Unit::Count, help }
    }

    const fn seconds(text: &'static str, help: &'static str) -> Self {
        Self { text, unit: Unit::Seconds, help }
    }

    const fn bytes(text: &'static str, help: &'static str) -> Self {
        Self { text, unit: Unit::Bytes, help }
    }

    fn key(&self, labels: Labels) -> Key {
        let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        Key::from_parts(self.text, labels)
    }

    /// The handle of a counter with these labels.
    pub fn counter(&self, recorder: &PrometheusRecorder, labels: Labels) -> Counter {
        recorder.describe_counter(self.text.into(), Some(self.unit), self.help.into());
        recorder.register_counter(&self.key(labels), &METADATA)
    }

    /// The handle of a gauge with these labels.
    pub fn gauge(&self, recorder: &PrometheusRecorder, labels: Labels) -> Gauge {
        recorder.describe_gauge(self.text.into(), Some(self.unit), self.help.into());
        recorder.register_gauge(&self.key(labels), &METADATA)
    }

    /// The handle of a histogram with these labels.
    pub fn histogram(&self, recorder: &PrometheusRecorder, labels: Labels) -> Histogram {
        recorder.describe_histogram(self.text.into(), Some(self.unit), self.help.into());
        recorder.register_histogram(&self.key(labels), &METADATA)
    }
}

pub const REQUESTS: Name = Name::count("trunkline_requests_total", "Calls by route and the status the client saw");
pub const REFUSALS: Name =
    Name::count("trunkline_refusals_total", "Calls that the gateway itself refused or failed, by the reason");
pub const REQUEST_SECONDS: Name = Name::seconds("trunkline_request_seconds", "Time from a call's first byte to its last");
pub const OVERHEAD_SECONDS: Name =
    Name::seconds("trunkline_overhead_seconds", "The part of a call not spent waiting for a provider");
pub const FIRST_BYTE_SECONDS: Name = Name::seconds("trunkline_first_byte_seconds", "Time until the provider's first byte");
pub const IN_FLIGHT: Name = Name::count("trunkline_in_flight", "Calls under way");

pub const TOKENS: Name = Name::count("trunkline_tokens_total", "Tokens by kind; input includes cached");
pub const MEMORY: Name = Name::count("trunkline_memory_total", "Calls by where their memory came from");
pub const MEMORY_TOOL_CALLS: Name = Name::count("trunkline_memory_tool_calls_total", "Memory tools carried out for models");

pub const CACHE: Name = Name::count("trunkline_cache_total", "Calls by what the response cache had for them");
pub const BODIES_SKIPPED: Name =
    Name::count("trunkline_bodies_skipped_total", "Calls whose bodies were not stored because the spool was more than half full");
pub const CACHE_EVICTIONS: Name =
    Name::count("trunkline_cache_evictions_total", "Answers that the response cache in memory gave up for want of room");

pub const UPSTREAM_RETRIES: Name =
    Name::count("trunkline_upstream_retries_total", "Attempts after a call's first, by the upstream that they went to");
pub const UPSTREAM_FALLBACKS: Name =
    Name::count("trunkline_upstream_fallbacks_total", "Calls that an upstream answered in place of another model's");
pub const UPSTREAM_FAILURES: Name =
    Name::count("trunkline_upstream_failures_total", "Attempts that came to nothing, by the upstream and what went wrong");
pub const UPSTREAM_RESTS: Name =
    Name::count("trunkline_upstream_rests_total", "Times that an upstream was left alone for a while after failures");
pub const UPSTREAM_RESTING: Name = Name::count("trunkline_upstream_resting", "Upstreams that are being left alone");

pub const LEASES_HELD: Name =
    Name::count("trunkline_leases_held", "Keys, teams and users of whose limits this gateway holds something");
pub const LEASE_WAITS: Name =
    Name::count("trunkline_lease_waits_total", "Times that a call waited for Postgres to lend it of a limit");
pub const LEASE_FAILURES: Name =
    Name::count("trunkline_lease_failures_total", "Waits for a limit that Postgres did not answer in time");

pub const REQUEST_BODIES: Name = Name::bytes("trunkline_request_body_bytes", "Request bodies held for calls under way");
pub const SPOOL_PENDING: Name = Name::bytes("trunkline_spool_pending_bytes", "Recorded calls that Postgres does not have yet");
pub const SPOOL_REPLAYED: Name = Name::bytes(
    "trunkline_spool_replayed_bytes_total",
    "Recorded calls of gateways that had died, brought to Postgres at the start",
);
pub const SPOOL_REJECTED: Name =
    Name::count("trunkline_spool_rejected_total", "Recorded calls that Postgres refused, put aside in rejected.jsonl");
pub const SPANS_DROPPED: Name = Name::count("trunkline_spans_dropped_total", "Spans that the collector was too slow to take");
