//! Memory put into a request: insertions into the client's own bytes, which are otherwise left as they are.

mod breakpoints;

use std::sync::Arc;

use bytes::Bytes;

pub use self::breakpoints::placed;
use crate::request::contents::member;
use crate::request::json::{Cursor, Fault};
use crate::request::text::{decode, escape_into};
use crate::request::{Kind, Message, Role, Scan, Span, Value};
use crate::wire::Wire;

/// A text that belongs into a user message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The message, of the same scan.
    pub message: Message,
    /// Brings its own separator.
    pub text: Arc<str>,
}

/// What is to be put into a request. Empty texts count as absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Additions<'a> {
    /// The model to ask for instead.
    pub model: Option<&'a str>,
    /// The agent's instructions, before the client's system text.
    pub instructions: Option<&'a str>,
    /// The rendered memory blocks, after the client's system text.
    pub blocks: Option<&'a str>,
    /// What was said of memory with user messages, put before their text, in the order of the messages.
    pub deltas: &'a [Placed],
    /// Recalled passages, put before the text of the newest user message; brings its own separator.
    pub recall: Option<&'a str>,
    /// Tool definitions in the form of the wire: JSON objects joined by commas, without brackets.
    pub tools: Option<&'a str>,
    /// Have usage reported at the end of a stream (`OpenAI` only; Anthropic always does).
    pub include_usage: bool,
}

