//! What calls cost: tokens to money.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use serde::Deserialize;

use crate::wire::Usage;

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    /// Prompt tokens not found in the provider's cache.
    input: f64,
    /// Answer tokens.
    output: f64,
    /// Prompt tokens read from the provider's cache.
    cache_read: f64,
    /// Prompt tokens written into it.
    cache_write: f64,
    /// Answer tokens spent on reasoning, which are part of the answer's.
    reasoning: f64,
}

/// What a model costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    base: Rates,
    /// From so many prompt tokens on, for all of a call's tokens; in ascending order.
    tiers: Vec<(u64, Rates)>,
    /// No prompt is longer.
    context: Option<u64>,
}

/// `[prompt tokens, input, output, cache read, cache write]`.
type Tier = (u64, f64, f64, Option<f64>, Option<f64>);

/// A price as it is written down: US dollars for a million tokens; what is absent costs as input or output does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceRow {
    /// The provider's name.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// Prompt tokens.
    pub input: f64,
    /// Answer tokens.
    pub output: f64,
    /// Prompt tokens read from the provider's cache.
    #[serde(default)]
    pub cache_read: Option<f64>,
    /// Prompt tokens written into it.
    #[serde(default)]
    pub cache_write: Option<f64>,
    /// Answer tokens spent on reasoning.
    #[serde(default)]
    pub reasoning: Option<f64>,
    /// The longest prompt, in tokens.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// Prices of all tokens of a call with more prompt tokens than this.
    #[serde(default)]
    pub tiers: Vec<Tier>,
}

impl From<&PriceRow> for Price {
    fn from(row: &PriceRow) -> Self {
        let rates = |input, output, read: Option<f64>, write: Option<f64>, reasoning: Option<f64>| Rates {
            input,
            output,
            cache_read: read.unwrap_or(input),
            cache_write: write.unwrap_or(input),
            reasoning: reasoning.unwrap_or(output),
        };
        let mut tiers: Vec<(u64, Rates)> = row
            .tiers
            .iter()
            .map(|(above, input, output, read, write)| (*above, rates(*input, *output, *read, *write, None)))
            .collect();
        tiers.sort_by_key(|(above, _)| *above);
        let base = rates(row.input, row.output, row.cache_read, row.cache_write, row.reasoning);
        Self { base, tiers, context: row.context_tokens }
    }
}

impl Price {
    fn rates(&self, input: u64) -> &Rates {
        self.tiers.iter().rev().find(|(above, _)| input > *above).map_or(&self.base, |(_, rates)| rates)
    }
}

#[allow(clippy::cast_precision_loss)]
fn dollars(tokens: u64, rate: f64) -> f64 {
    tokens as f64 * rate / 1e6
}

/// Prices by provider and model.
#[derive(Debug, Default)]
pub struct Prices(HashMap<String, HashMap<String, Price>>);

impl Prices {
    /// From provider, model and price; of several for one model the last holds.
    pub fn new(prices: impl Iterator<Item = (String, String, Price)>) -> Self {
        let mut by_provider: HashMap<String, HashMap<String, Price>> = HashMap::new();
        for (provider, model, price) in prices {
            by_provider.entry(provider).or_default().insert(model, price);
        }
        Self(by_provider)
    }

