//! Stage 5, send: to the first upstream that takes the call.

mod failure;
mod send;

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

pub use self::{
    failure::Failure,
    send::{in_order, send, send_to},
};
pub use crate::connections::{Connections as Client, Received};
use crate::{
    connections::ConnectionError,
    error::Refusal,
    providers::Operation,
    routing::{Busy, Upstream},
    wire::Wire,
};

/// What a client is told of a provider that there is no answer from; the log says why.
pub fn unreachable(upstream: &Upstream, error: &ConnectionError) -> Refusal {
    let provider = &upstream.provider.name;
    tracing::warn!(provider, %error, "a provider could not be reached");
    let (message, code) = if error.is_forbidden() {
        let message = format!(
            "The provider '{provider}' was not asked: its host's name leads to an address inside the gateway's own network. Where that \
             is meant, write its base_url in trunkline.yaml."
        );
        (message, "upstream_forbidden")
    } else {
        let message = format!("The provider '{provider}' could not be reached. Its base_url is set in trunkline.yaml.");
        (message, "upstream_unreachable")
    };
    Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code(code)
}

/// A provider's answer to a model call: its head is here and says 200, its body is to come.
pub struct Answer {
    /// Head and body.
    pub response: Response<Received>,
    /// Who answered.
    pub upstream: Arc<Upstream>,
    /// How long that took, all attempts together.
    pub waited: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// Where one of several was chosen, counts it as under way there for as long as it is relayed.
    pub busy: Option<Busy>,
}

/// A call that no upstream answered.
pub struct Failed {
    /// What went wrong.
    pub failure: Failure,
    /// What the client is to be told.
    pub words: Words,
    /// How long that took, all attempts together.
    pub waited: Duration,
    /// Attempts after the first.
    pub retries: u32,
}

/// Whose words the client is to be told.
pub enum Words {
    /// The provider's own: its head, and its body as far as it was read.
    Provider(Arc<Upstream>, Box<http::response::Parts>, Bytes),
    /// Ours.
    Ours(Box<Refusal>),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { failure: Failure::BadRequest, words: Words::Ours(Box::new(refusal)), waited: Duration::ZERO, retries: 0 }
    }
}

/// A body for an upstream.
pub enum Written<'a> {
    /// At hand, or why it cannot be written.
    Now(Result<Bytes, Refusal>),
    /// Being written elsewhere, as long ones are.
    Later(Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send + 'a>>),
}

impl Written<'_> {
    /// When it is there.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn bytes(self) -> Result<Bytes, Refusal> {
        match self {
            Self::Now(written) => written,
            Self::Later(written) => written.await,
        }
    }
}

impl From<Bytes> for Written<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Now(Ok(bytes))
    }
}

/// What is sent: how to write the body for an upstream, and what of the client's request goes with it.
pub struct Outgoing<'a, Body: Fn(&Arc<Upstream>) -> Written<'a>> {
    /// The client's wire.
    pub wire: Wire,
    /// What is asked.
    pub operation: Operation,
    /// The query of the client's URL.
    pub query: Option<&'a str>,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// What the body is, where it is no JSON.
    pub content_type: Option<&'a HeaderValue>,
    /// Writes the body for an upstream, in its wire and with its name for the model.
    pub body: Body,
}
