//! The normal form of a message: the same bytes whichever wire, SDK or spelling (escapes, white space, parts) it came in.

use std::borrow::Cow;

use serde_json::Value as Tree;
use sha2::{Digest, Sha256};

use crate::request::json::{Cursor, Fault};
use crate::request::text::decode;
use crate::request::{Kind, Message, Role, Value};
use crate::wire::Wire;

/// A part of a normal message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part<'b> {
    /// Never empty.
    Text(Cow<'b, str>),
    /// An assistant's.
    Call { id: Cow<'b, str>, name: Cow<'b, str>, arguments: Arguments },
    /// Heads a tool message; what follows is the result. `name` is the tool's, where the wire says it: Gemini's.
    Result { call_id: Cow<'b, str>, name: Cow<'b, str>, is_error: bool },
    /// An image, a document…, told apart by its bytes.
    Other { kind: Cow<'b, str>, sha256: [u8; 32] },
}

/// What a tool is called with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arguments {
    /// Compact, keys sorted.
    Json(String),
    /// What the model wrote, if that is not JSON.
    Raw(String),
}

impl<'b> Part<'b> {
    pub fn call(id: Cow<'b, str>, name: Cow<'b, str>, arguments: &str) -> Self {
        Self::Call { id, name, arguments: Arguments::new(arguments) }
    }
}

impl Arguments {
    pub fn new(text: &str) -> Self {
        if text.trim_ascii().is_empty() {
            return Self::Json("{}".into()); // how streams spell a call without arguments
        }
        match serde_json::from_str(text) {
            Ok(tree) => Self::Json(canonical(tree).to_string()),
            Err(_) => Self::Raw(text.into()),
        }
    }
}

/// Sorted keys; whole numbers without a fraction, as JavaScript writes them; no NUL, which Postgres cannot hold.
fn canonical(tree: Tree) -> Tree {
    match tree {
        Tree::Object(members) => {
            let mut members: Vec<_> =
                members.into_iter().map(|(key, value)| (key.replace('\0', "\u{FFFD}"), canonical(value))).collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            Tree::Object(members.into_iter().collect())
        }
        Tree::Array(elements) => Tree::Array(elements.into_iter().map(canonical).collect()),
        Tree::String(text) if text.contains('\0') => Tree::String(text.replace('\0', "\u{FFFD}")),
        Tree::Number(number) => match number.as_f64() {
            #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => Tree::from(float as i64),
            _ => Tree::Number(number),
        },
        other => other,
    }
}

/// Gives the normal messages of one turn to `then`, in order; at least one. A turn is one message of the client, or what the
/// assistant said in several items of a responses request or contents of Gemini's.
///
/// Each tool result is a message of its own, as in `OpenAI`'s wire; an assistant's text comes before its calls, and is all that
/// is kept of the rest.
pub(super) fn each_normal<'b>(wire: Wire, body: &'b [u8], turn: &[Message], mut then: impl FnMut(Role, &[Part<'b>])) {
    let mut parts = Vec::new();
    let Some(message) = turn.first() else { return };
    let content = message.content.map(|value| Content { body, value });
    match (wire, message.role) {
        (Wire::OpenaiChat | Wire::OpenaiResponses, Role::Tool) => {
            let key: &[u8] = if wire == Wire::OpenaiChat { b"tool_call_id" } else { b"call_id" };
            let call_id = member(body, message, key).map(|value| decode(value.span.of(body)));
            parts.push(Part::Result { call_id: call_id.unwrap_or_default(), name: "".into(), is_error: false });
            if let Some(content) = content {
                content.parts(|part| parts.extend(part.plain()));
            }
            then(Role::Tool, &parts);
        }
        (_, Role::Assistant) => {
            let mut calls = Vec::new();
            for message in turn {
                if let Some(value) = message.content {
                    Content { body, value }.parts(|block| match block.kind.as_ref() {
                        "text" | "output_text" => parts.extend(block.plain()),
                        "tool_use" | "functionCall" => calls.push(block.tool_use()),
                        _ => {}
                    });
                }
                match wire {
                    Wire::OpenaiChat => tool_calls(body, message, &mut calls),
                    Wire::OpenaiResponses => calls.extend(function_call(body, message)),
                    Wire::AnthropicMessages | Wire::Gemini | Wire::BedrockConverse => {}
                }
            }
            parts.append(&mut calls);
            then(Role::Assistant, &parts);
        }
        (_, role) => {
            let mut given = false;
            if let Some(content) = content {
                content.parts(|block| {
                    if matches!(
                        (wire, &*block.kind),
                        (Wire::AnthropicMessages, "tool_result") | (Wire::Gemini, "functionResponse")
                    ) {
                        if !parts.is_empty() {
                            then(role, &parts);
                        }
                        parts.clear();
                        then(Role::Tool, &block.tool_result());
                        given = true;
                    } else {
                        parts.extend(block.plain());
                    }
                });
            }
            if !given || !parts.is_empty() {
                then(role, &parts);
            }
        }
    }
}

/// The value of a message's `content`, or of a tool result's.
struct Content<'b> {
    body: &'b [u8],
    value: Value,
}

