//! Stage 3b, admit: what a call may cost at most is reserved from the leases of its key, team and end user, each an atomic.
//! The reservation is settled with what it did cost when the call is recorded, and given back where it never was.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use crate::{
    error::{Reason, Refusal},
    lease::{Pool, Taken},
    leases::Leases,
    limits::{Limits, allows, nano},
    principal::Key,
    subject::Subject,
    usage::estimate,
};

/// What a call asks for.
pub struct Ask<'a> {
    /// The end user's id.
    pub user: Option<&'a str>,
    /// The names that its model goes by: as asked for, and as configured.
    pub models: &'a [&'a str],
    /// Bytes of the request, by which its prompt's tokens are estimated.
    pub bytes: usize,
    /// The most tokens that it may be answered with.
    pub output_tokens: u64,
    /// What so many tokens (prompt, answer) can cost at most where the call may go, in US dollars; none: nobody knows.
    pub cost: &'a (dyn Fn(u64, u64) -> Option<f64> + Sync),
}

/// Lets a call in and reserves what it may use, or says why not. Every route that calls a model comes through here.
///
/// # Errors
/// 403 for a model that a team or user may not ask for and for one that has ended; 429 where a budget has too little left
/// (`insufficient_quota`) or a rate is used up (`rate_limit_exceeded`); 503 where Postgres would have to be asked and is away.
pub async fn admit(leases: &Leases, key: &Key, ask: &Ask<'_>) -> Result<Admission, Refusal> {
    // Most keys of a small installation: one branch.
    let Some(bounds) = &key.bounds else { return Ok(Admission::default()) };
    if bounds.orphan {
        return Err(Refusal::forbidden("The team of this API key was ended, and its keys with it. Use a key of another team."));
    }
    let mut admission = Admission { held: Vec::with_capacity(bounds.subjects.len() + usize::from(bounds.users)), holder: None };
    for subject in &bounds.subjects {
        admission.held.push(reserve(leases, subject, ask).await?);
    }
    if let Some(user) = ask.user.filter(|_| bounds.users) {
        let known = leases.user(key.tenant, key.id, user).await.map_err(|_| away(&format!("the user '{user}'")))?;
        if let Some(subject) = known {
            admission.held.push(reserve(leases, &subject, ask).await?);
        }
    }
    if !admission.held.is_empty() {
        admission.holder = Some(leases.holder);
        let now = leases.nanos();
        for held in &mut admission.held {
            held.subject.used_at.store(now, SeqCst);
            // A request that was let in stays counted, whatever becomes of it.
            held.request = None;
        }
    }
    Ok(admission)
}

/// What a call that was let in holds. Dropped without having been settled, it gives all back.
#[derive(Debug, Default)]
pub struct Admission {
    held: Vec<Held>,
    holder: Option<Uuid>,
}

#[derive(Debug)]
struct Held {
    subject: Arc<Subject>,
    money: Option<Taken>,
    request: Option<Taken>,
    tokens: Option<Taken>,
    slot: Option<Taken>,
}

impl Admission {
    /// The holder of the leases that were taken from, for the store to settle them; none: nothing was limited.
    pub fn holder(&self) -> Option<Uuid> {
        self.holder
    }

    /// The call ended: what it cost in US dollars, and its tokens. What was reserved beyond is given back.
    pub fn settle(&mut self, usd: f64, tokens: u64) {
        for mut held in self.held.drain(..) {
            if let Some(taken) = held.money.take() {
                taken.settle(nano(usd));
            }
            if let Some(taken) = held.tokens.take() {
                taken.settle(i64::try_from(tokens).unwrap_or(i64::MAX));
            }
        }
    }

