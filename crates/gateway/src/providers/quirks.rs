//! Where hosts of `OpenAI`'s chat wire depart from it, and what is changed in a request so that they take it. Only for a host
//! that has such a quirk: all others get the client's bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::request::{
    Span,
    json::{Cursor, Fault},
    text,
};

/// One departure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quirk {
    /// Only the older `max_tokens` is known: `max_completion_tokens` is sent under that name.
    MaxTokens,
    /// `stream_options` is refused: it is left out, usage comes without being asked for.
    NoStreamOptions,
    /// The role `developer` is refused: it is sent as `system`.
    NoDeveloperRole,
}

/// A host's departures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    max_tokens: bool,
    no_stream_options: bool,
    no_developer_role: bool,
}

impl From<&[Quirk]> for Quirks {
    fn from(list: &[Quirk]) -> Self {
        Self {
            max_tokens: list.contains(&Quirk::MaxTokens),
            no_stream_options: list.contains(&Quirk::NoStreamOptions),
            no_developer_role: list.contains(&Quirk::NoDeveloperRole),
        }
    }
}

/// `text` takes the place of `span`.
struct Edit {
    span: Span,
    text: &'static str,
}

impl Quirks {
    /// Whether usage at the end of a stream may be asked for.
    pub fn stream_options(self) -> bool {
        !self.no_stream_options
    }

    /// A chat request as this host takes it; the same bytes where there is nothing to change.
    pub fn applied(self, body: Bytes) -> Bytes {
        if !(self.max_tokens || self.no_stream_options || self.no_developer_role) {
            return body;
        }
        // What is no JSON was refused before, or is the client's to be told of by the host.
        match self.edits(&body) {
            Ok(edits) if !edits.is_empty() => rewritten(&body, &edits),
            _ => body,
        }
    }

    fn edits(self, body: &[u8]) -> Result<Vec<Edit>, Fault> {
        let mut edits = Vec::new();
        let mut cursor = Cursor::new(body);
        if cursor.peek() != Some(b'{') {
            return Ok(edits);
        }
        // Index after the last member, and whether there is one: what is left out takes its comma along.
        let (mut end, mut first) = (cursor.position() + 1, true);
        cursor.object(|cursor, key| {
            let start = end + body[end..].iter().position(|byte| *byte == b'"').unwrap_or_default();
            if key == b"messages" && self.no_developer_role && cursor.peek() == Some(b'[') {
                developers(cursor, &mut edits)?;
            } else {
                let key_end = cursor.position();
                let value = cursor.value()?;
                if key == b"stream_options" && self.no_stream_options {
                    let span = if first {
                        Span { start, end: after_comma(body, value.span.end) }
                    } else {
                        Span { start: end, end: value.span.end }
                    };
                    edits.push(Edit { span, text: "" });
                } else if key == b"max_completion_tokens" && self.max_tokens {
                    let quote = body[start..key_end].iter().rposition(|byte| *byte == b'"').unwrap_or_default();
                    edits.push(Edit { span: Span { start, end: start + quote + 1 }, text: "\"max_tokens\"" });
                }
            }
            (end, first) = (cursor.position(), false);
            Ok::<_, Fault>(())
        })?;
        Ok(edits)
    }
}

/// The roles `developer` in an array of messages.
fn developers(cursor: &mut Cursor, edits: &mut Vec<Edit>) -> Result<(), Fault> {
    cursor.array(|cursor, _| {
        if cursor.peek() != Some(b'{') {
            cursor.value()?;
            return Ok(());
        }
        cursor.object(|cursor, key| {
            let value = cursor.value()?;
            if key == b"role" && text::decode(cursor.text(value)) == "developer" {
                edits.push(Edit { span: value.span, text: "\"system\"" });
            }
            Ok::<_, Fault>(())
        })?;
        Ok::<_, Fault>(())
    })?;
    Ok(())
}

/// Index after the comma that follows, or `at` where none does.
fn after_comma(body: &[u8], at: usize) -> usize {
    let space = body[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    if body.get(at + space) == Some(&b',') { at + space + 1 } else { at }
}

fn rewritten(body: &Bytes, edits: &[Edit]) -> Bytes {
    let mut out = Vec::with_capacity(body.len() + 16);
    let mut at = 0;
    for edit in edits {
        out.extend_from_slice(&body[at..edit.span.start]);
        out.extend_from_slice(edit.text.as_bytes());
        at = edit.span.end;
    }
    out.extend_from_slice(&body[at..]);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(quirks: &[Quirk], body: &str) -> String {
        let bytes = Quirks::from(quirks).applied(Bytes::copy_from_slice(body.as_bytes()));
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    const ALL: [Quirk; 3] = [Quirk::MaxTokens, Quirk::NoStreamOptions, Quirk::NoDeveloperRole];

    #[test]
    fn only_what_the_host_refuses_changes() {
        let body = r#"{ "messages" : [{"role":"developer","content":"max_completion_tokens"},{"content":"developer","role":"user"}] , "max_completion\u005ftokens" : 1.0e1,"x":{"stream_options":1} , "stream_options" : {"include_usage":true}, "y":null }"#;
        let expected = r#"{ "messages" : [{"role":"system","content":"max_completion_tokens"},{"content":"developer","role":"user"}] , "max_tokens" : 1.0e1,"x":{"stream_options":1}, "y":null }"#;
        assert_eq!(applied(&ALL, body), expected);
        assert_eq!(applied(&[], body), body);
        assert_eq!(applied(&ALL, expected), expected);
    }

    #[test]
    fn a_member_that_goes_takes_one_comma_along() {
        let alone = [Quirk::NoStreamOptions];
        assert_eq!(applied(&alone, r#"{"stream_options":{}}"#), "{}");
        assert_eq!(applied(&alone, r#"{"stream_options":{} , "a":1}"#), r#"{ "a":1}"#);
        assert_eq!(applied(&alone, r#"{"a":1 ,"stream_options":null}"#), r#"{"a":1}"#);
    }

    #[test]
    fn what_is_no_object_is_left_alone() {
        for body in ["", "[1]", "{\"messages\":", "nonsense"] {
            assert_eq!(applied(&ALL, body), body);
        }
    }
}
