//! A message as the log keeps it.

use std::borrow::Cow;

use super::normal::{Arguments, Part};
use crate::redaction::Redaction;

/// The parts without what is found in them. Adjacent texts become one first, as they are in the log: what is looked for may
/// begin in one and end in the next.
pub(super) fn kept<'p, 'b>(parts: &'p [Part<'b>], redaction: Option<&Redaction>) -> Cow<'p, [Part<'b>]> {
    let Some(redaction) = redaction else { return Cow::Borrowed(parts) };
    let mut kept: Vec<Part> = Vec::with_capacity(parts.len());
    let mut texts = String::new();
    let end_texts = |kept: &mut Vec<Part>, texts: &mut String| {
        if !texts.is_empty() {
            kept.push(Part::Text(redaction.text(&storable(texts)).into_owned().into()));
            texts.clear();
        }
    };
    for part in parts {
        if let Part::Text(text) = part {
            texts.push_str(text);
            continue;
        }
        end_texts(&mut kept, &mut texts);
        kept.push(match part {
            Part::Call { id, name, arguments } => {
                let arguments = match arguments {
                    Arguments::Json(json) => Arguments::new(&redaction.json(json)),
                    Arguments::Raw(raw) => Arguments::new(&redaction.text(raw)),
                };
                Part::Call { id: id.clone(), name: name.clone(), arguments }
            }
            other => other.clone(),
        });
    }
    end_texts(&mut kept, &mut texts);
    Cow::Owned(kept)
}

/// Postgres cannot hold NUL in text.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    match memchr::memchr(0, text.as_bytes()) {
        Some(_) => Cow::Owned(text.replace('\0', "\u{FFFD}")),
        None => Cow::Borrowed(text),
    }
}
