//! The input of a responses request, and its instructions.

use serde_json::{Value, json};

use super::reply::{call_out, reasoning_item};
use super::{native, signature};
use crate::wire::fields::Fields;
use crate::wire::openai_chat::{document_of, image_of, result_text};
use crate::wire::request::{Content, Document, DocumentSource, Image, Message, Role};
use crate::wire::{ToolCall, WireError};

pub(super) fn parse(request: &mut Fields) -> Result<Vec<Message>, WireError> {
    let mut messages = Vec::new();
    if let Some(instructions) = request.string("instructions")?.filter(|text| !text.is_empty()) {
        messages.push(Message { role: Role::System, content: vec![Content::Text(instructions)] });
    }
    let items = match request.take("input") {
        Some(Value::String(text)) => {
            messages.push(Message { role: Role::User, content: vec![Content::Text(text)] });
            return Ok(messages);
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        _ => return Err(request.wrong("input", "a string or an array with at least one item")),
    };
    for (at, item) in items.into_iter().enumerate() {
        let message = item_message(Fields::of(format!("input[{at}]"), item)?)?;
        match messages.last_mut() {
            // What the model said in one turn stands in items of its own here, and so do the results of its calls.
            Some(last) if last.role == message.role && joins(last, &message) => last.content.extend(message.content),
            _ => messages.push(message),
        }
    }
    Ok(messages)
}

fn joins(last: &Message, next: &Message) -> bool {
    let results = |message: &Message| message.content.iter().all(|content| matches!(content, Content::ToolResult { .. }));
    next.role == Role::Assistant || (next.role == Role::User && results(last) && results(next))
}

fn item_message(mut item: Fields) -> Result<Message, WireError> {
    let kind = item.string("type")?.unwrap_or_else(|| "message".to_owned());
    // Where the item stood in an earlier answer.
    item.ignore(&["status", "phase"]);
    let message = match kind.as_str() {
        "message" => {
            item.ignore(&["id"]);
            let role = match item.required_string("role")?.as_str() {
                "system" | "developer" => Role::System,
                "user" => Role::User,
                "assistant" => Role::Assistant,
                _ => return Err(item.wrong("role", "`user`, `assistant`, `system` or `developer`")),
            };
            Message { role, content: content(&mut item, "content")? }
        }
        "function_call" => {
            item.ignore(&["id"]);
            item.only("caller", &[json!({"type": "direct"})])?;
            let (id, name) = (item.required_string("call_id")?, item.required_string("name")?);
            let arguments = item.string("arguments")?.filter(|json| !json.trim().is_empty()).unwrap_or_else(|| "{}".to_owned());
            Message { role: Role::Assistant, content: vec![Content::ToolCall(ToolCall { id, name, arguments })] }
        }
        "function_call_output" => {
            item.ignore(&["id"]);
            item.only("caller", &[json!({"type": "direct"})])?;
            let (call_id, content) = (item.required_string("call_id")?, content(&mut item, "output")?);
            Message { role: Role::User, content: vec![Content::ToolResult { call_id, content, is_error: false }] }
        }
        "reasoning" => Message { role: Role::Assistant, content: vec![reasoning(&mut item)?] },
        "item_reference" => {
            let message = format!(
                "`{}` names an item that only OpenAI keeps: send the item itself, or name the earlier response in \
                 `previous_response_id` and use an agent.",
                item.path("id")
            );
            return Err(WireError::at(&item.path("id"), message));
        }
        _ => return Err(item.untranslatable("type")),
    };
    item.finish()?;
    Ok(message)
}

fn reasoning(item: &mut Fields) -> Result<Content, WireError> {
    let id = item.string("id")?.unwrap_or_default();
    let mut texts = Vec::new();
    for key in ["content", "summary"] {
        let parts = item.objects(key)?;
        // The reasoning itself, where there is any, and else its summary.
        if texts.is_empty() {
            for mut part in parts {
                texts.push(part.required_string("text")?);
            }
        }
    }
    let signature = item.string("encrypted_content")?.map(|encrypted| signature(&id, encrypted));
    Ok(Content::Thinking { text: texts.join("\n\n"), signature })
}

fn content(item: &mut Fields, key: &str) -> Result<Vec<Content>, WireError> {
    let value = match item.take(key) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![Content::Text(text)]),
        Some(value) => value,
    };
    let Value::Array(parts) = value else {
        return Err(item.wrong(key, "a string or an array of content parts"));
    };
    let path = item.path(key);
    let parts = parts.into_iter().enumerate();
    parts.map(|(at, part)| content_part(Fields::of(format!("{path}[{at}]"), part)?)).collect()
}

fn content_part(mut part: Fields) -> Result<Content, WireError> {
    // How closely to look is a matter of cost; the others are remarks of the provider, and hints for its cache.
    part.ignore(&["detail", "annotations", "logprobs", "prompt_cache_breakpoint"]);
    let content = match part.required_string("type")?.as_str() {
        "input_text" | "output_text" | "text" => Content::Text(part.required_string("text")?),
        "refusal" => Content::Text(part.required_string("refusal")?),
        "input_image" => {
            if part.take("file_id").is_some() {
                return Err(part.untranslatable("file_id"));
            }
            Content::Image(image_of(part.required_string("image_url")?, &part, "image_url")?)
        }
        "input_file" => Content::Document(document(&mut part)?),
        _ => return Err(part.untranslatable("type")),
    };
    part.finish()?;
    Ok(content)
}

