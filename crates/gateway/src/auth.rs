//! Stage 1, authenticate: which key is it, and whom does it speak for. From the snapshot, never a query.

use std::sync::Arc;

use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    error::Refusal,
    principal::{Key, Scopes},
    snapshot::Snapshot,
};

/// The key text that a request carries, from whichever of the four headers its client uses.
pub fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let text = value.to_str().ok()?;
        let (scheme, rest) = text.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim());
    }
    ["x-api-key", "api-key", "x-goog-api-key"].iter().find_map(|name| headers.get(*name)).and_then(|value| value.to_str().ok())
}

/// A key; none where the snapshot does not hold it.
pub type Found = Result<Option<Arc<Key>>, Refusal>;

/// Finds the key of a model call, as [`known`] does.
///
/// # Errors
/// 401 without a key or with one past its end, 403 for a key that may not make model calls.
pub fn authenticate(snapshot: &Snapshot, headers: &HeaderMap, now: f64) -> Found {
    let key = known(snapshot, headers, now)?;
    if key.as_ref().is_some_and(|key| !key.scopes.has(Scopes::INFERENCE)) {
        return Err(Refusal::forbidden("This API key may not make model calls: it lacks the scope 'inference'."));
    }
    Ok(key)
}

/// Finds the key of a request, whatever it is for; `None` where the snapshot does not hold it (it may be newer than the snapshot).
///
/// # Errors
/// 401 without a key or with one past its end.
pub fn known(snapshot: &Snapshot, headers: &HeaderMap, now: f64) -> Found {
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
    Ok(Some(Arc::clone(key)))
}

/// The refusal for a key that is not in the snapshot: nobody knows it, or nothing has been read yet.
pub fn unknown_key(snapshot: &Snapshot) -> Refusal {
    if snapshot.revision == 0 {
        return Refusal::unavailable("The gateway has not read its keys from Postgres yet. Try again.").retry_after(1);
    }
    Refusal::unauthenticated(
        "This API key is not known here: it is mistyped, revoked, or a provider's own key. Use a Trunkline key ('trunkline keys create').",
    )
}
