//! The error event of a stream.

use crate::wire::ErrorBody;

pub(in crate::wire) fn frame(_error: &ErrorBody, _out: &mut Vec<u8>) {}