fn document(part: &mut Fields) -> Result<Document, WireError> {
    let name = part.string("filename")?;
    if part.take("file_id").is_some() {
        return Err(part.untranslatable("file_id"));
    }
    if let Some(url) = part.string("file_url")? {
        return Ok(Document { name, source: DocumentSource::Url(url) });
    }
    document_of(name, part.required_string("file_data")?, part, "file_data")
}

pub(super) struct Conversation {
    pub instructions: Option<String>,
    pub input: Vec<Value>,
}

/// System texts before all else become the instructions; later ones stay in their place.
pub(super) fn write(messages: Vec<Message>) -> Result<Conversation, WireError> {
    if messages.last().is_some_and(|last| last.role == Role::Assistant) {
        let message = "The provider of this model cannot continue an assistant message: end `messages` with a user message.";
        return Err(WireError::at("messages", message));
    }
    let mut instructions: Vec<String> = Vec::new();
    let mut input = Vec::new();
    for message in messages {
        match message.role {
            Role::System => {
                let text = system_text(message.content)?;
                if input.is_empty() {
                    instructions.push(text);
                } else {
                    input.push(json!({"role": "system", "content": text}));
                }
            }
            Role::User => write_user(message.content, &mut input)?,
            Role::Assistant => write_assistant(message.content, &mut input)?,
        }
    }
    let instructions = (!instructions.is_empty()).then(|| instructions.join("\n\n"));
    Ok(Conversation { instructions, input })
}

fn system_text(contents: Vec<Content>) -> Result<String, WireError> {
    let texts: Result<Vec<String>, WireError> = contents
        .into_iter()
        .map(|content| match content {
            Content::Text(text) => Ok(text),
            _ => Err(WireError::at("messages", "With the provider of this model, a system message can have only text.")),
        })
        .collect();
    Ok(texts?.join("\n\n"))
}

/// Results become items of their own, first, since they must follow the calls.
fn write_user(contents: Vec<Content>, input: &mut Vec<Value>) -> Result<(), WireError> {
    let mut parts = Vec::new();
    for content in contents {
        match content {
            Content::ToolResult { call_id, content, is_error } => {
                let output = result_output(content, is_error)?;
                input.push(json!({"type": "function_call_output", "call_id": call_id, "output": output}));
            }
            other => parts.extend(part_out(other)?),
        }
    }
    match parts.as_mut_slice() {
        [] => {}
        [only] if only.get("text").is_some() => input.push(json!({"role": "user", "content": only["text"].take()})),
        _ => input.push(json!({"role": "user", "content": parts})),
    }
    Ok(())
}

fn result_output(mut contents: Vec<Content>, is_error: bool) -> Result<Value, WireError> {
    match contents.as_mut_slice() {
        [] => Ok(result_text(String::new(), is_error).into()),
        [Content::Text(text)] => Ok(result_text(std::mem::take(text), is_error).into()),
        _ => {
            let mut parts = Vec::new();
            if is_error {
                parts.push(json!({"type": "input_text", "text": "Error:"}));
            }
            for content in contents {
                parts.extend(part_out(content)?);
            }
            Ok(parts.into())
        }
    }
}

fn part_out(content: Content) -> Result<Option<Value>, WireError> {
    Ok(Some(match content {
        Content::Text(text) => json!({"type": "input_text", "text": text}),
        Content::Image(image) => {
            let url = match image {
                Image::Url(url) => url,
                Image::Base64 { media_type, data } => format!("data:{media_type};base64,{data}"),
            };
            json!({"type": "input_image", "image_url": url, "detail": "auto"})
        }
        Content::Document(document) => document_out(document),
        Content::Thinking { .. } | Content::Redacted(_) => return Ok(None),
        Content::ToolCall(_) | Content::ToolResult { .. } => {
            return Err(WireError::at(
                "messages",
                "A tool call belongs into an `assistant` message, and a result not into another.",
            ));
        }
    }))
}

fn document_out(document: Document) -> Value {
    match document.source {
        DocumentSource::Base64 { media_type, data } => {
            // This wire wants a name for each file.
            let name = document.name.unwrap_or_else(|| "document".to_owned());
            json!({"type": "input_file", "filename": name, "file_data": format!("data:{media_type};base64,{data}")})
        }
        DocumentSource::Url(url) => json!({"type": "input_file", "file_url": url}),
        DocumentSource::Text(text) => json!({"type": "input_text", "text": text}),
    }
}

fn write_assistant(contents: Vec<Content>, input: &mut Vec<Value>) -> Result<(), WireError> {
    let mut text = String::new();
    for content in contents {
        if let Content::Text(more) = content {
            text.push_str(&more);
            continue;
        }
        flush(&mut text, input);
        match content {
            Content::ToolCall(call) => input.push(call_out(&call)),
            Content::Thinking { text, signature } => {
                if let Some((id, encrypted)) = signature.as_ref().and_then(native) {
                    input.push(reasoning_item(id, &text, Some(encrypted.to_owned())));
                }
            }
            Content::Redacted(_) | Content::Text(_) => {}
            Content::Image(_) | Content::Document(_) | Content::ToolResult { .. } => {
                let message = "With the provider of this model, an assistant message can have only text and tool calls.";
                return Err(WireError::at("messages", message));
            }
        }
    }
    flush(&mut text, input);
    Ok(())
}

fn flush(text: &mut String, input: &mut Vec<Value>) {
    if !text.is_empty() {
        input.push(json!({"role": "assistant", "content": std::mem::take(text)}));
    }
}
