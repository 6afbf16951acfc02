//! A place where a model is served: a provider, the model's name there, our credentials for it, and how it has fared.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    config::{ProviderConfig, UpstreamConfig},
    providers::{Endpoint, Quirks},
    wire::Wire,
};

/// A host of models.
pub struct Provider {
    /// Its name in `PROVIDER/model`.
    pub name: String,
    /// The wire it speaks.
    pub wire: Wire,
    /// Where it departs from that.
    pub quirks: Quirks,
}

impl Provider {
    /// The host of this configuration.
    pub fn new(given: &ProviderConfig) -> Self {
        Self { name: given.name.clone(), wire: given.wire, quirks: Quirks::from(given.quirks.as_slice()) }
    }
}

/// A place where a model is served.
#[derive(Clone)]
pub struct Upstream {
    /// The host.
    pub provider: Arc<Provider>,
    /// The model's name there.
    pub model: String,
    /// Where requests go, and our credentials.
    pub endpoint: Arc<Endpoint>,
    /// How it has fared; shared by all threads.
    pub state: Arc<State>,
}

/// How an upstream has fared.
#[derive(Default)]
pub struct State {
    /// Until when it is left alone, in milliseconds on the process's clock: it said 429 or failed.
    resting_until: AtomicU64,
}

impl Upstream {
    /// Makes one.
    ///
    /// # Errors
    /// Where its URL, key or a header cannot be used.
    pub fn new(provider: &Arc<Provider>, given: &ProviderConfig, own: &UpstreamConfig) -> Result<Self, String> {
        let endpoint = Arc::new(Endpoint::new(given, own)?);
        Ok(Self { provider: Arc::clone(provider), model: own.model.clone(), endpoint, state: Arc::default() })
    }

    /// The same place for the model of this name: what stood for `*` in the name that the client asked for takes its place.
    #[must_use]
    pub fn named(&self, star: &str) -> Self {
        Self { model: self.model.replacen('*', star, 1), ..self.clone() }
    }
}

impl State {
    /// Whether calls may be sent to it at `now` milliseconds.
    pub fn awake(&self, now: u64) -> bool {
        self.resting_until.load(Relaxed) <= now
    }

    /// Sends nothing to it for `millis`.
    pub fn rest(&self, now: u64, millis: u64) {
        self.resting_until.fetch_max(now + millis, Relaxed);
    }
}
