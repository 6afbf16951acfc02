//! Retries and fallbacks: only here, before the client has seen a byte.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    slice,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Response, StatusCode};
use tokio::time::{sleep, timeout};

use super::{Answer, Failed, Failure, Outgoing, Received, Words, Written, failure::retry_after, unreachable};
use crate::{
    config::RetryPolicy,
    connections::Kept,
    error::{Reason, Refusal},
    gateway::Worker,
    providers::{Operation, Outline},
    relay::{collect, heard},
    routing::{Busy, Group, Upstream, order},
};

/// The longest `Retry-After` that is waited for; a longer one is the client's to wait for.
const PATIENCE: Duration = Duration::from_secs(3);
/// The first pause before the same upstream is tried again; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest of these.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How long the words of a refusal may take to come.
const WORDS: Duration = Duration::from_secs(10);

/// Sends a call to its model: to one upstream after the other, again where that is worth it, and on to the model's fallbacks.
/// `conversation` tells conversations apart, so that each goes where it went before.
///
/// # Errors
/// The provider's refusal; our own where none could be reached (502) or one did not answer in time (504). Of several models' failures
/// the first model's is told: it is the one that the client asked for.
pub async fn send<'a, Body: Fn(&Arc<Upstream>) -> Written<'a>>(
    worker: &Worker,
    group: &Group,
    conversation: impl FnOnce() -> Option<u64>,
    outgoing: &Outgoing<'a, Body>,
) -> Result<Answer, Failed> {
    let mut attempts = Attempts { worker, outgoing, conversation: None, begun: None, made: 0 };
    if group.upstreams.len() > 1 {
        attempts.conversation = conversation();
    }
    if group.rests(attempts.now()) && attempts.has_fallbacks(group) {
        // What rests is spared while another model serves.
        let failed = attempts.elsewhere(group, attempts.resting(group, None)).await;
        return match failed {
            Err(_) => attempts.model(group).await,
            answered => answered,
        };
    }
    match attempts.model(group).await {
        Err(failed) => attempts.elsewhere(group, failed).await,
        answered => answered,
    }
}

/// Sends a call to one upstream of a model and nowhere else: a further round belongs where the first one was.
///
/// # Errors
/// As [`send`].
pub async fn send_to<'a, Body: Fn(&Arc<Upstream>) -> Written<'a>>(
    worker: &Worker,
    group: &Group,
    upstream: &Arc<Upstream>,
    outgoing: &Outgoing<'a, Body>,
) -> Result<Answer, Failed> {
    let mut attempts = Attempts { worker, outgoing, conversation: None, begun: None, made: 0 };
    attempts.within(group, slice::from_ref(upstream)).await
}

/// The upstreams of a model in the order in which a call is to try them now.
pub fn in_order<'g>(worker: &Worker, group: &'g Group, conversation: Option<u64>) -> Vec<&'g Arc<Upstream>> {
    let prices = worker.gateway.prices.load();
    order(group, now(worker), conversation, |upstream| prices.rate(&upstream.provider.name, &upstream.model))
}

/// Milliseconds on the process's clock.
fn now(worker: &Worker) -> u64 {
    millis(worker.gateway.begun.elapsed())
}

/// The attempts to have one call answered.
struct Attempts<'s, 'a, Body: Fn(&Arc<Upstream>) -> Written<'a>> {
    worker: &'s Worker,
    outgoing: &'s Outgoing<'a, Body>,
    conversation: Option<u64>,
    /// When the first of them was sent: what went before is our own work.
    begun: Option<Instant>,
    /// Attempts so far.
    made: u32,
}

/// An attempt that came to nothing, and for how long the upstream asked to be left alone.
type Missed = (Failure, Words, Option<Duration>);

impl<'a, Body: Fn(&Arc<Upstream>) -> Written<'a>> Attempts<'_, 'a, Body> {
    fn now(&self) -> u64 {
        now(self.worker)
    }

