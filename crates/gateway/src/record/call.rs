//! A call's identity.

use std::{
    fmt,
    ops::Deref,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;
use uuid::Uuid;

use crate::{metrics::Route, wire::Wire};

/// One model call through the gateway: its identity, and what is measured of it.
pub struct Call {
    /// Its id, made here.
    pub id: Uuid,
    /// When it came.
    pub begun: Instant,
    /// The same on the wall clock, in microseconds since 1970.
    pub at_us: u64,
    /// The wire that its client speaks.
    pub wire: Wire,
    /// What it came for.
    pub route: Route,
}

impl Call {
    /// A call that begins now.
    pub fn begin(wire: Wire) -> Self {
        Self::of(wire, Route::of(wire))
    }

    /// One that begins now on a route that is not its wire's own.
    pub fn of(wire: Wire, route: Route) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        Self { id: Uuid::now_v7(), begun: Instant::now(), at_us, wire, route }
    }

    /// Its id as clients see it.
    pub fn name(&self) -> CallName {
        CallName::of(self.id)
    }

    /// The id of its response, where the client goes on by that.
    pub fn response_name(&self) -> String {
        format!("resp_{}", self.id.simple())
    }
}

/// A call's id as clients see it: `call_` and 32 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct CallName([u8; 37]);

impl CallName {
    /// Of a call with this id.
    pub fn of(id: Uuid) -> Self {
        let mut text = *b"call_................................";
        id.simple().encode_lower(&mut text[5..]);
        Self(text)
    }

    /// As a header's value.
    pub fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static(""))
    }
}

impl Deref for CallName {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for CallName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_by_its_id() {
        let id = Uuid::now_v7();
        let name = CallName::of(id);
        assert_eq!((name.to_string(), name.header().as_bytes()), (format!("call_{}", id.simple()), name.as_bytes()));
    }
}
