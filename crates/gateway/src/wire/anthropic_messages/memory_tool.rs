//! Anthropic's memory tool, which a client only names: its models know it, others are offered it as a function.

use memchr::memmem;
use serde_json::json;

use crate::request::json::{Cursor, Fault, Kind, Value};
use crate::request::text::decode;
use crate::wire::request::Tool;

/// What a client declares it by, in `type`.
pub const TYPE: &str = "memory_20250818";
/// What models call it by.
pub const NAME: &str = "memory";

/// What models that were not trained on it are told.
pub const DESCRIPTION: &str = "Files that you keep between conversations, below the directory /memories. View /memories before you \
begin with a task: earlier work may be noted there. Note down what you will need later as you go, since the conversation may be \
cut off at any time; keep the files short, in order and up to date, and delete what no longer holds.\n\
\n\
Commands:\n\
- view: show a directory, two levels deep, or a file with line numbers; view_range shows some of its lines\n\
- create: make a new file of file_text; a file that is there is not overwritten\n\
- str_replace: replace old_str, which must occur in the file exactly once, by new_str\n\
- insert: put insert_text after line insert_line; 0 puts it at the beginning\n\
- delete: delete a file, or a directory with all that is in it\n\
- rename: move a file or directory from old_path to new_path";

/// The tool for models that were not trained on it: the documented commands as one function.
pub(super) fn function(strict: Option<bool>) -> Tool {
    // With its strictness every property would have to be given.
    let strict = strict.filter(|strict| !strict);
    Tool { name: NAME.to_owned(), description: Some(DESCRIPTION.to_owned()), schema: schema(), strict }
}

/// Its input: the commands' fields in one object.
pub fn schema() -> serde_json::Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "properties": {
            "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
            "path": text("The file or directory, such as /memories/notes.md: of all commands but rename."),
            "view_range": {
                "type": "array",
                "items": {"type": "integer"},
                "description": "Of view: the first and the last line to show; -1 for the end of the file.",
            },
            "file_text": text("Of create: what the file is to hold."),
            "old_str": text("Of str_replace: the text to be replaced, verbatim."),
            "new_str": text("Of str_replace: the text that takes its place."),
            "insert_line": {"type": "integer", "description": "Of insert: the line after which the text is put."},
            "insert_text": text("Of insert: the text."),
            "old_path": text("Of rename: what is moved."),
            "new_path": text("Of rename: where to."),
        },
        "required": ["command"],
    })
}

/// Whether a request's `tools`, which a scan has validated, declare it.
pub fn declared(body: &[u8], tools: Option<Value>) -> bool {
    let Some(tools) = tools.filter(|tools| tools.kind == Kind::Array) else { return false };
    if memmem::find(tools.span.of(body), TYPE.as_bytes()).is_none() {
        return false;
    }
    let mut found = false;
    let _ = Cursor::at(body, tools.span).array(|cursor, _| {
        if cursor.peek() != Some(b'{') {
            return cursor.value().map(|_| ());
        }
        cursor.object(|cursor, key| {
            let value = cursor.value()?;
            found |= key == b"type" && value.kind == Kind::String && decode(cursor.text(value)) == TYPE;
            Ok::<_, Fault>(())
        })?;
        Ok(())
    });
    found
}