/// The request with `additions` in it; the same `Bytes` if there is nothing to add.
///
/// `body` must be what `scan` was made from. The additions' order follows what providers cache: instructions, the client's
/// system text, blocks, history, and what changes with every turn only in the newest user message.
///
/// Medians on a 2-core x86-64 VM: 4.1 µs to put all kinds of additions, 4 KB of blocks among them, into 16 KiB.
pub fn splice(wire: Wire, body: &Bytes, scan: &Scan, additions: &Additions) -> Bytes {
    let given = |text: Option<&str>| text.is_some_and(|text| !text.is_empty());
    let mut edits = Edits { body, list: Vec::with_capacity(8) };
    if let Some(left) = &scan.left_out {
        edits.replace(left.span, [Json(USER_ITEM), Text(&left.marker), Json("\"},")]);
    }
    // Gemini has the model in the URL.
    if let Some(model) = additions.model.filter(|_| wire != Wire::Gemini) {
        edits.model(scan, model);
    }
    if given(additions.instructions) || given(additions.blocks) {
        let instructions = additions.instructions.unwrap_or_default();
        let blocks = additions.blocks.unwrap_or_default();
        match wire {
            Wire::OpenaiChat => edits.system_messages(scan, instructions, blocks),
            Wire::AnthropicMessages => edits.system(r#""system":""#, scan, instructions, blocks),
            Wire::OpenaiResponses => edits.system(r#""instructions":""#, scan, instructions, blocks),
            Wire::Gemini => edits.system_instruction(scan, instructions, blocks),
            // No client speaks it: nothing of its wire is ever spliced.
            Wire::BedrockConverse => {}
        }
    }
    // Before what is recalled, which is not there the next time: up to here the request begins as the next one will.
    for delta in additions.deltas {
        edits.beside(wire, &delta.message, &delta.text);
    }
    if let Some(recall) = additions.recall.filter(|text| !text.is_empty()) {
        edits.recall(wire, scan, recall);
    }
    if let Some(tools) = additions.tools.filter(|text| !text.is_empty()) {
        if wire == Wire::Gemini {
            edits.function_declarations(scan, tools);
        } else {
            edits.tools(scan, tools);
        }
    }
    if additions.include_usage && wire == Wire::OpenaiChat {
        edits.include_usage(scan);
    }
    edits.apply()
}

/// A responses request with earlier items before its own, joined by commas, and nothing that names them.
pub fn continued(body: &Bytes, scan: &Scan, items: &str) -> Bytes {
    let mut edits = Edits { body, list: Vec::with_capacity(4) };
    for kept in [scan.kept.response, scan.kept.conversation].into_iter().flatten() {
        edits.replace(kept.span, [Json("null")]);
    }
    let separator = Json(if items.is_empty() { "" } else { "," });
    let input = scan.messages_span;
    if input.of(body).starts_with(b"\"") {
        edits.insert(input.start, [Json("["), Json(items), separator, Json(r#"{"role":"user","content":"#)]);
        edits.insert(input.end, [Json("}]")]);
    } else {
        edits.insert(input.start + 1, [Json(items)]);
        if !scan.messages.is_empty() {
            edits.insert(input.start + 1, [separator]);
        }
    }
    edits.apply()
}

/// A part of what is inserted.
#[derive(Clone, Copy)]
enum Piece<'a> {
    /// JSON as it stands.
    Json(&'a str),
    /// Text to be escaped, inside quotes.
    Text(&'a str),
}
use Piece::{Json, Text};

/// `pieces` take the place of `span`; an insertion if that is empty.
struct Edit<'a> {
    span: Span,
    pieces: [Piece<'a>; 5],
}

struct Edits<'a> {
    body: &'a Bytes,
    list: Vec<Edit<'a>>,
}

const SYSTEM_MESSAGE: &str = r#"{"role":"system","content":""#;
const USER_ITEM: &str = r#"{"role":"user","content":""#;
const TEXT_PART: &str = r#"{"type":"text","text":""#;
const INPUT_TEXT: &str = r#"{"type":"input_text","text":""#;
const PART: &str = r#"{"text":""#;
const USAGE: &str = r#""include_usage":true"#;
const GAP: &str = r"\n\n";

impl<'a> Edits<'a> {
    fn replace<const N: usize>(&mut self, span: Span, pieces: [Piece<'a>; N]) {
        let mut all = [Json(""); 5];
        all[..N].copy_from_slice(&pieces);
        self.list.push(Edit { span, pieces: all });
    }

    fn insert<const N: usize>(&mut self, at: usize, pieces: [Piece<'a>; N]) {
        self.replace(Span { start: at, end: at }, pieces);
    }

    /// Inserts an element (or member, or part of one) at the head of a container.
    fn first<const N: usize>(&mut self, container: Value, pieces: [Piece<'a>; N]) {
        self.insert(container.span.start + 1, pieces);
        if !container.is_empty(self.body) {
            self.insert(container.span.start + 1, [Json(",")]);
        }
    }

    /// Inserts an element at the end of a container.
    fn last<const N: usize>(&mut self, container: Value, pieces: [Piece<'a>; N]) {
        if !container.is_empty(self.body) {
            self.insert(container.span.end - 1, [Json(",")]);
        }
        self.insert(container.span.end - 1, pieces);
    }

    fn model(&mut self, scan: &Scan, model: &'a str) {
        match &scan.model {
            Some(asked) if asked.name == model => {}
            Some(asked) => self.replace(asked.span, [Json("\""), Text(model), Json("\"")]),
            None => self.insert(scan.open, [Json(r#""model":""#), Text(model), Json("\",")]),
        }
    }

    /// `OpenAI`: system text is messages, at the head and after the client's own at the head.
    fn system_messages(&mut self, scan: &Scan, instructions: &'a str, blocks: &'a str) {
        let leading = scan.messages.iter().take_while(|message| message.role == Role::System).last();
        let head = scan.messages_span.start + 1;
        let mut separator = "";
        for text in [instructions, if leading.is_none() { blocks } else { "" }] {
            if !text.is_empty() {
                self.insert(head, [Json(separator), Json(SYSTEM_MESSAGE), Text(text), Json("\"}")]);
                separator = ",";
            }
        }
        if !scan.messages.is_empty() {
            self.insert(head, [Json(separator)]);
        }
        if let (Some(leading), false) = (leading, blocks.is_empty()) {
            self.insert(leading.span.end, [Json(","), Json(SYSTEM_MESSAGE), Text(blocks), Json("\"}")]);
        }
    }

    /// Anthropic, and `OpenAI`'s responses: system text is a top-level member; `opening` begins that where there is none.
    fn system(&mut self, opening: &'a str, scan: &Scan, instructions: &'a str, blocks: &'a str) {
        let gap = |here: bool| Json(if here { GAP } else { "" });
        let both = !instructions.is_empty() && !blocks.is_empty();
        match scan.system {
            Some(system) if system.kind == Kind::String => {
                let client_text = !system.is_empty(self.body);
                if !instructions.is_empty() {
                    let at = system.span.start + 1;
                    self.insert(at, [Text(instructions), gap(client_text || both)]);
                }
                if !blocks.is_empty() {
                    self.insert(system.span.end - 1, [gap(client_text), Text(blocks)]);
                }
            }
            Some(system) if system.kind == Kind::Array => {
                if !instructions.is_empty() {
                    self.first(system, [Json(TEXT_PART), Text(instructions), Json("\"}")]);
                }
                if !blocks.is_empty() {
                    if both && system.is_empty(self.body) {
                        self.insert(system.span.end - 1, [Json(",")]);
                    }
                    self.last(system, [Json(TEXT_PART), Text(blocks), Json("\"}")]);
                }
            }
            Some(null) => {
                let pieces = [Json("\""), Text(instructions), gap(both), Text(blocks), Json("\"")];
                self.replace(null.span, pieces);
            }
            None => {
                let pieces = [Json(opening), Text(instructions), gap(both), Text(blocks), Json("\",")];
                self.insert(scan.open, pieces);
            }
        }
    }

    fn recall(&mut self, wire: Wire, scan: &Scan, recall: &'a str) {
        if let Some(newest) = scan.messages.iter().rev().find(|message| message.role == Role::User) {
            self.beside(wire, newest, recall);
        }
    }

    /// Puts a text before a user's own words.
    fn beside(&mut self, wire: Wire, message: &Message, text: &'a str) {
        let Some(content) = &message.content else { return };
        match content.kind {
            Kind::String => self.insert(content.span.start + 1, [Text(text)]),
            Kind::Array => {
                let part = [Json(text_part(wire)), Text(text), Json("\"}")];
                if holds_tool_result(wire, self.body, *content) {
                    self.last(*content, part); // the API wants tool results first
                } else {
                    self.first(*content, part);
                }
            }
            _ => {}
        }
    }

    /// Gemini: system text is an object with parts, of which Google takes a single one for a list.
    fn system_instruction(&mut self, scan: &Scan, instructions: &'a str, blocks: &'a str) {
        let Some(system) = scan.system else {
            let at = Span { start: scan.open, end: scan.open };
            return self.parts(at, r#""systemInstruction":{"parts":["#, instructions, blocks, "]},");
        };
        let both = !instructions.is_empty() && !blocks.is_empty();
        match member(self.body, system, [b"parts", b"parts"]) {
            Some(parts) if parts.kind == Kind::Array => {
                if !instructions.is_empty() {
                    self.first(parts, [Json(PART), Text(instructions), Json("\"}")]);
                }
                if !blocks.is_empty() {
                    if both && parts.is_empty(self.body) {
                        self.insert(parts.span.end - 1, [Json(",")]);
                    }
                    self.last(parts, [Json(PART), Text(blocks), Json("\"}")]);
                }
            }
            Some(part) if part.kind == Kind::Object => {
                let Span { start, end } = part.span;
                let after = if instructions.is_empty() { "" } else { "," };
                self.parts(Span { start, end: start }, "[", instructions, "", after);
                let before = if blocks.is_empty() { "" } else { "," };
                self.parts(Span { start: end, end }, before, "", blocks, "]");
            }
            Some(null) => self.parts(null.span, "[", instructions, blocks, "]"),
            None if system.kind == Kind::Object => {
                let at = system.span.start + 1;
                let after = if system.is_empty(self.body) { "]" } else { "]," };
                self.parts(Span { start: at, end: at }, r#""parts":["#, instructions, blocks, after);
            }
            None => self.parts(system.span, r#"{"parts":["#, instructions, blocks, "]}"),
        }
    }

    /// Puts the texts that there are, as Gemini's parts, between `before` and `after`.
    fn parts(&mut self, at: Span, before: &'a str, instructions: &'a str, blocks: &'a str, after: &'a str) {
        self.replace(at, [Json(before)]);
        let mut separator = "";
        for text in [instructions, blocks].into_iter().filter(|text| !text.is_empty()) {
            self.insert(at.end, [Json(separator), Json(PART), Text(text), Json("\"}")]);
            separator = ",";
        }
        self.insert(at.end, [Json(after)]);
    }

    /// Gemini: functions stand in one tool; several tools with functions are not taken by all of its models.
    fn function_declarations(&mut self, scan: &Scan, tools: &'a str) {
        let mut declared = None;
        if let Some(tools) = scan.tools.filter(|tools| tools.kind == Kind::Array) {
            let body = self.body;
            let _ = Cursor::at(body, tools.span).array(|cursor, _| {
                let tool = cursor.value()?;
                declared = declared.or(member(body, tool, [b"functionDeclarations", b"function_declarations"]));
                Ok::<_, Fault>(())
            });
        }
        let new = [Json(r#"{"functionDeclarations":["#), Json(tools), Json("]}")];
        match (scan.tools, declared.filter(|declared| declared.kind == Kind::Array)) {
            (_, Some(declared)) => self.last(declared, [Json(tools)]),
            (Some(present), None) if present.kind == Kind::Array => self.last(present, new),
            (Some(null), None) => self.replace(null.span, [Json("["), new[0], new[1], new[2], Json("]")]),
            (None, None) => self.insert(scan.open, [Json(r#""tools":["#), new[0], new[1], new[2], Json("],")]),
        }
    }

    fn tools(&mut self, scan: &Scan, tools: &'a str) {
        match scan.tools {
            Some(present) if present.kind == Kind::Array => self.last(present, [Json(tools)]),
            Some(null) => self.replace(null.span, [Json("["), Json(tools), Json("]")]),
            None => self.insert(scan.open, [Json(r#""tools":["#), Json(tools), Json("],")]),
        }
    }

    fn include_usage(&mut self, scan: &Scan) {
        let Some(options) = scan.stream_options else {
            return self.insert(scan.open, [Json(r#""stream_options":{"#), Json(USAGE), Json("},")]);
        };
        match options.include_usage {
            Some(set) if set.span.of(self.body) == b"true" => {}
            Some(unset) => self.replace(unset.span, [Json("true")]),
            None if options.value.kind == Kind::Object => self.first(options.value, [Json(USAGE)]),
            None => self.replace(options.value.span, [Json("{"), Json(USAGE), Json("}")]),
        }
    }

    fn apply(mut self) -> Bytes {
        if self.list.is_empty() {
            return self.body.clone();
        }
        self.list.sort_by_key(|edit| edit.span.start); // stable: edits at one place stay in the order they were made
        let pieces = self.list.iter().flat_map(|edit| &edit.pieces);
        let added: usize = pieces.map(Piece::size).sum();
        let mut out = Vec::with_capacity(self.body.len() + added);
        let mut from = 0;
        for edit in &self.list {
            out.extend_from_slice(&self.body[from..edit.span.start]);
            for piece in &edit.pieces {
                match *piece {
                    Json(json) => out.extend_from_slice(json.as_bytes()),
                    Text(text) => escape_into(&mut out, text),
                }
            }
            from = edit.span.end;
        }
        out.extend_from_slice(&self.body[from..]);
        Bytes::from(out)
    }
}

impl Piece<'_> {
    /// About so many bytes in the output.
    fn size(&self) -> usize {
        match *self {
            Json(json) => json.len(),
            Text(text) => text.len() + text.len() / 8,
        }
    }
}

/// How a part of text begins.
fn text_part(wire: Wire) -> &'static str {
    match wire {
        Wire::OpenaiResponses => INPUT_TEXT,
        Wire::Gemini => PART,
        Wire::OpenaiChat | Wire::AnthropicMessages | Wire::BedrockConverse => TEXT_PART,
    }
}

/// Whether an array of content blocks has a tool's result, in the wires that keep these there.
fn holds_tool_result(wire: Wire, body: &[u8], content: Value) -> bool {
    if !matches!(wire, Wire::AnthropicMessages | Wire::Gemini) {
        return false;
    }
    let mut found = false;
    let mut cursor = Cursor::at(body, content.span);
    let walked: Result<Value, Fault> = cursor.array(|cursor, _| {
        if cursor.peek() != Some(b'{') {
            return cursor.value().map(|_| ());
        }
        cursor.object(|cursor, key| {
            let value = cursor.value()?;
            let is_type = key == b"type" && value.kind == Kind::String;
            found |= match wire {
                Wire::Gemini => matches!(key, b"functionResponse" | b"function_response"),
                _ => is_type && decode(cursor.text(value)) == "tool_result",
            };
            Ok::<_, Fault>(())
        })?;
        Ok(())
    });
    walked.is_ok() && found
}
