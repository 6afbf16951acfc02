//! Redaction of what is about to be stored: what a detector finds becomes a mark that says what it was, such as `[email]`.
//!
//! A turn is redacted before it is hashed and comes into the spool; Python redacts all other ways in by this same code, through
//! the binding. Patterns are of an engine that is linear in the text.

mod detectors;

use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
    ops::Range,
    sync::OnceLock,
};

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

pub use self::detectors::NAMES;
use self::detectors::{Detector, detector};

/// The most patterns of one's own.
const MAX_PATTERNS: usize = 200;
/// The longest of them, in bytes.
const MAX_PATTERN: usize = 1000;
/// The largest of them when compiled, in bytes.
const MAX_COMPILED: usize = 1 << 20;
/// How often a text is looked at again after something was found in it. Only patterns that look for marks need more than a few.
const MAX_PASSES: usize = 32;
/// What is left of a text where nothing of it may be.
const REDACTED: &str = "[redacted]";

/// What is looked for: the name of a detector of ours, or a pattern with its own name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    Known(String),
    Own(Own),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    name: String,
    pattern: String,
}

/// What is looked for in texts, and by what it is replaced.
pub struct Redaction {
    /// In the order of what they know: where findings overlap, the first one's mark stands.
    rules: Vec<(String, Finder)>,
    /// The marks of this redaction, as they stand in texts that went through it before.
    marks: Option<Regex>,
}

/// How an agent has redacted what is said with it; compiled when it is first needed.
pub struct AgentRedaction {
    detect: Box<str>,
    log: bool,
    compiled: OnceLock<Redaction>,
}

enum Finder {
    Known(Detector),
    Own(Regex),
    /// All of a text: of a redaction that cannot be read.
    All,
}

impl Redaction {
    /// Reads a JSON array of names of detectors and of `{name, pattern}`.
    ///
    /// # Errors
    /// Says what of it is none.
    pub fn parse(spec: &str) -> Result<Self, String> {
        let wanted: Vec<Wanted> =
            serde_json::from_str(spec).map_err(|_| "must be a list of detectors' names and of {name, pattern}".to_owned())?;
        let mut rules = Vec::new();
        let mut own = Vec::new();
        for wanted in wanted {
            match wanted {
                Wanted::Known(name) => {
                    let found = detector(&name)
                        .ok_or_else(|| format!("there is no detector '{name}'; there are {}", NAMES.join(", ")))?;
                    rules.push((name, Finder::Known(found?)));
                }
                Wanted::Own(rule) => own.push((rule.name.clone(), Finder::Own(compiled(&rule)?))),
            }
        }
        if own.len() > MAX_PATTERNS {
            return Err(format!("has {} patterns of its own; at most {MAX_PATTERNS} are allowed", own.len()));
        }
        rules.sort_by_key(|(name, _)| NAMES.iter().position(|known| known == name));
        rules.append(&mut own);
        let marks = rules.iter().map(|(name, _)| regex::escape(&mark(name))).chain([regex::escape(REDACTED)]);
        let marks = Regex::new(&marks.collect::<Vec<_>>().join("|")).map(Some).map_err(|error| error.to_string())?;
        Ok(Self { rules, marks })
    }

    /// What stands in for a redaction that cannot be read: nothing of any text is kept.
    pub fn all() -> Self {
        Self { rules: vec![("redacted".to_owned(), Finder::All)], marks: None }
    }

