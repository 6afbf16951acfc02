//! What is counted of one upstream.

use metrics::{Counter, Gauge};

use super::{Metrics, name};
use crate::upstream::Failure;

/// The handles of one upstream, made when it is configured. Upstreams of the same provider and model share them; a pattern's go
/// by the pattern, so that what clients ask for makes no series of its own.
pub struct Meters {
    /// Attempts after a call's first that came here.
    pub retries: Counter,
    /// Calls answered in place of another model.
    pub fallbacks: Counter,
    /// Times that it was left alone.
    pub rests: Counter,
    /// How many of those that share these handles are being left alone.
    pub resting: Gauge,
    failures: [Counter; Failure::ALL.len()],
}

impl Meters {
    /// Those of a provider and its name, or pattern, for a model.
    pub fn new(metrics: &Metrics, provider: &str, model: &str) -> Self {
        let recorder = &metrics.recorder;
        let labels = [("provider", provider), ("model", model)];
        let failures = Failure::ALL.map(|failure| {
            let labels = [("provider", provider), ("model", model), ("failure", failure.name())];
            name::UPSTREAM_FAILURES.counter(recorder, &labels)
        });
        Self {
            retries: name::UPSTREAM_RETRIES.counter(recorder, &labels),
            fallbacks: name::UPSTREAM_FALLBACKS.counter(recorder, &labels),
            rests: name::UPSTREAM_RESTS.counter(recorder, &labels),
            resting: name::UPSTREAM_RESTING.gauge(recorder, &labels),
            failures,
        }
    }

    /// Counts an attempt that came to nothing.
    pub fn failed(&self, failure: Failure) {
        self.failures[failure as usize].increment(1);
    }
}
