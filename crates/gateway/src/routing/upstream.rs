//! A place where a model is served: a provider, the model's name there, our credentials for it, and how it has fared.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use sha2::{Digest, Sha256};

use super::State;
use crate::{
    config::{ProviderConfig, UpstreamConfig},
    metrics::{Meters, Metrics},
    providers::{Endpoint, Family, Quirk, Quirks, azure},
    wire::Wire,
};

/// A host of models.
pub struct Provider {
    /// Its name in `PROVIDER/model`.
    pub name: String,
    /// The wire that is spoken with it.
    pub wire: Wire,
    /// Where it departs from that.
    pub quirks: Quirks,
}

impl Provider {
    /// The host of this configuration, in one of its wires. Departures are from `OpenAI`'s chat wire.
    fn new(given: &ProviderConfig, wire: Wire) -> Self {
        let quirks: &[Quirk] = if wire == Wire::OpenaiChat { &given.quirks } else { &[] };
        Self { name: given.name.clone(), wire, quirks: Quirks::from(quirks) }
    }
}

/// A host in one of the wires it speaks.
pub struct Speech {
    provider: Arc<Provider>,
    endpoint: Arc<Endpoint>,
}

/// A place where a model is served, in the wire that is spoken with it.
#[derive(Clone)]
pub struct Upstream {
    /// The host.
    pub provider: Arc<Provider>,
    /// The same in the other wires that it speaks.
    pub others: Arc<[Speech]>,
    /// The model's name there.
    pub model: String,
    /// Both, as answers tell it; none where that makes no header.
    pub title: Option<HeaderValue>,
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
    /// The same as it is counted.
    pub meters: Arc<Meters>,
}

impl Upstream {
    /// Makes one.
    ///
    /// # Errors
    /// Where its URL, key or a header cannot be used, or it is to speak a wire that its provider does not.
    pub fn new(given: &ProviderConfig, own: &UpstreamConfig, metrics: &Metrics) -> Result<Self, String> {
        let speech = |wire: &Wire| {
            let (provider, endpoint) = (Arc::new(Provider::new(given, *wire)), Arc::new(Endpoint::new(given, own, *wire)?));
            Ok::<_, String>(Speech { provider, endpoint })
        };
        let wires = spoken(given, own)?;
        let (first, others) = wires.split_first().ok_or_else(|| format!("provider '{}' speaks no wire", given.name))?;
        let Speech { provider, endpoint } = speech(first)?;
        let millis = |millis: Option<u64>| millis.map(Duration::from_millis);
        let whole = millis(own.first_byte_ms);
        let body = own.body.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect();
        Ok(Self {
            provider,
            others: others.iter().map(speech).collect::<Result<_, _>>()?,
            model: own.model.clone(),
            endpoint,
            weight: own.weight,
            order: own.order.unwrap_or(u32::MAX),
            first_byte: [whole, millis(own.stream_first_byte_ms).or(whole)],
            body,
            drop_params: own.drop_params.unwrap_or(given.drop_params),
            hash: hash(given, own),
            state: Arc::default(),
            title: title(&given.name, &own.model),
            meters: Arc::new(Meters::new(metrics, &given.name, &own.model)),
        })
    }

    /// The same place in the wire of a client, where it speaks that.
    pub fn speaking(self: &Arc<Self>, wire: Wire) -> Arc<Self> {
        match self.others.iter().find(|other| other.provider.wire == wire) {
            Some(other) if self.provider.wire != wire => {
                let (provider, endpoint) = (Arc::clone(&other.provider), Arc::clone(&other.endpoint));
                Arc::new(Self { provider, endpoint, ..Self::clone(self) })
            }
            _ => Arc::clone(self),
        }
    }

    /// The same place for the model of this name: what stood for `*` in the name that the client asked for takes its place.
    #[must_use]
    pub fn named(&self, star: &str) -> Self {
        self.with_model(self.model.replacen('*', star, 1))
    }

    /// The same place for another model.
    #[must_use]
    pub fn with_model(&self, model: String) -> Self {
        Self { title: title(&self.provider.name, &model), model, ..self.clone() }
    }
}

fn title(provider: &str, model: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{provider}/{model}")).ok()
}

/// The wires in which an upstream is spoken with. One with a URL of its own is another host than the provider's, of which only
/// the first wire is known, unless all such hosts are alike.
fn spoken<'a>(given: &'a ProviderConfig, own: &'a UpstreamConfig) -> Result<&'a [Wire], String> {
    match &own.wires {
        Some(wires) => match wires.iter().find(|wire| !given.wires.contains(wire)) {
            Some(wire) => {
                Err(format!("provider '{}' does not speak {wire}, which '{}' is to be served in", given.name, own.model))
            }
            None => Ok(wires),
        },
        None if given.family == Some(Family::Azure) => {
            let lacks = |wire: &Wire| *wire == Wire::OpenaiResponses && !azure::has_responses(given.api_version.as_deref());
            let length = given.wires.iter().skip(1).position(lacks).map_or(given.wires.len(), |place| place + 1);
            Ok(&given.wires[..length])
        }
        None if own.base_url.is_some() => Ok(&given.wires[..1]),
        None => Ok(&given.wires),
    }
}

/// Of what makes an upstream the one it is: where it is, whose key, which model.
fn hash(given: &ProviderConfig, own: &UpstreamConfig) -> u64 {
    let url = own.base_url.as_ref().unwrap_or(&given.base_url);
    let key = own.api_key.as_ref().or(given.api_key.as_ref()).map_or("", String::as_str);
    let digest = Sha256::digest([given.name.as_str(), url, key, &own.model].join("\0"));
    digest[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