    /// A text without what is found in it. All look at the text as it came, so that none hides from another what that would
    /// find; what overlaps becomes one mark. Looked at again as long as marks have parted what stood together.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Cow::Owned(mut redacted) = self.once(text) else { return Cow::Borrowed(text) };
        for _ in 0..MAX_PASSES {
            let Cow::Owned(again) = self.once(&redacted) else { return Cow::Owned(redacted) };
            redacted = again;
        }
        Cow::Owned(REDACTED.to_owned())
    }

    fn once<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut found: Vec<(Range<usize>, usize)> = Vec::new();
        for (rank, (_, finder)) in self.rules.iter().enumerate() {
            match finder {
                Finder::Known(detector) => detector.find(text, &mut |range| found.push((range, rank))),
                Finder::Own(pattern) => found.extend(pattern.find_iter(text).map(|one| (one.range(), rank))),
                Finder::All if text == REDACTED => {}
                Finder::All => found.push((0..text.len(), rank)),
            }
        }
        found.retain(|(range, _)| !range.is_empty());
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let marks: Vec<Range<usize>> = self.marks.iter().flat_map(|marks| marks.find_iter(text)).map(|one| one.range()).collect();
        found.retain_mut(|(range, _)| {
            // None is found within a mark, and none leaves a part of one.
            let touched =
                marks.partition_point(|mark| mark.end <= range.start)..marks.partition_point(|mark| mark.start < range.end);
            let (Some(first), Some(last)) = (marks.get(touched.start), marks[..touched.end].last()) else { return true };
            if touched.is_empty() {
                return true;
            }
            let within = first.start <= range.start && range.end <= first.end;
            *range = range.start.min(first.start)..range.end.max(last.end);
            !within
        });
        found.sort_unstable_by_key(|(range, rank)| (range.start, *rank));
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        let mut findings = found.into_iter().peekable();
        while let Some((mut range, mut rank)) = findings.next() {
            while let Some((next, other)) = findings.next_if(|(next, _)| next.start < range.end) {
                range.end = range.end.max(next.end);
                rank = rank.min(other);
            }
            out.push_str(&text[end..range.start]);
            out.push_str(&mark(&self.rules[rank].0));
            end = range.end;
        }
        if end == 0 {
            return Cow::Borrowed(text);
        }
        out.push_str(&text[end..]);
        Cow::Owned(out)
    }

    /// A JSON value without what is found in its texts and the names of its members; a number that is found as a whole becomes
    /// a text. Ids stay.
    pub fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) if Uuid::try_parse(&text).is_ok() => Value::String(text),
            Value::String(text) => match self.text(&text) {
                Cow::Borrowed(_) => Value::String(text),
                Cow::Owned(redacted) => Value::String(redacted),
            },
            Value::Number(number) => {
                let text = number.to_string();
                match self.text(&text) {
                    Cow::Owned(redacted) if redacted.starts_with('[') && redacted.ends_with(']') => Value::String(redacted),
                    _ => Value::Number(number),
                }
            }
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(members) => {
                members.into_iter().map(|(name, member)| (self.text(&name).into_owned(), self.value(member))).collect()
            }
            other => other,
        }
    }

    /// JSON text without what is found in it; a text like any other where it is no JSON.
    pub fn json(&self, text: &str) -> String {
        match serde_json::from_str(text) {
            Ok(value) => self.value(value).to_string(),
            Err(_) => self.text(text).into_owned(),
        }
    }
}

impl AgentRedaction {
    /// `detect` is what [`Redaction::parse`] reads.
    pub fn new(detect: &str, log: bool) -> Self {
        Self { detect: detect.into(), log, compiled: OnceLock::new() }
    }

    /// What is looked for in all that is kept as memory. Nothing of any text is kept where that cannot be told.
    pub fn redaction(&self) -> &Redaction {
        self.compiled.get_or_init(|| {
            Redaction::parse(&self.detect).unwrap_or_else(|error| {
                tracing::error!(%error, "a redaction cannot be read: nothing that was said is kept of its turns");
                Redaction::all()
            })
        })
    }

    /// The same of what sessions' logs say, if they are redacted.
    pub fn of_log(&self) -> Option<&Redaction> {
        self.log.then(|| self.redaction())
    }
}

impl PartialEq for AgentRedaction {
    fn eq(&self, other: &Self) -> bool {
        (&self.detect, self.log) == (&other.detect, other.log)
    }
}

impl Eq for AgentRedaction {}

impl Hash for AgentRedaction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.detect, self.log).hash(state);
    }
}

impl fmt::Debug for AgentRedaction {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "AgentRedaction({}, log: {})", self.detect, self.log)
    }
}

fn mark(name: &str) -> String {
    format!("[{name}]")
}

fn compiled(rule: &Own) -> Result<Regex, String> {
    let Own { name, pattern } = rule;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || name.len() > 32 || !name.bytes().all(fits) {
        return Err(format!("'{name}' is no name: 1 to 32 lowercase letters, digits and _"));
    }
    if NAMES.contains(&name.as_str()) {
        return Err(format!("'{name}' is the name of a detector; choose another for the pattern"));
    }
    if pattern.len() > MAX_PATTERN {
        return Err(format!("the pattern {name} has {} bytes; at most {MAX_PATTERN} are allowed", pattern.len()));
    }
    let regex = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| format!("the pattern {name}: {}", error.to_string().lines().last().unwrap_or_default()))?;
    if regex.is_match("") {
        return Err(format!("the pattern {name} finds nothing at all everywhere: it matches the empty text"));
    }
    Ok(regex)
}

#[cfg(test)]
mod tests;
