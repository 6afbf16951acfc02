//! The settings of what is stored of calls beside their usage.

use serde::Deserialize;

/// Whether the bodies of calls are stored.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// Of which calls.
    pub bodies: StoredBodies,
    /// How much of each body, in bytes.
    pub max_bytes: usize,
    /// Regular expressions; what they find is not stored.
    #[serde(default)]
    pub redact: Vec<String>,
    /// For how long, in days.
    pub keep_days: u32,
}

/// The calls whose bodies are stored. A client may always say that its own are not to be.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredBodies {
    /// None, whatever a client asks for.
    None,
    /// Those whose client saw an error, or went away.
    Errors,
    /// Those whose client asks for it.
    Asked,
    /// All.
    All,
}
