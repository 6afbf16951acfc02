//! Logs as lines of JSON on standard error. No secret is ever logged: keys stand in types that are not printed.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging; `RUST_LOG` says how much (`info`, or `info,trunkline_gateway=debug`), `info` where it says nothing.
/// A second start changes nothing.
pub fn start() {
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_filter(filter);
    let _ = tracing_subscriber::registry().with(lines).try_init();
}
