//! Stage 5, send: to the first upstream that takes the call. Retries and fallbacks only here, before the client has seen a byte.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{sleep, timeout};

use crate::{
    config::Timeouts,
    error::Refusal,
    providers::{Operation, Outline},
    routing::Upstream,
    wire::Wire,
};

/// Pooled connections to providers and the control plane; one pool a thread.
pub type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The body of a provider's answer, as it comes from the connection.
pub type Received = Incoming;

/// How long an idle connection is kept: shorter than the minute after which common servers close theirs.
const IDLE: Duration = Duration::from_secs(50);
/// How long an upstream is left alone after it failed without saying for how long.
const REST: Duration = Duration::from_secs(2);
/// The longest `Retry-After` that is waited for; a longer one is the client's to wait for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes the pool.
pub fn client(timeouts: &Timeouts) -> Client {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    http.set_connect_timeout(Some(Duration::from_millis(timeouts.connect_ms)));
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_all_versions().wrap_connector(http);
    legacy::Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).build(connector)
}

/// A provider's answer: its head is here, its body to come.
pub struct Answer {
    /// Head and body.
    pub response: Response<Received>,
    /// Who answered.
    pub upstream: Arc<Upstream>,
    /// How long that took, all attempts together.
    pub waited: Duration,
    /// Attempts after the first.
    pub retries: u32,
}

/// `Retry-After` in seconds; a date or garbage is taken as absent here.
fn retry_after(response: &Response<Received>) -> Option<Duration> {
    let text = response.headers().get(http::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn failed(status: StatusCode) -> bool {
    // 529 is Anthropic's "overloaded".
    status == StatusCode::TOO_MANY_REQUESTS || matches!(status.as_u16(), 500 | 502 | 503 | 504 | 529)
}

/// What is sent: how to write the body for an upstream, and what of the client's request goes with it.
pub struct Outgoing<'a, Body: Fn(&Upstream) -> Result<Bytes, Refusal>> {
    /// The client's wire.
    pub wire: Wire,
    /// What is asked.
    pub operation: Operation,
    /// The query of the client's URL.
    pub query: Option<&'a str>,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// Writes the body for an upstream, in its wire and with its name for the model.
    pub body: Body,
}

/// Sends a call to its upstreams in order: those that rest are left for the end, each is tried once, and the last is tried
/// again once where the failure is of the kind that passes.
///
/// # Errors
/// 502 where none could be reached, 504 where one did not answer in time. A provider's own refusal is an answer, not an error.
pub async fn send<Body: Fn(&Upstream) -> Result<Bytes, Refusal>>(
    client: &Client,
    clock: Instant,
    timeouts: &Timeouts,
    upstreams: &[Arc<Upstream>],
    outgoing: &Outgoing<'_, Body>,
) -> Result<Answer, Refusal> {
    let begun = Instant::now();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now = millis(begun.duration_since(clock));
    let (awake, resting): (Vec<_>, Vec<_>) = upstreams.iter().partition(|upstream| upstream.state.awake(now));
    let last = resting.last().or(awake.last()).copied();
    let attempts = awake.iter().chain(&resting).copied().chain(last);
    let count = upstreams.len() + 1;
    let mut refusal = None;
    for (retries, upstream) in (0u32..).zip(attempts) {
        let left = count - 1 - retries as usize;
        let provider = &upstream.provider;
        let same = provider.wire == outgoing.wire;
        let outline = Outline {
            operation: outgoing.operation,
            model: &upstream.model,
            query: outgoing.query.filter(|_| same),
            client: Some(outgoing.headers).filter(|_| same),
        };
        let request = upstream.endpoint.request(&outline, (outgoing.body)(upstream)?)?;
        let rest = |time| upstream.state.rest(millis(clock.elapsed()), millis(time));
        match timeout(timeouts.first_byte(), client.request(request)).await {
            Ok(Ok(response)) => {
                let status = response.status();
                let wait = retry_after(&response);
                if failed(status) {
                    rest(wait.unwrap_or(REST));
                    // The last attempt is the same upstream again: worth it only after a pause that it asked for, or a short one.
                    let pause = if left == 1 { wait.unwrap_or(Duration::from_millis(200)) } else { Duration::ZERO };
                    if left > 0 && pause <= PATIENCE {
                        tracing::info!(provider = provider.name, %status, "an upstream failed; the call goes on elsewhere or again");
                        sleep(pause).await;
                        continue;
                    }
                }
                return Ok(Answer { response, upstream: Arc::clone(upstream), waited: begun.elapsed(), retries });
            }
            Ok(Err(error)) => {
                tracing::warn!(provider = provider.name, %error, "an upstream could not be reached");
                rest(REST);
                let message =
                    format!("The provider '{}' could not be reached. Its base_url is set in trunkline.yaml.", provider.name);
                let unreachable = Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code("upstream_unreachable");
                // Once a request is on its way the model may be at work: sending it again could buy the same tokens twice.
                if !error.is_connect() {
                    return Err(unreachable);
                }
                refusal = Some(unreachable);
            }
            Err(_) => {
                rest(REST);
                let message =
                    format!("The provider '{}' did not answer within {} s.", provider.name, timeouts.first_byte().as_secs());
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "api_error", message).code("upstream_timeout"));
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Refusal::unavailable("No upstream serves this model at the moment.")))
}
