//! The conversation of a responses request: `input`, and what continues an earlier one.

use super::json::Cursor;
use super::{Kept, Kind, Malformed, Message, Role, Span, Value, once, text, typed};

/// `input`: a text is one message of the user.
pub(super) fn input(cursor: &mut Cursor) -> Result<(Span, Vec<Message>), Malformed> {
    let problem = "must be a string or an array of objects";
    match cursor.peek() {
        Some(b'"') => {
            let value = cursor.value()?;
            return Ok((value.span, vec![Message { span: value.span, role: Role::User, content: Some(value) }]));
        }
        Some(b'[') => {}
        _ => {
            cursor.value()?;
            return Err(Malformed::param("input", problem));
        }
    }
    let mut items = Vec::with_capacity(32);
    let array = cursor.array(|cursor, index| {
        if cursor.peek() != Some(b'{') {
            cursor.value()?;
            return Err(Malformed::param(format!("input[{index}]"), "must be an object"));
        }
        items.push(item(cursor, index)?);
        Ok(())
    })?;
    Ok((array.span, items))
}

/// An item: a message, a call, a call's result, reasoning, or what a provider's own tools did.
fn item(cursor: &mut Cursor, index: usize) -> Result<Message, Malformed> {
    let fault = |field: &str, problem: &str| Malformed::param(format!("input[{index}].{field}"), problem);
    let (mut role, mut said, mut kind) = (None, None, None);
    let object = cursor.object(|cursor, key| {
        let value = cursor.value()?;
        match key {
            b"role" => {
                let named = (value.kind == Kind::String).then(|| Role::named(&text::decode(cursor.text(value)))).flatten();
                let named = named.ok_or_else(|| fault("role", "must be system, developer, user or assistant"))?;
                role.replace(named).map_or(Ok(()), |_| Err(fault("role", "is given twice")))
            }
            b"type" => kind.replace(value).map_or(Ok(()), |_| Err(fault("type", "is given twice"))),
            b"content" | b"output" => said.replace(value).map_or(Ok(()), |_| Err(fault("content", "is given twice"))),
            _ => Ok(()),
        }
    })?;
    let kind = kind.filter(|kind| kind.kind == Kind::String).map(|kind| text::decode(cursor.text(kind)));
    let role = match kind.as_deref() {
        None | Some("message") => role.ok_or_else(|| fault("role", "is required"))?,
        Some(kind) if kind.ends_with("_output") => Role::Tool,
        Some(_) => role.unwrap_or(Role::Assistant),
    };
    let content = said.filter(|value| matches!(value.kind, Kind::String | Kind::Array));
    Ok(Message { span: object.span, role, content })
}

impl Kept {
    /// `previous_response_id`, a string or null.
    pub(super) fn response(&mut self, cursor: &mut Cursor) -> Result<(), Malformed> {
        let param = "previous_response_id";
        let value = typed(cursor, &[Kind::String, Kind::Null], param, "must be a string")?;
        once(&mut self.response, value, param)
    }

    /// `conversation`: an id, `{"id": …}` or null.
    pub(super) fn conversation(&mut self, cursor: &mut Cursor) -> Result<(), Malformed> {
        let param = "conversation";
        if cursor.peek() != Some(b'{') {
            let value = typed(cursor, &[Kind::String, Kind::Null], param, "must be an id or an object with one")?;
            self.conversation_id = Some(value);
            return once(&mut self.conversation, value, param);
        }
        let mut id = None;
        let value = cursor.object(|cursor, key| {
            if key == b"id" {
                let value = typed(cursor, &[Kind::String], "conversation.id", "must be a string")?;
                return once(&mut id, value, "conversation.id");
            }
            cursor.value()?;
            Ok::<_, Malformed>(())
        })?;
        self.conversation_id = id;
        once(&mut self.conversation, value, param)
    }

    /// What the client names, if anything: the id of a response or of a conversation.
    pub fn named<'b>(&self, body: &'b [u8]) -> Option<Named<'b>> {
        let text = |value: Option<Value>| {
            value.filter(|value| value.kind == Kind::String).map(|value| text::decode(value.span.of(body)))
        };
        match (text(self.response), text(self.conversation_id)) {
            (Some(id), None) => Some(Named::Response(id)),
            (None, Some(id)) => Some(Named::Conversation(id)),
            (Some(_), Some(_)) => Some(Named::Both),
            (None, None) => None,
        }
    }
}

/// What a request goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<'b> {
    /// The turn that ended with this response.
    Response(std::borrow::Cow<'b, str>),
    /// All of this conversation.
    Conversation(std::borrow::Cow<'b, str>),
    /// One or the other, which is for the client to say.
    Both,
}
