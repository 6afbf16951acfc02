//! Logs as lines of JSON on standard error. No secret is ever logged: keys stand in types that are not printed.

use tracing_subscriber::EnvFilter;

/// Starts logging; `RUST_LOG` says how much, `info` where it says nothing. A second start changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
