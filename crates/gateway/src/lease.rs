//! What a gateway holds of one limit: an amount that calls take from and give back to, without asking anybody.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
};

use arc_swap::ArcSwap;

/// An amount held until a time. Money in billionths of a US dollar, else requests, tokens or calls under way.
#[derive(Debug)]
pub struct Lease {
    available: AtomicI64,
    /// Until when it may be taken from, in nanoseconds on the process's clock.
    until: AtomicU64,
    /// When the limit's period ends and all of it is there anew; `u64::MAX`: never.
    pub resets: u64,
}

impl Lease {
    /// One that may be taken from until `until`, and no longer than its period.
    pub fn new(amount: i64, until: u64, resets: u64) -> Self {
        Self { available: AtomicI64::new(amount), until: AtomicU64::new(until.min(resets)), resets }
    }

    /// Nothing, for no time.
    pub fn none() -> Self {
        Self::new(0, 0, 0)
    }

    /// What could be taken now. Below zero where calls took more than they had reserved.
    pub fn available(&self) -> i64 {
        self.available.load(SeqCst)
    }

    /// Whether it may be taken from.
    pub fn live(&self, now: u64) -> bool {
        now < self.until.load(SeqCst)
    }

    /// Takes an amount if it is there; else nothing.
    pub fn take(&self, amount: i64, now: u64) -> bool {
        self.live(now) && self.available.fetch_update(SeqCst, SeqCst, |held| (held >= amount).then(|| held - amount)).is_ok()
    }

    /// Takes all there is.
    pub fn take_all(&self) -> i64 {
        self.available.fetch_update(SeqCst, SeqCst, |held| (held > 0).then_some(0)).unwrap_or(0)
    }

    /// Adds an amount; below zero takes it, whether it is there or not.
    pub fn give(&self, amount: i64) {
        self.available.fetch_add(amount, SeqCst);
    }

    /// Lets it be taken from until `until`, and no longer than its period.
    pub fn renew(&self, until: u64) {
        self.until.store(until.min(self.resets), SeqCst);
    }
}

/// What a call took, and from which lease: it is settled there, even if another has taken that one's place since.
#[derive(Debug)]
pub struct Taken {
    lease: Arc<Lease>,
    amount: i64,
}

impl Taken {
    /// Gives back what was not used; takes what was used beyond.
    pub fn settle(self, used: i64) {
        self.lease.give(self.amount.saturating_sub(used));
    }
}

/// How much the store is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// No lease is held; what is granted is a new one.
    pub new: bool,
    /// All that was granted of this lease.
    pub granted: i64,
    /// What calls wait for.
    pub need: i64,
    /// What would be good to have; below zero: given back, and taken out of the lease already.
    pub want: i64,
}

/// What the store answered.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// The lease begins anew with this grant.
    pub fresh: bool,
    /// To be added; below zero: to be taken away.
    pub granted: i64,
    /// What the store has left for anybody.
    pub left: i64,
    /// Until when the lease holds.
    pub until: u64,
    /// When the limit's period ends.
    pub resets: u64,
}

/// One limit of a subject: the lease, and how much to hold.
#[derive(Debug)]
pub struct Pool {
    lease: ArcSwap<Lease>,
    /// What calls wait for.
    waiting: AtomicI64,
    /// What the store had left when it answered last.
    left: AtomicI64,
    /// How much to hold: doubled where it does not last, halved where it does.
    chunk: AtomicI64,
    granted: AtomicI64,
    refilled: AtomicU64,
}

/// A refill that is wanted again within this time was too small, in nanoseconds.
const LASTING: u64 = 30_000_000_000;
/// How many calls of the size seen a lease is at first meant for.
const CALLS: i64 = 4;
const MOST: i64 = 1 << 60;

impl Default for Pool {
    fn default() -> Self {
        Self {
            lease: ArcSwap::from_pointee(Lease::none()),
            waiting: AtomicI64::new(0),
            left: AtomicI64::new(0),
            chunk: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            refilled: AtomicU64::new(0),
        }
    }
}

impl Pool {
    /// Takes an amount if the lease has it.
    pub fn take(&self, amount: i64, now: u64) -> Option<Taken> {
        let lease = self.lease.load();
        lease.take(amount, now).then(|| Taken { lease: Arc::clone(&lease), amount })
    }

