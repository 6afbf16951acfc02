//! The data plane: bytes in, memory spliced, bytes out.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod context;
pub mod conversation;
pub mod request;
pub mod wire;
