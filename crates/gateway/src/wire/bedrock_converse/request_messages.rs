//! The messages of a Converse request, and its system text.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::reply::{BlockOut, ReasoningOut, TurnOut, text_block};
use crate::wire::request::{Content, Document, DocumentSource, Image, Message, Role};
use crate::wire::{WireError, json};

pub(super) struct Conversation {
    pub system: Vec<Box<RawValue>>,
    pub turns: Vec<TurnOut>,
    /// Whether a tool was called, or a result given.
    pub uses_tools: bool,
}

/// System texts from anywhere in the conversation go to the top, where every model takes them; neighbours of one role become
/// one turn; what is blank, which Bedrock refuses, is left out.
pub(super) fn write(messages: &[Message]) -> Result<Conversation, WireError> {
    let mut out = Conversation { system: Vec::new(), turns: Vec::new(), uses_tools: false };
    let mut documents = 0;
    for message in messages {
        let mut blocks = Vec::new();
        for content in &message.content {
            out.uses_tools |= matches!(content, Content::ToolCall(_) | Content::ToolResult { .. });
            blocks.extend(block(content, &mut documents)?);
        }
        let role = match message.role {
            Role::System => {
                out.system.append(&mut blocks);
                continue;
            }
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        match out.turns.last_mut() {
            Some(last) if last.role == role => last.content.append(&mut blocks),
            _ if blocks.is_empty() => {}
            _ => out.turns.push(TurnOut { role, content: blocks }),
        }
    }
    if out.turns.is_empty() {
        return Err(WireError::at("messages", "`messages` must have at least one message of the user that is not empty."));
    }
    Ok(out)
}

fn block(content: &Content, documents: &mut usize) -> Result<Option<Box<RawValue>>, WireError> {
    Ok(match content {
        Content::Text(text) => text_block(text),
        Content::Image(image) => Some(json::raw(&image_out(image)?)),
        Content::Document(document) => Some(json::raw(&document_out(document, documents)?)),
        Content::ToolCall(call) => Some(json::raw(&BlockOut::from(call))),
        Content::ToolResult { call_id, content, is_error } => {
            let content = result_content(content, documents)?;
            Some(json::raw(&BlockOut::result(call_id, content, *is_error)))
        }
        Content::Thinking { text, signature } => BlockOut::reasoning(text, signature.as_ref()).map(|block| json::raw(&block)),
        Content::Redacted(data) => Some(json::raw(&BlockOut::ReasoningContent(ReasoningOut::RedactedContent(data)))),
    })
}

fn result_content(contents: &[Content], documents: &mut usize) -> Result<Vec<Value>, WireError> {
    let blocks = contents.iter().map(|content| match content {
        Content::Text(text) => Ok(json!({ "text": text })),
        Content::Image(image) => image_out(image),
        Content::Document(document) => document_out(document, documents),
        _ => Err(WireError::at("messages", "A tool result can have only text, images and documents.")),
    });
    blocks.collect()
}

fn image_out(image: &Image) -> Result<Value, WireError> {
    match image {
        Image::Base64 { media_type, data } => {
            let format = match media_type.as_str() {
                "image/png" => "png",
                "image/jpeg" | "image/jpg" => "jpeg",
                "image/gif" => "gif",
                "image/webp" => "webp",
                _ => return Err(bytes_only("Images must be PNG, JPEG, GIF or WebP")),
            };
            Ok(json!({"image": {"format": format, "source": {"bytes": data}}}))
        }
        Image::Url(_) => Err(bytes_only("Images must be sent as base64, not as a URL")),
    }
}

fn document_out(document: &Document, documents: &mut usize) -> Result<Value, WireError> {
    let (format, source) = match &document.source {
        DocumentSource::Base64 { media_type, data } => (format_of(media_type)?, json!({ "bytes": data })),
        DocumentSource::Text(text) => ("txt", json!({ "text": text })),
        DocumentSource::Url(_) => return Err(bytes_only("Documents must be sent as base64, not as a URL")),
    };
    *documents += 1;
    let name = document_name(document.name.as_deref(), *documents);
    Ok(json!({"document": {"format": format, "name": name, "source": source}}))
}

fn format_of(media_type: &str) -> Result<&'static str, WireError> {
    Ok(match media_type {
        "application/pdf" => "pdf",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/markdown" => "md",
        "application/msword" => "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/vnd.ms-excel" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        other if other.starts_with("text/") => "txt",
        _ => return Err(bytes_only("Documents must be PDF, text or office files")),
    })
}

/// Bedrock wants a name of letters, digits, single spaces, hyphens and brackets, another for each document; the number makes it so.
fn document_name(name: Option<&str>, number: usize) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '(' | ')' | '[' | ']');
    let words = name.unwrap_or("document").split(|c| !allowed(c)).filter(|word| !word.is_empty());
    let mut name = words.collect::<Vec<_>>().join(" ");
    name.truncate(150);
    format!("{} {number}", name.trim_end()).trim_start().to_owned()
}

fn bytes_only(what: &str) -> WireError {
    WireError::at("messages", format!("{what}, with the provider of this model."))
}
