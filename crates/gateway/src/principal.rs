//! Whom a call is made for: a key with its scopes, and the limits that all who hold it share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use uuid::Uuid;

/// What a key may be used for; a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Model calls.
    pub const INFERENCE: Self = Self(1);
    /// Model calls of our own runtime, which writes its sessions' logs itself.
    pub const RUNTIME: Self = Self(2);

    /// Paths of providers that name no model: files, batches, settings. All keys of an installation share them.
    pub const PASS_THROUGH: Self = Self(4);

    /// The scopes of these names. The control plane's own are not kept: the gateway relays, and the control plane checks.
    pub fn from_names(names: &[String]) -> Self {
        names.iter().fold(Self(0), |scopes, name| match name.as_str() {
            "inference" => Self(scopes.0 | Self::INFERENCE.0),
            "runtime" => Self(scopes.0 | Self::RUNTIME.0),
            "passthrough" => Self(scopes.0 | Self::PASS_THROUGH.0),
            _ => scopes,
        })
    }

    /// Whether all of `wanted` are there.
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// A key as the gateway knows it: the principal of a call.
#[derive(Debug)]
pub struct Key {
    /// Whose it is.
    pub tenant: Uuid,
    /// Its id.
    pub id: Uuid,
    /// SHA-256 of its text.
    pub hash: [u8; 32],
    /// What it may be used for.
    pub scopes: Scopes,
    /// The only agent it may act for.
    pub agent: Option<Uuid>,
    /// The only models it may ask for.
    pub models: Option<Vec<String>>,
    /// When it ends, in seconds since 1970.
    pub expires_at: Option<f64>,
    /// Its budget and rate, shared by all snapshots that know the key.
    pub limits: Arc<Limits>,
}

const NANOS_PER_MINUTE: u64 = 60_000_000_000;
const NANO_USD: f64 = 1e9;

/// A key's limits and how far they are used. Money in billionths of a US dollar.
#[derive(Debug)]
pub struct Limits {
    budget: Option<u64>,
    spent: AtomicU64,
    rpm: Option<u32>,
    /// The generic cell rate algorithm's theoretical arrival time, in nanoseconds on the process's clock
    /// (ATM Forum, Traffic Management 4.0, 1996): one number holds a whole token bucket.
    arrival: AtomicU64,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn nano(usd: f64) -> u64 {
    (usd.max(0.0) * NANO_USD) as u64
}

impl Limits {
    /// Limits as the store has them: US dollars and requests a minute.
    pub fn new(budget_usd: Option<f64>, spent_usd: f64, rpm: Option<u32>) -> Self {
        Self { budget: budget_usd.map(nano), spent: AtomicU64::new(nano(spent_usd)), rpm, arrival: AtomicU64::new(0) }
    }

    /// The same limits anew, keeping what this process has counted: spend may be ahead of the store's by what is still in the spool.
    #[must_use]
    pub fn renewed(&self, budget_usd: Option<f64>, spent_usd: f64, rpm: Option<u32>) -> Self {
        let fresh = Self::new(budget_usd, spent_usd, rpm);
        fresh.spent.fetch_max(self.spent.load(Relaxed), Relaxed);
        fresh.arrival.store(self.arrival.load(Relaxed), Relaxed);
        fresh
    }

    /// Whether the store's figures are those this was made from, so that it can go on as it is.
    pub fn same(&self, budget_usd: Option<f64>, rpm: Option<u32>) -> bool {
        self.budget == budget_usd.map(nano) && self.rpm == rpm
    }

    /// Adds what a call has cost, in US dollars.
    pub fn spend(&self, usd: f64) {
        self.spent.fetch_add(nano(usd), Relaxed);
    }

    /// Takes over a larger spend that the store reports.
    pub fn learn(&self, spent_usd: f64) {
        self.spent.fetch_max(nano(spent_usd), Relaxed);
    }

    /// Whether the budget is spent.
    pub fn exhausted(&self) -> bool {
        self.budget.is_some_and(|budget| self.spent.load(Relaxed) >= budget)
    }

    /// Requests a minute, if they are limited.
    pub fn rpm(&self) -> Option<u32> {
        self.rpm
    }

    /// Takes one request from the bucket at `now` nanoseconds.
    ///
    /// # Errors
    /// The wait in seconds when the bucket is empty.
    pub fn take(&self, now: u64) -> Result<(), u64> {
        let Some(rpm) = self.rpm else { return Ok(()) };
        let interval = NANOS_PER_MINUTE / u64::from(rpm.max(1));
        loop {
            let arrival = self.arrival.load(Relaxed);
            let base = arrival.max(now);
            // A full minute's worth may come at once.
            if base + interval > now + NANOS_PER_MINUTE {
                let wait = base + interval - now - NANOS_PER_MINUTE;
                return Err(wait.div_ceil(1_000_000_000));
            }
            if self.arrival.compare_exchange_weak(arrival, base + interval, Relaxed, Relaxed).is_ok() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_requests_may_come_at_once_and_then_one_an_interval() {
        let limits = Limits::new(None, 0.0, Some(60));
        let now = 1_000_000_000_000;
        assert_eq!((0..60).filter(|_| limits.take(now).is_ok()).count(), 60);
        assert_eq!(limits.take(now), Err(1));
        assert_eq!(limits.take(now + 1_000_000_000), Ok(()));
        assert_eq!(limits.take(now + 1_000_000_000), Err(1));
    }

    #[test]
    fn spend_counted_here_survives_a_new_snapshot() {
        let limits = Limits::new(Some(1.0), 0.2, None);
        limits.spend(0.5);
        let renewed = limits.renewed(Some(1.0), 0.3, None);
        assert_eq!(renewed.spent.load(Relaxed), 700_000_000);
    }
}
