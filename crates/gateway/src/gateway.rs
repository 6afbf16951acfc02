//! What the stages of a call have at hand: what all threads share, and what each has to itself.

use std::{error::Error, sync::Arc, time::Instant};

use arc_swap::{ArcSwap, Guard};
use http::StatusCode;
use tokio::sync::watch;

use crate::{
    apart::Apart, bodies::Bodies, config::Config, connections::Tls, database::Readers, decode::DecodeError, error::Refusal,
    leases::Leases, metrics::Metrics, query_vector::QueryVectors, remember::Memories, settings::Settings, snapshot::Snapshots,
    spool::Spool, upstream::Client, usage::PriceList, versions::Versions,
};

/// What all threads share.
pub struct Gateway {
    /// What is configured at the moment.
    pub settings: ArcSwap<Settings>,
    /// Tells the background of new settings.
    pub reloaded: watch::Sender<()>,
    /// Keys and agents.
    pub snapshots: Snapshots,
    /// Agents in other versions than their current ones.
    pub versions: Versions,
    /// What tokens cost: the store's prices, and the configured ones, which win.
    pub prices: PriceList,
    /// What is held of limits that are shared with other gateways.
    pub leases: Leases,
    /// Recorded calls on their way to Postgres.
    pub spool: Spool,
    /// Counters and times.
    pub metrics: Metrics,
    /// Where work on long bodies is done.
    pub apart: Apart,
    /// How much of request bodies is held.
    pub bodies: Arc<Bodies>,
    /// Copies of memory.
    pub memories: Memories,
    /// Vectors of what is searched for; none where no embedder is configured.
    pub query_vectors: Option<QueryVectors>,
    /// Whose certificates are believed.
    pub tls: Tls,
    /// The start of the process's clock.
    pub begun: Instant,
}

impl Gateway {
    /// What is configured at the moment. Not to be held for long: what a call needs of it later is cloned.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Nanoseconds on the process's clock.
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Milliseconds on the process's clock.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes on another configuration. Calls under way go on as they began; upstreams that stay go on as they have fared.
    ///
    /// # Errors
    /// What is wrong with it, or belongs to the process's start; then all stays as it was.
    pub fn reload(&self, config: Config) -> Result<(), String> {
        let earlier = self.settings.load_full();
        if let Some(key) = earlier.fixed(&config) {
            return Err(format!("{key} cannot change while the gateway runs"));
        }
        let settings = Settings::new(config, Some(&earlier), &self.metrics, &self.tls)?;
        let config = &settings.config;
        self.prices.configure(&config.prices);
        self.spool.bound_to(config.spool_max_bytes);
        self.leases.last_for(config.lease());
        self.settings.store(Arc::new(settings));
        // Those that are gone rest no more.
        earlier.routes.forget_resting();
        self.reloaded.send_replace(());
        Ok(())
    }

    /// The refusal of a body over the limit.
    pub fn body_too_large(&self) -> Refusal {
        let message = format!(
            "The request body is over the limit of {} bytes. Send less, or raise limits.max_body_bytes in trunkline.yaml.",
            self.settings().config.max_body_bytes
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
