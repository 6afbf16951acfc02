//! The messages of a messages request, and its system text.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::CACHE_CONTROL;
use super::reply::{BlockOut, TurnOut, call_id};
use crate::wire::fields::Fields;
use crate::wire::request::{Content, Document, DocumentSource, Image, Message, Role};
use crate::wire::{Signature, ToolCall, Wire, WireError, json};

pub(super) fn parse(request: &mut Fields) -> Result<Vec<Message>, WireError> {
    let mut messages = Vec::new();
    let system = content(request, "system")?;
    if !system.is_empty() {
        messages.push(Message { role: Role::System, content: system });
    }
    let turns = request.objects("messages")?;
    if turns.is_empty() {
        return Err(request.wrong("messages", "an array with at least one message"));
    }
    for mut message in turns {
        let role = match message.required_string("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(message.wrong("role", "`user`, `assistant` or `system`")),
        };
        messages.push(Message { role, content: content(&mut message, "content")? });
        message.finish()?;
    }
    Ok(messages)
}

fn content(of: &mut Fields, key: &str) -> Result<Vec<Content>, WireError> {
    let value = match of.take(key) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![Content::Text(text)]),
        Some(value) => value,
    };
    let Value::Array(blocks) = value else {
        return Err(of.wrong(key, "a string or an array of content blocks"));
    };
    let path = of.path(key);
    let blocks = blocks.into_iter().enumerate();
    blocks.map(|(at, block)| block_content(Fields::of(format!("{path}[{at}]"), block)?)).collect()
}

fn block_content(mut block: Fields) -> Result<Content, WireError> {
    block.ignore(&[CACHE_CONTROL]);
    let content = match block.required_string("type")?.as_str() {
        "text" => {
            // Remarks about the text that came with an earlier reply.
            block.ignore(&["citations"]);
            Content::Text(block.required_string("text")?)
        }
        "image" => Content::Image(image(&mut block)?),
        "tool_use" => {
            // Said of calls by the model itself, which is all that other wires know.
            block.only("caller", &[json!({"type": "direct"})])?;
            let (id, name) = (block.required_string("id")?, block.required_string("name")?);
            let arguments = block.take("input").unwrap_or_else(|| json!({})).to_string();
            Content::ToolCall(ToolCall { id, name, arguments })
        }
        "tool_result" => Content::ToolResult {
            call_id: block.required_string("tool_use_id")?,
            content: content(&mut block, "content")?,
            is_error: block.boolean("is_error")?.unwrap_or_default(),
        },
        "document" => Content::Document(document(&mut block)?),
        "thinking" => {
            let signature = block.string("signature")?.filter(|proof| !proof.is_empty());
            let signature = signature.map(|proof| Signature::read(Wire::AnthropicMessages, proof));
            Content::Thinking { text: block.string("thinking")?.unwrap_or_default(), signature }
        }
        "redacted_thinking" => Content::Redacted(block.required_string("data")?),
        _ => return Err(block.untranslatable("type")),
    };
    block.finish()?;
    Ok(content)
}

fn image(block: &mut Fields) -> Result<Image, WireError> {
    let mut source = block.object("source")?.ok_or_else(|| block.wrong("source", "an object; it is missing"))?;
    let image = match source.required_string("type")?.as_str() {
        "base64" => Image::Base64 { media_type: source.required_string("media_type")?, data: source.required_string("data")? },
        "url" => Image::Url(source.required_string("url")?),
        // A file kept by Anthropic.
        _ => return Err(source.untranslatable("type")),
    };
    source.finish()?;
    Ok(image)
}

