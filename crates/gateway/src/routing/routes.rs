//! The configured models: names, and patterns of names, each with the upstreams that serve it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{State, Upstream};
use crate::{
    config::{AliasConfig, Config, ModelConfig, ProviderConfig, RetryPolicy, RoutingConfig, UpstreamConfig},
    metrics::Metrics,
    upstream::Failure,
};

/// The upstreams that serve one model.
pub struct Group {
    /// The model's name as configured, or as asked for where a pattern or a provider stands for it.
    pub name: String,
    /// At least one.
    pub upstreams: Vec<Arc<Upstream>>,
    /// How calls are spread over them.
    pub routing: Arc<RoutingConfig>,
    /// How often they are repeated.
    pub retry_policy: RetryPolicy,
}

impl Group {
    /// Whether none of its upstreams is awake at `now` milliseconds.
    pub fn rests(&self, now: u64) -> bool {
        self.upstreams.iter().all(|upstream| upstream.state.resting(now).is_some())
    }

    /// When the first of its upstreams may be asked again, where all of them asked to be left alone; in milliseconds, as `now`.
    pub fn declines(&self, now: u64) -> Option<u64> {
        let mut first = u64::MAX;
        for upstream in &self.upstreams {
            first = first.min(upstream.state.declining(now)?);
        }
        Some(first)
    }
}

/// A name with at most one `*`, and what serves the models that fit it.
struct Pattern {
    name: String,
    start: String,
    /// What follows the `*`, if there is one.
    end: Option<String>,
    upstreams: Vec<Upstream>,
    routing: Arc<RoutingConfig>,
    retry_policy: RetryPolicy,
}

impl Pattern {
    fn new(name: &str, upstreams: Vec<Upstream>, routing: &Arc<RoutingConfig>) -> Self {
        let (start, end) = name.split_once('*').map_or((name, None), |(start, end)| (start, Some(end.to_owned())));
        let retry_policy = routing.retry_policy(name);
        Self { name: name.to_owned(), start: start.to_owned(), end, upstreams, routing: Arc::clone(routing), retry_policy }
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

    fn group(&self, name: &str, star: &str) -> Arc<Group> {
        let upstreams = self.upstreams.iter().map(|upstream| Arc::new(upstream.named(star))).collect();
        let routing = Arc::clone(&self.routing);
        Arc::new(Group { name: name.to_owned(), upstreams, routing, retry_policy: self.retry_policy })
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
    routing: Arc<RoutingConfig>,
    /// The model of an agent that names none.
    pub default_model: Option<String>,
}

impl Routes {
    /// Makes the routes of a configuration. Upstreams that `earlier` routes had go on as they have fared.
    ///
    /// # Errors
    /// Where a provider's URL or key cannot be used, or an alias or fallback names a model that nothing serves.
    pub fn new(config: &Config, earlier: Option<&Self>, metrics: &Metrics) -> Result<Self, String> {
        let fared: HashMap<(&str, u64), &Arc<State>> = earlier
            .into_iter()
            .flat_map(Self::upstreams)
            .map(|(model, upstream)| ((model, upstream.hash), &upstream.state))
            .collect();
        let hosts: HashMap<&str, &ProviderConfig> = config.providers.iter().map(|given| (given.name.as_str(), given)).collect();
        let upstream = |model: &str, own: &UpstreamConfig| {
            let given = hosts.get(own.provider.as_str());
            let given = given.ok_or_else(|| format!("the provider '{}' is not configured", own.provider))?;
            let mut upstream = Upstream::new(given, own, metrics)?;
            if let Some(state) = fared.get(&(model, upstream.hash)) {
                upstream.state = Arc::clone(state);
            }
            Ok::<_, String>(upstream)
        };
        let upstreams =
            |model: &ModelConfig| model.upstreams.iter().map(|own| upstream(&model.name, own)).collect::<Result<Vec<_>, _>>();
        let routing = Arc::new(config.routing.clone());

        let mut models = HashMap::new();
        let mut patterns = Vec::new();
        let mut names = Vec::new();
        for model in &config.models {
            let upstreams = upstreams(model)?;
            if model.name.contains('*') {
                patterns.push(Pattern::new(&model.name, upstreams, &routing));
            } else {
                let group = Group {
                    name: model.name.clone(),
                    upstreams: upstreams.into_iter().map(Arc::new).collect(),
                    routing: Arc::clone(&routing),
                    retry_policy: routing.retry_policy(&model.name),
                };
                models.insert(model.name.clone(), Arc::new(group));
                names.push(model.name.clone());
            }
        }
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.length()));
        let mut providers = HashMap::new();
        for given in &config.providers {
            let all = UpstreamConfig::new(&given.name, "*");
            providers.insert(given.name.clone(), Pattern::new("*", vec![upstream("*", &all)?], &routing));
        }
        let mut provider_patterns = Vec::new();
        for route in &config.routes {
            let all = UpstreamConfig::new(&route.provider, &route.pattern);
            provider_patterns.push(Pattern::new(&route.pattern, vec![upstream(&route.pattern, &all)?], &routing));
        }
        let default_model = config.default_model.clone().or_else(|| names.first().cloned());
        let mut routes = Self { models, names, patterns, providers, provider_patterns, routing, default_model };
        routes.check_fallbacks()?;
        for (alias, target) in &config.routing.aliases {
            routes.add_alias(alias, target)?;
        }
        Ok(routes)
    }