/// A content block; only what its type uses is filled.
#[derive(Default)]
struct Block<'b> {
    body: &'b [u8],
    kind: Cow<'b, str>,
    text: Cow<'b, str>,
    id: Cow<'b, str>,
    name: Cow<'b, str>,
    input: &'b [u8],
    content: Option<Value>,
    is_error: bool,
    whole: Option<Value>,
}

impl<'b> Content<'b> {
    fn parts(&self, mut then: impl FnMut(Block<'b>)) {
        match self.value.kind {
            Kind::String => then(Block { kind: "text".into(), text: decode(self.value.span.of(self.body)), ..Block::default() }),
            Kind::Array => {
                let mut cursor = Cursor::at(self.body, self.value.span);
                // The scan has validated the text: there is no fault to report.
                let _ = cursor.array(|cursor, _| {
                    then(Block::read(self.body, cursor)?);
                    Ok::<_, Fault>(())
                });
            }
            _ => {}
        }
    }
}

impl<'b> Block<'b> {
    fn read(body: &'b [u8], cursor: &mut Cursor<'b>) -> Result<Self, Fault> {
        let mut block = Block { body, ..Block::default() };
        if cursor.peek() != Some(b'{') {
            block.whole = Some(cursor.value()?);
            return Ok(block);
        }
        let mut told_text = false;
        block.whole = Some(cursor.object(|cursor, key| {
            if matches!(key, b"functionCall" | b"function_call" | b"functionResponse" | b"function_response")
                && cursor.peek() == Some(b'{')
            {
                return block.function(cursor, if key.ends_with(b"all") { "functionCall" } else { "functionResponse" });
            }
            let value = cursor.value()?;
            let raw = value.span.of(body);
            match (key, value.kind) {
                (b"type", Kind::String) => block.kind = decode(raw),
                (b"text", Kind::String) => {
                    told_text = true;
                    block.text = decode(raw);
                }
                (b"id" | b"tool_use_id", Kind::String) => block.id = decode(raw),
                (b"name", Kind::String) => block.name = decode(raw),
                (b"input", _) => block.input = raw,
                (b"content", _) => block.content = Some(value),
                (b"is_error", _) => block.is_error = raw == b"true",
                (b"thought", _) if raw == b"true" => block.kind = "thinking".into(),
                _ => {}
            }
            Ok::<_, Fault>(())
        })?);
        // Gemini's parts are told by their members.
        if block.kind.is_empty() && told_text {
            block.kind = "text".into();
        }
        Ok(block)
    }

    /// Gemini's call of a function, or its result.
    fn function(&mut self, cursor: &mut Cursor<'b>, kind: &'static str) -> Result<(), Fault> {
        self.kind = kind.into();
        let body = self.body;
        cursor.object(|cursor, key| {
            let value = cursor.value()?;
            let raw = value.span.of(body);
            match (key, value.kind) {
                (b"id", Kind::String) => self.id = decode(raw),
                (b"name", Kind::String) => self.name = decode(raw),
                (b"args" | b"response", _) => self.input = raw,
                (b"parts", _) => self.content = Some(value), // images, beside the response
                _ => {}
            }
            Ok::<_, Fault>(())
        })?;
        Ok(())
    }

    /// Text, or something else that is only told apart; nothing for empty text and for thinking.
    fn plain(self) -> Option<Part<'b>> {
        match self.kind.as_ref() {
            "text" | "input_text" | "output_text" => (!self.text.is_empty()).then_some(Part::Text(self.text)),
            "thinking" | "redacted_thinking" => None,
            _ => Some(Part::Other { sha256: self.digest(), kind: self.kind }),
        }
    }

    fn tool_use(self) -> Part<'b> {
        Part::call(self.id, self.name, &String::from_utf8_lossy(self.input))
    }

    fn tool_result(self) -> Vec<Part<'b>> {
        let output = (self.kind == "functionResponse").then(|| function_output(self.input));
        let (output, failed) = output.flatten().unwrap_or_default();
        let mut parts = vec![Part::Result { call_id: self.id, name: self.name, is_error: self.is_error || failed }];
        if !output.is_empty() {
            parts.push(Part::Text(output.into()));
        }
        if let Some(value) = self.content {
            Content { body: self.body, value }.parts(|block| parts.extend(block.plain()));
        }
        parts
    }

    /// SHA-256 of the members' own bytes. `cache_control` is left out, because clients move it on from call to call.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let Some(whole) = self.whole else {
            return hash.finalize().into();
        };
        if whole.kind == Kind::Object {
            let mut cursor = Cursor::at(self.body, whole.span);
            let _ = cursor.object(|cursor, key| {
                let value = cursor.value()?;
                if key != b"cache_control" {
                    hash.update(key);
                    hash.update([END]);
                    hash.update(value.span.of(self.body));
                    hash.update([END]);
                }
                Ok::<_, Fault>(())
            });
        } else {
            hash.update(whole.span.of(self.body));
        }
        hash.finalize().into()
    }
}

