//! The data plane: bytes in, memory spliced, bytes out.

pub mod wire;