    /// Whether a refill should be asked for before it is missed.
    pub fn low(&self) -> bool {
        self.lease.load().available() < self.chunk.load(SeqCst) / 2 && self.left.load(SeqCst) > 0
    }

    /// What can be had at most, here and from the store when it answered last; none where that is not known for `now`.
    pub fn most(&self, now: u64) -> Option<i64> {
        let lease = self.lease.load();
        lease.live(now).then(|| lease.available().saturating_add(self.left.load(SeqCst)))
    }

    /// When the period of the lease ends.
    pub fn resets(&self) -> u64 {
        self.lease.load().resets
    }

    /// Whether calls are under way with something of it, or something is held.
    pub fn in_use(&self) -> bool {
        let lease = self.lease.load_full();
        // One count is the pool's, one is ours.
        Arc::strong_count(&lease) > 2 || lease.available() > 0
    }

    /// Whether something is held that could be given back.
    pub fn spare(&self, now: u64) -> bool {
        let lease = self.lease.load();
        lease.live(now) && lease.available() > 0
    }

    /// Counts a call as waiting for an amount, for as long as what is returned lives.
    pub fn wait(&self, amount: i64) -> Waiting<'_> {
        self.waiting.fetch_add(amount, SeqCst);
        Waiting { pool: self, amount }
    }

    /// What to ask the store for at `now`. With `idle`, all that is not in use is given back.
    pub fn wish(&self, now: u64, idle: bool) -> Wish {
        let lease = self.lease.load();
        let new = !lease.live(now);
        let available = if new { 0 } else { lease.available() };
        let granted = if new { 0 } else { self.granted.load(SeqCst) };
        let waiting = self.waiting.load(SeqCst);
        if waiting == 0 && idle {
            let back = if new { 0 } else { lease.take_all() };
            return Wish { new, granted, need: 0, want: -back };
        }
        let need = (waiting - available).max(0);
        let chunk = self.chunk.load(SeqCst);
        if need == 0 && available >= chunk / 2 {
            return Wish { new, granted, need: 0, want: 0 };
        }
        let lasted = now.saturating_sub(self.refilled.swap(now, SeqCst)) > LASTING;
        let chunk = if lasted { chunk / 2 } else { chunk.saturating_mul(2) };
        let chunk = chunk.max(need.saturating_mul(CALLS)).min(MOST);
        self.chunk.store(chunk, SeqCst);
        Wish { new, granted, need, want: (waiting.saturating_add(chunk) - available).max(need) }
    }

    /// Takes over what the store answered to a wish.
    pub fn answered(&self, wish: Wish, grant: Grant) {
        self.left.store(grant.left.max(0), SeqCst);
        if grant.fresh || wish.new {
            self.granted.store(grant.granted, SeqCst);
            self.lease.store(Arc::new(Lease::new(grant.granted, grant.until, grant.resets)));
            return;
        }
        self.granted.fetch_add(grant.granted, SeqCst);
        let lease = self.lease.load();
        // What was given back has been taken out of the lease before it was sent.
        lease.give(grant.granted - wish.want.min(0));
        lease.renew(grant.until);
    }

    /// The store did not answer: what was to be given back is held on to.
    pub fn unanswered(&self, wish: Wish) {
        if wish.want < 0 {
            self.lease.load().give(-wish.want);
        }
    }

    /// Holds all of a limit without having asked: the store is away, and each gateway keeps the limit by itself.
    pub fn alone(&self, limit: i64, until: u64, now: u64) {
        let lease = self.lease.load();
        if !lease.live(now) {
            self.left.store(0, SeqCst);
            self.granted.store(limit, SeqCst);
            self.lease.store(Arc::new(Lease::new(limit, until, until)));
        } else if self.waiting.load(SeqCst) > lease.available() {
            let more = (limit - self.granted.load(SeqCst)).max(0);
            self.left.store(0, SeqCst);
            self.granted.fetch_add(more, SeqCst);
            lease.give(more);
        }
    }
}

