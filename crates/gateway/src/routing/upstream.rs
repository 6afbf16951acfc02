//! A place where a model is served: a provider, the model's name there, our credentials for it, and how it has fared.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use super::State;
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
    /// Its share of the calls, against the others'.
    pub weight: f64,
    /// Those with the least go first.
    pub order: u32,
    /// Until it answers with a head, where that is its own: in one piece, and as a stream.
    pub first_byte: [Option<Duration>; 2],
    /// Members of the request's body for what the client leaves out: names, and values as JSON.
    pub body: Arc<[(String, String)]>,
    /// Whether parameters that its wire has no words for are left out of requests in other wires.
    pub drop_params: bool,
    /// Tells it apart from others, the same in each gateway.
    pub hash: u64,
    /// How it has fared; shared by all threads.
    pub state: Arc<State>,
}

impl Upstream {
    /// Makes one.
    ///
    /// # Errors
    /// Where its URL, key or a header cannot be used.
    pub fn new(provider: &Arc<Provider>, given: &ProviderConfig, own: &UpstreamConfig) -> Result<Self, String> {
        let millis = |millis: Option<u64>| millis.map(Duration::from_millis);
        let whole = millis(own.first_byte_ms);
        let body = own.body.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect();
        Ok(Self {
            provider: Arc::clone(provider),
            model: own.model.clone(),
            endpoint: Arc::new(Endpoint::new(given, own)?),
            weight: own.weight,
            order: own.order.unwrap_or(u32::MAX),
            first_byte: [whole, millis(own.stream_first_byte_ms).or(whole)],
            body,
            drop_params: own.drop_params.unwrap_or(given.drop_params),
            hash: hash(given, own),
            state: Arc::default(),
        })
    }

    /// The same place for the model of this name: what stood for `*` in the name that the client asked for takes its place.
    #[must_use]
    pub fn named(&self, star: &str) -> Self {
        Self { model: self.model.replacen('*', star, 1), ..self.clone() }
    }
}

/// Of what makes an upstream the one it is: where it is, whose key, which model.
fn hash(given: &ProviderConfig, own: &UpstreamConfig) -> u64 {
    let url = own.base_url.as_ref().unwrap_or(&given.base_url);
    let key = own.api_key.as_ref().or(given.api_key.as_ref()).map_or("", String::as_str);
    let digest = Sha256::digest([given.name.as_str(), url, key, &own.model].join("\0"));
    digest[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