    /// The names of a provider's models that have a price.
    pub fn models<'a>(&'a self, provider: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.get(provider).into_iter().flat_map(HashMap::keys).map(String::as_str)
    }

    /// The cost of a call in US dollars; none where no price is known. A dated model (`gpt-4o-2024-08-06`) has the price of the
    /// longest known name that it begins with.
    pub fn cost(&self, provider: &str, model: &str, usage: &Usage) -> Option<f64> {
        let rates = self.find(provider, model)?.rates(usage.input);
        let plain = usage.input.saturating_sub(usage.cache_read.saturating_add(usage.cache_write));
        let reasoning = usage.reasoning.min(usage.output);
        Some(
            dollars(plain, rates.input)
                + dollars(usage.cache_read, rates.cache_read)
                + dollars(usage.cache_write, rates.cache_write)
                + dollars(usage.output - reasoning, rates.output)
                + dollars(reasoning, rates.reasoning),
        )
    }

    /// What a million prompt tokens and as many answer tokens cost together, in US dollars: what models are compared by.
    pub fn rate(&self, provider: &str, model: &str) -> Option<f64> {
        self.find(provider, model).map(|price| price.base.input + price.base.output)
    }

    /// What a call of so many tokens can cost at most, in US dollars: none of its prompt found in the provider's cache.
    pub fn most(&self, provider: &str, model: &str, input: u64, output: u64) -> Option<f64> {
        let price = self.find(provider, model)?;
        let input = price.context.map_or(input, |context| input.min(context));
        let rates = price.rates(input);
        Some(dollars(input, rates.input.max(rates.cache_write)) + dollars(output, rates.output.max(rates.reasoning)))
    }

    fn find(&self, provider: &str, model: &str) -> Option<&Price> {
        let models = self.0.get(provider)?;
        let mut end = model.len();
        loop {
            if let Some(price) = models.get(&model[..end]) {
                return Some(price);
            }
            end = model[..end].rfind('-')?;
        }
    }
}

/// What tokens cost at the moment: the store's prices, and configured ones, which win over them.
#[derive(Default)]
pub struct PriceList {
    now: ArcSwap<Prices>,
    /// The store's rows, and the configured ones.
    rows: Mutex<[Vec<PriceRow>; 2]>,
}

impl PriceList {
    /// What they are now.
    pub fn load(&self) -> Guard<Arc<Prices>> {
        self.now.load()
    }

    /// Takes on the store's.
    pub fn store(&self, rows: &[PriceRow]) {
        self.change(0, rows);
    }

    /// Takes on the configured ones.
    pub fn configure(&self, rows: &[PriceRow]) {
        self.change(1, rows);
    }

    /// Made and swapped under the lock, so that of two changes at once neither is lost.
    fn change(&self, which: usize, rows: &[PriceRow]) {
        let mut all = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.clone_into(&mut all[which]);
        let prices = all.iter().flatten().map(|row| (row.provider.clone(), row.model.clone(), Price::from(row)));
        self.now.store(Arc::new(Prices::new(prices)));
    }
}

/// Tokens of a text by its length: what stands in where a provider tells no usage. Four bytes a token is `OpenAI`'s own rule of thumb.
pub fn estimate(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(row: &str) -> Prices {
        let row: PriceRow = serde_json::from_str(row).unwrap();
        Prices::new([(row.provider.clone(), row.model.clone(), Price::from(&row))].into_iter())
    }

    fn near(cost: Option<f64>, wanted: f64) -> bool {
        cost.is_some_and(|cost| (cost - wanted).abs() < 1e-9)
    }

    #[test]
    fn cached_and_reasoning_tokens_have_their_own_price_and_dates_are_ignored() {
        let prices = prices(
            r#"{"provider":"openai","model":"gpt-4o","input":2,"output":10,"cache_read":0.5,"cache_write":2.5,"reasoning":20}"#,
        );
        let usage = Usage { input: 1_000_000, output: 100_000, cache_read: 500_000, cache_write: 0, reasoning: 50_000 };
        assert!(near(prices.cost("openai", "gpt-4o-2024-08-06", &usage), 1.0 + 0.25 + 0.5 + 1.0));
        assert_eq!(prices.cost("openai", "gpt-4", &usage), None);
        assert_eq!(prices.cost("other", "gpt-4o", &usage), None);
    }

    #[test]
    fn a_long_prompt_makes_every_token_dearer_and_none_is_longer_than_the_context() {
        let prices = prices(
            r#"{"provider":"p","model":"m","input":1,"output":2,"context_tokens":1000000,"tiers":[[200000,3,4,null,null]]}"#,
        );
        let usage = |input| Usage { input, output: 100_000, ..Usage::default() };
        assert!(near(prices.cost("p", "m", &usage(200_000)), 0.2 + 0.2));
        assert!(near(prices.cost("p", "m", &usage(200_001)), 0.600_003 + 0.4));
        assert!(near(prices.most("p", "m", 100, 100), 0.0001 + 0.0002));
        assert!(near(prices.most("p", "m", 50_000_000, 0), 3.0));
    }
}
