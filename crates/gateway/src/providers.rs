//! The known hosts: one table each in `providers.toml`, and nothing in code.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// A host that speaks one of our wires.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownProvider {
    /// Its name in `PROVIDER/model`.
    pub name: String,
    /// The wire it speaks.
    pub wire: Wire,
    /// Up to and including the version.
    pub base_url: String,
    /// The environment variable that its users keep its key in.
    pub key_env: String,
    /// The model for an agent that names none, where only the key is configured.
    pub default_model: Option<String>,
    /// Patterns of the model names that go there without a prefix.
    #[serde(default)]
    pub models: Vec<String>,
}

#[derive(Deserialize)]
struct Table {
    provider: Vec<KnownProvider>,
}

/// The list that is built in.
///
/// # Errors
/// Where the built-in file is broken, which a test rules out.
pub fn known() -> Result<Vec<KnownProvider>, toml::de::Error> {
    Ok(toml::from_str::<Table>(include_str!("providers/providers.toml"))?.provider)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_built_in_list_is_well_formed() {
        let known = super::known().unwrap();
        assert!(known.iter().all(|provider| provider.base_url.starts_with("https://")));
        let mut names: Vec<_> = known.iter().map(|provider| &provider.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), known.len());
    }
}
