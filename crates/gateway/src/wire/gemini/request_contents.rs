//! The contents of a `generateContent` request, and its system instruction.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::reply::{ContentOut, FunctionResponseOut, PartOut, PartsOut, result_object};
use super::{NO_SIGNATURE, made_up_call_id, signature_in};
use crate::wire::fields::Fields;
use crate::wire::request::{Content, Document, DocumentSource, Image, Message, Role};
use crate::wire::{ToolCall, WireError, json};

pub(super) fn parse(request: &mut Fields) -> Result<Vec<Message>, WireError> {
    let mut messages = Vec::new();
    let mut calls = Calls::default();
    if let Some(instruction) = request.object("systemInstruction")? {
        let mut instruction = instruction.in_camel_case();
        instruction.ignore(&["role"]);
        let content = parts(&mut instruction, &mut calls)?;
        instruction.finish()?;
        messages.extend((!content.is_empty()).then_some(Message { role: Role::System, content }));
    }
    let contents = request.objects("contents")?;
    if contents.is_empty() {
        return Err(request.wrong("contents", "an array with at least one content"));
    }
    for (at, content) in contents.into_iter().enumerate() {
        let mut content = content.in_camel_case();
        calls.content = at;
        let role = match content.string("role")?.as_deref() {
            Some("model") => Role::Assistant,
            // `function` is an older name for the one who brings results.
            None | Some("user" | "function" | "") => Role::User,
            Some(_) => return Err(content.wrong("role", "`user` or `model`")),
        };
        let read = parts(&mut content, &mut calls)?;
        content.finish()?;
        match messages.last_mut() {
            Some(last) if role == Role::Assistant && last.role == role => join(&mut last.content, read),
            _ => messages.push(Message { role, content: read }),
        }
    }
    Ok(messages)
}

/// Clients that stream send back each piece of the model's turn as a content of its own; elsewhere it is one message.
fn join(turn: &mut Vec<Content>, pieces: Vec<Content>) {
    for piece in pieces {
        match (turn.last_mut(), piece) {
            (Some(Content::Text(text)), Content::Text(more)) => text.push_str(&more),
            (Some(Content::Thinking { text, signature: open @ None }), Content::Thinking { text: more, signature }) => {
                text.push_str(&more);
                *open = signature;
            }
            (_, piece) => turn.push(piece),
        }
    }
}

/// The function calls so far. Results may name the function instead of the call.
#[derive(Default)]
struct Calls {
    /// The place of the content being read.
    content: usize,
    seen: Vec<Call>,
}

struct Call {
    content: usize,
    id: String,
    name: String,
    answered: bool,
}

impl Calls {
    /// A call's id: its own, or one made of its place, which stays when the conversation grows.
    fn add(&mut self, id: Option<String>, name: &str) -> String {
        let before = self.seen.iter().filter(|call| call.content == self.content).count();
        let id = id.unwrap_or_else(|| made_up_call_id(&self.content.to_string(), before));
        self.seen.push(Call { content: self.content, id: id.clone(), name: name.to_owned(), answered: false });
        id
    }

    /// The id of the call that a result answers: the one it names, else the first open one of its function.
    fn answer(&mut self, id: Option<&str>, name: &str) -> Option<String> {
        let named = self.seen.iter().position(|call| Some(call.id.as_str()) == id);
        let place = named.or_else(|| self.seen.iter().position(|call| call.name == name && !call.answered))?;
        let call = &mut self.seen[place];
        call.answered = true;
        Some(call.id.clone())
    }
}

fn parts(of: &mut Fields, calls: &mut Calls) -> Result<Vec<Content>, WireError> {
    let mut contents = Vec::new();
    for part in of.objects("parts")? {
        part_content(part.in_camel_case(), calls, &mut contents)?;
    }
    Ok(contents)
}

