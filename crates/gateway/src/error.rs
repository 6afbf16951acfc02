//! The one error type of the request path, and its one way into a response.

use std::borrow::Cow;

use http::{HeaderValue, Response, StatusCode, header};

use crate::{
    body::Body,
    wire::{self, ErrorBody, Wire},
};

/// A request that is not carried out: the status, and what the client is told in its own wire.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// The wire's error type, such as `invalid_request_error`.
    pub kind: &'static str,
    /// What was wrong and what to do.
    pub message: Cow<'static, str>,
    /// Which field it is about.
    pub param: Option<String>,
    /// A stable short name, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
    /// As what it is counted.
    pub reason: Reason,
    /// Attempts after the first that were made before it came to this.
    pub retries: u32,
}

/// Why a call is not carried out, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No key, or none that is known.
    Auth,
    /// A key that may not do this.
    Permission,
    /// The request itself.
    Request,
    /// A budget is spent.
    Budget,
    /// A rate is used up.
    Rate,
    /// Too many calls at once.
    Parallel,
    /// The limits cannot be asked for.
    Limits,
    /// The call could not be recorded.
    Spool,
    /// The agent's memory cannot be read.
    Memory,
    /// An idempotency key is in use, or cannot be looked up.
    Idempotency,
    /// All upstreams of the model asked to be left alone.
    Resting,
    /// A provider could not be reached, or did not answer as it should.
    Upstream,
    /// Something else of ours.
    Unavailable,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Auth,
        Self::Permission,
        Self::Request,
        Self::Budget,
        Self::Rate,
        Self::Parallel,
        Self::Limits,
        Self::Spool,
        Self::Memory,
        Self::Idempotency,
        Self::Resting,
        Self::Upstream,
        Self::Unavailable,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::Request => "request",
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::Parallel => "parallel",
            Self::Limits => "limits",
            Self::Spool => "spool",
            Self::Memory => "memory",
            Self::Idempotency => "idempotency",
            Self::Resting => "resting",
            Self::Upstream => "upstream",
            Self::Unavailable => "unavailable",
        }
    }

    /// What a status means where nothing more is said.
    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 => Self::Auth,
            403 => Self::Permission,
            429 => Self::Rate,
            400..=499 | 501 => Self::Request,
            502 | 504 => Self::Upstream,
            _ => Self::Unavailable,
        }
    }
}

impl Refusal {
    /// A refusal with no field, code or time to it.
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
            reason: Reason::of(status),
            retries: 0,
        }
    }

    /// 400.
    pub fn invalid(message: impl Into<Cow<'static, str>>, param: Option<String>) -> Self {
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message) }
    }

    /// 401.
    pub fn unauthenticated(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    /// 403.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 404.
    pub fn not_found(message: impl Into<Cow<'static, str>>, code: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found_error", message).code(code)
    }

    /// 503.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded_error", message)
    }

    /// With a stable short name.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Counted as this.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = reason;
        self
    }

    /// With the time after which to try again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// After so many attempts that followed the first.
    #[must_use]
    pub fn after(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// The parts of the wire's error object.
    pub fn body<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        ErrorBody {
            status: self.status.as_u16(),
            kind: self.kind,
            message: &self.message,
            param: self.param.as_deref(),
            code: self.code,
            request_id,
        }
    }

    /// The whole response, in the client's wire.
    pub fn response(&self, wire: Wire, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::from(wire::error_body(wire, &self.body(request_id))));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
