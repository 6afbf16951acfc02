//! Reads a request and leaves out the parameters and tools that the neutral form has no place for.

use serde_json::Value;

use super::request::Request;
use super::{Wire, WireError, parse_request};

/// Where a conversation stands in any wire: nothing of it is ever left out.
const CONVERSATION: &[&str] =
    &["messages", "system", "input", "instructions", "contents", "systemInstruction", "system_instruction"];

/// The most fields that are left out of one request: each costs a parse of the whole, and a body holds room for a million.
const MOST_DROPPED: usize = 64;

/// The request, and the fields that were left out of it, as the client names them.
///
/// Each pass removes the field that the parser refused; past [`MOST_DROPPED`] of them the request is refused as it would be
/// without `drop`.
pub(super) fn parse(wire: Wire, body: &[u8]) -> Result<(Request, Vec<String>), WireError> {
    let mut error = match parse_request(wire, body) {
        Ok(request) => return Ok((request, Vec::new())),
        Err(error) => error,
    };
    let mut tree: Value = serde_json::from_slice(body).map_err(|error| WireError::json(&error))?;
    let mut dropped = Vec::new();
    // Tools that were left out, by their place in the list that the client sent.
    let mut tools = Vec::new();
    loop {
        let Some(path) = error.droppable.clone().filter(|path| !CONVERSATION.contains(&first_of(path))) else {
            return Err(error);
        };
        if dropped.len() == MOST_DROPPED {
            return Err(error);
        }
        let Some(name) = remove(&mut tree, &path, &mut tools) else {
            return Err(error);
        };
        dropped.push(name);
        match parse_request(wire, tree.to_string().as_bytes()) {
            Ok(request) => return Ok((request, dropped)),
            Err(next) => error = next,
        }
    }
}

/// The first name of a path such as `tools[0].type`.
fn first_of(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or_default()
}

/// Removes what stands at `path` and gives its path in the request as the client sent it.
fn remove(tree: &mut Value, path: &str, tools: &mut Vec<usize>) -> Option<String> {
    let mut steps: Vec<&str> = path.split(['.', '[']).map(|step| step.trim_end_matches(']')).collect();
    let last = steps.pop()?;
    let place = steps.iter().try_fold(tree, |at, step| match step.parse::<usize>() {
        Ok(index) => at.get_mut(index),
        Err(_) => at.get_mut(*step),
    })?;
    let name = as_sent(path, tools);
    match place {
        Value::Object(members) => members.shift_remove(last)?,
        Value::Array(elements) => {
            let index: usize = last.parse().ok().filter(|index| *index < elements.len())?;
            if steps == ["tools"] {
                tools.push((0..).filter(|sent| !tools.contains(sent)).nth(index)?);
            }
            elements.remove(index)
        }
        _ => return None,
    };
    Some(name)
}

/// A path into the tools that are left, as a path into those that the client sent.
fn as_sent(path: &str, tools: &[usize]) -> String {
    let after = path.strip_prefix("tools[").and_then(|rest| rest.split_once(']'));
    let found = after.and_then(|(index, rest)| Some((index.parse().ok()?, rest)));
    match found.and_then(|(index, rest)| Some(((0usize..).filter(|sent| !tools.contains(sent)).nth(index)?, rest))) {
        Some((sent, rest)) => format!("tools[{sent}]{rest}"),
        None => path.to_owned(),
    }
}
