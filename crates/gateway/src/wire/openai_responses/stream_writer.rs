//! Writes a stream for the client.

use crate::wire::Event;

/// Turns our events into the client's.
#[derive(Debug, Default)]
pub struct StreamWriter {}

impl StreamWriter {
    pub(in crate::wire) fn new(_created: u64) -> Self {
        Self {}
    }

    #[allow(clippy::unused_self, reason = "not written yet")]
    pub(in crate::wire) fn write(&mut self, _event: &Event, _out: &mut Vec<u8>) {}
}
