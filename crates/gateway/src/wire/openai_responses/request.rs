//! A request.

use crate::wire::WireError;
use crate::wire::request::{Param, Request};

/// What this wire has no words for.
pub(in crate::wire) const UNSAYABLE: &[Param] = &[];

pub(in crate::wire) fn parse(_body: &[u8]) -> Result<Request, WireError> {
    Err(WireError::new("not written yet"))
}

pub(in crate::wire) fn write(_request: Request) -> Result<Vec<u8>, WireError> {
    Err(WireError::new("not written yet"))
}
