//! The response cache's settings.

use std::time::Duration;

use serde::Deserialize;

use crate::metrics::Route;

/// Whether answers are kept for requests that are the same, byte by byte, and for how long.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheConfig {
    /// Where.
    pub store: CacheStore,
    /// For how long, in seconds.
    pub ttl_seconds: u64,
    /// In memory: how much in all, in bytes.
    pub max_bytes: u64,
    /// Who shares answers.
    pub namespace: Namespace,
    /// On which routes.
    pub routes: Vec<Route>,
    /// For which models: names, or patterns with one `*`; all where absent.
    #[serde(default)]
    pub models: Option<Vec<String>>,
}

/// Where answers are kept.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheStore {
    /// In each gateway's own memory.
    Memory,
    /// In Postgres, for all gateways.
    Postgres,
}

/// Who shares answers; never more than a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// An API key alone.
    Key,
    /// The keys of a team; a key without one, alone.
    Team,
    /// All keys of a tenant.
    Tenant,
}

impl CacheConfig {
    /// For how long an answer is kept at most.
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds)
    }

    /// What of it cannot be.
    pub(super) fn fault(&self) -> Option<String> {
        if self.ttl_seconds == 0 || self.max_bytes == 0 {
            return Some("cache: ttl_seconds and max_bytes must be at least 1".to_owned());
        }
        let passed = self.routes.contains(&Route::PassThrough);
        passed.then(|| "cache.routes: what is passed through to a provider is not kept".to_owned())
    }
}