fn part_content(mut part: Fields, calls: &mut Calls, contents: &mut Vec<Content>) -> Result<(), WireError> {
    // How closely to look is a matter of cost; marks are the client's own.
    part.ignore(&["mediaResolution", "partMetadata"]);
    let thought = part.boolean("thought")?.unwrap_or_default();
    let signature = part.string("thoughtSignature")?.map(signature_in);
    let text = part.string("text")?;
    if thought {
        contents.push(Content::Thinking { text: text.unwrap_or_default(), signature });
        return part.finish();
    }
    let signature = signature.map(|proof| Content::Thinking { text: String::new(), signature: Some(proof) });
    if let Some(text) = text {
        contents.push(Content::Text(text));
        contents.extend(signature);
    } else if let Some(call) = part.object("functionCall")? {
        contents.extend(signature);
        contents.push(Content::ToolCall(function_call(call.in_camel_case(), calls)?));
    } else if let Some(response) = part.object("functionResponse")? {
        contents.push(function_response(response.in_camel_case(), calls)?);
    } else if let Some(blob) = part.object("inlineData")? {
        contents.push(inline_data(&part, blob.in_camel_case())?);
    } else if let Some(file) = part.object("fileData")? {
        contents.push(file_data(&part, file.in_camel_case())?);
    }
    part.finish()
}

fn function_call(mut call: Fields, calls: &mut Calls) -> Result<ToolCall, WireError> {
    let name = call.required_string("name")?;
    let id = calls.add(call.string("id")?.filter(|id| !id.is_empty()), &name);
    let arguments = call.take("args").unwrap_or_else(|| json!({})).to_string();
    call.finish()?;
    Ok(ToolCall { id, name, arguments })
}

fn function_response(mut response: Fields, calls: &mut Calls) -> Result<Content, WireError> {
    let name = response.required_string("name")?;
    let id = response.string("id")?.filter(|id| !id.is_empty());
    let call_id = calls.answer(id.as_deref(), &name);
    let call_id = call_id.ok_or_else(|| response.wrong("name", "that of a function the model called before"))?;
    let (text, is_error) = result_text(response.take("response").unwrap_or(Value::Null));
    let mut content: Vec<Content> = text.map(Content::Text).into_iter().collect();
    for part in response.objects("parts")? {
        let mut part = part.in_camel_case();
        if let Some(blob) = part.object("inlineData")? {
            content.push(inline_data(&part, blob.in_camel_case())?);
        }
        part.finish()?;
    }
    // How a live session goes on.
    response.ignore(&["scheduling", "willContinue"]);
    response.finish()?;
    Ok(Content::ToolResult { call_id, content, is_error })
}

/// The text of a result, and whether the call failed: Google's guide puts results under `output` and failures under `error`,
/// its Python client results under `result`.
fn result_text(response: Value) -> (Option<String>, bool) {
    let text = |value: Value| match value {
        Value::String(text) => text,
        value => value.to_string(),
    };
    match response {
        Value::Null => (None, false),
        Value::Object(mut fields) if fields.len() == 1 => {
            for (name, is_error) in [("output", false), ("result", false), ("error", true)] {
                if let Some(value) = fields.shift_remove(name) {
                    return (Some(text(value)), is_error);
                }
            }
            (Some(Value::Object(fields).to_string()), false)
        }
        other => (Some(text(other)), false),
    }
}

fn inline_data(part: &Fields, mut blob: Fields) -> Result<Content, WireError> {
    let media_type = blob.required_string("mimeType")?;
    let data = blob.required_string("data")?;
    let name = blob.string("displayName")?;
    blob.finish()?;
    if media_type.starts_with("image/") {
        Ok(Content::Image(Image::Base64 { media_type, data }))
    } else if is_document(&media_type) {
        Ok(Content::Document(Document { name, source: DocumentSource::Base64 { media_type, data } }))
    } else {
        Err(part.untranslatable("inlineData"))
    }
}

fn file_data(part: &Fields, mut file: Fields) -> Result<Content, WireError> {
    let media_type = file.string("mimeType")?;
    let url = file.required_string("fileUri")?;
    let name = file.string("displayName")?;
    file.finish()?;
    let media_type = media_type.or_else(|| media_type_of(&url).map(str::to_owned));
    // Files kept by Google, and `gs://` ones, only Google can read.
    let public = url.starts_with("https://") && !url.contains(".googleapis.com/");
    match media_type.as_deref() {
        Some(kind) if public && kind.starts_with("image/") => Ok(Content::Image(Image::Url(url))),
        Some(kind) if public && is_document(kind) => Ok(Content::Document(Document { name, source: DocumentSource::Url(url) })),
        _ => Err(part.untranslatable("fileData")),
    }
}

fn is_document(media_type: &str) -> bool {
    media_type == "application/pdf" || media_type.starts_with("text/")
}

/// The type that a URL's ending names.
fn media_type_of(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    Some(match path.rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        _ => return None,
    })
}

pub(super) struct Conversation {
    pub system_instruction: Option<Box<RawValue>>,
    pub contents: Vec<Box<RawValue>>,
}

