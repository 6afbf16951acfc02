//! Takes out of a chunk what the provider tells only because we asked it to: the usage.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use crate::{
    request::{Cursor, Fault, Kind},
    sse::Frame,
};

/// The frame as a client is to see it that did not ask for usage; none where it tells nothing else.
///
/// Where a provider is asked for usage each of its chunks has the field, null in all but one. Some tell it in a chunk of its
/// own, some beside the last words, some in every chunk. All bytes but the field's stay as they are.
pub fn untold(frame: &Frame) -> Option<Bytes> {
    let data = &frame.data;
    if memmem::find(data, b"\"usage\"").is_none() {
        return Some(frame.raw.clone());
    }
    let Ok(found) = usage(data) else { return Some(frame.raw.clone()) };
    let Some(cut) = found.cut else { return Some(frame.raw.clone()) };
    if found.told && !found.chosen {
        return None;
    }
    let raw = &frame.raw;
    let mut bytes = BytesMut::with_capacity(raw.len());
    if let Some(start) = memmem::find(raw, data) {
        bytes.extend_from_slice(&raw[..start + cut.start]);
        bytes.extend_from_slice(&raw[start + cut.end..]);
        return Some(bytes.freeze());
    }
    // The data came in several lines, and is one text again only here.
    let kept = [&data[..cut.start], &data[cut.end..]].concat();
    for line in kept.split(|byte| *byte == b'\n') {
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\n");
    }
    bytes.extend_from_slice(b"\n");
    Some(bytes.freeze())
}

#[derive(Default)]
struct Found {
    /// The field with one of its commas.
    cut: Option<Range<usize>>,
    /// It is not null.
    told: bool,
    /// The chunk has a choice.
    chosen: bool,
}

fn usage(data: &[u8]) -> Result<Found, Fault> {
    let mut found = Found::default();
    let mut cursor = Cursor::new(data);
    // Where the member before ends.
    let mut before = None;
    cursor.object::<Fault>(|cursor, key| {
        let value = cursor.value()?;
        match key {
            b"usage" => {
                found.told |= value.kind != Kind::Null;
                found.cut = Some(match before {
                    Some(before) => before..value.span.end,
                    None => after_brace(data)..after_comma(data, value.span.end),
                });
            }
            b"choices" => found.chosen = value.kind == Kind::Array && !value.is_empty(data),
            _ => {}
        }
        before = Some(value.span.end);
        Ok(())
    })?;
    cursor.end()?;
    Ok(found)
}

fn after_brace(data: &[u8]) -> usize {
    memchr::memchr(b'{', data).map_or(0, |at| at + 1)
}

fn after_comma(data: &[u8], from: usize) -> usize {
    let rest = &data[from..];
    let blank = rest.len() - rest.trim_ascii_start().len();
    from + blank + usize::from(rest.get(blank) == Some(&b','))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Parser;

    fn seen(raw: &str) -> Option<String> {
        let mut frames = Vec::new();
        Parser::new().push(Bytes::copy_from_slice(raw.as_bytes()), &mut frames).unwrap();
        untold(&frames[0]).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn only_the_field_goes() {
        let same = |raw: &str| assert_eq!(seen(raw).as_deref(), Some(raw));
        same("data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"usage\\\" b\"}}]}\n\n");
        same("data: {\"choices\":[{\"usage\": {\"x\": 1}}], \"x_groq\": {\"usage\": 1.0}}\n\n");
        same("data: \"usage\"\n\n");
        same("data: {\"usage\": broken\n\n");
        let cut = |raw: &str, kept: &str| assert_eq!(seen(raw).as_deref(), Some(kept));
        cut(
            "event: x\r\ndata:{\"a\": 1 , \"usage\":null, \"choices\": [1.0]}\r\n\r\n",
            "event: x\r\ndata:{\"a\": 1, \"choices\": [1.0]}\r\n\r\n",
        );
        cut("data: {\"usage\" : {\"n\": 1} , \"choices\":[{}]}\n\n", "data: { \"choices\":[{}]}\n\n");
        cut("data: {\"choices\":[{}], \"usage\":{}}\n\n", "data: {\"choices\":[{}]}\n\n");
        cut("data: {\"usage\":null}\n\n", "data: {}\n\n");
        cut(
            "data: {\"choices\":[{}],\ndata: \"usage\":{\"n\":\ndata: 1},\ndata: \"b\":2}\n\n",
            "data: {\"choices\":[{}],\ndata: \"b\":2}\n\n",
        );
        assert_eq!(seen("data: {\"choices\":[],\"usage\":{\"n\":1}}\n\n"), None);
        assert_eq!(seen("data: {\"usage\":{\"n\":1}}\n\n"), None);
    }
}
