//! All paths that are not the gateway's own go to the control plane as they came, with the caller's own credentials, and
//! its answers come back as they are, streams included.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{bodies, body::Body, connections::Reach, error::Refusal, gateway::Worker};

/// How long a read waits for turns that this gateway has recorded and Postgres does not have yet.
const SETTLE: Duration = Duration::from_secs(2);

/// Headers of one connection, not of the request (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The headers that `Connection` names: of this connection too.
pub fn named_in_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

/// Takes out what is of one connection only.
pub fn strip(headers: &mut HeaderMap) {
    let named = named_in_connection(headers);
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
}

/// Relays a request to the control plane.
///
/// # Errors
/// 413 for a body over the limit, 502 where the control plane cannot be reached.
pub async fn relay(worker: &Worker, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let gateway = &worker.gateway;
    // One's own turns are there to be read: the spool is a few milliseconds ahead of Postgres.
    if gateway.spool.pending() > 0 && !gateway.spool.settled(SETTLE).await {
        tracing::warn!("a read goes on without the newest turns: Postgres is behind");
    }
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let changes_memory = !head.method.is_safe() && (path.contains("/memor") || path.starts_with("/mcp"));
    head.uri = format!("{}{path}", gateway.settings().config.control_url)
        .parse::<Uri>()
        .map_err(|_| Refusal::invalid("The URL cannot be passed on.", None))?;
    strip(&mut head.headers);
    head.headers.remove(header::HOST);
    head.version = http::Version::HTTP_11;
    let (body, _room) = bodies::read(worker, &head.headers, body).await?;
    // Undone in reading it.
    head.headers.remove(header::CONTENT_ENCODING);
    head.headers.remove(header::CONTENT_LENGTH);
    let request = Request::from_parts(head, Full::new(body));
    let answer = worker.client.request(Reach::Configured, request).await;
    if changes_memory {
        // The next call may come before Postgres has told of the change.
        gateway.memories.forget_all();
    }
    match answer {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            strip(&mut head.headers);
            head.version = http::Version::HTTP_11;
            Ok(Response::from_parts(head, Body::Received(body)))
        }
        Err(error) => {
            tracing::warn!(%error, "the control plane could not be reached");
            let message = "The control plane cannot be reached at the moment; model calls go on. Try again.";
            Err(Refusal::new(StatusCode::BAD_GATEWAY, "api_error", message).code("control_unreachable").retry_after(1))
        }
    }
}
