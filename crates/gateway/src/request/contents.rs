//! The conversation of a Gemini request: `contents` and `systemInstruction`.

use super::json::{Cursor, Fault};
use super::{Kind, Malformed, Message, Role, Span, Value, text};

/// `contents`: an array of `{role, parts}`.
pub(super) fn contents(cursor: &mut Cursor) -> Result<(Span, Vec<Message>), Malformed> {
    if cursor.peek() != Some(b'[') {
        cursor.value()?;
        return Err(Malformed::param("contents", "must be an array of objects"));
    }
    let mut contents = Vec::with_capacity(32);
    let array = cursor.array(|cursor, index| {
        if cursor.peek() != Some(b'{') {
            cursor.value()?;
            return Err(Malformed::param(format!("contents[{index}]"), "must be an object"));
        }
        contents.push(content(cursor, index)?);
        Ok(())
    })?;
    Ok((array.span, contents))
}

fn content(cursor: &mut Cursor, index: usize) -> Result<Message, Malformed> {
    let fault = |field: &str, problem: &str| Malformed::param(format!("contents[{index}].{field}"), problem);
    let (mut role, mut parts) = (None, None);
    let object = cursor.object(|cursor, key| {
        let value = cursor.value()?;
        match key {
            b"role" => {
                let known = match &*text::decode(cursor.text(value)) {
                    "user" => Role::User,
                    "model" => Role::Assistant,
                    "function" => Role::Tool,
                    "system" => Role::System,
                    _ => return Err(fault("role", "must be user or model")),
                };
                role.replace(known).map_or(Ok(()), |_| Err(fault("role", "is given twice")))
            }
            b"parts" if value.kind != Kind::Array => Err(fault("parts", "must be an array")),
            b"parts" => parts.replace(value).map_or(Ok(()), |_| Err(fault("parts", "is given twice"))),
            _ => Ok(()),
        }
    })?;
    Ok(Message { span: object.span, role: role.unwrap_or(Role::User), content: parts })
}

/// A member of an object in the body, by either of the spellings that Google takes; the value itself if it is another kind.
pub(crate) fn member(body: &[u8], object: Value, names: [&[u8]; 2]) -> Option<Value> {
    if object.kind != Kind::Object {
        return None;
    }
    let mut found = None;
    let _ = Cursor::at(body, object.span).object(|cursor, key| {
        let value = cursor.value()?;
        if names.contains(&key) {
            found = Some(value);
        }
        Ok::<_, Fault>(())
    });
    found
}
