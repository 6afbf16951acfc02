//! Stage 2, admit: the key's budget and its requests a minute. Atomics on the key; nothing is shared between gateways yet.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use crate::{auth::Key, error::Refusal};

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

    /// Takes one request from the bucket at `now` nanoseconds; the wait in seconds when it is empty.
    fn take(&self, now: u64) -> Result<(), u64> {
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

/// Lets a call in, or says why not.
///
/// # Errors
/// 429 when the budget is spent (`insufficient_quota`) or too many requests came within a minute (`rate_limit_error`).
pub fn admit(key: &Key, now: u64) -> Result<(), Refusal> {
    let limits = &key.limits;
    if limits.budget.is_some_and(|budget| limits.spent.load(Relaxed) >= budget) {
        let message = "The budget of this API key is spent. Raise it, or use another key.";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", message).code("insufficient_quota"));
    }
    limits.take(now).map_err(|wait| {
        let message =
            format!("This API key may make {} requests a minute. Try again in {wait} s.", limits.rpm.unwrap_or_default());
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("rate_limit_exceeded").retry_after(wait)
    })
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
