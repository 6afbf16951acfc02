//! Token counts.

use crate::wire::Usage;

/// The usage of a whole reply, all else passed over.
pub(in crate::wire) fn only_usage(_body: &[u8]) -> Option<Usage> {
    None
}
