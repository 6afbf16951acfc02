//! Where a provider that wants to be told is to cache a prompt up to: the end of tools and system text, and the end of the history
//! before the newest user message. Both stay where they are in the session's next call, and what comes after does not.

use bytes::Bytes;
use memchr::memmem;

use super::{Edits, Json};
use crate::request::{Cursor, Fault, Kind, Role, Span, Value, scan, text::decode};
use crate::wire::Wire;

const MARK: &str = r#","cache_control":{"type":"ephemeral"}"#;
const TEXT: &str = r#"[{"type":"text","text":"#;
const MARKED_END: &str = r#","cache_control":{"type":"ephemeral"}}]"#;
const POINT: &str = r#",{"cachePoint":{"type":"default"}}"#;

/// The request, in the provider's wire, with two breakpoints; as it is where its client has set some, of which there may be four
/// in all.
pub fn placed(wire: Wire, model: &str, body: Bytes) -> Bytes {
    let takes = match wire {
        Wire::AnthropicMessages => memmem::find(&body, br#""cache_control""#).is_none(),
        Wire::BedrockConverse => caches(model),
        Wire::OpenaiChat | Wire::OpenaiResponses | Wire::Gemini => false,
    };
    // What is no request is the provider's to refuse.
    let Some(found) = takes.then(|| scan(wire, &body).ok()).flatten() else { return body };
    let mut edits = Edits { body: &body, list: Vec::with_capacity(4) };
    let ends = found.system.filter(|system| !system.is_empty(&body)).or(found.tools);
    let newest = found.messages.iter().rposition(|message| message.role == Role::User);
    let before = newest.and_then(|at| found.messages[..at].iter().rfind(|message| message.role != Role::User));
    for value in ends.into_iter().chain(before.and_then(|message| message.content)) {
        edits.breakpoint(wire, value);
    }
    edits.apply()
}

/// Models on Bedrock that cache: others refuse a request with a cache point in it. Names as of November 2025; profiles whose names do not tell the
/// model are left alone.
fn caches(model: &str) -> bool {
    const CACHING: [&str; 5] = ["claude-3-7-", "claude-3-5-haiku-", "claude-opus-", "claude-sonnet-", "claude-haiku-"];
    CACHING.iter().any(|name| model.contains(name))
}

impl Edits<'_> {
    /// Marks the end of content: text, or the last block of a list that can be marked.
    fn breakpoint(&mut self, wire: Wire, content: Value) {
        match (wire, content.kind) {
            (Wire::BedrockConverse, Kind::Array) if !content.is_empty(self.body) => {
                self.insert(content.span.end - 1, [Json(POINT)]);
            }
            (Wire::AnthropicMessages, Kind::String) if !content.is_empty(self.body) => {
                self.insert(content.span.start, [Json(TEXT)]);
                self.insert(content.span.end, [Json(MARKED_END)]);
            }
            (Wire::AnthropicMessages, Kind::Array) => {
                if let Some(block) = last_block(self.body, content) {
                    self.insert(block.end - 1, [Json(MARK)]);
                }
            }
            _ => {}
        }
    }
}

/// The last block that may carry a breakpoint: thinking may not, nor empty text.
fn last_block(body: &[u8], list: Value) -> Option<Span> {
    let mut block_end = None;
    let walked: Result<Value, Fault> = Cursor::at(body, list.span).array(|cursor, _| {
        if cursor.peek() != Some(b'{') {
            return cursor.value().map(|_| ());
        }
        let mut may = true;
        let block = cursor.object(|cursor, key| {
            let value = cursor.value()?;
            may &= match key {
                b"type" if value.kind == Kind::String => !decode(cursor.text(value)).ends_with("thinking"),
                b"text" => !value.is_empty(body),
                _ => true,
            };
            Ok::<_, Fault>(())
        })?;
        if may && !block.is_empty(body) {
            block_end = Some(block.span);
        }
        Ok(())
    });
    walked.ok().and(block_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(wire: Wire, body: &str) -> String {
        let model = "eu.anthropic.claude-sonnet-4-20250514-v1:0";
        String::from_utf8(placed(wire, model, Bytes::copy_from_slice(body.as_bytes())).to_vec()).unwrap_or_default()
    }

    #[test]
    fn system_text_and_the_history_before_the_newest_user_message_end_in_breakpoints() {
        let cases = [
            (
                r#"{"system":"S","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#,
                r#"{"system":[{"type":"text","text":"S","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"text","text":"b","cache_control":{"type":"ephemeral"}}]},{"role":"user","content":"c"}]}"#,
            ),
            (
                r#"{"tools":[{"name":"x"},{"name":"y" }],"system":[],"messages":[{"role":"user","content":"a"}]}"#,
                r#"{"tools":[{"name":"x"},{"name":"y" ,"cache_control":{"type":"ephemeral"}}],"system":[],"messages":[{"role":"user","content":"a"}]}"#,
            ),
            // Results of tools are a user's message: what comes before them is marked.
            (
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"tool_use","id":"1"},{"type":"thinking","thinking":"t"},{"type":"text","text":""}]},{"role":"user","content":[{"type":"tool_result"}]}]}"#,
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"tool_use","id":"1","cache_control":{"type":"ephemeral"}},{"type":"thinking","thinking":"t"},{"type":"text","text":""}]},{"role":"user","content":[{"type":"tool_result"}]}]}"#,
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(marked(Wire::AnthropicMessages, body), expected);
        }
    }

    #[test]
    fn a_request_with_its_clients_own_breakpoints_is_left_alone() {
        for body in [
            r#"{"system":"S","messages":[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}]}"#,
            r#"{"system":"S","cache_control":{"type":"ephemeral"},"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            r#"{"system":"","messages":[{"role":"assistant","content":""},{"role":"user","content":"a"}]}"#,
            "no request",
        ] {
            assert_eq!(marked(Wire::AnthropicMessages, body), body);
        }
        let body = r#"{"system":"S","messages":[{"role":"user","content":"a"}]}"#;
        assert_eq!(marked(Wire::OpenaiChat, body), body);
    }

    #[test]
    fn bedrock_is_told_in_its_own_words_where_the_model_caches() {
        let body = r#"{"system":[{"text":"S"}],"messages":[{"role":"user","content":[{"text":"a"}]},{"role":"assistant","content":[{"text":"b"}]},{"role":"user","content":[{"text":"c"}]}]}"#;
        assert_eq!(
            marked(Wire::BedrockConverse, body),
            r#"{"system":[{"text":"S"},{"cachePoint":{"type":"default"}}],"messages":[{"role":"user","content":[{"text":"a"}]},{"role":"assistant","content":[{"text":"b"},{"cachePoint":{"type":"default"}}]},{"role":"user","content":[{"text":"c"}]}]}"#
        );
        for model in ["anthropic.claude-3-sonnet-20240229-v1:0", "meta.llama3-1-8b-instruct-v1:0"] {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            assert_eq!(placed(Wire::BedrockConverse, model, bytes.clone()), bytes);
        }
    }
}