    fn add_alias(&mut self, alias: &str, target: &AliasConfig) -> Result<(), String> {
        let group = self.group(&target.model);
        let group = group.ok_or_else(|| format!("the alias '{alias}' stands for '{}', which nothing serves", target.model))?;
        self.models.insert(alias.to_owned(), group);
        if !target.hidden {
            self.names.push(alias.to_owned());
        }
        Ok(())
    }

    fn check_fallbacks(&self) -> Result<(), String> {
        let routing = &self.routing;
        let tables = [&routing.fallbacks, &routing.context_window_fallbacks, &routing.content_policy_fallbacks];
        let all = tables.into_iter().flat_map(|table| table.values().flatten()).chain(&routing.default_fallbacks);
        let lost = all.into_iter().find(|name| self.group(name).is_none() && !routing.aliases.contains_key(*name));
        lost.map_or(Ok(()), |name| Err(format!("a fallback goes to '{name}', which nothing serves")))
    }

    /// All upstreams, each with the model or pattern that it serves.
    fn upstreams(&self) -> impl Iterator<Item = (&str, &Upstream)> {
        let models =
            self.models.values().flat_map(|group| group.upstreams.iter().map(|upstream| (group.name.as_str(), &**upstream)));
        let patterns = self.patterns.iter().chain(self.providers.values()).chain(&self.provider_patterns);
        models.chain(patterns.flat_map(|pattern| pattern.upstreams.iter().map(|upstream| (pattern.name.as_str(), upstream))))
    }

    /// Brings the metrics of resting upstreams up to `now`, in milliseconds on the process's clock.
    pub fn tell_resting(&self, now: u64) {
        // Several may share one: from nothing, each adds itself.
        self.forget_resting();
        let resting = self.upstreams().filter(|(_, upstream)| upstream.state.resting(now).is_some());
        resting.for_each(|(_, upstream)| upstream.meters.resting.increment(1));
    }

    /// Has the metrics tell of none that rests.
    pub fn forget_resting(&self) {
        self.upstreams().for_each(|(_, upstream)| upstream.meters.resting.set(0));
    }

    /// The configured models' names, as configured.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names under which patterns serve known models, in order of the alphabet; `known` are those of a provider.
    pub fn known<'a, Names: Iterator<Item = &'a str>>(&self, known: impl Fn(&str) -> Names) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for pattern in self.patterns.iter().chain(&self.provider_patterns) {
            for upstream in &pattern.upstreams {
                let Some((start, end)) = upstream.model.split_once('*') else { continue };
                let star = |model: &'a str| model.strip_prefix(start)?.strip_suffix(end);
                let fitting = known(&upstream.provider.name).filter_map(star);
                names.extend(fitting.map(|star| pattern.name.replacen('*', star, 1)));
            }
        }
        names.retain(|name| !self.models.contains_key(name));
        names
    }

    /// The provider of this name, for no model of its.
    pub fn host(&self, name: &str) -> Option<Arc<Upstream>> {
        self.providers.get(name)?.group(name, "").upstreams.first().cloned()
    }

    /// What serves `model`, if anything does: the model of that name, a pattern of models, `PROVIDER/model`, a provider's pattern.
    pub fn group(&self, model: &str) -> Option<Arc<Group>> {
        if let Some(group) = self.models.get(model) {
            return Some(Arc::clone(group));
        }
        let fitting = |patterns: &[Pattern]| patterns.iter().find_map(|pattern| Some(pattern.group(model, pattern.star(model)?)));
        let direct = || {
            let (provider, rest) = model.split_once('/')?;
            Some(self.providers.get(provider)?.group(model, rest))
        };
        if self.routing.listed_only {
            return fitting(&self.patterns);
        }
        fitting(&self.patterns).or_else(direct).or_else(|| fitting(&self.provider_patterns))
    }

    /// Where a call goes on to that `failure` ended at a model: those for this failure, else the model's, else everybody's.
    pub fn fallbacks(&self, model: &str, failure: Failure) -> &[String] {
        let routing = &self.routing;
        let own = match failure {
            Failure::BadRequest => return &[],
            Failure::ContextWindow => routing.context_window_fallbacks.get(model),
            Failure::ContentPolicy => routing.content_policy_fallbacks.get(model),
            _ => None,
        };
        own.or_else(|| routing.fallbacks.get(model)).unwrap_or(&routing.default_fallbacks)
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
        Routes::new(&Config::parse(&config.to_string()).unwrap(), None, &Metrics::new().unwrap()).unwrap()
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

    #[test]
    fn patterns_serve_the_models_that_are_known_of_their_providers() {
        let known = |provider: &str| match provider {
            "one" => vec!["a", "special-b"].into_iter(),
            "two" => vec!["s-c", "other"].into_iter(),
            _ => vec!["gpt-9", "x"].into_iter(),
        };
        let names: Vec<String> = routes().known(known).into_iter().collect();
        assert_eq!(names, ["gpt-9", "one/a", "one/special-b", "one/special-c"]);
    }
}
