//! The task that asks the store: which subjects and users are next, what each wishes, and what becomes of the answers.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering::SeqCst},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::mpsc, time::sleep};

use super::{
    Leases, Wanted,
    wishes::{Answer, Item, Wishes},
};
use crate::{
    database::{DatabaseError, Lender},
    lease::Grant,
    limits::Limits,
    subject::{Name, Subject},
    users::Entry,
};

/// How long a lease is kept that no call uses, in nanoseconds.
const IDLE: u64 = 10_000_000_000;
/// The same for calls at once, which are few: another gateway may wait for them.
const IDLE_SLOTS: u64 = 400_000_000;
/// How long nobody asks again after the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What is given back because no call uses it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spare {
    Nothing,
    Slots,
    All,
}

/// What is asked for in one query.
#[derive(Default)]
pub(super) struct Round {
    subjects: Vec<(Arc<Subject>, Spare)>,
    entries: Vec<Arc<Entry>>,
}

impl Round {
    pub(super) fn add(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Lease(subject) => self.subjects.push((subject, Spare::Nothing)),
            Wanted::Look(entry) => self.entries.push(entry),
        }
    }

    pub(super) fn items(&self) -> usize {
        self.subjects.len() + self.entries.len()
    }
}

/// The state of the task that asks.
pub(super) struct Keeper<'a> {
    leases: &'a Leases,
    /// Subjects of which something is held, and when they were asked for last.
    held: HashMap<Name, (Arc<Subject>, u64)>,
    /// End users that are known, so that one who comes with several keys is one subject.
    users: HashMap<Name, Weak<Subject>>,
}

impl<'a> Keeper<'a> {
    /// Nothing is held yet.
    pub(super) fn new(leases: &'a Leases) -> Self {
        Self { leases, held: HashMap::new(), users: HashMap::new() }
    }

    /// Subjects of which something is held.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Adds the subjects whose leases are to be renewed, changed or given back; forgets those of which nothing is held.
    pub(super) fn due(&mut self, round: &mut Round) {
        let now = self.leases.nanos();
        let renewal = u64::try_from(self.leases.term().as_nanos()).unwrap_or(u64::MAX) / 4;
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

    /// Asks the store, and takes over what it answers.
    pub(super) async fn carry_out(&mut self, round: Round, lender: &mut Lender) -> Result<(), DatabaseError> {
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
        let looks = round.entries.iter().map(|entry| Item::look(entry));
        let items: Vec<Item> = subjects.chain(looks).collect();
        let text = serde_json::to_string(&items).map_err(|error| DatabaseError::Refused(error.to_string()))?;
        let term = i32::try_from(self.leases.term().as_millis()).unwrap_or(i32::MAX);
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
        let term = after(u64::try_from(self.leases.term().as_micros()).unwrap_or(u64::MAX));
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
    pub(super) async fn pause(&self, inbox: &mut mpsc::UnboundedReceiver<Wanted>) {
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
