//! End users whose limits were asked for: read when one comes by, since there may be far more than a snapshot can hold.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use arc_swap::ArcSwapOption;
use quick_cache::sync::Cache;
use tokio::sync::watch;
use uuid::Uuid;

use crate::subject::Subject;

/// How many are remembered; others are asked for again.
const REMEMBERED: usize = 1 << 16;
/// How long is believed what was read, in nanoseconds: a change that nobody told of is found after it.
const BELIEVED: u64 = 10_000_000_000;

/// What is known of an end user.
pub struct Known {
    /// The user's limits; none: not limited.
    pub subject: Option<Arc<Subject>>,
    generation: u64,
    at: u64,
}

/// An end user who came with a key.
pub struct Entry {
    /// Whose.
    pub tenant: Uuid,
    /// With which key.
    pub key: Uuid,
    /// Who.
    pub user: String,
    /// Tells of each answer, also that there was none.
    pub answers: watch::Sender<()>,
    known: ArcSwapOption<Known>,
    queued: AtomicBool,
}

impl Entry {
    /// What is known.
    pub fn known(&self) -> Option<Arc<Known>> {
        self.known.load_full()
    }

    /// Marks it as asked for; tells whether it was not before.
    pub fn queue(&self) -> bool {
        !self.queued.swap(true, SeqCst)
    }

    /// It is being asked for: whoever comes from now on asks again.
    pub fn unqueue(&self) {
        self.queued.store(false, SeqCst);
    }

    /// Takes over an answer that was asked for at `at` nanoseconds.
    pub fn answered(&self, subject: Option<Arc<Subject>>, generation: u64, at: u64) {
        self.known.store(Some(Arc::new(Known { subject, generation, at })));
        self.answers.send_replace(());
    }

    /// There was no answer.
    pub fn unanswered(&self) {
        self.answers.send_replace(());
    }
}

/// The end users that came by lately.
pub struct Users {
    entries: Cache<(Uuid, String), Arc<Entry>>,
    /// Counts the changes told of.
    generation: AtomicU64,
}

impl Default for Users {
    fn default() -> Self {
        Self { entries: Cache::new(REMEMBERED), generation: AtomicU64::new(0) }
    }
}

impl Users {
    /// The entry of a user who comes with a key; made if there is none.
    pub fn entry(&self, tenant: Uuid, key: Uuid, user: &str) -> Arc<Entry> {
        let name = (key, user.to_owned());
        if let Some(entry) = self.entries.get(&name) {
            return entry;
        }
        let entry = Arc::new(Entry {
            tenant,
            key,
            user: user.to_owned(),
            answers: watch::Sender::new(()),
            known: ArcSwapOption::empty(),
            queued: AtomicBool::new(false),
        });
        self.entries.insert(name, Arc::clone(&entry));
        entry
    }

    /// Some users' limits are others than before: all are read again, each when it comes by next.
    pub fn changed(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    /// How many changes were told of.
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Whether what is known should be read again.
    pub fn stale(&self, known: &Known, now: u64) -> bool {
        known.generation != self.generation() || now.saturating_sub(known.at) > BELIEVED
    }
}
