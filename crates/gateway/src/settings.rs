//! What a configuration comes to, swapped as a whole when there is a new one. Calls under way go on with what they began with.

use std::sync::Arc;

use crate::{
    cache::Cache,
    config::Config,
    connections::{Connections, Tls},
    metrics::Metrics,
    routing::Routes,
    stored::Stored,
    traces::Traces,
};

/// What is in force.
pub struct Settings {
    /// As it was given.
    pub config: Config,
    /// Models and providers.
    pub routes: Routes,
    /// Spans on their way to a collector; none where no collector is configured.
    pub traces: Option<Arc<Traces>>,
    /// Answers to be given again; none where no cache is configured.
    pub cache: Option<Arc<Cache>>,
    /// What is stored of calls' bodies; none where nothing is.
    pub stored: Option<Arc<Stored>>,
}

impl Settings {
    /// What `config` comes to. Of the `earlier` settings, upstreams go on as they have fared, answers that are kept stay so, and
    /// spans that wait are still sent, as far as these are to be found under the same settings.
    ///
    /// # Errors
    /// Says what of it cannot be used.
    pub fn new(config: Config, earlier: Option<&Self>, metrics: &Metrics, tls: &Tls) -> Result<Self, String> {
        let routes = Routes::new(&config, earlier.map(|earlier| &earlier.routes), metrics)?;
        let traces = config.traces.as_ref().map(|traces| {
            let same = earlier.and_then(|earlier| earlier.traces.as_ref()).filter(|earlier| earlier.config() == traces);
            same.map_or_else(|| Arc::new(Traces::new(traces, Connections::new(&config.timeouts, tls.clone()))), Arc::clone)
        });
        let cache = config.cache.as_ref().map(|cache| {
            let earlier = earlier.and_then(|earlier| earlier.cache.as_deref());
            Arc::new(Cache::new(cache, earlier, metrics.cache_evictions.clone()))
        });
        let stored = Stored::new(&config)?.map(Arc::new);
        Ok(Self { config, routes, traces, cache, stored })
    }

    /// What of `config` this process cannot take on, since it began with something else.
    pub fn fixed(&self, config: &Config) -> Option<&'static str> {
        let own = &self.config;
        let differs = [
            ("listen", own.listen != config.listen),
            ("control_url", own.control_url != config.control_url),
            ("database", own.database != config.database),
            ("spool_dir", own.spool_dir != config.spool_dir),
            ("ca_file", own.ca_file != config.ca_file),
            ("embedder", own.embedder != config.embedder),
            ("threads", own.threads != config.threads),
        ];
        differs.into_iter().find_map(|(key, differs)| differs.then_some(key))
    }
}
