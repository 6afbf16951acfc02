//! Reads a provider's stream.

use crate::sse::Frame;
use crate::wire::{Event, WireError};

/// Turns the provider's events into ours.
#[derive(Debug, Default)]
pub struct StreamReader {}

impl StreamReader {
    #[allow(clippy::unused_self, reason = "not written yet")]
    pub(in crate::wire) fn read(&mut self, _frame: &Frame) -> Result<Vec<Event>, WireError> {
        Err(WireError::new("not written yet"))
    }
}