fn document(block: &mut Fields) -> Result<Document, WireError> {
    // Remarks about the sources of the answer have no place in other wires.
    block.only("citations", &[json!({"enabled": false})])?;
    let name = block.string("title")?;
    let mut source = block.object("source")?.ok_or_else(|| block.wrong("source", "an object; it is missing"))?;
    let read = match source.required_string("type")?.as_str() {
        "base64" => {
            let (media_type, data) = (source.required_string("media_type")?, source.required_string("data")?);
            DocumentSource::Base64 { media_type, data }
        }
        "url" => DocumentSource::Url(source.required_string("url")?),
        "text" => {
            source.ignore(&["media_type"]);
            DocumentSource::Text(source.required_string("data")?)
        }
        // A file kept by Anthropic, or a document made of blocks.
        _ => return Err(source.untranslatable("type")),
    };
    source.finish()?;
    Ok(Document { name, source: read })
}

pub(super) struct Conversation {
    pub system: Vec<Box<RawValue>>,
    pub turns: Vec<TurnOut>,
}

/// System texts from anywhere in the conversation go to the top, where every model takes them; neighbours of one role become
/// one turn; what is empty, which Anthropic refuses, is left out.
pub(super) fn write(messages: Vec<Message>) -> Result<Conversation, WireError> {
    let mut system = Vec::new();
    let mut turns: Vec<TurnOut> = Vec::new();
    for message in messages {
        let blocks: Result<Vec<Option<Box<RawValue>>>, WireError> = message.content.into_iter().map(block).collect();
        let blocks = blocks?.into_iter().flatten();
        let role = match message.role {
            Role::System => {
                system.extend(blocks);
                continue;
            }
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(blocks),
            _ => turns.push(TurnOut { role, content: blocks.collect() }),
        }
        if turns.last().is_some_and(|last| last.content.is_empty()) {
            turns.pop();
        }
    }
    if turns.is_empty() {
        return Err(WireError::at("messages", "`messages` must have at least one message of the user that is not empty."));
    }
    Ok(Conversation { system, turns })
}

fn block(content: Content) -> Result<Option<Box<RawValue>>, WireError> {
    Ok(Some(match content {
        Content::Text(text) if text.is_empty() => return Ok(None),
        Content::Text(text) => json::raw(&BlockOut::Text { text: &text }),
        Content::Image(image) => json::raw(&image_out(image)),
        Content::Document(document) => json::raw(&document_out(document)),
        Content::ToolCall(call) => json::raw(&BlockOut::from(&call)),
        Content::Thinking { text, signature } => {
            let signature = signature.as_ref().and_then(|signature| signature.fit_for(Wire::AnthropicMessages));
            return Ok(signature
                .map(|signature| json::raw(&BlockOut::Thinking { thinking: &text, signature: Cow::Borrowed(signature) })));
        }
        Content::Redacted(data) => json::raw(&BlockOut::RedactedThinking { data: &data }),
        Content::ToolResult { call_id: id, content, is_error } => {
            json::raw(&BlockOut::ToolResult { tool_use_id: call_id(&id), content: result_content(content)?, is_error })
        }
    }))
}

fn result_content(mut contents: Vec<Content>) -> Result<Value, WireError> {
    if let [Content::Text(text)] = contents.as_mut_slice() {
        return Ok(std::mem::take(text).into());
    }
    let blocks: Result<Vec<Value>, WireError> = contents
        .into_iter()
        .map(|content| match content {
            Content::Text(text) => Ok(json!({"type": "text", "text": text})),
            Content::Image(image) => Ok(image_out(image)),
            Content::Document(document) => Ok(document_out(document)),
            _ => Err(WireError::at("messages", "A tool result can have only text, images and documents.")),
        })
        .collect();
    Ok(blocks?.into())
}

fn image_out(image: Image) -> Value {
    let source = match image {
        Image::Base64 { media_type, data } => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        Image::Url(url) => json!({"type": "url", "url": url}),
    };
    json!({"type": "image", "source": source})
}

fn document_out(document: Document) -> Value {
    let source = match document.source {
        DocumentSource::Base64 { media_type, data } => json!({"type": "base64", "media_type": media_type, "data": data}),
        DocumentSource::Url(url) => json!({"type": "url", "url": url}),
        DocumentSource::Text(text) => json!({"type": "text", "media_type": "text/plain", "data": text}),
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(name) = document.name {
        block["title"] = name.into();
    }
    block
}
