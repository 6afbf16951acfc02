//! How an upstream has fared: numbers that all threads share, each good enough by itself.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

/// Failures count together for so long, in milliseconds.
const WINDOW: u64 = 60_000;
/// A latency that nobody measured for so long, in milliseconds, is no longer known: what was slow once is tried again.
const STALE: u64 = 300_000;

/// How an upstream has fared.
#[derive(Debug, Default)]
pub struct State {
    /// Until when it is left alone, in milliseconds on the process's clock.
    resting_until: AtomicU64,
    /// Until when it asked to be left alone itself, in milliseconds on the process's clock.
    declining_until: AtomicU64,
    /// When the window of counted failures began, in milliseconds on the process's clock, and how many there are since: the
    /// lower 16 bits.
    fails: AtomicU64,
    /// Calls under way.
    busy: AtomicU32,
    /// Mean time until it began to answer, in microseconds, the newest eighth weighing most; 0: not known.
    latency: AtomicU64,
    /// When that was measured last, in milliseconds on the process's clock.
    measured: AtomicU64,
}

impl State {
    /// Until when nothing is to be sent to it, if that is later than `now`, in milliseconds on the process's clock.
    pub fn resting(&self, now: u64) -> Option<u64> {
        Some(self.resting_until.load(Relaxed)).filter(|until| *until > now)
    }

    /// Sends nothing to it for `millis`.
    pub fn rest(&self, now: u64, millis: u64) {
        self.resting_until.fetch_max(now.saturating_add(millis), Relaxed);
    }

    /// Until when it wants nothing sent to it by its own word, if that is later than `now`, in milliseconds on the process's clock.
    pub fn declining(&self, now: u64) -> Option<u64> {
        Some(self.declining_until.load(Relaxed)).filter(|until| *until > now)
    }

    /// It asked for nothing to be sent to it for `millis`.
    pub fn decline(&self, now: u64, millis: u64) {
        self.declining_until.fetch_max(now.saturating_add(millis), Relaxed);
    }

    /// Counts a failure; gives how many there were within a minute. Two at once may count as one: it is a threshold, no bill.
    pub fn failed(&self, now: u64) -> u32 {
        let packed = self.fails.load(Relaxed);
        let (began, count) = (packed >> 16, packed & 0xffff);
        let (began, count) = if now.saturating_sub(began) > WINDOW { (now, 1) } else { (began, (count + 1).min(0xffff)) };
        self.fails.store((began << 16) | count, Relaxed);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Calls under way, of those that are counted.
    pub fn busy(&self) -> u32 {
        self.busy.load(Relaxed)
    }

    /// Mean time until it began to answer, in microseconds, if it did lately.
    pub fn latency(&self, now: u64) -> Option<u64> {
        let known = now.saturating_sub(self.measured.load(Relaxed)) <= STALE;
        Some(self.latency.load(Relaxed)).filter(|micros| known && *micros > 0)
    }

    /// Notes how long it took to begin an answer, in microseconds.
    pub fn answered_after(&self, now: u64, micros: u64) {
        let mean = self.latency(now).map_or(micros, |mean| mean - mean / 8 + micros / 8);
        self.latency.store(mean.max(1), Relaxed);
        self.measured.store(now, Relaxed);
    }
}

/// Counts a call as under way at an upstream until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<State>);

impl Busy {
    /// One more call.
    pub fn new(state: &Arc<State>) -> Self {
        state.busy.fetch_add(1, Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_within_a_minute() {
        let state = State::default();
        assert_eq!([1_000, 2_000, 60_000, 61_001, 61_002].map(|now| state.failed(now)), [1, 2, 3, 1, 2]);
    }

    #[test]
    fn a_rest_is_never_cut_short() {
        let state = State::default();
        state.rest(100, 50);
        state.rest(100, 10);
        assert_eq!((state.resting(149), state.resting(150)), (Some(150), None));
    }

    #[test]
    fn calls_under_way_end_when_they_are_dropped_and_the_mean_follows_slowly() {
        let state = Arc::new(State::default());
        let two = (Busy::new(&state), Busy::new(&state));
        assert_eq!(state.busy(), 2);
        drop(two);
        assert_eq!(state.busy(), 0);
        assert_eq!(state.latency(1), None);
        state.answered_after(1, 800);
        state.answered_after(2, 1_600);
        assert_eq!(state.latency(3), Some(900));
        assert_eq!(state.latency(STALE + 3), None, "what was slow once is tried again");
    }
}