/// A call that waits for an amount.
pub struct Waiting<'a> {
    pool: &'a Pool,
    amount: i64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(self.amount, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What may happen to one limit in one gateway, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        /// A call comes and reserves.
        Take(i64),
        /// One of the calls under way ends and used this share of what it reserved, in percent; 0: its client went away
        /// before anything was sent.
        Settle(usize, i64),
        /// The store is asked, while a call waits for so much, or to give back what is idle.
        Ask(i64, bool),
        /// The store answers with this share of what was asked for, in percent; or it had ended the lease meanwhile.
        Answer(i64, bool),
        /// Its answer is lost.
        Lose,
        /// Time passes.
        Pass(u64),
    }

    /// For how long the store lends.
    const TERM: u64 = 100;

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..50_i64).prop_map(Step::Take),
            4 => (any::<usize>(), 0..200_i64).prop_map(|(call, share)| Step::Settle(call, share)),
            3 => (0..60_i64, any::<bool>()).prop_map(|(wait, idle)| Step::Ask(wait, idle)),
            3 => (0..=100_i64, prop::bool::weighted(0.1)).prop_map(|(share, ended)| Step::Answer(share, ended)),
            1 => Just(Step::Lose),
            2 => (1..60_u64).prop_map(Step::Pass),
        ]
    }

    /// What became of what one lease was granted.
    #[derive(Debug, Default)]
    struct Book {
        granted: i64,
        reserved: i64,
        used: i64,
        /// What calls used beyond what they had reserved.
        beyond: i64,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_is_held_reserved_and_used_is_what_was_lent(steps in vec(step(), 1..120)) {
            let (pool, mut now, mut until) = (Pool::default(), 1, 0);
            // One book a lease: a call that outlives its lease is settled in that one's.
            let mut books = vec![Book::default()];
            let mut calls: Vec<(usize, i64, Taken)> = Vec::new();
            let mut asked: Option<(Wish, u64)> = None;
            for step in steps {
                let current = books.len() - 1;
                match step {
                    Step::Take(amount) => {
                        let held = pool.lease.load().available();
                        let taken = pool.take(amount, now);
                        prop_assert_eq!(taken.is_some(), now < until && amount <= held);
                        if let Some(taken) = taken {
                            books[current].reserved += amount;
                            calls.push((current, amount, taken));
                        }
                    }
                    Step::Settle(call, share) if !calls.is_empty() => {
                        let (book, amount, taken) = calls.swap_remove(call % calls.len());
                        let (book, used) = (&mut books[book], amount * share / 100);
                        taken.settle(used);
                        book.reserved -= amount;
                        book.used += used;
                        book.beyond += (used - amount).max(0);
                    }
                    Step::Ask(wait, idle) if asked.is_none() => {
                        let waiting = pool.wait(wait);
                        let wish = pool.wish(now, idle);
                        drop(waiting);
                        prop_assert!(wish.need >= 0 && (wish.want < 0 || wish.want >= wish.need), "{:?}", wish);
                        prop_assert_eq!(wish.new, now >= until);
                        asked = Some((wish, now));
                    }
                    Step::Answer(share, ended) => {
                        let Some((wish, at)) = asked.take() else { continue };
                        let fresh = ended || wish.new;
                        let granted = if wish.want < 0 { wish.want } else { wish.want * share / 100 };
                        let granted = if fresh { granted.max(0) } else { granted };
                        pool.answered(wish, Grant { fresh, granted, left: 0, until: at + TERM, resets: u64::MAX });
                        until = at + TERM;
                        if fresh {
                            books.push(Book::default());
                        }
                        books.last_mut().unwrap().granted += granted;
                    }
                    Step::Lose => {
                        if let Some((wish, _)) = asked.take() {
                            pool.unanswered(wish);
                        }
                    }
                    Step::Pass(time) => now += time,
                    Step::Settle(..) | Step::Ask(..) => {}
                }
                // What is on its way back is nobody's to take.
                let returning = asked.map_or(0, |(wish, _)| -wish.want.min(0));
                let (book, held) = (&books[books.len() - 1], pool.lease.load().available());
                prop_assert_eq!(held + returning + book.reserved + book.used, book.granted, "{:?}", book);
                prop_assert!(held >= -book.beyond, "{} of {:?}", held, book);
                for book in &books {
                    prop_assert!(book.reserved + book.used <= book.granted + book.beyond, "{:?}", book);
                }
            }
        }
    }
}
