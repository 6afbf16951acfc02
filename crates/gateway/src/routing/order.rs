//! In which order a model's upstreams are tried.

use std::{
    cmp::Ordering,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
};

use super::{Group, Upstream};
use crate::config::Strategy;

/// What comes within this of the best counts as good as the best, so that a conversation need not move for a trifle.
const AS_GOOD: f64 = 1.25;

/// Where an upstream stands; the least goes first.
struct Rank<'a> {
    /// Until when it rests; 0 if it is awake.
    resting: u64,
    /// Its `order`.
    tier: u32,
    /// What the strategy measures; 0 for all that are as good as the best.
    score: f64,
    /// Where the draw put it.
    draw: f64,
    upstream: &'a Arc<Upstream>,
}

impl Rank<'_> {
    fn compare(&self, other: &Self) -> Ordering {
        let key = |rank: &Self| (rank.resting, rank.tier);
        key(self).cmp(&key(other)).then(self.score.total_cmp(&other.score)).then(self.draw.total_cmp(&other.draw))
    }
}

/// A group's upstreams, each once, in the order in which they are to be tried at `now` milliseconds: those that are awake before
/// those that rest, these by when they wake; then by their `order`; then as the strategy has it; at last by a draw in which each has
/// its weight. Calls with the same `conversation` draw the same (rendezvous hashing: an upstream that comes or goes moves no
/// conversation but its own). `price` is of a million tokens, in US dollars.
pub fn order(
    group: &Group,
    now: u64,
    conversation: Option<u64>,
    price: impl Fn(&Upstream) -> Option<f64>,
) -> Vec<&Arc<Upstream>> {
    let strategy = group.routing.strategy;
    let seed = conversation.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let mut ranks: Vec<Rank> = group
        .upstreams
        .iter()
        .enumerate()
        .map(|(place, upstream)| Rank {
            resting: upstream.state.resting(now).unwrap_or(0),
            tier: upstream.order,
            score: score(strategy, place, upstream, now, &price),
            draw: draw(seed, upstream),
            upstream,
        })
        .collect();
    if strategy != Strategy::Order {
        let awake = |rank: &&Rank| rank.resting == 0;
        if let Some(tier) = ranks.iter().filter(awake).map(|rank| rank.tier).min() {
            let best =
                ranks.iter().filter(awake).filter(|rank| rank.tier == tier).map(|rank| rank.score).fold(f64::MAX, f64::min);
            ranks.iter_mut().filter(|rank| rank.score <= best * AS_GOOD).for_each(|rank| rank.score = 0.0);
        }
    }
    ranks.sort_by(Rank::compare);
    ranks.into_iter().map(|rank| rank.upstream).collect()
}

#[allow(clippy::cast_precision_loss)] // a count, microseconds: far below what a float holds
fn score(strategy: Strategy, place: usize, upstream: &Upstream, now: u64, price: &impl Fn(&Upstream) -> Option<f64>) -> f64 {
    match strategy {
        Strategy::Shuffle => 0.0,
        Strategy::Order => place as f64,
        Strategy::LeastBusy => f64::from(upstream.state.busy()),
        // One that is not known yet goes first, so that it comes to be known.
        Strategy::LowestLatency => upstream.state.latency(now).unwrap_or(0) as f64,
        Strategy::LowestCost => price(upstream).unwrap_or(f64::MAX),
    }
}

