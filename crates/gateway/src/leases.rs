//! Leases from the store: what this gateway may use of limits that it shares with others. One task asks for all of them,
//! many in one query; calls take from what is held, and wait only for a lease that is not there yet or used up.

mod keeper;
mod wishes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};
use uuid::Uuid;

use self::keeper::{Keeper, Round};
use crate::{
    database::Lender,
    subject::Subject,
    users::{Entry, Users},
};

/// How often leases are looked over: renewed, and given back where they are not used.
const LOOK: Duration = Duration::from_millis(500);
/// How long a call waits for a lease.
const PATIENCE: Duration = Duration::from_secs(3);
/// Subjects in one query.
const BATCH: usize = 200;
/// How long what the store said last is believed where it was not enough, in nanoseconds.
const RECHECK: u64 = 250_000_000;

enum Wanted {
    Lease(Arc<Subject>),
    Look(Arc<Entry>),
}

/// Why a lease could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

/// What this gateway holds, and the way to more.
pub struct Leases {
    /// This run of this gateway, as the store knows it.
    pub holder: Uuid,
    /// End users with limits, as far as they came by.
    pub users: Users,
    clock: Instant,
    /// In nanoseconds.
    term: AtomicU64,
    wanted: mpsc::UnboundedSender<Wanted>,
    inbox: Mutex<mpsc::UnboundedReceiver<Wanted>>,
    held: AtomicU64,
    waits: AtomicU64,
    failures: AtomicU64,
}

/// What metrics tell of leases.
pub struct Tally {
    /// Subjects of which something is held.
    pub held: u64,
    /// Times that a call waited for the store.
    pub waits: u64,
    /// How many of these it did not answer in time.
    pub failures: u64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Leases {
    /// Nothing is held yet. `term`: for how long the store lends without hearing from us.
    pub fn new(clock: Instant, term: Duration) -> Self {
        let (wanted, inbox) = mpsc::unbounded_channel();
        let (holder, users, inbox) = (Uuid::now_v7(), Users::default(), Mutex::new(inbox));
        let [held, waits, failures] = [0; 3].map(AtomicU64::new);
        let term = AtomicU64::new(nanos(term));
        Self { holder, users, clock, term, wanted, inbox, held, waits, failures }
    }

    /// From now on the store lends for so long without hearing from us.
    pub fn last_for(&self, term: Duration) {
        self.term.store(nanos(term), SeqCst);
    }

    /// For how long it lends.
    fn term(&self) -> Duration {
        Duration::from_nanos(self.term.load(SeqCst))
    }

    /// What metrics tell.
    pub fn tally(&self) -> Tally {
        let [held, waits, failures] = [&self.held, &self.waits, &self.failures].map(|count| count.load(SeqCst));
        Tally { held, waits, failures }
    }

    fn waited<T>(&self, answered: Result<T, Away>) -> Result<T, Away> {
        self.waits.fetch_add(1, SeqCst);
        answered.inspect_err(|_| {
            self.failures.fetch_add(1, SeqCst);
        })
    }

    /// Nanoseconds on the process's clock.
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Asks for a subject's leases without waiting for them, unless it was asked a moment ago.
    pub fn hint(&self, subject: &Arc<Subject>, now: u64) {
        if now > subject.answered_at.load(SeqCst).saturating_add(RECHECK) {
            self.ask(subject);
        }
    }

    fn ask(&self, subject: &Arc<Subject>) {
        if !subject.queued.swap(true, SeqCst) {
            let _ = self.wanted.send(Wanted::Lease(Arc::clone(subject)));
        }
    }

    /// Asks for a subject's leases and waits for the answer.
    ///
    /// # Errors
    /// Where the store did not answer.
    pub async fn refill(&self, subject: &Arc<Subject>) -> Result<(), Away> {
        let mut answers = subject.answers.subscribe();
        self.ask(subject);
        let answered = timeout(PATIENCE, answers.changed()).await;
        self.waited(if matches!(answered, Ok(Ok(()))) && answers.borrow().1 { Ok(()) } else { Err(Away) })
    }

    /// Whether what the store said last is new enough to refuse by.
    pub fn recent(&self, subject: &Subject, now: u64) -> bool {
        let at = subject.answered_at.load(SeqCst);
        at != 0 && now <= at.saturating_add(RECHECK)
    }

    /// The limits of an end user who comes with a key; none where there are none.
    ///
    /// # Errors
    /// Where they are not known and the store did not answer.
    pub async fn user(&self, tenant: Uuid, key: Uuid, user: &str) -> Result<Option<Arc<Subject>>, Away> {
        let entry = self.users.entry(tenant, key, user);
        if let Some(known) = entry.known() {
            if self.users.stale(&known, self.nanos()) && entry.queue() {
                let _ = self.wanted.send(Wanted::Look(entry));
            }
            return Ok(known.subject.clone());
        }
        let mut answers = entry.answers.subscribe();
        if entry.queue() {
            let _ = self.wanted.send(Wanted::Look(Arc::clone(&entry)));
        }
        let _ = timeout(PATIENCE, answers.changed()).await;
        self.waited(entry.known().map(|known| known.subject.clone()).ok_or(Away))
    }

    /// Asks for what is wanted, renews what is used, and gives back what is not. Ends when dropped.
    pub async fn run(&self, mut lender: Lender) {
        let mut inbox = self.inbox.lock().await;
        let mut keeper = Keeper::new(self);
        let mut looked = Instant::now();
        loop {
            let mut round = Round::default();
            if let Ok(Some(first)) = timeout(LOOK.saturating_sub(looked.elapsed()), inbox.recv()).await {
                round.add(first);
                while round.items() < BATCH
                    && let Ok(next) = inbox.try_recv()
                {
                    round.add(next);
                }
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                keeper.due(&mut round);
            }
            if round.items() > 0
                && let Err(error) = keeper.carry_out(round, &mut lender).await
            {
                tracing::warn!(%error, "limits cannot be asked for; calls go on with what is held of them");
                keeper.pause(&mut inbox).await;
            }
            self.held.store(keeper.held() as u64, SeqCst);
        }
    }

    /// Gives back all that is held: the gateway ends and its calls are recorded. What cannot be given back ends by itself.
    pub async fn release(&self, mut lender: Lender) {
        let _ = timeout(Duration::from_secs(2), lender.release(self.holder)).await;
    }
}
