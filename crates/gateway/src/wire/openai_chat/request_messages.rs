//! The messages of a chat completion request.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::reply::{ToolCallOut, result_text};
use crate::wire::fields::Fields;
use crate::wire::request::{Content, Document, DocumentSource, Image, Message, Role};
use crate::wire::{Signature, ToolCall, Wire, WireError, json};

pub(super) fn parse(request: &mut Fields) -> Result<Vec<Message>, WireError> {
    let mut messages = Vec::new();
    for mut message in request.objects("messages")? {
        let role = message.required_string("role")?;
        messages.push(match role.as_str() {
            "system" | "developer" => Message { role: Role::System, content: content(&mut message)? },
            "user" => Message { role: Role::User, content: content(&mut message)? },
            "assistant" => Message { role: Role::Assistant, content: assistant_content(&mut message)? },
            "tool" => Message { role: Role::User, content: vec![tool_result(&mut message)?] },
            _ => {
                return Err(message.wrong("role", "`system`, `developer`, `user`, `assistant` or `tool`"));
            }
        });
        message.finish()?;
    }
    if messages.is_empty() {
        return Err(request.wrong("messages", "an array with at least one message"));
    }
    Ok(messages)
}

fn content(message: &mut Fields) -> Result<Vec<Content>, WireError> {
    let value = match message.take("content") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![Content::Text(text)]),
        Some(value) => value,
    };
    let Value::Array(parts) = value else {
        return Err(message.wrong("content", "a string or an array of content parts"));
    };
    let path = message.path("content");
    let parts = parts.into_iter().enumerate();
    parts.map(|(at, part)| content_part(Fields::of(format!("{path}[{at}]"), part)?)).collect()
}

fn content_part(mut part: Fields) -> Result<Content, WireError> {
    let content = match part.required_string("type")?.as_str() {
        "text" => Content::Text(part.required_string("text")?),
        "refusal" => Content::Text(part.required_string("refusal")?),
        "image_url" => {
            let image = part.object("image_url")?;
            let mut image = image.ok_or_else(|| part.wrong("image_url", "an object with a `url`"))?;
            let url = image.required_string("url")?;
            // How closely to look is a matter of cost; other wires look as closely as they can.
            image.ignore(&["detail"]);
            let parsed = image_of(url, &image, "url")?;
            image.finish()?;
            Content::Image(parsed)
        }
        "file" => Content::Document(document(&mut part)?),
        // `input_audio`.
        _ => return Err(part.untranslatable("type")),
    };
    // About the provider's cache.
    part.ignore(&["prompt_cache_breakpoint"]);
    part.finish()?;
    Ok(content)
}

/// An image by URL, or as a data URL; `key` is where it stands.
pub(in crate::wire) fn image_of(url: String, at: &Fields, key: &str) -> Result<Image, WireError> {
    let Some(rest) = url.strip_prefix("data:") else {
        return Ok(Image::Url(url));
    };
    let parts = rest.split_once(',').and_then(|(kind, data)| Some((kind.strip_suffix(";base64")?, data)));
    let Some((kind, data)) = parts else {
        return Err(at.wrong(key, "a URL or `data:image/…;base64,…`"));
    };
    let media_type = kind.split(';').next().unwrap_or_default().to_owned();
    Ok(Image::Base64 { media_type, data: data.to_owned() })
}

fn document(part: &mut Fields) -> Result<Document, WireError> {
    let mut file = part.object("file")?.ok_or_else(|| part.wrong("file", "an object with `file_data`"))?;
    let name = file.string("filename")?;
    let data = file.string("file_data")?;
    // What is left is the id of a file kept by `OpenAI`.
    file.finish()?;
    let data = data.ok_or_else(|| part.wrong("file", "an object with `file_data`"))?;
    document_of(name, data, part, "file")
}

/// A file as a data URL, as both of `OpenAI`'s wires have it.
pub(in crate::wire) fn document_of(name: Option<String>, data: String, at: &Fields, key: &str) -> Result<Document, WireError> {
    match image_of(data, at, key) {
        Ok(Image::Base64 { media_type, data }) => Ok(Document { name, source: DocumentSource::Base64 { media_type, data } }),
        _ => Err(at.wrong(key, "a file as `data:application/pdf;base64,…`")),
    }
}

/// The proof of Google's own host of this wire stands beside the call that it belongs to.
fn google_signature(call: &mut Fields) -> Result<Option<Content>, WireError> {
    let google = call.object("extra_content")?.map(|mut extra| extra.object("google")).transpose()?.flatten();
    let proof = google.map(|mut google| google.string("thought_signature")).transpose()?.flatten();
    let signature = proof.map(|proof| Signature::read(Wire::Gemini, proof));
    Ok(signature.map(|signature| Content::Thinking { text: String::new(), signature: Some(signature) }))
}

fn assistant_content(message: &mut Fields) -> Result<Vec<Content>, WireError> {
    // Some hosts have the one name, some the other.
    let thinking = message.string("reasoning_content")?.or(message.string("reasoning")?);
    let thinking = thinking.filter(|text| !text.is_empty()).map(|text| Content::Thinking { text, signature: None });
    let mut content: Vec<Content> = thinking.into_iter().chain(content(message)?).collect();
    content.extend(message.string("refusal")?.map(Content::Text));
    for mut call in message.objects("tool_calls")? {
        if call.string("type")?.is_some_and(|kind| kind != "function") {
            return Err(call.untranslatable("type"));
        }
        let id = call.required_string("id")?;
        let mut function = call.object("function")?.ok_or_else(|| call.wrong("function", "an object; it is missing"))?;
        let name = function.required_string("name")?;
        let arguments = function.string("arguments")?.unwrap_or_default();
        content.extend(google_signature(&mut call)?);
        content.push(Content::ToolCall(ToolCall { id, name, arguments }));
        function.finish()?;
        // Some clients send back the index of the stream.
        call.ignore(&["index"]);
        call.finish()?;
    }
    // The provider's remarks about the text, and the parts of the reasoning that is there as text.
    message.ignore(&["annotations", "reasoning_details"]);
    Ok(content)
}