/// Weighted rendezvous hashing: `-ln(u) / weight` with `u` uniform in (0, 1) is least for an upstream as often as its weight's share.
#[allow(clippy::cast_precision_loss)] // the 53 bits that a float holds
fn draw(seed: u64, upstream: &Upstream) -> f64 {
    let bits = mix(seed ^ upstream.hash) >> 11;
    let uniform = (bits as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / upstream.weight
}

/// `SplitMix64`'s finalizer (Steele, Lea, Flood 2014): each bit of the input changes half of the output.
fn mix(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{config::Config, metrics::Metrics, routing::Routes};

    const NOW: u64 = 1_000_000;

    /// A group of upstreams with these weights and orders.
    fn group(strategy: &str, upstreams: &[(f64, Option<u32>)]) -> Arc<Group> {
        let upstreams = upstreams.iter().enumerate().map(|(place, (weight, order))| {
            serde_json::json!({"provider": "p", "model": place.to_string(), "weight": weight, "order": order})
        });
        let config = serde_json::json!({
            "listen": "127.0.0.1:0", "control_url": "http://127.0.0.1:9", "database": "", "spool_dir": "/nowhere",
            "spool_max_bytes": 1, "max_body_bytes": 1,
            "timeouts": {"connect_ms": 1, "first_byte_ms": 1, "idle_ms": 1, "total_ms": 1},
            "providers": [{"name": "p", "wire": "openai_chat", "base_url": "http://127.0.0.1:9/v1"}],
            "models": [{"name": "m", "upstreams": upstreams.collect::<Vec<_>>()}],
            "routing": {"strategy": strategy},
        });
        Routes::new(&Config::parse(&config.to_string()).unwrap(), None, &Metrics::new().unwrap()).unwrap().group("m").unwrap()
    }

    fn models(group: &Group, conversation: Option<u64>) -> Vec<&str> {
        let price = |upstream: &Upstream| [Some(3.0), Some(1.0), None, Some(1.1)][upstream.model.parse::<usize>().unwrap() % 4];
        order(group, NOW, conversation, price).into_iter().map(|upstream| upstream.model.as_str()).collect()
    }

    proptest! {
        #[test]
        fn each_comes_once_and_those_that_rest_come_last_in_the_order_of_their_waking(
            strategy in prop::sample::select(vec!["shuffle", "least_busy", "lowest_latency", "lowest_cost", "order"]),
            given in prop::collection::vec((0.0..5.0_f64, prop::option::of(0..3_u32), prop::option::of(1..9_u64), 0..9_u64), 2..8),
            conversation in prop::option::of(any::<u64>()),
        ) {
            let group = group(strategy, &given.iter().map(|(weight, order, ..)| (*weight, *order)).collect::<Vec<_>>());
            for (upstream, (_, _, rest, latency)) in group.upstreams.iter().zip(&given) {
                upstream.state.answered_after(NOW, *latency);
                if let Some(rest) = rest {
                    upstream.state.rest(NOW, *rest);
                }
            }
            let ordered = order(&group, NOW, conversation, |_| None);
            let mut models: Vec<_> = ordered.iter().map(|upstream| upstream.model.as_str()).collect();
            models.sort_unstable();
            prop_assert_eq!(models, (0..given.len()).map(|place| place.to_string()).collect::<Vec<_>>());
            let rests: Vec<_> = ordered.iter().map(|upstream| upstream.state.resting(NOW).unwrap_or(0)).collect();
            prop_assert!(rests.is_sorted(), "{:?}", rests);
            let tiers: Vec<_> = ordered.iter().filter(|one| one.state.resting(NOW).is_none()).map(|one| one.order).collect();
            prop_assert!(tiers.is_sorted(), "{:?}", tiers);
        }

        #[test]
        fn a_conversation_moves_only_when_its_own_upstream_goes(conversation in any::<u64>(), away in 0..5_usize) {
            let group = group("shuffle", &[(1.0, None); 5]);
            let before = models(&group, Some(conversation));
            prop_assert_eq!(&before, &models(&group, Some(conversation)));
            group.upstreams[away].state.rest(NOW, 9);
            let mut expected = before.clone();
            expected.retain(|model| *model != group.upstreams[away].model);
            expected.push(&group.upstreams[away].model);
            prop_assert_eq!(models(&group, Some(conversation)), expected);
        }
    }

    #[test]
    fn weights_are_shares_of_calls_and_of_conversations() {
        let group = group("shuffle", &[(3.0, None), (1.0, None), (0.0, None)]);
        for conversation in [false, true] {
            let firsts = (0..20_000_u64).map(|one| models(&group, conversation.then_some(one))[0]);
            let (mut first, mut last) = (0, 0);
            for model in firsts {
                first += u32::from(model == "0");
                last += u32::from(model == "2");
            }
            // Fifteen standard deviations of a fair draw.
            assert!((14_000..16_000).contains(&first), "{first}");
            assert_eq!(last, 0, "a weight of nothing is only for when all else fails");
        }
    }

    #[test]
    fn each_strategy_puts_what_it_measures_first() {
        let busy = group("least_busy", &[(1.0, None); 2]);
        let call = super::super::Busy::new(&busy.upstreams[0].state);
        assert_eq!(models(&busy, None), ["1", "0"]);
        drop(call);

        let latency = group("lowest_latency", &[(1.0, None); 3]);
        for (upstream, micros) in latency.upstreams.iter().zip([50_000, 10_000, 90_000]) {
            upstream.state.answered_after(NOW, micros);
        }
        assert_eq!(models(&latency, None), ["1", "0", "2"]);
        assert_eq!(models(&group("order", &[(1.0, None), (9.0, None), (9.0, Some(1))]), None), ["2", "0", "1"]);

        // One and three cost about the same: between them the conversation decides.
        let cost = group("lowest_cost", &[(1.0, None); 4]);
        let firsts: std::collections::BTreeSet<_> = (0..50).map(|conversation| models(&cost, Some(conversation))[0]).collect();
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(models(&cost, None)[2..], ["0", "2"], "what has no price comes last");
    }
}
