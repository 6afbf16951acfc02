//! The data plane: bytes in, memory spliced, bytes out.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod sse;
pub mod wire;
