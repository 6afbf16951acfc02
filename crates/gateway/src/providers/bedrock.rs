//! Amazon Bedrock's runtime: Converse, and beside it `OpenAI`'s wire under `/openai/v1`.

use super::{Operation, openai, percent::segment, sigv4::Signer};
use crate::{config::ProviderConfig, wire::Wire};

/// Bedrock's name in the scope of a signature.
const SERVICE: &str = "bedrock";

/// Where an operation of a model is. The model's id is one segment of the path, an ARN's slashes and colons encoded.
pub(super) fn url(base: &str, wire: Wire, operation: Operation, model: &str) -> Option<String> {
    if wire == Wire::OpenaiChat && matches!(operation, Operation::Chat { .. }) {
        return openai::path(wire, operation).map(|path| format!("{base}/openai/v1/{path}"));
    }
    let verb = match operation {
        Operation::Chat { streamed: false } => "converse",
        Operation::Chat { streamed: true } => "converse-stream",
        Operation::Openai(_) | Operation::CountTokens => return None,
    };
    Some(format!("{base}/model/{}/{verb}", segment(model)))
}

/// What signs requests; none where a bearer token is configured instead.
pub(super) fn signer(given: &ProviderConfig) -> Result<Option<Signer>, String> {
    match (&given.api_key, &given.aws, &given.region) {
        (Some(_), None, _) => Ok(None),
        (None, Some(credentials), Some(region)) => Ok(Some(Signer::new(credentials.clone(), region, SERVICE)?)),
        (None, Some(_), None) => Err(format!("provider '{}': region is missing", given.name)),
        _ => Err(format!("provider '{}': give it either api_key or access keys", given.name)),
    }
}
