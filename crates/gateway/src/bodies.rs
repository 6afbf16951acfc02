//! Request bodies, read whole: up to the limit of one, and of all that are held at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use crate::{
    config::Config,
    decode::Decoded,
    error::Refusal,
    gateway::{Gateway, Worker},
};

/// How many bytes of request bodies are held at the moment, of all threads.
#[derive(Default)]
pub struct Bodies {
    held: AtomicUsize,
}

impl Bodies {
    /// Bytes at the moment.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

/// What a call holds of its client's body; given back when dropped.
pub struct Held {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    fn new(bodies: &Arc<Bodies>) -> Self {
        Self { bodies: Arc::clone(bodies), bytes: 0 }
    }

    /// Takes so many bytes more, if that leaves all calls together within `limit`.
    fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        let before = self.bodies.held.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        before.saturating_add(bytes) <= limit
    }

    /// Gives all of it back before the call's end: its body is not needed any more.
    pub fn release(&mut self) {
        self.bodies.held.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// What a body is held to.
struct Limits {
    /// Bytes of one, and of all that are held at a time.
    one: usize,
    all: usize,
    /// Until it is there.
    time: Duration,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self { one: config.max_body_bytes, all: config.max_bodies_bytes, time: config.timeouts.client_idle() }
    }
}

/// Reads a request's body, its content codings undone, up to the limits. It counts for as long as its [`Held`] lives.
///
/// # Errors
/// 413 for one that is too large, 503 where too many are held, 408 where it does not come, 415 and 400 where it cannot be read.
pub async fn read(worker: &Worker, headers: &HeaderMap, body: Incoming) -> Result<(Bytes, Held), Refusal> {
    let gateway = &worker.gateway;
    let limits = Limits::of(&gateway.settings().config);
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    // What is announced as too large, or finds no room, need not be sent.
    if announced > limits.one {
        return Err(gateway.body_too_large());
    }
    if gateway.bodies.held().saturating_add(announced) > limits.all {
        return Err(full());
    }
    let body = Decoded::new(headers, body).map_err(|error| {
        let message = format!("The request body cannot be read: {error}. Send it as it is, or in one of these.");
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message).code("unsupported_content_encoding")
    })?;
    let mut held = Held::new(&gateway.bodies);
    let Ok(collected) = timeout(limits.time, collect(gateway, &limits, body, announced, &mut held)).await else {
        let message = format!(
            "The request body did not come within {} s (timeouts.client_idle_ms in trunkline.yaml).",
            limits.time.as_secs_f64()
        );
        return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message));
    };
    Ok((collected?, held))
}

fn full() -> Refusal {
    let message =
        "The gateway holds as many bytes of request bodies as it may (limits.max_bodies_bytes in trunkline.yaml). Try again.";
    Refusal::unavailable(message).code("too_many_bodies").retry_after(1)
}

/// The pieces of a body in a row; one alone, which small ones are, is not copied.
async fn collect(
    gateway: &Gateway,
    limits: &Limits,
    mut body: Decoded<Incoming>,
    announced: usize,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| gateway.body_refusal(&*error))?.into_data() else { continue };
        if held.bytes + data.len() > limits.one {
            return Err(gateway.body_too_large());
        }
        if !held.grow(data.len(), limits.all) {
            return Err(full());
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            // The pages behind it are the process's only once they are written.
            all.reserve(announced.max(first.len() + data.len()));
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