/// System texts from anywhere in the conversation go to the top; neighbours of one role become one turn; what is empty is left
/// out. `signed`: the model refuses calls without a signature.
pub(super) fn write(messages: &[Message], signed: bool) -> Result<Conversation, WireError> {
    if messages.last().is_some_and(|last| last.role == Role::Assistant) {
        let message = "The provider of this model cannot continue an assistant message: end `messages` with a user message.";
        return Err(WireError::at("messages", message));
    }
    let mut system = Vec::new();
    let mut turns: Vec<ContentOut> = Vec::new();
    for message in messages {
        let role = match message.role {
            Role::System => {
                system.extend(write_parts(message, messages, signed)?);
                continue;
            }
            Role::User => "user",
            Role::Assistant => "model",
        };
        let parts = write_parts(message, messages, signed)?;
        match turns.last_mut() {
            Some(last) if last.role == role => last.parts.extend(parts),
            _ if parts.is_empty() => {}
            _ => turns.push(ContentOut { parts, role }),
        }
    }
    if turns.is_empty() {
        return Err(WireError::at("messages", "`messages` must have at least one message of the user that is not empty."));
    }
    Ok(Conversation {
        system_instruction: (!system.is_empty()).then(|| json::raw(&json!({ "parts": system }))),
        contents: turns.iter().map(json::raw).collect(),
    })
}

fn write_parts<'a>(message: &'a Message, messages: &'a [Message], signed: bool) -> Result<Vec<PartOut<'a>>, WireError> {
    let mut out = PartsOut::new(true);
    // Of several calls at once only the first has a signature.
    let mut unsigned = signed.then_some(NO_SIGNATURE);
    for content in &message.content {
        match content {
            Content::Text(text) if text.is_empty() => {}
            Content::Text(text) => out.text(text),
            Content::Image(image) => out.push(raw(&image_out(image))),
            Content::Document(document) => out.push(raw(&document_out(document))),
            Content::ToolCall(call) => out.call(call, unsigned.take()),
            Content::ToolResult { call_id, content, is_error } => {
                let name = name_of(messages, call_id).ok_or_else(|| {
                    let message = format!("A tool result is for the call `{call_id}`, which is nowhere in `messages`.");
                    WireError::at("messages", message)
                })?;
                let (response, parts) = result_out(content, *is_error)?;
                out.push(PartOut::Result { function_response: FunctionResponseOut { id: call_id, name, response, parts } });
            }
            Content::Thinking { text, signature } => out.thinking(text, signature.as_ref()),
            // Only Claude can read it.
            Content::Redacted(_) => {}
        }
    }
    Ok(out.finish())
}

/// The tool that a call was for: results must name it here.
fn name_of<'a>(messages: &'a [Message], id: &str) -> Option<&'a str> {
    messages.iter().rev().flat_map(|message| &message.content).find_map(|content| match content {
        Content::ToolCall(call) if call.id == id => Some(call.name.as_str()),
        _ => None,
    })
}

fn result_out(contents: &[Content], is_error: bool) -> Result<(Value, Vec<Value>), WireError> {
    let mut text = String::new();
    let mut parts = Vec::new();
    for content in contents {
        match content {
            Content::Text(more) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(more);
            }
            Content::Image(image) => parts.push(image_out(image)),
            Content::Document(document) => parts.push(document_out(document)),
            _ => return Err(WireError::at("messages", "A tool result can have only text, images and documents.")),
        }
    }
    Ok((result_object(text, is_error), parts))
}

fn image_out(image: &Image) -> Value {
    match image {
        Image::Base64 { media_type, data } => json!({"inlineData": {"mimeType": media_type, "data": data}}),
        Image::Url(url) => file_out(url),
    }
}

fn document_out(document: &Document) -> Value {
    match &document.source {
        DocumentSource::Base64 { media_type, data } => json!({"inlineData": {"mimeType": media_type, "data": data}}),
        DocumentSource::Url(url) => file_out(url),
        DocumentSource::Text(text) => json!({ "text": text }),
    }
}

fn file_out(url: &str) -> Value {
    match media_type_of(url) {
        Some(media_type) => json!({"fileData": {"mimeType": media_type, "fileUri": url}}),
        None => json!({"fileData": {"fileUri": url}}),
    }
}

fn raw(value: &Value) -> PartOut<'static> {
    PartOut::Raw(json::raw(value))
}
