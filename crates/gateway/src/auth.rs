//! Stage 1, authenticate: which key is it, and whom does it speak for. From the snapshot, never a query.

use std::sync::Arc;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::{admit::Limits, error::Refusal, snapshot::Snapshot};

/// What a key may be used for; a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Model calls.
    pub const INFERENCE: Self = Self(1);
    /// Model calls of our own runtime, which writes its sessions' logs itself.
    pub const RUNTIME: Self = Self(2);

    /// The scopes of these names. The control plane's own are not kept: the gateway relays, and the control plane checks.
    pub fn from_names(names: &[String]) -> Self {
        names.iter().fold(Self(0), |scopes, name| match name.as_str() {
            "inference" => Self(scopes.0 | Self::INFERENCE.0),
            "runtime" => Self(scopes.0 | Self::RUNTIME.0),
            _ => scopes,
        })
    }

    /// Whether all of `wanted` are there.
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
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
    /// The only models it may ask for.
    pub models: Option<Vec<String>>,
    /// When it ends, in seconds since 1970.
    pub expires_at: Option<f64>,
    /// Its budget and rate, shared by all snapshots that know the key.
    pub limits: Arc<Limits>,
}

/// The key text that a request carries, from whichever of the four headers its client uses.
pub fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let text = value.to_str().ok()?;
        let (scheme, rest) = text.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim());
    }
    ["x-api-key", "api-key", "x-goog-api-key"].iter().find_map(|name| headers.get(*name)).and_then(|value| value.to_str().ok())
}

/// Finds the key of a request; `None` where the snapshot does not hold it (it may be newer than the snapshot).
///
/// # Errors
/// 401 without a key or with one past its end, 403 for a key that may not make model calls.
pub fn authenticate(snapshot: &Snapshot, headers: &HeaderMap, now: f64) -> Result<Option<Arc<Key>>, Refusal> {
    let Some(text) = credential(headers).filter(|text| !text.is_empty()) else {
        return Err(Refusal::unauthenticated(
            "No API key was given. Send your Trunkline key as 'Authorization: Bearer sk-tl-…' or 'x-api-key: sk-tl-…'.",
        ));
    };
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let Some(key) = snapshot.key(&hash).filter(|key| bool::from(key.hash.ct_eq(&hash))) else {
        return Ok(None);
    };
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(Refusal::unauthenticated("This API key has expired. Make a new one with 'trunkline keys create'."));
    }
    if !key.scopes.has(Scopes::INFERENCE) {
        return Err(Refusal::forbidden("This API key may not make model calls: it lacks the scope 'inference'."));
    }
    Ok(Some(Arc::clone(key)))
}

/// The refusal for a key that nobody knows.
pub fn unknown_key() -> Refusal {
    Refusal::unauthenticated(
        "This API key is not known here: it is mistyped, revoked, or a provider's own key. Use a Trunkline key ('trunkline keys create').",
    )
}
