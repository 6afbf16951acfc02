//! Every metric of the gateway; handles are made at the start, or when an upstream is configured, so that counting one is an
//! atomic addition. What others keep count of themselves is read when somebody looks.

mod name;
mod route;
mod upstream;

use std::sync::Mutex;

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use self::{route::Route, upstream::Meters};
use crate::{cache, error::Reason, gateway::Gateway, remember::State, wire::Usage};

/// Statuses counted one by one; others count as `other`.
const STATUSES: [u16; 23] =
    [200, 201, 204, 206, 400, 401, 402, 403, 404, 405, 408, 409, 413, 415, 422, 429, 499, 500, 501, 502, 503, 504, 529];

struct Handles {
    statuses: [Counter; STATUSES.len()],
    other: Counter,
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
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Held while somebody looks: two at once would count what rests twice.
    looking: Mutex<()>,
    routes: [Handles; Route::ALL.len()],
    refusals: [Counter; Reason::ALL.len()],
    input_tokens: Counter,
    output_tokens: Counter,
    cached_tokens: Counter,
    memory: [Counter; 4],
    memory_tools: Counter,
    spans_dropped: Counter,
    bodies_skipped: Counter,
    cache: [Counter; 3],
    /// Answers that the response cache gave up for want of room.
    pub cache_evictions: Counter,
    in_flight: Gauge,
    leases_held: Gauge,
    lease_waits: Counter,
    lease_failures: Counter,
    spool_pending: Gauge,
    spool_replayed: Counter,
    spool_rejected: Counter,
    bodies: Gauge,
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
        let tokens = |kind: &str| name::TOKENS.counter(&recorder, &[("kind", kind)]);
        let memory = |state: State| name::MEMORY.counter(&recorder, &[("state", state.name())]);
        Ok(Self {
            handle: recorder.handle(),
            looking: Mutex::default(),
            routes: Route::ALL.map(|route| Handles::new(&recorder, route)),
            refusals: Reason::ALL.map(|reason| name::REFUSALS.counter(&recorder, &[("reason", reason.name())])),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
            cached_tokens: tokens("cached"),
            memory: [State::None, State::Cached, State::Fresh, State::Unavailable].map(memory),
            memory_tools: name::MEMORY_TOOL_CALLS.counter(&recorder, &[]),
            spans_dropped: name::SPANS_DROPPED.counter(&recorder, &[]),
            bodies_skipped: name::BODIES_SKIPPED.counter(&recorder, &[]),
            cache: [cache::State::Hit, cache::State::Miss, cache::State::Bypass]
                .map(|state| name::CACHE.counter(&recorder, &[("result", state.name())])),
            cache_evictions: name::CACHE_EVICTIONS.counter(&recorder, &[]),
            in_flight: name::IN_FLIGHT.gauge(&recorder, &[]),
            leases_held: name::LEASES_HELD.gauge(&recorder, &[]),
            lease_waits: name::LEASE_WAITS.counter(&recorder, &[]),
            lease_failures: name::LEASE_FAILURES.counter(&recorder, &[]),
            spool_pending: name::SPOOL_PENDING.gauge(&recorder, &[]),
            bodies: name::REQUEST_BODIES.gauge(&recorder, &[]),
            spool_replayed: name::SPOOL_REPLAYED.counter(&recorder, &[]),
            spool_rejected: name::SPOOL_REJECTED.counter(&recorder, &[]),
            recorder,
        })
    }

    /// Counts a call as under way until the guard is dropped, also when its client goes away and it is dropped half done.
    pub fn under_way(&self) -> UnderWay {
        self.in_flight.increment(1);
        UnderWay(self.in_flight.clone())
    }

    /// Counts a call that ended: times in seconds.
    pub fn ended(&self, route: Route, status: u16, seconds: f64, overhead: f64, first_byte: Option<f64>) {
        let route = &self.routes[route as usize];
        let place = STATUSES.iter().position(|known| *known == status);
        place.map_or(&route.other, |place| &route.statuses[place]).increment(1);
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

    /// Counts a call whose bodies were left out.
    pub fn bodies_skipped(&self) {
        self.bodies_skipped.increment(1);
    }

    /// Counts what the response cache had for a call.
    pub fn cache(&self, state: cache::State) {
        self.cache[state as usize].increment(1);
    }

    /// Counts a memory tool carried out.
    pub fn memory_tool(&self) {
        self.memory_tools.increment(1);
    }

    /// Counts a call that the gateway itself refused or failed.
    pub fn refused(&self, reason: Reason) {
        self.refusals[reason as usize].increment(1);
    }

    /// Counts a span that was dropped.
    pub fn span_dropped(&self) {
        self.spans_dropped.increment(1);
    }

    /// The exposition text. Also drains what histograms have collected: call it, or `upkeep`, now and then.
    #[allow(clippy::cast_precision_loss)] // a float holds far more bytes and subjects than there are
    pub fn render(&self, gateway: &Gateway) -> String {
        let _one = self.looking.lock();
        self.spool_pending.set(gateway.spool.pending() as f64);
        self.bodies.set(gateway.bodies.held() as f64);
        self.spool_replayed.absolute(gateway.spool.replayed());
        self.spool_rejected.absolute(gateway.spool.rejected());
        let leases = gateway.leases.tally();
        self.leases_held.set(leases.held as f64);
        self.lease_waits.absolute(leases.waits);
        self.lease_failures.absolute(leases.failures);
        gateway.settings().routes.tell_resting(gateway.millis());
        self.handle.render()
    }

    /// Keeps the histograms' memory bounded while nobody scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl Handles {
    fn new(recorder: &PrometheusRecorder, route: Route) -> Self {
        let labels = [("route", route.name())];
        let status = |status: &str| name::REQUESTS.counter(recorder, &[("route", route.name()), ("status", status)]);
        Self {
            statuses: STATUSES.map(|number| status(&number.to_string())),
            other: status("other"),
            seconds: name::REQUEST_SECONDS.histogram(recorder, &labels),
            overhead: name::OVERHEAD_SECONDS.histogram(recorder, &labels),
            first_byte: name::FIRST_BYTE_SECONDS.histogram(recorder, &labels),
        }
    }
}
