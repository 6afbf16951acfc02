//! What was said in a call, in the form that OpenTelemetry's conventions for generative AI give it: JSON texts, as long as a
//! limit lets them be. Of files only their kind is told.

use serde_json::{Value, json};

use super::request::{Content, Message, Role};
use super::{ToolCall, Wire, lossy};

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// What its wire keeps apart from the conversation: a JSON array of parts.
    pub instructions: Option<String>,
    /// The conversation: a JSON array of messages. Where it is too long, the newest of them.
    pub messages: String,
    /// Whether something was left out.
    pub cut: bool,
}

/// What the texts may still take, in bytes.
struct Room {
    left: usize,
    cut: bool,
}

impl Room {
    /// As much of a text as there is room for.
    fn take<'a>(&mut self, text: &'a str) -> &'a str {
        let end = (0..=self.left.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        self.cut |= end < text.len();
        self.left -= end;
        &text[..end]
    }

    fn arguments(&mut self, call: &ToolCall) -> Value {
        let taken = self.take(&call.arguments);
        serde_json::from_str(taken).unwrap_or_else(|_| Value::from(taken))
    }

    fn call(&mut self, call: &ToolCall) -> Value {
        json!({"type": "tool_call", "id": call.id, "name": call.name, "arguments": self.arguments(call)})
    }

    fn part(&mut self, content: &Content) -> Value {
        match content {
            Content::Text(text) => json!({"type": "text", "content": self.take(text)}),
            Content::Thinking { text, .. } => json!({"type": "reasoning", "content": self.take(text)}),
            Content::Redacted(_) => json!({"type": "redacted_reasoning"}),
            Content::Image(_) => json!({"type": "image"}),
            Content::Document(_) => json!({"type": "document"}),
            Content::ToolCall(call) => self.call(call),
            Content::ToolResult { call_id, content, .. } => {
                let texts =
                    content.iter().filter_map(|part| if let Content::Text(text) = part { Some(text.as_str()) } else { None });
                let response = self.take(&texts.collect::<Vec<_>>().join("\n")).to_owned();
                json!({"type": "tool_call_response", "id": call_id, "response": response})
            }
        }
    }

    fn parts(&mut self, message: &Message) -> Vec<Value> {
        message.content.iter().map(|content| self.part(content)).collect()
    }
}

/// What a request's `body` in `wire` says, in `limit` bytes of text at most; none where it cannot be read.
pub fn asked(wire: Wire, body: &[u8], limit: usize) -> Option<Asked> {
    let (request, _) = lossy::parse(wire, body).ok()?;
    let mut room = Room { left: limit, cut: false };
    let mut messages = Vec::new();
    let mut instructions = Vec::new();
    // Every other wire has a place of its own for these.
    let apart = |message: &Message| message.role == Role::System && wire != Wire::OpenaiChat;
    for message in request.messages.iter().filter(|message| apart(message)) {
        instructions.extend(room.parts(message));
    }
    for message in request.messages.iter().filter(|message| !apart(message)).rev() {
        if room.left == 0 {
            room.cut = true;
            break;
        }
        let results = message.content.iter().any(|content| matches!(content, Content::ToolResult { .. }));
        let role = match message.role {
            Role::System => "system",
            Role::User if results => "tool",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        messages.push(json!({"role": role, "parts": room.parts(message)}));
    }
    messages.reverse();
    let instructions = (!instructions.is_empty()).then(|| Value::from(instructions).to_string());
    Some(Asked { instructions, messages: Value::from(messages).to_string(), cut: room.cut })
}

/// An answer's text and calls as a JSON array of one message, in `limit` bytes of text at most, and whether something was left out.
pub fn answered(text: &str, calls: &[ToolCall], limit: usize) -> (String, bool) {
    let mut room = Room { left: limit, cut: false };
    let text = (!text.is_empty()).then(|| json!({"type": "text", "content": room.take(text)}));
    let mut parts: Vec<Value> = text.into_iter().collect();
    parts.extend(calls.iter().map(|call| room.call(call)));
    (json!([{"role": "assistant", "parts": parts}]).to_string(), room.cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"model":"m","max_tokens":9,"system":"Be kind.","messages":[
        {"role":"user","content":"Wie spät ist es?"},
        {"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"clock","input":{"zone":"CET"}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":"noon"}]}]}"#;

    #[test]
    fn a_conversation_is_told_in_the_conventions_form() {
        let told = asked(Wire::AnthropicMessages, BODY.as_bytes(), 1000).unwrap();
        assert_eq!(told.instructions.as_deref(), Some(r#"[{"type":"text","content":"Be kind."}]"#));
        assert!(!told.cut);
        let messages: Value = serde_json::from_str(&told.messages).unwrap();
        let expected = json!([
            {"role": "user", "parts": [{"type": "text", "content": "Wie spät ist es?"}]},
            {"role": "assistant", "parts": [{"type": "tool_call", "id": "t1", "name": "clock", "arguments": {"zone": "CET"}}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "response": "noon"}]},
        ]);
        assert_eq!(messages, expected);
    }

    #[test]
    fn what_is_too_long_is_cut_and_the_newest_is_kept() {
        let body =
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"old"},{"role":"user","content":"aé"}]}"#;
        let told = asked(Wire::OpenaiChat, body.as_bytes(), 2).unwrap();
        // The second byte would be half of a letter.
        let expected = json!([
            {"role": "user", "parts": [{"type": "text", "content": "o"}]},
            {"role": "user", "parts": [{"type": "text", "content": "a"}]},
        ]);
        assert_eq!((serde_json::from_str::<Value>(&told.messages).unwrap(), told.cut), (expected, true));
        assert!(!asked(Wire::OpenaiChat, body.as_bytes(), 7).unwrap().cut);
        assert_eq!(asked(Wire::OpenaiChat, b"{", 7), None);
    }

    #[test]
    fn an_answer_is_one_message() {
        let call = ToolCall { id: "t".to_owned(), name: "f".to_owned(), arguments: r#"{"a":1}"#.to_owned() };
        let told = answered("hi", std::slice::from_ref(&call), 100);
        let expected = r#"[{"role":"assistant","parts":[{"type":"text","content":"hi"},{"type":"tool_call","id":"t","name":"f","arguments":{"a":1}}]}]"#;
        assert_eq!(told, (expected.to_owned(), false));
        assert!(answered("hello", &[call], 3).1);
    }
}
