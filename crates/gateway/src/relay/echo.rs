//! What a response repeats of its request, in bytes that otherwise pass as they are: the id that we keep it by instead of
//! the provider's, and the client's own instructions and tools instead of those that we added.

use std::borrow::Cow;

use bytes::Bytes;

use super::member::members;
use crate::{
    request::{
        Span,
        json::{Cursor, Fault},
    },
    sse::Frame,
};

/// The members of a response that are told as the client knows them: names, and values as JSON.
pub struct Echo<'a>([(&'static [u8], Cow<'a, [u8]>); 3]);

impl<'a> Echo<'a> {
    /// Of the client's `request`; `id` is the response's.
    pub fn new(id: &str, request: &'a [u8]) -> Self {
        let given = members(request);
        let own = |name: &[u8], none: &'static [u8]| {
            let found = given.iter().find(|(known, _)| known == name);
            one_line(found.map_or(none, |(_, value)| value.span.of(request)))
        };
        let id = Cow::Owned(format!("\"{id}\"").into_bytes());
        Self([(b"id", id), (b"instructions", own(b"instructions", b"null")), (b"tools", own(b"tools", b"[]"))])
    }

    /// The same, for longer than the request is held.
    pub fn into_owned(self) -> Echo<'static> {
        Echo(self.0.map(|(name, value)| (name, Cow::Owned(value.into_owned()))))
    }

    /// A whole response.
    pub fn whole(&self, body: &Bytes) -> Bytes {
        match self.edits(body, 0) {
            edits if edits.is_empty() => body.clone(),
            edits => replaced(body, &edits, 0),
        }
    }

    /// The bytes of an event, which may show the response.
    pub fn event(&self, frame: &Frame) -> Bytes {
        let mut response = None;
        let _ = each_member(&frame.data, 0, |name, span| {
            if name == b"response" {
                response = Some(span.start);
            }
        });
        let edits = response.map(|start| self.edits(&frame.data, start)).unwrap_or_default();
        if edits.is_empty() {
            return frame.raw.clone();
        }
        // Data over several lines is a copy, of which no place in the event is known: such an event is written anew.
        let offset = (frame.data.as_ptr() as usize).checked_sub(frame.raw.as_ptr() as usize);
        if let Some(offset) = offset.filter(|offset| offset + frame.data.len() <= frame.raw.len()) {
            return replaced(&frame.raw, &edits, offset);
        }
        let data = replaced(&frame.data, &edits, 0);
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

    /// What changes in the response that begins at `start`, in its order.
    fn edits(&self, json: &[u8], start: usize) -> Vec<(Span, &[u8])> {
        let mut edits = Vec::new();
        let walked = each_member(json, start, |name, span| {
            edits.extend(self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| (span, value.as_ref())));
        });
        if walked.is_err() { Vec::new() } else { edits }
    }
}

/// JSON as it may stand in an event: a line's end in it is space between its signs.
fn one_line(json: &[u8]) -> Cow<'_, [u8]> {
    if !json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Cow::Borrowed(json);
    }
    Cow::Owned(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect())
}

/// Walks over the members of the object that begins at `start`, if one does.
fn each_member(json: &[u8], start: usize, mut each: impl FnMut(&[u8], Span)) -> Result<(), Fault> {
    let mut cursor = Cursor::new(json);
    cursor.skip_to(start);
    if cursor.peek() == Some(b'{') {
        cursor.object(|cursor, name| {
            each(name, cursor.value()?.span);
            Ok::<_, Fault>(())
        })?;
    }
    Ok(())
}

fn replaced(bytes: &Bytes, edits: &[(Span, &[u8])], offset: usize) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + edits.iter().map(|(_, text)| text.len()).sum::<usize>());
    let mut at = 0;
    for (span, text) in edits {
        out.extend_from_slice(&bytes[at..span.start + offset]);
        out.extend_from_slice(text);
        at = span.end + offset;
    }
    out.extend_from_slice(&bytes[at..]);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Parser;

    const REQUEST: &[u8] = b"{\"tools\" : [{\"name\":\n\"theirs\"}],\"input\":\"x\"}";

    #[test]
    fn only_what_is_ours_changes() {
        let echo = Echo::new("resp_y", REQUEST);
        let body = Bytes::from_static(
            br#" {"tools":[{"name":"ours"}],"output":[{"id":"msg_1"}], "id" : "resp_x" ,"instructions":"secret","n":1.50}"#,
        );
        let told = br#" {"tools":[{"name": "theirs"}],"output":[{"id":"msg_1"}], "id" : "resp_y" ,"instructions":null,"n":1.50}"#;
        assert_eq!(echo.whole(&body), &told[..]);
        let stream = concat!(
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_x\",\"tools\":[1],\"n\":1.0}}\n\n",
            "data: {\"type\":\"response.output_item.added\",\"item\":{\"id\":\"resp_x\"}}\n\n",
            "data: {\"type\":\"response.completed\",\ndata: \"response\":{\"id\":\"resp_x\",\"instructions\":\"secret\"}}\n\n: ping\n\n",
        );
        let mut frames = Vec::new();
        Parser::new().push(Bytes::from_static(stream.as_bytes()), &mut frames).unwrap();
        let told: Vec<u8> = frames.iter().flat_map(|frame| echo.event(frame).to_vec()).collect();
        let expected = stream
            .replace("\"response\":{\"id\":\"resp_x\"", "\"response\":{\"id\":\"resp_y\"")
            .replace("\"tools\":[1]", "\"tools\":[{\"name\": \"theirs\"}]")
            .replace("\"secret\"", "null");
        assert_eq!(String::from_utf8(told).unwrap(), expected);
    }

    #[test]
    fn what_is_no_response_stays() {
        let echo = Echo::new("resp_y", b"{}");
        for body in ["", "[1]", "{\"id\":", r#"{"odd":1}"#] {
            assert_eq!(echo.whole(&Bytes::from_static(body.as_bytes())), body);
        }
    }
}
