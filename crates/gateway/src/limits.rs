//! What a key, a team or an end user may use, as the store says it.

use serde::Deserialize;

/// Limits as the store has them; what is absent is not limited.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Limits {
    /// The only models: names, or patterns with one `*`.
    pub models: Option<Vec<String>>,
    /// When it ends, in seconds since 1970.
    pub expires_at: Option<f64>,
    /// Money a period, in US dollars.
    pub budget_usd: Option<f64>,
    /// `total`, `day`, `week`, `month`, or a number of seconds.
    pub budget_period: String,
    /// Requests a minute.
    pub rpm: Option<u32>,
    /// Tokens a minute, input and output.
    pub tpm: Option<i64>,
    /// Calls under way at once.
    pub parallel: Option<u32>,
}

impl Limits {
    /// No limit on anything.
    pub fn none() -> Self {
        let budget_period = "total".to_owned();
        Self { models: None, expires_at: None, budget_usd: None, budget_period, rpm: None, tpm: None, parallel: None }
    }

    /// The budget in words: `5 USD a day`.
    pub fn budget(&self) -> String {
        let usd = self.budget_usd.unwrap_or_default();
        match self.budget_period.as_str() {
            "total" => format!("{usd} USD in all"),
            period @ ("day" | "week" | "month") => format!("{usd} USD a {period}"),
            seconds => format!("{usd} USD every {seconds} s"),
        }
    }
}

/// Billionths of a US dollar: what money is counted in.
#[allow(clippy::cast_possible_truncation)]
pub fn nano(usd: f64) -> i64 {
    (usd.max(0.0) * 1e9).round() as i64
}

/// Whether a model is one of these: names, or patterns with one `*`.
pub fn allows(models: &[String], model: &str) -> bool {
    models.iter().any(|pattern| match pattern.split_once('*') {
        None => pattern == model,
        Some((start, end)) => model.len() >= start.len() + end.len() && model.starts_with(start) && model.ends_with(end),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_what_its_star_leaves_open() {
        let models = ["gpt-4o".to_owned(), "claude-*".to_owned(), "*-mini".to_owned()];
        for model in ["gpt-4o", "claude-", "claude-sonnet", "o3-mini"] {
            assert!(allows(&models, model), "{model}");
        }
        for model in ["gpt-4o-2024", "claud", "mini", ""] {
            assert!(!allows(&models, model), "{model}");
        }
        assert!(allows(&["*".to_owned()], "anything"));
        assert!(!allows(&["ab*ba".to_owned()], "aba"));
    }
}
