//! What the stages of a call have at hand: what all threads share, and what each has to itself.

use std::{error::Error, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use http::StatusCode;

use crate::{
    bodies::Bodies, cache::Cache, config::Config, database::Readers, decode::DecodeError, error::Refusal, leases::Leases,
    metrics::Metrics, query_vector::QueryVectors, remember::Memories, routing::Routes, snapshot::Snapshots, spool::Spool,
    stored::Stored, traces::Traces, upstream::Client,
};

/// What all threads share.
pub struct Gateway {
    /// As it was given.
    pub config: Config,
    /// Models and providers, as they are at the moment.
    pub routes: ArcSwap<Routes>,
    /// Keys, agents and prices.
    pub snapshots: Snapshots,
    /// What is held of limits that are shared with other gateways.
    pub leases: Leases,
    /// Recorded calls on their way to Postgres.
    pub spool: Spool,
    /// Counters and times.
    pub metrics: Metrics,
    /// Spans on their way to a collector; none where no collector is configured.
    pub traces: Option<Traces>,
    /// Answers to be given again; none where no cache is configured.
    pub cache: Option<Cache>,
    /// How much of request bodies is held.
    pub bodies: Arc<Bodies>,
    /// What is stored of calls' bodies; none where nothing is.
    pub stored: Option<Stored>,
    /// Copies of memory.
    pub memories: Memories,
    /// Vectors of what is searched for; none where no embedder is configured.
    pub query_vectors: Option<QueryVectors>,
    /// The start of the process's clock.
    pub begun: Instant,
}

impl Gateway {
    /// Nanoseconds on the process's clock.
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Milliseconds on the process's clock.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes on the providers, models and routing of another configuration. Calls under way go on as they began; upstreams that
    /// stay go on as they have fared.
    ///
    /// # Errors
    /// What is wrong with it; then all stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), String> {
        let routes = Routes::new(config, Some(&self.routes.load()), &self.metrics)?;
        if let Some(stored) = &self.stored {
            stored.learn(config)?;
        }
        let earlier = self.routes.swap(Arc::new(routes));
        // Those that are gone rest no more.
        earlier.forget_resting();
        Ok(())
    }

    /// The refusal of a body over the limit.
    pub fn body_too_large(&self) -> Refusal {
        let message = format!(
            "The request body is over the limit of {} bytes. Send less, or raise limits.max_body_bytes in trunkline.yaml.",
            self.config.max_body_bytes
        );
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// Why a body could not be read.
    pub fn body_refusal(&self, error: &(dyn Error + 'static)) -> Refusal {
        if error.is::<http_body_util::LengthLimitError>() {
            return self.body_too_large();
        }
        if let Some(error @ DecodeError::Corrupt(_)) = error.downcast_ref::<DecodeError>() {
            return Refusal::invalid(format!("The request body cannot be read: {error}."), None);
        }
        Refusal::invalid("The request body broke off before its end.", None)
    }
}

/// What one thread has to itself.
pub struct Worker {
    /// What all threads share.
    pub gateway: Arc<Gateway>,
    /// Connections to providers and the control plane.
    pub client: Client,
    /// Connections for reading memory.
    pub readers: Readers,
}
