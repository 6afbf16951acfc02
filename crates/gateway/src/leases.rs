//! Leases from the store: what this gateway may use of limits that it shares with others. One task asks for all of them,
//! many in one query; calls take from what is held, and wait only for a lease that is not there yet or used up.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    database::{DatabaseError, Lender},
    lease::{Grant, Pool, Wish},
    limits::Limits,
    subject::{Name, Subject},
    users::{Entry, Users},
};

/// How often leases are looked over: renewed, and given back where they are not used.
const LOOK: Duration = Duration::from_millis(500);
/// How long a lease is kept that no call uses, in nanoseconds.
const IDLE: u64 = 10_000_000_000;
/// The same for calls at once, which are few: another gateway may wait for them.
const IDLE_SLOTS: u64 = 400_000_000;
/// How long a call waits for a lease.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nobody asks again after the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);
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
    term: Duration,
    wanted: mpsc::UnboundedSender<Wanted>,
    inbox: Mutex<mpsc::UnboundedReceiver<Wanted>>,
}

impl Leases {
    /// Nothing is held yet. `term`: for how long the store lends without hearing from us.
    pub fn new(clock: Instant, term: Duration) -> Self {
        let (wanted, inbox) = mpsc::unbounded_channel();
        Self { holder: Uuid::now_v7(), users: Users::default(), clock, term, wanted, inbox: Mutex::new(inbox) }
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
        match timeout(PATIENCE, answers.changed()).await {
            Ok(Ok(())) if answers.borrow().1 => Ok(()),
            _ => Err(Away),
        }
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
        entry.known().map(|known| known.subject.clone()).ok_or(Away)
    }

    /// Asks for what is wanted, renews what is used, and gives back what is not. Ends when dropped.
    pub async fn run(&self, mut lender: Lender) {
        let mut inbox = self.inbox.lock().await;
        let mut keeper = Keeper { leases: self, held: HashMap::new(), users: HashMap::new() };
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
            if round.items() == 0 {
                continue;
            }
            if let Err(error) = keeper.carry_out(round, &mut lender).await {
                tracing::warn!(%error, "limits cannot be asked for; calls go on with what is held of them");
                keeper.pause(&mut inbox).await;
            }
        }
    }

    /// Gives back all that is held: the gateway ends and its calls are recorded. What cannot be given back ends by itself.
    pub async fn release(&self, mut lender: Lender) {
        let _ = timeout(Duration::from_secs(2), lender.release(self.holder)).await;
    }
}

/// What is given back because no call uses it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spare {
    Nothing,
    Slots,
    All,
}

#[derive(Default)]
struct Round {
    subjects: Vec<(Arc<Subject>, Spare)>,
    entries: Vec<Arc<Entry>>,
}

impl Round {
    fn add(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Lease(subject) => self.subjects.push((subject, Spare::Nothing)),
            Wanted::Look(entry) => self.entries.push(entry),
        }
    }

    fn items(&self) -> usize {
        self.subjects.len() + self.entries.len()
    }
}

#[derive(Serialize, Default)]
struct Item<'a> {
    tenant: Uuid,
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    look: bool,
    usd_new: bool,
    usd_granted: i64,
    usd_need: i64,
    usd_want: i64,
    slots_held: i64,
    slots_need: i64,
    slots_want: i64,
    minute: i64,
    requests_need: i64,
    requests_want: i64,
    tokens_need: i64,
    tokens_want: i64,
}

#[derive(Deserialize)]
struct Answer {
    n: usize,
    limits: Option<Limits>,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    minute: i64,
    #[serde(default)]
    minute_ends_us: u64,
    usd: Option<Granted>,
    requests: Option<Granted>,
    tokens: Option<Granted>,
    slots: Option<Granted>,
}

#[derive(Deserialize, Clone, Copy)]
struct Granted {
    #[serde(default)]
    fresh: bool,
    #[serde(rename = "granted")]
    amount: i64,
    left: i64,
    ends_us: Option<u64>,
}

impl Granted {
    fn grant(self, until: u64, resets: u64) -> Grant {
        Grant { fresh: self.fresh, granted: self.amount, left: self.left, until, resets }
    }
}

/// What is asked for one subject.
#[derive(Clone, Copy)]
struct Wishes {
    money: Wish,
    requests: Wish,
    tokens: Wish,
    slots: Wish,
}