    /// Tells the rates that hold, in `OpenAI`'s form; of several subjects, those with the least left.
    pub fn headers(&self, now: u64, headers: &mut HeaderMap) {
        let requests = |held: &Held, limits: &Limits| limits.rpm.map(|rpm| (i64::from(rpm), left(&held.subject.requests, now)));
        let tokens = |held: &Held, limits: &Limits| limits.tpm.map(|tpm| (tpm, left(&held.subject.tokens, now)));
        self.tell(
            headers,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
            requests,
        );
        self.tell(headers, ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"], tokens);
    }

    fn tell(&self, headers: &mut HeaderMap, names: [&'static str; 3], of: impl Fn(&Held, &Limits) -> Option<(i64, (i64, u64))>) {
        let told = self.held.iter().filter_map(|held| of(held, &held.subject.limits.load()));
        let Some((limit, (remaining, seconds))) = told.min_by_key(|(_, (remaining, _))| *remaining) else { return };
        let [limited, left, reset] = names.map(HeaderName::from_static);
        headers.insert(limited, HeaderValue::from(limit));
        headers.insert(left, HeaderValue::from(remaining));
        if let Ok(value) = HeaderValue::try_from(format!("{seconds}s")) {
            headers.insert(reset, value);
        }
    }
}

fn left(pool: &Pool, now: u64) -> (i64, u64) {
    (pool.most(now).unwrap_or_default().max(0), seconds(pool.resets(), now))
}

impl Drop for Held {
    fn drop(&mut self) {
        for taken in [self.money.take(), self.request.take(), self.tokens.take(), self.slot.take()].into_iter().flatten() {
            taken.settle(0);
        }
    }
}

/// What a call takes of each of a subject's limits; none where there is no limit.
struct Amounts {
    money: Option<i64>,
    request: Option<i64>,
    tokens: Option<i64>,
    slot: Option<i64>,
}

impl Amounts {
    fn of(limits: &Limits, ask: &Ask<'_>) -> Self {
        let input = estimate(ask.bytes);
        // Something, also of what costs nothing: a budget that is spent lets nobody in.
        let money = || nano((ask.cost)(input, ask.output_tokens).unwrap_or_default()).max(1);
        Self {
            money: limits.budget_usd.map(|_| money()),
            request: limits.rpm.map(|_| 1),
            tokens: limits.tpm.map(|_| i64::try_from(input.saturating_add(ask.output_tokens)).unwrap_or(i64::MAX)),
            slot: limits.parallel.map(|_| 1),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Money,
    Request,
    Tokens,
    Slot,
}

/// Reserves what a call may use of one subject's limits. Asks the store, and waits for it, only where what is held is not enough.
async fn reserve(leases: &Leases, subject: &Arc<Subject>, ask: &Ask<'_>) -> Result<Held, Refusal> {
    let limits = subject.limits.load_full();
    let unix = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if limits.expires_at.is_some_and(|end| end <= unix()) {
        return Err(Refusal::forbidden(format!("The time of {} is over. Have its expires_at set anew.", subject.title)));
    }
    if limits.models.as_ref().is_some_and(|models| !ask.models.iter().any(|name| allows(models, name))) {
        let model = ask.models.first().copied().unwrap_or_default();
        return Err(Refusal::forbidden(format!("The model '{model}' is not among those that {} may use.", subject.title)));
    }
    let amounts = Amounts::of(&limits, ask);
    let mut held = Held { subject: Arc::clone(subject), money: None, request: None, tokens: None, slot: None };
    let pools = |held: &Held| {
        [
            (What::Money, &subject.money, amounts.money.filter(|_| held.money.is_none())),
            (What::Request, &subject.requests, amounts.request.filter(|_| held.request.is_none())),
            (What::Tokens, &subject.tokens, amounts.tokens.filter(|_| held.tokens.is_none())),
            (What::Slot, &subject.slots, amounts.slot.filter(|_| held.slot.is_none())),
        ]
    };
    let mut asked = 0;
    loop {
        let now = leases.nanos();
        let mut short = Vec::new();
        for (what, pool, amount) in pools(&held) {
            let Some(amount) = amount else { continue };
            let Some(taken) = pool.take(amount, now) else {
                short.push((what, pool, amount));
                continue;
            };
            let slot = match what {
                What::Money => &mut held.money,
                What::Request => &mut held.request,
                What::Tokens => &mut held.tokens,
                What::Slot => &mut held.slot,
            };
            *slot = Some(taken);
            if pool.low() {
                leases.hint(subject, now);
            }
        }
        if short.is_empty() {
            return Ok(held);
        }
        let recent = leases.recent(subject, now);
        if let Some((what, pool, amount)) =
            short.iter().find(|(_, pool, amount)| recent && pool.most(now).is_some_and(|most| most < *amount))
        {
            return Err(refused(subject, &limits, *what, pool, *amount, now));
        }
        // Each round waits for an answer; with many calls after the same little, a few may be overtaken again and again.
        if asked == 8 {
            return Err(away(&subject.title));
        }
        asked += 1;
        let waiting: Vec<_> = short.iter().map(|(_, pool, amount)| pool.wait(*amount)).collect();
        let answered = leases.refill(subject).await;
        drop(waiting);
        if answered.is_err() {
            let now = leases.nanos();
            if short.iter().any(|(what, pool, amount)| *what == What::Money && pool.most(now).is_none_or(|most| most < *amount)) {
                return Err(away(&subject.title));
            }
            // Rates and calls at once are kept without the store.
            let over = short
                .iter()
                .find(|(what, pool, amount)| *what != What::Money && pool.most(now).is_none_or(|most| most < *amount));
            if let Some((what, pool, amount)) = over {
                return Err(refused(subject, &limits, *what, pool, *amount, now));
            }
        }
    }
}

/// Whole seconds from `now` to `then`, at least one.
fn seconds(then: u64, now: u64) -> u64 {
    then.saturating_sub(now).div_ceil(1_000_000_000).max(1)
}

fn refused(subject: &Subject, limits: &Limits, what: What, pool: &Pool, amount: i64, now: u64) -> Refusal {
    let title = &subject.title;
    let wait = (pool.resets() != u64::MAX).then(|| seconds(pool.resets(), now));
    let rate =
        |message: String| Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("rate_limit_exceeded");
    match what {
        What::Money => {
            let anew = wait.map_or_else(String::new, |wait| format!(" It begins anew in {wait} s."));
            let most = pool.most(now).unwrap_or_default().max(0);
            #[allow(clippy::cast_precision_loss)]
            let usd = |nano: i64| nano as f64 / 1e9;
            let message = if most == 0 {
                format!(
                    "The budget of {title} ({}) is spent or reserved by calls under way.{anew} Raise it, or use another key.",
                    limits.budget()
                )
            } else {
                format!(
                    "The budget of {title} ({}) has {:.6} USD left, and this call may cost up to {:.6} USD.{anew} Ask for fewer \
                     tokens (max_tokens), or raise the budget.",
                    limits.budget(),
                    usd(most),
                    usd(amount)
                )
            };
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", message)
                .code("insufficient_quota")
                .because(Reason::Budget);
            wait.map_or(refusal.clone(), |wait| refusal.retry_after(wait))
        }
        What::Request => {
            let (rpm, wait) = (limits.rpm.unwrap_or_default(), wait.unwrap_or(1));
            rate(format!("The limit of {title} is {rpm} requests a minute. Try again in {wait} s.")).retry_after(wait)
        }
        What::Tokens if limits.tpm.is_some_and(|tpm| amount > tpm) => rate(format!(
            "The limit of {title} is {} tokens a minute, and this call alone may take {amount}. Ask for fewer (max_tokens).",
            limits.tpm.unwrap_or_default()
        )),
        What::Tokens => {
            let (tpm, wait) = (limits.tpm.unwrap_or_default(), wait.unwrap_or(1));
            rate(format!(
                "The limit of {title} is {tpm} tokens a minute, and this call may take {amount}. Try again in {wait} s."
            ))
            .retry_after(wait)
        }
        What::Slot => {
            let parallel = limits.parallel.unwrap_or_default();
            rate(format!("The limit of {title} is {parallel} calls at once. Try again when one of them has ended."))
                .because(Reason::Parallel)
                .retry_after(1)
        }
    }
}

/// The refusal where the store would have to be asked, and does not answer.
fn away(title: &str) -> Refusal {
    Refusal::unavailable(format!(
        "The limits of {title} cannot be checked: what this gateway held of them is used up, and Postgres does not answer. Try again."
    ))
    .code("limits_unavailable")
    .because(Reason::Limits)
    .retry_after(2)
}
