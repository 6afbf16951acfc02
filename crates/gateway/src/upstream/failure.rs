//! What can go wrong at an upstream, and what follows from it.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::wire::{Cause, cause};

/// What went wrong at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made: the request never left.
    Connect,
    /// No answer in time, or the connection broke with the request in hand: the model may be at work.
    Timeout,
    /// It said 429.
    RateLimit,
    /// It said that it failed.
    Server,
    /// It refused our key, or what stands behind it is used up.
    Auth,
    /// The request is longer than the model's context.
    ContextWindow,
    /// Its filter refused the content.
    ContentPolicy,
    /// It refused the request for another reason, or what it said is no answer to a model call.
    BadRequest,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Timeout,
        Self::RateLimit,
        Self::Server,
        Self::Auth,
        Self::ContextWindow,
        Self::ContentPolicy,
        Self::BadRequest,
    ];

    /// Its name, as metrics and settings have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::RateLimit => "rate_limit",
            Self::Server => "server",
            Self::Auth => "auth",
            Self::ContextWindow => "context_window",
            Self::ContentPolicy => "content_policy",
            Self::BadRequest => "bad_request",
        }
    }

    /// What a provider's answer other than 200 means; `body` as far as it was read.
    pub fn of(status: StatusCode, body: &[u8]) -> Self {
        match status.as_u16() {
            429 => Self::RateLimit,
            408 => Self::Timeout,
            // 501 and 505 are about the request.
            501 | 505 => Self::BadRequest,
            500.. => Self::Server,
            400..=499 => match (cause(body), status.as_u16()) {
                (Cause::ContextWindow, _) => Self::ContextWindow,
                (Cause::ContentPolicy, _) => Self::ContentPolicy,
                (Cause::Other, 401..=403) => Self::Auth,
                (Cause::Other, _) => Self::BadRequest,
            },
            _ => Self::BadRequest,
        }
    }

    /// Whether it tells of the upstream, not of the request.
    pub fn is_upstreams(self) -> bool {
        matches!(self, Self::Connect | Self::Timeout | Self::RateLimit | Self::Server | Self::Auth)
    }

    /// Whether the upstream is left alone at once, without regard to how often it failed before.
    pub fn rests_at_once(self) -> bool {
        matches!(self, Self::RateLimit | Self::Auth)
    }
}

/// The longest time that a `Retry-After` is taken at its word.
const LONGEST: Duration = Duration::from_secs(3_600);

/// `Retry-After`: seconds, with a fraction or not, or an HTTP date, at most an hour; anything else is taken as absent.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let given = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(given.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_a_date_or_nothing() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        for (text, expected) in [
            ("3", Some(3_000)),
            (" 0 ", Some(0)),
            ("1.5", Some(1_500)),
            ("1e99", None),
            ("999999999", Some(3_600_000)),
            ("Wed, 21 Oct 2015 07:28:07 GMT", Some(7_000)),
            ("Wednesday, 21-Oct-15 07:28:07 GMT", Some(7_000)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("Wed, 21 Oct 2099 07:27:00 GMT", Some(3_600_000)),
            ("-5", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            let read = retry_after(&headers, now).map(|wait| wait.as_millis());
            assert_eq!(read, expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn statuses_have_their_meaning_and_words_go_before_them() {
        let of = |status: u16, body: &str| Failure::of(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        let long = r#"{"error":{"message":"prompt is too long"}}"#;
        let flagged = r#"{"error":{"message":"your input was flagged"}}"#;
        for (status, body, expected) in [
            (429, "", Failure::RateLimit),
            (429, long, Failure::RateLimit),
            (408, "", Failure::Timeout),
            (500, "", Failure::Server),
            (529, "", Failure::Server),
            (501, "", Failure::BadRequest),
            (401, "", Failure::Auth),
            (402, "", Failure::Auth),
            (403, "", Failure::Auth),
            (403, flagged, Failure::ContentPolicy),
            (400, long, Failure::ContextWindow),
            (413, long, Failure::ContextWindow),
            (400, "", Failure::BadRequest),
            (404, "", Failure::BadRequest),
            (307, "", Failure::BadRequest),
        ] {
            assert_eq!(of(status, body), expected, "{status} {body}");
        }
    }
}
