//! A key, team or end user with limits, and what this gateway holds of them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{lease::Pool, limits::Limits};

/// Which subject of the store: `(tenant, kind, id)`. The id of an end user under the limits of a key or team names both.
pub type Name = (Uuid, String, String);

/// Somebody who has limits. One for all that is known of them here, however often the snapshot is read anew.
#[derive(Debug)]
pub struct Subject {
    /// Which it is.
    pub name: Name,
    /// For an end user: the user's id, and a key that the user came with.
    pub user: Option<(String, Uuid)>,
    /// Who it is in words: `the team 'x'`.
    pub title: String,
    /// The limits.
    pub limits: ArcSwap<Limits>,
    /// The budget.
    pub money: Pool,
    /// Requests a minute.
    pub requests: Pool,
    /// Tokens a minute.
    pub tokens: Pool,
    /// Calls under way at once.
    pub slots: Pool,
    /// The minute, in seconds since 1970, of which requests and tokens are held; 0: none that the store knows.
    pub minute: AtomicI64,
    /// Whether it waits to be asked for already.
    pub queued: AtomicBool,
    /// How many answers there were; whether the last came from the store.
    pub answers: watch::Sender<(u64, bool)>,
    /// When the store answered last, in nanoseconds on the process's clock; 0: the limits are others since.
    pub answered_at: AtomicU64,
    /// When a call was let in last.
    pub used_at: AtomicU64,
}

impl Subject {
    /// One of which nothing is held yet.
    pub fn new(name: Name, title: String, user: Option<(String, Uuid)>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            name,
            user,
            title,
            limits: ArcSwap::from_pointee(limits),
            money: Pool::default(),
            requests: Pool::default(),
            tokens: Pool::default(),
            slots: Pool::default(),
            minute: AtomicI64::new(0),
            queued: AtomicBool::new(false),
            answers: watch::Sender::new((0, true)),
            answered_at: AtomicU64::new(0),
            used_at: AtomicU64::new(0),
        })
    }

    /// Takes over limits that the store tells; what is held is brought in line by the next answer.
    pub fn learn(&self, limits: Limits) {
        if **self.limits.load() != limits {
            self.limits.store(Arc::new(limits));
            self.answered_at.store(0, SeqCst);
        }
    }

    /// Whether calls are under way with it, or anything is held.
    pub fn in_use(&self) -> bool {
        [&self.money, &self.requests, &self.tokens, &self.slots].iter().any(|pool| pool.in_use())
    }
}
