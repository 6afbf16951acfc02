//! Writing JSON that cannot fail: our own plain structs, whose keys are strings.

use serde::Serialize;
use serde_json::value::RawValue;

/// `value` as JSON text.
pub(super) fn bytes(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    append(&mut out, value);
    out
}

/// `value` as JSON text at the end of `out`.
pub(super) fn append(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).unwrap_or_else(|error| unreachable!("plain data always serialises: {error}"));
}

/// `value` as JSON that another value can hold without parsing it again.
pub(super) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|error| unreachable!("plain data always serialises: {error}"))
}

/// One server-sent event at the end of `out`.
pub(super) fn frame(out: &mut Vec<u8>, event: Option<&str>, data: &impl Serialize) {
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    let start = out.len();
    append(out, data);
    // JSON that a model laid out over several lines stays one: outside of strings a line's end is but white space.
    let written = &mut out[start..];
    if memchr::memchr2(b'\n', b'\r', written).is_some() {
        written.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
    out.extend_from_slice(b"\n\n");
}