impl Wishes {
    fn of(subject: &Subject, now: u64, spare: Spare) -> Self {
        let wish = |pool: &Pool| pool.wish(now, spare == Spare::All);
        let slots = subject.slots.wish(now, spare != Spare::Nothing);
        Self { money: wish(&subject.money), requests: wish(&subject.requests), tokens: wish(&subject.tokens), slots }
    }

    fn item<'a>(&self, subject: &'a Subject) -> Item<'a> {
        let (tenant, kind, id) = &subject.name;
        Item {
            tenant: *tenant,
            kind,
            id,
            key: subject.user.as_ref().map(|(_, key)| *key),
            user: subject.user.as_ref().map(|(user, _)| user.as_str()),
            look: false,
            usd_new: self.money.new,
            usd_granted: self.money.granted,
            usd_need: self.money.need,
            usd_want: self.money.want,
            slots_held: self.slots.granted,
            slots_need: self.slots.need,
            slots_want: self.slots.want,
            minute: subject.minute.load(SeqCst),
            requests_need: self.requests.need,
            requests_want: self.requests.want,
            tokens_need: self.tokens.need,
            tokens_want: self.tokens.want,
        }
    }

    fn unanswered(&self, subject: &Subject) {
        subject.money.unanswered(self.money);
        subject.requests.unanswered(self.requests);
        subject.tokens.unanswered(self.tokens);
        subject.slots.unanswered(self.slots);
    }
}

/// The state of the task that asks.
struct Keeper<'a> {
    leases: &'a Leases,
    /// Subjects of which something is held, and when they were asked for last.
    held: HashMap<Name, (Arc<Subject>, u64)>,
    /// End users that are known, so that one who comes with several keys is one subject.
    users: HashMap<Name, Weak<Subject>>,
}

