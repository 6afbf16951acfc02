//! Azure `OpenAI`. With an `api_version`, the dated API: the deployment in the path, the version in the query. Without, the
//! v1 API, whose paths are `OpenAI`'s and whose deployment is the model of the body. The dated API has responses since
//! 2025-03-01, with the deployment in the body too.

use http::HeaderName;

use super::{Operation, openai, percent::segment};
use crate::wire::Wire;

/// The resource's address, whichever of its addresses was configured.
pub(super) fn root(base: &str) -> &str {
    let base = base.strip_suffix("/v1").unwrap_or(base);
    base.strip_suffix("/openai").unwrap_or(base)
}

/// Where an operation of a deployment is.
pub(super) fn url(base: &str, wire: Wire, operation: Operation, deployment: &str, version: Option<&str>) -> Option<String> {
    let (root, path) = (root(base), openai::path(wire, operation)?);
    Some(match version {
        None => format!("{root}/openai/v1/{path}"),
        Some(version) if path == "responses" => format!("{root}/openai/{path}?api-version={}", segment(version)),
        Some(version) => {
            format!("{root}/openai/deployments/{}/{path}?api-version={}", segment(deployment), segment(version))
        }
    })
}

/// Whether the API of this version has responses.
pub fn has_responses(version: Option<&str>) -> bool {
    version.is_none_or(|version| version >= "2025-03-01")
}

/// How a key is shown.
pub(super) fn credential(key: &str) -> (HeaderName, String) {
    (HeaderName::from_static("api-key"), key.to_owned())
}
