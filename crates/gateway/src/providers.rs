//! The hosts that calls go to. Each known one is a table in `providers.toml`; what a family of hosts has in common beyond
//! its wire (where its routes are, how a key is shown) is a file here, and [`Endpoint`] is the one place that asks them.

mod anthropic;
pub mod azure;
mod bedrock;
mod endpoint;
mod gemini;
mod openai;
mod percent;
mod quirks;
pub mod sigv4;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::Error};

pub use self::{
    endpoint::{Endpoint, Operation, Outline},
    quirks::{Quirk, Quirks},
};
use crate::wire::Wire;

/// Hosts that are addressed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `OpenAI` and all that copy its paths: `BASE/chat/completions`, the key as a bearer token.
    Openai,
    /// Anthropic and those that copy its paths: `BASE/messages`, the key in `x-api-key`.
    Anthropic,
    /// Google's Gemini API: the model in the path, the key in `x-goog-api-key`.
    Gemini,
    /// Azure `OpenAI`: the key in `api-key`, the deployment in the path where an `api_version` is configured.
    Azure,
    /// Amazon Bedrock: the model in the path; a bearer token, or each request signed.
    Bedrock,
}

/// A host that speaks one of our wires.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownProvider {
    /// Its name in `PROVIDER/model`.
    pub name: String,
    /// The wires it speaks, the one that others are translated to first.
    #[serde(alias = "wire", deserialize_with = "wires")]
    pub wires: Vec<Wire>,
    /// How it is addressed; by its wire where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Up to and including the version. `{NAME}` stands for the environment variable of that name.
    pub base_url: String,
    /// Where single wires are, if not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base_urls: BTreeMap<Wire, String>,
    /// The environment variable that its users keep its key in; none for a host that asks for no key, which is there only
    /// where it is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// The model for an agent that names none, where only the key is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_model: Option<String>,
    /// Patterns of the model names that go there without a prefix.
    #[serde(default)]
    pub models: Vec<String>,
    /// Where it departs from its wire.
    #[serde(default)]
    pub quirks: Vec<Quirk>,
}

/// Wires that a provider speaks: one, or several of which none comes twice.
///
/// # Errors
/// Where there is none, or one comes twice.
pub fn wires<'de, D: Deserializer<'de>>(given: D) -> Result<Vec<Wire>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(Wire),
        Several(Vec<Wire>),
    }
    let wires = match Given::deserialize(given)? {
        Given::One(wire) => vec![wire],
        Given::Several(wires) => wires,
    };
    if wires.is_empty() || wires.iter().enumerate().any(|(place, wire)| wires[..place].contains(wire)) {
        return Err(D::Error::custom("wires must name at least one wire, and each once"));
    }
    Ok(wires)
}

/// What a segment of a path stands for.
pub fn unescaped(segment: &str) -> String {
    String::from_utf8_lossy(&percent::decode(segment)).into_owned()
}

#[derive(Deserialize)]
struct Table {
    provider: Vec<KnownProvider>,
}

/// The list that is built in.
///
/// # Errors
/// Where the built-in file is broken, which a test rules out.
pub fn known() -> Result<Vec<KnownProvider>, toml::de::Error> {
    parse(include_str!("providers/providers.toml"))
}

/// A list of hosts in the form of `providers.toml`.
///
/// # Errors
/// Names the table and key that is wrong.
pub fn parse(text: &str) -> Result<Vec<KnownProvider>, toml::de::Error> {
    Ok(toml::from_str::<Table>(text)?.provider)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_built_in_list_is_well_formed() {
        let known = super::known().unwrap();
        assert!(known.len() >= 40, "{}", known.len());
        for provider in &known {
            let local = provider.base_url.starts_with("http://127.0.0.1:");
            assert!(
                provider.base_url.starts_with("https://") || provider.base_url.starts_with('{') || local,
                "{}",
                provider.name
            );
            assert_eq!(provider.key_env.is_none(), local, "{}", provider.name);
            for url in provider.base_urls.values().chain([&provider.base_url]) {
                assert!(!url.ends_with('/'), "{}", provider.name);
            }
            assert!(provider.base_urls.keys().all(|wire| provider.wires.contains(wire)), "{}", provider.name);
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(provider.name.bytes().all(plain), "{}", provider.name);
        }
        let mut names: Vec<_> = known.iter().map(|provider| &provider.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), known.len());
    }
}