impl Keeper<'_> {
    /// Adds the subjects whose leases are to be renewed, changed or given back; forgets those of which nothing is held.
    fn due(&mut self, round: &mut Round) {
        let now = self.leases.nanos();
        let renewal = u64::try_from(self.leases.term.as_nanos()).unwrap_or(u64::MAX) / 4;
        self.held.retain(|_, (subject, asked)| {
            let unused = now.saturating_sub(subject.used_at.load(SeqCst));
            if unused > IDLE && !subject.in_use() {
                return false;
            }
            let since = now.saturating_sub(*asked);
            let spare = if unused > IDLE && since > IDLE {
                Spare::All
            } else if unused > IDLE_SLOTS && subject.slots.spare(now) {
                Spare::Slots
            } else {
                Spare::Nothing
            };
            let changed = subject.answered_at.load(SeqCst) == 0;
            if (since > renewal || changed || spare != Spare::Nothing) && !subject.queued.swap(true, SeqCst) {
                round.subjects.push((Arc::clone(subject), spare));
            }
            true
        });
        if self.users.len() > 1024 {
            self.users.retain(|_, user| user.strong_count() > 0);
        }
    }

    async fn carry_out(&mut self, round: Round, lender: &mut Lender) -> Result<(), DatabaseError> {
        let (now, generation) = (self.leases.nanos(), self.leases.users.generation());
        let wishes: Vec<Wishes> = round
            .subjects
            .iter()
            .map(|(subject, spare)| {
                // From here on whoever waits is not part of this round.
                subject.queued.store(false, SeqCst);
                Wishes::of(subject, now, *spare)
            })
            .collect();
        round.entries.iter().for_each(|entry| entry.unqueue());
        let subjects = round.subjects.iter().zip(&wishes).map(|((subject, _), wishes)| wishes.item(subject));
        let looks = round.entries.iter().map(|entry| Item {
            tenant: entry.tenant,
            kind: "user",
            id: &entry.user,
            key: Some(entry.key),
            user: Some(&entry.user),
            look: true,
            ..Item::default()
        });
        let items: Vec<Item> = subjects.chain(looks).collect();
        let text = serde_json::to_string(&items).map_err(|error| DatabaseError::Refused(error.to_string()))?;
        let term = i32::try_from(self.leases.term.as_millis()).unwrap_or(i32::MAX);
        let answered = lender.lease(self.leases.holder, term, &text).await;
        let answers = answered.and_then(|text| {
            serde_json::from_str::<Vec<Answer>>(&text)
                .map_err(|error| DatabaseError::Refused(format!("the schema is of another version: {error}")))
        });
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                for ((subject, _), wishes) in round.subjects.iter().zip(&wishes) {
                    wishes.unanswered(subject);
                    self.alone(subject);
                }
                round.entries.iter().for_each(|entry| entry.unanswered());
                return Err(error);
            }
        };
        for answer in answers {
            if let Some((subject, _)) = round.subjects.get(answer.n) {
                self.lent(subject, wishes[answer.n], answer, now);
            } else if let Some(entry) = round.entries.get(answer.n - round.subjects.len()) {
                self.seen(entry, answer, (generation, now));
            }
        }
        Ok(())
    }

    /// Takes over what was lent; `now` is when it was asked for, so that no lease is believed to last longer than it does.
    fn lent(&mut self, subject: &Arc<Subject>, wishes: Wishes, answer: Answer, now: u64) {
        let after = |micros: u64| now.saturating_add(micros.saturating_mul(1000));
        let term = after(u64::try_from(self.leases.term.as_micros()).unwrap_or(u64::MAX));
        // Without limits there is nothing to hold: whoever comes next finds the subject free, or under another name.
        let limits = answer.limits.unwrap_or_else(Limits::none);
        if let Some(granted) = answer.usd {
            subject.money.answered(wishes.money, granted.grant(term, granted.ends_us.map_or(u64::MAX, after)));
        }
        let minute = after(answer.minute_ends_us);
        for (pool, wish, granted) in
            [(&subject.requests, wishes.requests, answer.requests), (&subject.tokens, wishes.tokens, answer.tokens)]
        {
            if let Some(granted) = granted {
                let fresh = subject.minute.load(SeqCst) != answer.minute;
                pool.answered(wish, Grant { fresh, ..granted.grant(minute, minute) });
            }
        }
        subject.minute.store(answer.minute, SeqCst);
        if let Some(granted) = answer.slots {
            subject.slots.answered(wishes.slots, granted.grant(u64::MAX, u64::MAX));
        }
        subject.learn(limits);
        subject.answered_at.store(self.leases.nanos(), SeqCst);
        subject.answers.send_modify(|(count, well)| (*count, *well) = (*count + 1, true));
        self.held.insert(subject.name.clone(), (Arc::clone(subject), now));
    }

    fn seen(&mut self, entry: &Entry, answer: Answer, (generation, now): (u64, u64)) {
        let subject = answer.limits.map(|limits| {
            let name = (entry.tenant, answer.kind, answer.subject);
            if let Some(known) = self.users.get(&name).and_then(Weak::upgrade) {
                known.learn(limits);
                return known;
            }
            let title = format!("the user '{}'", entry.user);
            let made = Subject::new(name.clone(), title, Some((entry.user.clone(), entry.key)), limits);
            self.users.insert(name, Arc::downgrade(&made));
            made
        });
        entry.answered(subject, generation, now);
    }

    /// The store is away: rates and calls at once are kept by each gateway on its own; money is not lent by anybody.
    fn alone(&self, subject: &Subject) {
        let now = self.leases.nanos();
        let limits = subject.limits.load();
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = 60_000_000_000 - u64::try_from(seconds.as_nanos() % 60_000_000_000).unwrap_or(0);
        if let Some(rpm) = limits.rpm {
            subject.requests.alone(i64::from(rpm), now + left, now);
            subject.minute.store(0, SeqCst);
        }
        if let Some(tpm) = limits.tpm {
            subject.tokens.alone(tpm, now + left, now);
            subject.minute.store(0, SeqCst);
        }
        if let Some(parallel) = limits.parallel {
            subject.slots.alone(i64::from(parallel), u64::MAX, now);
        }
        subject.answers.send_modify(|(count, well)| (*count, *well) = (*count + 1, false));
    }

    /// Answers at once that the store is away, for a while.
    async fn pause(&self, inbox: &mut mpsc::UnboundedReceiver<Wanted>) {
        let answering = async {
            while let Some(wanted) = inbox.recv().await {
                match wanted {
                    Wanted::Lease(subject) => {
                        subject.queued.store(false, SeqCst);
                        self.alone(&subject);
                    }
                    Wanted::Look(entry) => {
                        entry.unqueue();
                        entry.unanswered();
                    }
                }
            }
        };
        tokio::select! {
            () = answering => {}
            () = sleep(PAUSE) => {}
        }
    }
}
