//! The configured models: names, and patterns of names, each with the upstreams that serve it.

use std::{collections::HashMap, sync::Arc};

use super::{Provider, Upstream};
use crate::config::{Config, ModelConfig, ProviderConfig, UpstreamConfig};

/// The upstreams that serve one model.
pub struct Group {
    /// At least one.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// A name with at most one `*`, and what serves the models that fit it.
struct Pattern {
    start: String,
    /// What follows the `*`, if there is one.
    end: Option<String>,
    upstreams: Vec<Upstream>,
}

impl Pattern {
    fn new(name: &str, upstreams: Vec<Upstream>) -> Self {
        let (start, end) = name.split_once('*').map_or((name, None), |(start, end)| (start, Some(end.to_owned())));
        Self { start: start.to_owned(), end, upstreams }
    }

    /// What stands for the `*` in a name that fits.
    fn star<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(self.start.as_str())?;
        match &self.end {
            None => rest.is_empty().then_some(rest),
            Some(end) => rest.strip_suffix(end.as_str()),
        }
    }

    /// How much of a name it prescribes.
    fn length(&self) -> usize {
        self.start.len() + self.end.as_ref().map_or(0, String::len)
    }

    fn group(&self, star: &str) -> Arc<Group> {
        Arc::new(Group { upstreams: self.upstreams.iter().map(|upstream| Arc::new(upstream.named(star))).collect() })
    }
}

/// The configured models and providers.
pub struct Routes {
    models: HashMap<String, Arc<Group>>,
    names: Vec<String>,
    /// Of the models; the longest first, so that what says more goes before what says less.
    patterns: Vec<Pattern>,
    /// `PROVIDER/*` for each provider.
    providers: HashMap<String, Pattern>,
    /// Of the providers.
    provider_patterns: Vec<Pattern>,
    /// The model of an agent that names none.
    pub default_model: Option<String>,
}

impl Routes {
    /// Makes the routes of a configuration.
    ///
    /// # Errors
    /// Where a provider's URL or key cannot be used.
    pub fn new(config: &Config) -> Result<Self, String> {
        let hosts: HashMap<&str, (&ProviderConfig, Arc<Provider>)> =
            config.providers.iter().map(|given| (given.name.as_str(), (given, Arc::new(Provider::new(given))))).collect();
        let upstream = |own: &UpstreamConfig| {
            let found = hosts.get(own.provider.as_str());
            let (given, provider) = found.ok_or_else(|| format!("the provider '{}' is not configured", own.provider))?;
            Upstream::new(provider, given, own)
        };
        let upstreams = |model: &ModelConfig| model.upstreams.iter().map(upstream).collect::<Result<Vec<_>, String>>();

        let mut models = HashMap::new();
        let mut patterns = Vec::new();
        let mut names = Vec::new();
        for model in &config.models {
            if model.name.contains('*') {
                patterns.push(Pattern::new(&model.name, upstreams(model)?));
            } else {
                models.insert(
                    model.name.clone(),
                    Arc::new(Group { upstreams: upstreams(model)?.into_iter().map(Arc::new).collect() }),
                );
                names.push(model.name.clone());
            }
        }
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.length()));
        let mut providers = HashMap::new();
        for given in &config.providers {
            let all = UpstreamConfig::new(&given.name, "*");
            providers.insert(given.name.clone(), Pattern::new("*", vec![upstream(&all)?]));
        }
        let mut provider_patterns = Vec::new();
        for route in &config.routes {
            provider_patterns
                .push(Pattern::new(&route.pattern, vec![upstream(&UpstreamConfig::new(&route.provider, &route.pattern))?]));
        }
        let default_model = config.default_model.clone().or_else(|| names.first().cloned());
        Ok(Self { models, names, patterns, providers, provider_patterns, default_model })
    }

    /// The configured models' names, as configured.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The provider of this name, for no model of its.
    pub fn host(&self, name: &str) -> Option<Arc<Upstream>> {
        self.providers.get(name)?.group("").upstreams.first().cloned()
    }

    /// What serves `model`, if anything does: the model of that name, a pattern of models, `PROVIDER/model`, a provider's pattern.
    pub fn group(&self, model: &str) -> Option<Arc<Group>> {
        if let Some(group) = self.models.get(model) {
            return Some(Arc::clone(group));
        }
        let fitting = |patterns: &[Pattern]| patterns.iter().find_map(|pattern| Some(pattern.group(pattern.star(model)?)));
        let direct = || {
            let (provider, rest) = model.split_once('/')?;
            Some(self.providers.get(provider)?.group(rest))
        };
        fitting(&self.patterns).or_else(direct).or_else(|| fitting(&self.provider_patterns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let upstream = |provider: &str, model: &str| serde_json::json!({"provider": provider, "model": model});
        let provider = |name| serde_json::json!({"name": name, "wire": "openai_chat", "base_url": "http://127.0.0.1:9/v1"});
        let providers = ["one", "two", "three"].map(provider);
        let config = serde_json::json!({
            "listen": "127.0.0.1:0", "control_url": "http://127.0.0.1:9", "database": "", "spool_dir": "/nowhere",
            "spool_max_bytes": 1, "max_body_bytes": 1,
            "timeouts": {"connect_ms": 1, "first_byte_ms": 1, "idle_ms": 1, "total_ms": 1},
            "providers": providers,
            "models": [
                {"name": "one/*", "upstreams": [upstream("one", "*")]},
                {"name": "one/special-*", "upstreams": [upstream("two", "s-*")]},
                {"name": "plain", "upstreams": [upstream("three", "x")]},
            ],
            "routes": [{"pattern": "gpt-*", "provider": "three"}, {"pattern": "o1", "provider": "two"}],
        });
        Routes::new(&Config::parse(&config.to_string()).unwrap()).unwrap()
    }

    #[test]
    fn a_name_is_served_by_what_says_most_about_it() {
        let routes = routes();
        let served = |name: &str| {
            let group = routes.group(name)?;
            Some(format!("{}:{}", group.upstreams[0].provider.name, group.upstreams[0].model))
        };
        for (name, expected) in [
            ("plain", Some("three:x")),
            ("one/any/thing", Some("one:any/thing")),
            ("one/special-a", Some("two:s-a")),
            ("two/y", Some("two:y")),
            ("gpt-9", Some("three:gpt-9")),
            ("o1", Some("two:o1")),
            ("o1-mini", None),
            ("four/y", None),
            ("gpt", None),
        ] {
            assert_eq!(served(name).as_deref(), expected, "{name}");
        }
        assert_eq!(routes.names(), ["plain"], "patterns are no models");
    }
}
