//! Takes out of a chunk what the provider tells only because we asked it to: the usage.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use crate::{
    request::{Cursor, Fault, Kind},
    sse::Frame,
};

/// What a frame tells of usage, where a client did not ask for it.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: it is passed on as it is.
    None,
    /// Beside other things: these bytes of it stay behind.
    Within(Range<usize>),
    /// The same, but its data is in several lines, of which this is left.
    Lines(Vec<u8>),
    /// Nothing else: it stays behind.
    Alone,
}

/// Looks for the usage in a frame.
///
/// Where a provider is asked for usage each of its chunks has the field, null in all but one. Some tell it in a chunk of its
/// own, some beside the last words, some in every chunk. All bytes but the field's stay as they are.
pub fn told(frame: &Frame) -> Told {
    let data = &frame.data;
    if memmem::find(data, b"\"usage\"").is_none() {
        return Told::None;
    }
    let Ok(found) = usage(data) else { return Told::None };
    let Some(cut) = found.cut else { return Told::None };
    if found.told && !found.chosen {
        return Told::Alone;
    }
    match memmem::find(&frame.raw, data) {
        Some(start) => Told::Within(start + cut.start..start + cut.end),
        // The data came in several lines, and is one text again only here.
        None => Told::Lines([&data[..cut.start], &data[cut.end..]].concat()),
    }
}

/// The frame as a client is to see it that did not ask for usage; none where it tells nothing else.
pub fn untold(frame: &Frame) -> Option<Bytes> {
    let raw = &frame.raw;
    let mut bytes = BytesMut::with_capacity(raw.len());
    match told(frame) {
        Told::None => return Some(raw.clone()),
        Told::Alone => return None,
        Told::Within(cut) => {
            bytes.extend_from_slice(&raw[..cut.start]);
            bytes.extend_from_slice(&raw[cut.end..]);
        }
        Told::Lines(kept) => {
            for line in kept.split(|byte| *byte == b'\n') {
                bytes.extend_from_slice(b"data: ");
                bytes.extend_from_slice(line);
                bytes.extend_from_slice(b"\n");
            }
            bytes.extend_from_slice(b"\n");
        }
    }
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