/// What Gemini's function came to, and whether it failed: the text under `output`, `result` or `error` where that is all, else
/// the JSON of it.
fn function_output(response: &[u8]) -> Option<(String, bool)> {
    let mut failed = false;
    let said = match serde_json::from_slice(response).ok()? {
        Tree::Object(mut members) if members.len() == 1 => {
            failed = members.contains_key("error");
            let said = ["output", "result", "error"].iter().find_map(|key| members.remove(*key));
            said.unwrap_or(Tree::Object(members))
        }
        other => other,
    };
    let text = match said {
        Tree::String(text) => text,
        other => canonical(other).to_string(),
    };
    Some((text, failed))
}

/// A `function_call` item of a responses request.
fn function_call<'b>(body: &'b [u8], message: &Message) -> Option<Part<'b>> {
    let text = |key: &[u8]| {
        member(body, message, key).filter(|value| value.kind == Kind::String).map(|value| decode(value.span.of(body)))
    };
    if text(b"type")? != "function_call" {
        return None;
    }
    Some(Part::call(
        text(b"call_id").unwrap_or_default(),
        text(b"name").unwrap_or_default(),
        &text(b"arguments").unwrap_or_default(),
    ))
}

/// A member of the message's object; the last of that name.
fn member(body: &[u8], message: &Message, name: &[u8]) -> Option<Value> {
    let mut found = None;
    let _ = Cursor::at(body, message.span).object(|cursor, key| {
        let value = cursor.value()?;
        if key == name {
            found = Some(value);
        }
        Ok::<_, Fault>(())
    });
    found
}

/// `OpenAI`'s `tool_calls`: `{"id", "function": {"name", "arguments"}}`, or `"custom": {"name", "input"}`.
fn tool_calls<'b>(body: &'b [u8], message: &Message, calls: &mut Vec<Part<'b>>) {
    let Some(list) = member(body, message, b"tool_calls").filter(|list| list.kind == Kind::Array) else {
        return;
    };
    let _ = Cursor::at(body, list.span).array(|cursor, _| {
        if cursor.peek() != Some(b'{') {
            return cursor.value().map(|_| ());
        }
        let (mut id, mut name, mut arguments) = (Cow::default(), Cow::default(), Cow::default());
        cursor.object(|cursor, key| {
            if matches!(key, b"function" | b"custom") && cursor.peek() == Some(b'{') {
                cursor.object(|cursor, key| {
                    let value = cursor.value()?;
                    match (key, value.kind) {
                        (b"name", Kind::String) => name = decode(value.span.of(body)),
                        (b"arguments" | b"input", Kind::String) => {
                            arguments = decode(value.span.of(body));
                        }
                        _ => {}
                    }
                    Ok::<_, Fault>(())
                })?;
                return Ok(());
            }
            let value = cursor.value()?;
            if key == b"id" && value.kind == Kind::String {
                id = decode(value.span.of(body));
            }
            Ok::<_, Fault>(())
        })?;
        calls.push(Part::call(id, name, &arguments));
        Ok::<_, Fault>(())
    });
}

/// Ends a text in the normal form: no byte of UTF-8.
const END: u8 = 0xFF;

/// Appends the normal form's bytes: a letter for the role, then each part as a letter and its texts, each ended by `END`.
/// Adjacent texts are one.
///
/// No id of a call is in it, since Gemini's clients may leave these out: a call has its place, and a result is told by
/// `answers`, the place of its call among all calls of the conversation, or by what it names where there is no such call.
pub(super) fn write(out: &mut Vec<u8>, role: Role, parts: &[Part], answers: Option<usize>) {
    out.push(match role {
        Role::System => b's',
        Role::User => b'u',
        Role::Assistant => b'a',
        Role::Tool => b't',
    });
    let mut in_text = false;
    for part in parts {
        if in_text && !matches!(part, Part::Text(_)) {
            out.push(END);
            in_text = false;
        }
        match part {
            Part::Text(text) => {
                if !in_text {
                    out.push(b'x');
                }
                in_text = true;
                out.extend_from_slice(text.as_bytes());
            }
            Part::Call { name, arguments, .. } => {
                let (form, arguments) = match arguments {
                    Arguments::Json(json) => (b'j', json),
                    Arguments::Raw(raw) => (b'r', raw),
                };
                out.extend_from_slice(&[b'c', form]);
                for text in [name.as_ref(), arguments] {
                    out.extend_from_slice(text.as_bytes());
                    out.push(END);
                }
            }
            Part::Result { call_id, .. } => {
                match answers {
                    Some(place) => out.extend_from_slice(format!("r{place}").as_bytes()),
                    None => out.extend_from_slice(format!("n{call_id}").as_bytes()),
                }
                out.push(END);
            }
            Part::Other { kind, sha256 } => {
                out.push(b'o');
                out.extend_from_slice(kind.as_bytes());
                out.push(END);
                out.extend_from_slice(sha256);
            }
        }
    }
    if in_text {
        out.push(END);
    }
}
