//! The tests of the gateway as a whole, one program: each file is a part of it, and linking happens once.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod apart;
mod codings;
mod connections;
mod conversation;
mod endings;
mod hostile;
mod memory;
mod passthrough;
mod prompt;
mod providers;
mod proxy;
mod reach;
mod redaction;
mod reload;
mod request;
mod routed;
mod routing;
mod shutdown;
mod silence;
mod splice;
mod splice_exact;
mod streaming;
mod support;
mod uploads;
mod usage_told;
mod wire;
mod wire_bedrock;
mod wire_gemini;
mod wire_round_trips;
