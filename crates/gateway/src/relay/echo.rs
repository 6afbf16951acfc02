//! The ids of responses that we keep: ours instead of the provider's, in bytes that otherwise pass as they are.

use bytes::Bytes;

use crate::request::{
    Kind, Value,
    json::{Cursor, Fault},
};
use crate::sse::Frame;

/// A whole response with the id `id`.
pub fn renamed(body: &Bytes, id: &str) -> Bytes {
    match member(body, 0, b"id") {
        Some(found) => replaced(body, found, 0, id),
        None => body.clone(),
    }
}

/// The bytes of an event, with the id `id` where it shows the response.
pub fn renamed_event(frame: &Frame, id: &str) -> Bytes {
    let found = member(&frame.data, 0, b"response").and_then(|response| member(&frame.data, response.span.start, b"id"));
    let Some(found) = found else { return frame.raw.clone() };
    // Data over several lines is a copy, of which no place in the event is known: such an event is written anew.
    let offset = (frame.data.as_ptr() as usize).checked_sub(frame.raw.as_ptr() as usize);
    if let Some(offset) = offset.filter(|offset| offset + frame.data.len() <= frame.raw.len()) {
        return replaced(&frame.raw, found, offset, id);
    }
    let data = replaced(&frame.data, found, 0, id);
    let mut event = Vec::with_capacity(data.len() + 64);
    if let Some(name) = &frame.event {
        event.extend_from_slice(b"event: ");
        event.extend_from_slice(name);
        event.push(b'\n');
    }
    for line in data.split(|byte| *byte == b'\n') {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    Bytes::from(event)
}

/// A string member, or an object, of the object that begins at `start`.
fn member(json: &[u8], start: usize, name: &[u8]) -> Option<Value> {
    let mut cursor = Cursor::new(json);
    cursor.skip_to(start);
    if cursor.peek() != Some(b'{') {
        return None;
    }
    let mut found = None;
    let walked: Result<Value, Fault> = cursor.object(|cursor, key| {
        let value = cursor.value()?;
        if key == name && matches!(value.kind, Kind::String | Kind::Object) {
            found = Some(value);
        }
        Ok(())
    });
    walked.ok().and(found)
}

fn replaced(bytes: &Bytes, at: Value, offset: usize, id: &str) -> Bytes {
    let (start, end) = (at.span.start + offset, at.span.end + offset);
    let mut out = Vec::with_capacity(bytes.len() + id.len());
    out.extend_from_slice(&bytes[..start]);
    out.push(b'"');
    out.extend_from_slice(id.as_bytes());
    out.push(b'"');
    out.extend_from_slice(&bytes[end..]);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Parser;

    #[test]
    fn only_the_id_changes() {
        let body = Bytes::from_static(br#" {"output":[{"id":"msg_1"}], "id" : "resp_x" ,"n":1.50}"#);
        assert_eq!(renamed(&body, "resp_y"), &br#" {"output":[{"id":"msg_1"}], "id" : "resp_y" ,"n":1.50}"#[..]);
        let stream = concat!(
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_x\",\"n\":1.0}}\n\n",
            "data: {\"type\":\"response.output_item.added\",\"item\":{\"id\":\"resp_x\"}}\n\n",
            "data: {\"type\":\"response.completed\",\ndata: \"response\":{\"id\":\"resp_x\"}}\n\n: ping\n\n",
        );
        let mut frames = Vec::new();
        Parser::new().push(Bytes::from_static(stream.as_bytes()), &mut frames).unwrap();
        let renamed: Vec<u8> = frames.iter().flat_map(|frame| renamed_event(frame, "resp_y").to_vec()).collect();
        let expected = stream.replace("\"response\":{\"id\":\"resp_x\"", "\"response\":{\"id\":\"resp_y\"");
        assert_eq!(String::from_utf8(renamed).unwrap(), expected);
    }
}