fn tool_result(message: &mut Fields) -> Result<Content, WireError> {
    // The call's id says which tool it was.
    message.ignore(&["name"]);
    let call_id = message.required_string("tool_call_id")?;
    Ok(Content::ToolResult { call_id, content: content(message)?, is_error: false })
}

#[derive(Serialize)]
struct MessageOut<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    content: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCallOut<'a>>,
}

impl MessageOut<'_> {
    fn new(role: &'static str, content: Option<Value>) -> Self {
        Self { role, tool_call_id: None, content, reasoning_content: None, tool_calls: Vec::new() }
    }
}

pub(super) fn write(messages: Vec<Message>) -> Result<Vec<Box<RawValue>>, WireError> {
    if messages.last().is_some_and(|last| last.role == Role::Assistant) {
        let message = "The provider of this model cannot continue an assistant message: end `messages` with a user message.";
        return Err(WireError::at("messages", message));
    }
    let mut out = Vec::new();
    for message in messages {
        match message.role {
            Role::System => out.push(plain("system", joined(message.content, "\n\n")?.into())),
            Role::User => write_user(message.content, &mut out)?,
            Role::Assistant => out.extend(assistant(message.content)?),
        }
    }
    Ok(out)
}

fn assistant(contents: Vec<Content>) -> Result<Option<Box<RawValue>>, WireError> {
    let (mut texts, mut thinking, mut calls) = (Vec::new(), String::new(), Vec::new());
    let mut proof = None;
    for content in contents {
        match content {
            Content::ToolCall(call) => calls.push((call, proof.take())),
            // Only hosts that sign nothing give reasoning without a proof, and those want it back.
            Content::Thinking { text, signature: None } => thinking.push_str(&text),
            Content::Thinking { signature, .. } => proof = signature,
            Content::Redacted(_) => {}
            other => texts.push(other),
        }
    }
    let text = joined(texts, "")?;
    if text.is_empty() && calls.is_empty() && thinking.is_empty() {
        // All that it had was reasoning for another provider.
        return Ok(None);
    }
    let tool_calls: Vec<ToolCallOut> = calls.iter().map(|(call, proof)| ToolCallOut::from(call).signed(proof.as_ref())).collect();
    let content = (!text.is_empty() || tool_calls.is_empty()).then(|| text.into());
    let reasoning_content = (!thinking.is_empty()).then_some(thinking);
    Ok(Some(json::raw(&MessageOut { reasoning_content, tool_calls, ..MessageOut::new("assistant", content) })))
}

/// Results become messages of their own, first, since they must follow the calls.
fn write_user(contents: Vec<Content>, out: &mut Vec<Box<RawValue>>) -> Result<(), WireError> {
    let mut parts = Vec::new();
    for content in contents {
        match content {
            Content::ToolResult { call_id, content, is_error } => {
                let text = result_text(joined(content, "\n")?, is_error);
                let message = MessageOut::new("tool", Some(text.into()));
                out.push(json::raw(&MessageOut { tool_call_id: Some(&call_id), ..message }));
            }
            Content::Text(text) => parts.push(json!({"type": "text", "text": text})),
            Content::Image(image) => {
                let url = match image {
                    Image::Url(url) => url,
                    Image::Base64 { media_type, data } => {
                        format!("data:{media_type};base64,{data}")
                    }
                };
                parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
            }
            Content::Document(document) => parts.push(document_out(document)?),
            Content::Thinking { .. } | Content::Redacted(_) => {}
            Content::ToolCall(_) => {
                return Err(WireError::at("messages", "A tool call belongs into an `assistant` message."));
            }
        }
    }
    match parts.as_mut_slice() {
        [] => {}
        // Not every provider of this wire reads lists of parts, so there is one only where it is needed.
        [only] if only.get("text").is_some() => out.push(plain("user", only["text"].take())),
        _ => out.push(plain("user", Value::Array(parts))),
    }
    Ok(())
}

fn plain(role: &'static str, content: Value) -> Box<RawValue> {
    json::raw(&MessageOut::new(role, Some(content)))
}

fn document_out(document: Document) -> Result<Value, WireError> {
    match document.source {
        DocumentSource::Base64 { media_type, data } => {
            // This wire wants a name for each file.
            let name = document.name.unwrap_or_else(|| "document".to_owned());
            let url = format!("data:{media_type};base64,{data}");
            Ok(json!({"type": "file", "file": {"filename": name, "file_data": url}}))
        }
        DocumentSource::Text(text) => Ok(json!({"type": "text", "text": text})),
        DocumentSource::Url(_) => {
            let message = "The provider of this model takes no documents by URL: send the document itself, as base64.";
            Err(WireError::at("messages", message))
        }
    }
}

/// Texts as one; nothing else can stand in a system, assistant or tool message of this wire.
fn joined(contents: Vec<Content>, with: &str) -> Result<String, WireError> {
    let texts: Result<Vec<String>, WireError> = contents
        .into_iter()
        .map(|content| match content {
            Content::Text(text) => Ok(text),
            _ => Err(WireError::at(
                "messages",
                "With the provider of this model, only text can stand in tool results and in system and assistant messages: \
                 put images into a user message.",
            )),
        })
        .collect();
    Ok(texts?.join(with))
}
