//! Whom a call is made for: a key with its scopes, and those whose limits it is under.

use std::sync::Arc;

use uuid::Uuid;

use crate::{limits::allows, subject::Subject};

/// What a key may be used for; a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Model calls.
    pub const INFERENCE: Self = Self(1);
    /// Model calls of our own runtime, which writes its sessions' logs itself.
    pub const RUNTIME: Self = Self(2);

    /// Paths of providers that name no model: files, batches, settings. All keys of an installation share them.
    pub const PASS_THROUGH: Self = Self(4);

    /// The scopes of these names. The control plane's own are not kept: the gateway relays, and the control plane checks.
    pub fn from_names(names: &[String]) -> Self {
        names.iter().fold(Self(0), |scopes, name| match name.as_str() {
            "inference" => Self(scopes.0 | Self::INFERENCE.0),
            "runtime" => Self(scopes.0 | Self::RUNTIME.0),
            "passthrough" => Self(scopes.0 | Self::PASS_THROUGH.0),
            _ => scopes,
        })
    }

    /// Whether all of `wanted` are there.
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// What is to be looked at for a key that is limited in any way.
#[derive(Debug)]
pub struct Bounds {
    /// The key and its team, as far as they have limits.
    pub subjects: Vec<Arc<Subject>>,
    /// Whether an end user may have limits.
    pub users: bool,
    /// The team was ended: the key opens nothing.
    pub orphan: bool,
}

/// A key as the gateway knows it: the principal of a call.
#[derive(Debug)]
pub struct Key {
    /// Whose it is.
    pub tenant: Uuid,
    /// Its id.
    pub id: Uuid,
    /// SHA-256 of its text.
    pub hash: [u8; 32],
    /// What it may be used for.
    pub scopes: Scopes,
    /// The only agent it may act for.
    pub agent: Option<Uuid>,
    /// The team it belongs to.
    pub team: Option<Uuid>,
    /// The only end user it speaks for.
    pub user: Option<String>,
    /// The only models it may ask for: names, or patterns with one `*`.
    pub models: Option<Vec<String>>,
    /// Whether its calls' bodies are stored, where the settings let any be; none: as the settings say.
    pub stores_bodies: Option<bool>,
    /// When it ends, in seconds since 1970.
    pub expires_at: Option<f64>,
    /// Its limits, its team's and its users'; none: nothing is limited, and nothing looked at.
    pub bounds: Option<Bounds>,
}

impl Key {
    /// Whether it may ask for a model that goes by any of these names.
    pub fn may_ask(&self, names: &[&str]) -> bool {
        self.models.as_ref().is_none_or(|models| names.iter().any(|name| allows(models, name)))
    }
}