    /// How long ago the first was sent.
    fn waited(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    fn has_fallbacks(&self, group: &Group) -> bool {
        !self.worker.gateway.settings().routes.fallbacks(&group.name, Failure::RateLimit).is_empty()
    }

    fn failed(&self, failure: Failure, words: Words) -> Failed {
        Failed { failure, words, waited: self.waited(), retries: self.made.saturating_sub(1) }
    }

    /// The failure of a model that is not asked: `wait` is how long its upstreams want to be left alone, in milliseconds.
    fn resting(&self, group: &Group, wait: Option<u64>) -> Failed {
        let seconds = wait.unwrap_or_default().div_ceil(1_000).max(1);
        let message = format!(
            "All upstreams of the model '{}' said that they get too many requests, and asked to be left alone. Try again in {seconds} s.",
            group.name
        );
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .code("upstreams_resting")
            .because(Reason::Resting)
            .retry_after(seconds);
        self.failed(Failure::RateLimit, Words::Ours(Box::new(refusal)))
    }

    /// Tries a model, unless all of its upstreams asked to be left alone.
    async fn model(&mut self, group: &Group) -> Result<Answer, Failed> {
        let now = self.now();
        match group.declines(now) {
            Some(until) => Err(self.resting(group, Some(until - now))),
            None => self.within(group, &group.upstreams).await,
        }
    }

    /// Tries the models that a failed one falls back on, and those that these fall back on, each once.
    async fn elsewhere(&mut self, first: &Group, failed: Failed) -> Result<Answer, Failed> {
        let settings = self.worker.gateway.settings.load_full();
        let routes = &settings.routes;
        let mut tried = vec![first.name.clone()];
        let mut next: Vec<String> = routes.fallbacks(&first.name, failed.failure).iter().rev().cloned().collect();
        while let Some(name) = next.pop() {
            let Some(group) = routes.group(&name).filter(|group| !tried.contains(&group.name)) else { continue };
            tracing::info!(model = first.name, fallback = group.name, failure = ?failed.failure, "a call goes on to a fallback");
            tried.push(group.name.clone());
            match self.model(&group).await {
                Ok(answer) => {
                    answer.upstream.meters.fallbacks.increment(1);
                    return Ok(answer);
                }
                Err(further) => next.extend(routes.fallbacks(&group.name, further.failure).iter().rev().cloned()),
            }
        }
        Err(Failed { waited: self.waited(), retries: self.made.saturating_sub(1), ..failed })
    }

    /// Tries a model's upstreams: each at once after the other, then the first to be ready again after a pause, for as long as
    /// the retry policy has it.
    async fn within(&mut self, group: &Group, upstreams: &[Arc<Upstream>]) -> Result<Answer, Failed> {
        let ordered;
        let upstreams: &[&Arc<Upstream>] = if let [one] = upstreams {
            &[one]
        } else {
            ordered = in_order(self.worker, group, self.conversation);
            &ordered
        };
        let several = upstreams.len() > 1;
        let mut upstream = upstreams[0];
        // When each that was tried is ready again.
        let mut ready: Vec<Instant> = Vec::new();
        for retries in 0.. {
            if self.made > 0 {
                upstream.meters.retries.increment(1);
            }
            self.made += 1;
            let (failure, words, asked) = match self.attempt(upstream, several).await {
                Ok(answer) => return Ok(answer),
                Err(missed) => missed,
            };
            self.note(group, upstream, failure, asked);
            if retries >= allowed(failure, &group.retry_policy, group.routing.retries, upstreams.len()) {
                return Err(self.failed(failure, words));
            }
            let begun = Instant::now();
            let place = upstreams.iter().position(|known| Arc::ptr_eq(known, upstream)).unwrap_or_default();
            if ready.len() <= place {
                ready.resize(place + 1, begun);
            }
            ready[place] = begun + asked.unwrap_or_default();
            let pause = if ready.len() < upstreams.len() {
                upstream = upstreams[ready.len()];
                Duration::ZERO
            } else {
                let (place, until) = ready.iter().enumerate().min_by_key(|(_, ready)| **ready).unwrap_or((0, &begun));
                upstream = upstreams[place];
                let asked = until.saturating_duration_since(begun);
                if asked > PATIENCE {
                    return Err(self.failed(failure, words));
                }
                asked.max(backoff(retries)).max(group.routing.min_pause())
            };
            if self.waited() + pause >= self.worker.gateway.settings().config.timeouts.total() {
                return Err(self.failed(failure, words));
            }
            tracing::info!(model = group.name, ?failure, provider = upstream.provider.name, ?pause, "a call is sent again");
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        Err(self.resting(group, None))
    }

    /// Leaves an upstream alone for a while if it failed, or failed once too often.
    fn note(&self, group: &Group, upstream: &Upstream, failure: Failure, asked: Option<Duration>) {
        upstream.meters.failed(failure);
        let routing = &group.routing;
        if !failure.is_upstreams() || routing.cooldown_ms == 0 {
            return;
        }
        let now = self.now();
        let often = upstream.state.failed(now) > routing.allowed_fails;
        if often || failure.rests_at_once() || asked.is_some() {
            upstream.meters.rests.increment(1);
            let rest = asked.map_or(routing.cooldown_ms, millis);
            upstream.state.rest(now, rest);
            // A lone one is always asked: what it says tells more than our guess would.
            if group.upstreams.len() > 1 && (asked.is_some() || failure == Failure::RateLimit) {
                upstream.state.decline(now, rest);
            }
        }
    }

    /// Sends the call once.
    async fn attempt(&mut self, upstream: &Arc<Upstream>, several: bool) -> Result<Answer, Missed> {
        let ours = |failure, refusal| (failure, Words::Ours(Box::new(refusal)), None);
        let invalid = |refusal| ours(Failure::BadRequest, refusal);
        let outgoing = self.outgoing;
        let upstream = &upstream.speaking(outgoing.wire);
        let (gateway, provider) = (&self.worker.gateway, &upstream.provider);
        let same = provider.wire == outgoing.wire;
        let outline = Outline {
            operation: outgoing.operation,
            model: &upstream.model,
            query: outgoing.query.filter(|_| same),
            client: Some(outgoing.headers).filter(|_| same),
            content_type: outgoing.content_type,
        };
        let body = (outgoing.body)(upstream).bytes().await.map_err(invalid)?;
        let request = upstream.endpoint.request(&outline, body).map_err(invalid)?;
        let streamed = outgoing.operation == Operation::Chat { streamed: true };
        let limit = upstream.first_byte[usize::from(streamed)].unwrap_or_else(|| gateway.settings().config.timeouts.first_byte());
        let limit = if self.made > 1 {
            limit.min(gateway.settings().config.timeouts.total().saturating_sub(self.waited()))
        } else {
            limit
        };
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let busy = several.then(|| Busy::new(&upstream.state));
        let sent = several.then(Instant::now);
        let kept: Kept = if matches!(outgoing.operation, Operation::Chat { .. }) { heard } else { |_| true };
        let answered = self.worker.client.request_keeping(kept, upstream.endpoint.reach(), request);
        match timeout(limit, answered).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => {
                if let Some(sent) = sent {
                    upstream.state.answered_after(self.now(), u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                }
                let (waited, retries) = (begun.elapsed(), self.made - 1);
                Ok(Answer { response, upstream: Arc::clone(upstream), waited, retries, busy })
            }
            Ok(Ok(response)) => Err(self.refused(upstream, response).await),
            Ok(Err(error)) => {
                let failure = if error.is_connect() { Failure::Connect } else { Failure::Timeout };
                Err(ours(failure, unreachable(upstream, &error)))
            }
            Err(_) => {
                let message = format!("The provider '{}' did not answer within {} s.", provider.name, limit.as_secs_f64());
                Err(ours(
                    Failure::Timeout,
                    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "api_error", message).code("upstream_timeout"),
                ))
            }
        }
    }

    /// Reads what a provider says in refusing, so that its connection can serve again.
    async fn refused(&self, upstream: &Arc<Upstream>, response: Response<Received>) -> Missed {
        let (head, body) = response.into_parts();
        let body = timeout(WORDS, collect(&self.worker.gateway, &head.headers, body)).await;
        let body = upstream.endpoint.masked(body.ok().and_then(Result::ok).unwrap_or_default());
        let failure = Failure::of(head.status, &body);
        let asked = retry_after(&head.headers, SystemTime::now());
        (failure, Words::Provider(Arc::clone(upstream), Box::new(head), body), asked)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How many attempts may follow the first within one model after a failure.
fn allowed(failure: Failure, policy: &RetryPolicy, retries: Option<u32>, upstreams: usize) -> u32 {
    let upstreams = u32::try_from(upstreams).unwrap_or(u32::MAX);
    let passing = retries.unwrap_or(upstreams);
    match failure {
        Failure::RateLimit => policy.rate_limit.unwrap_or(passing),
        Failure::Server => policy.server.unwrap_or(passing),
        Failure::Connect => policy.connect.unwrap_or(passing),
        // The same key is refused again.
        Failure::Auth => policy.auth.unwrap_or(passing.min(upstreams - 1)),
        Failure::Timeout => policy.timeout.unwrap_or(0),
        Failure::ContentPolicy => policy.content_policy.unwrap_or(0),
        Failure::BadRequest => policy.bad_request.unwrap_or(0),
        Failure::ContextWindow => 0,
    }
}

/// The pause before an attempt after so many: twice the one before, less up to half of it by chance, so that calls that failed
/// together do not come back together.
fn backoff(retries: u32) -> Duration {
    let whole = PAUSE.saturating_mul(1 << retries.min(10)).min(LONGEST_PAUSE);
    let half = millis(whole) / 2;
    whole.saturating_sub(Duration::from_millis(RandomState::new().build_hasher().finish() % half.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_not_all_the_same() {
        for (retries, longest) in [(0, 200), (1, 400), (3, 1_600), (20, 8_000)] {
            let pauses: Vec<u64> = (0..100).map(|_| millis(backoff(retries))).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }

    #[test]
    fn what_may_be_under_way_is_sent_again_only_where_the_policy_says_so() {
        let none = RetryPolicy::default();
        for retries in [None, Some(5)] {
            for failure in [Failure::Timeout, Failure::BadRequest, Failure::ContentPolicy, Failure::ContextWindow] {
                assert_eq!(allowed(failure, &none, retries, 3), 0, "{failure:?}");
            }
        }
        assert_eq!(allowed(Failure::Timeout, &RetryPolicy { timeout: Some(2), ..none }, None, 1), 2);
        assert_eq!([1, 3].map(|count| allowed(Failure::Server, &none, None, count)), [1, 3]);
        assert_eq!(allowed(Failure::Server, &none, Some(0), 3), 0);
        assert_eq!([1, 3].map(|count| allowed(Failure::Auth, &none, None, count)), [0, 2]);
    }
}
