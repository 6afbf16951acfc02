//! What calls cost: tokens to money.

use std::collections::HashMap;

use crate::wire::Usage;

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Prompt tokens not found in the provider's cache.
    pub input: f64,
    /// Answer tokens, reasoning included.
    pub output: f64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: f64,
    /// Prompt tokens written into it.
    pub cache_write: f64,
}

/// Prices by provider and model.
#[derive(Debug, Default)]
pub struct Prices(HashMap<(String, String), Price>);

impl Prices {
    /// From rows.
    pub fn new(rows: impl Iterator<Item = ((String, String), Price)>) -> Self {
        Self(rows.collect())
    }

    /// The cost of a call in US dollars; none where no price is known. A dated model (`gpt-4o-2024-08-06`) has the price of the
    /// longest known name that it begins with.
    pub fn cost(&self, provider: &str, model: &str, usage: &Usage) -> Option<f64> {
        let price = self.find(provider, model)?;
        let plain = usage.input.saturating_sub(usage.cache_read + usage.cache_write);
        #[allow(clippy::cast_precision_loss)]
        let dollars = |tokens: u64, rate: f64| tokens as f64 * rate / 1e6;
        Some(
            dollars(plain, price.input)
                + dollars(usage.cache_read, price.cache_read)
                + dollars(usage.cache_write, price.cache_write)
                + dollars(usage.output, price.output),
        )
    }

    /// What a million prompt tokens and as many answer tokens cost together, in US dollars: what models are compared by.
    pub fn rate(&self, provider: &str, model: &str) -> Option<f64> {
        self.find(provider, model).map(|price| price.input + price.output)
    }

    fn find(&self, provider: &str, model: &str) -> Option<&Price> {
        let mut end = model.len();
        loop {
            if let Some(price) = self.0.get(&(provider.to_owned(), model[..end].to_owned())) {
                return Some(price);
            }
            end = model[..end].rfind('-')?;
        }
    }
}

/// Tokens of a text by its length: what stands in where a provider tells no usage. Four bytes a token is `OpenAI`'s own rule of thumb.
pub fn estimate(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_have_their_own_price_and_dates_are_ignored() {
        let price = Price { input: 2.0, output: 10.0, cache_read: 0.5, cache_write: 2.5 };
        let prices = Prices::new([(("openai".to_owned(), "gpt-4o".to_owned()), price)].into_iter());
        let usage = Usage { input: 1_000_000, output: 100_000, cache_read: 500_000, cache_write: 0, reasoning: 0 };
        let cost = prices.cost("openai", "gpt-4o-2024-08-06", &usage);
        assert!((cost.unwrap_or_default() - (1.0 + 0.25 + 1.0)).abs() < 1e-9);
        assert_eq!(prices.cost("openai", "gpt-4", &usage), None);
    }
}
