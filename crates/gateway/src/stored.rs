//! Stored bodies: what a call asked and was answered, where the settings ask for it. Bounded, and redacted before they
//! leave the process: by the configured patterns, and always of our keys and the providers'.

use std::ops::Range;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use regex::bytes::Regex;
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::{
    config::{Config, StoredBodies},
    error::Refusal,
    record::Answer,
    redaction::Redaction,
};

/// The request's header: `true` or `false`, as far as the settings permit.
pub const HEADER: &str = "x-trunkline-store";
/// What stands in place of what was found.
const REDACTED: &[u8] = b"[redacted]";
/// How far beyond what is stored a pattern may find something, in bytes: of what is cut at the end nothing is to be left.
const MARGIN: usize = 4096;
/// The keys that we give out.
const OUR_KEYS: &str = "sk-tl-[A-Za-z0-9_-]{16,}";
/// The shortest secret that is looked for: shorter ones are words.
const SHORTEST: usize = 8;

/// What is stored, and how.
pub struct Stored {
    of: StoredBodies,
    max_bytes: usize,
    keep_days: u32,
    patterns: Vec<Regex>,
    /// The keys, ours and the providers'.
    secrets: Regex,
}

/// Whether a call's bodies are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// If its client sees an error, or goes away.
    Failed,
    /// However it ends.
    Always,
}

impl When {
    /// Whether those of a call that ended with this status are stored.
    pub fn holds(self, status: u16) -> bool {
        self == Self::Always || status >= 400
    }
}

/// What is held of a call whose bodies are to be stored, until it has ended.
pub struct Kept {
    /// Whether they are.
    pub when: When,
    /// The beginning of the client's request, and the length of all of it; none where that streams past.
    pub request: Option<(Bytes, usize)>,
}

/// A body as it is stored.
#[derive(Serialize)]
struct Part {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// What is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// The length of the whole body, in bytes.
    bytes: usize,
    truncated: bool,
}

#[derive(Serialize)]
struct Row {
    request: Option<Part>,
    response: Option<Part>,
    keep_days: u32,
}

impl Stored {
    /// What the configuration asks for, if it asks for anything.
    ///
    /// # Errors
    /// Names the pattern that is none.
    pub fn new(config: &Config) -> Result<Option<Self>, String> {
        let Some(record) = &config.record else { return Ok(None) };
        let compiled = |pattern: &String| Regex::new(pattern).map_err(|error| format!("record.redact: '{pattern}': {error}"));
        let patterns = record.redact.iter().map(compiled).collect::<Result<_, _>>()?;
        if record.max_bytes == 0 || record.keep_days == 0 {
            return Err("record: max_bytes and keep_days must be at least 1".to_owned());
        }
        Ok((record.bodies != StoredBodies::None).then_some(Self {
            of: record.bodies,
            max_bytes: record.max_bytes,
            keep_days: record.keep_days,
            patterns,
            secrets: secrets(config)?,
        }))
    }

    /// Whether those of a call with these headers are stored; none: they are not. `key` is what the caller's key says; the
    /// client may keep its own call out whatever that is.
    ///
    /// # Errors
    /// 400 for a wish that is none.
    pub fn wanted(&self, headers: &HeaderMap, key: Option<bool>) -> Result<Option<When>, Refusal> {
        let asked = match headers.get(HEADER).map(|value| value.as_bytes().trim_ascii()) {
            None => None,
            Some(b"true") => Some(true),
            Some(b"false") => Some(false),
            Some(_) => return Err(Refusal::invalid(format!("{HEADER} is either true or false."), Some(HEADER.to_owned()))),
        };
        Ok(match (self.of, key, asked) {
            (StoredBodies::None, ..) | (_, Some(false), _) | (_, _, Some(false)) | (StoredBodies::Asked, None, None) => None,
            (_, Some(true), _) | (StoredBodies::All, ..) | (StoredBodies::Asked, None, Some(true)) => Some(When::Always),
            (StoredBodies::Errors, None, _) => Some(When::Failed),
        })
    }

    /// How much of an answer must be held, in bytes.
    pub fn holds(&self) -> usize {
        self.max_bytes.saturating_add(MARGIN)
    }

    /// What is held of a request: a copy, so that a large body is not held for as long as its call takes.
    pub fn beginning(&self, request: &[u8]) -> (Bytes, usize) {
        (Bytes::copy_from_slice(&request[..request.len().min(self.holds())]), request.len())
    }

    /// The row of a call. `request` and `response`: each with the length that it has in all; `redaction` is its agent's.
    pub fn row(
        &self,
        request: Option<(&[u8], usize)>,
        response: Option<(&[u8], usize)>,
        redaction: Option<&Redaction>,
    ) -> Option<Box<RawValue>> {
        let part = |(bytes, length): (&[u8], usize)| match redaction {
            Some(redaction) => self.part(said(redaction, bytes, length).as_bytes(), length),
            None => self.part(bytes, length),
        };
        let (request, response) = (request.map(part), response.map(part));
        to_raw_value(&Row { request, response, keep_days: self.keep_days }).ok()
    }

    fn part(&self, held: &[u8], length: usize) -> Part {
        let kept = self.redacted(held);
        let truncated = length > self.max_bytes;
        let (text, base64) = match String::from_utf8(kept) {
            Ok(text) => (Some(text), None),
            // A character that was cut in two.
            Err(error) if truncated && error.utf8_error().error_len().is_none() => {
                let end = error.utf8_error().valid_up_to();
                let mut bytes = error.into_bytes();
                bytes.truncate(end);
                (String::from_utf8(bytes).ok(), None)
            }
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        // Postgres' text holds no NUL.
        let text = text.map(|text| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text });
        Part { text, base64, bytes: length, truncated }
    }

    /// The beginning of a body, without what any pattern finds in it. Found are places of the body as it came, so that no
    /// pattern hides from another what that would find, and nothing slips through where two overlap.
    fn redacted(&self, held: &[u8]) -> Vec<u8> {
        let end = held.len().min(self.max_bytes);
        let patterns = self.patterns.iter().chain([&self.secrets]);
        let mut found: Vec<Range<usize>> =
            patterns.flat_map(|pattern| pattern.find_iter(held)).map(|found| found.range()).collect();
        found.retain(|place| place.start < end && !place.is_empty());
        found.sort_unstable_by_key(|place| (place.start, place.end));
        let mut kept = Vec::with_capacity(end);
        let mut at = 0;
        for place in found {
            if place.start >= at {
                kept.extend_from_slice(&held[at..place.start]);
                kept.extend_from_slice(REDACTED);
            }
            at = at.max(place.end);
        }
        if at < end {
            kept.extend_from_slice(&held[at..end]);
        }
        kept
    }
}

/// A body without what an agent's redaction finds in its texts. Of one that is held in part the end goes, where half of what
/// would be found may stand.
fn said(redaction: &Redaction, held: &[u8], length: usize) -> String {
    let text = String::from_utf8_lossy(held);
    if length <= held.len() {
        return redaction.json(&text);
    }
    let mut text = redaction.text(&text).into_owned();
    let end = (0..=text.len().saturating_sub(MARGIN)).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    text
}

/// A stream as it is stored: what it came to. Its events would hide from a pattern what was told in pieces.
pub fn assembled(answer: &Answer, refusal: Option<&[u8]>) -> Bytes {
    let calls = answer.calls.iter().map(|call| json!({"id": call.id, "name": call.name, "arguments": call.arguments}));
    let mut said = json!({"text": answer.text, "tool_calls": calls.collect::<Vec<_>>()});
    if let Some(refusal) = refusal {
        said["error"] = json!(String::from_utf8_lossy(refusal));
    }
    Bytes::from(said.to_string())
}

/// Our keys, and all that the configuration shows to providers.
fn secrets(config: &Config) -> Result<Regex, String> {
    let providers = config.providers.iter().flat_map(|provider| {
        let aws = provider.aws.iter().flat_map(|aws| [Some(&aws.secret_access_key), aws.session_token.as_ref()]);
        aws.chain([provider.api_key.as_ref()]).flatten()
    });
    let upstreams = config.models.iter().flat_map(|model| &model.upstreams);
    let upstreams = upstreams.flat_map(|upstream| upstream.api_key.iter().chain(upstream.headers.values()));
    let known = providers.chain(upstreams).filter(|secret| secret.len() >= SHORTEST);
    let all: Vec<String> = known.map(|secret| regex::escape(secret)).chain([OUR_KEYS.to_owned()]).collect();
    Regex::new(&all.join("|")).map_err(|error| format!("record: the providers' keys cannot be looked for: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bodies(max_bytes: usize, patterns: &[&str]) -> Stored {
        Stored {
            of: StoredBodies::All,
            max_bytes,
            keep_days: 1,
            patterns: patterns.iter().map(|pattern| Regex::new(pattern).unwrap()).collect(),
            secrets: Regex::new(OUR_KEYS).unwrap(),
        }
    }

    fn stored(bodies: &Stored, body: &[u8]) -> Part {
        bodies.part(&body[..body.len().min(bodies.holds())], body.len())
    }

    #[test]
    fn what_patterns_find_is_gone_also_where_they_overlap() {
        let bodies = bodies(1000, &["[0-9]{4}", "34-?abc"]);
        let part = stored(&bodies, b"{\"card\":\"1234-abcd 99\",\"key\":\"sk-tl-0123456789abcdef0123\"}");
        assert_eq!(part.text.unwrap(), r#"{"card":"[redacted]d 99","key":"[redacted]"}"#);
        assert!(!part.truncated);
    }

    #[test]
    fn a_key_says_of_its_own_calls_and_a_client_may_always_decline() {
        let wanted = |of, key, asked: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(asked) = asked {
                headers.insert(HEADER, http::HeaderValue::from_static(asked));
            }
            Stored { of, ..bodies(1, &[]) }.wanted(&headers, key).unwrap()
        };
        let (failed, always) = (Some(When::Failed), Some(When::Always));
        for (of, told, with_key) in
            [(StoredBodies::Errors, failed, failed), (StoredBodies::Asked, None, always), (StoredBodies::All, always, always)]
        {
            assert_eq!((wanted(of, None, None), wanted(of, None, Some("true"))), (told, with_key));
            assert_eq!((wanted(of, Some(true), None), wanted(of, Some(true), Some("true"))), (always, always));
            assert_eq!((wanted(of, Some(false), None), wanted(of, Some(false), Some("true"))), (None, None));
            assert!([None, Some(true), Some(false)].iter().all(|key| wanted(of, *key, Some("false")).is_none()));
        }
        assert!([None, Some(true)].iter().all(|key| wanted(StoredBodies::None, *key, Some("true")).is_none()));
        assert_eq!((When::Failed.holds(200), When::Failed.holds(499), When::Always.holds(200)), (false, true, true));
    }

    #[test]
    fn a_secret_that_the_end_cuts_leaves_nothing() {
        let bodies = bodies(10, &["secret-[a-z]+"]);
        let part = stored(&bodies, b"12345secret-abcdefgh tail");
        assert_eq!((part.text.unwrap().as_str(), part.truncated, part.bytes), ("12345[redacted]", true, 25));
        assert_eq!(stored(&bodies, "123456789\u{e9}".as_bytes()).text.unwrap(), "123456789");
        assert_eq!(stored(&bodies, b"\xff\x00").base64.unwrap(), "/wA=");
        assert_eq!(stored(&bodies, b"a\0b").text.unwrap(), "a\u{fffd}b");
    }

    proptest! {
        #[test]
        fn no_key_of_ours_is_ever_stored(before in ".{0,40}", key in "[A-Za-z0-9]{16,43}", after in ".{0,40}", max in 1_usize..120) {
            let body = format!("{before} sk-tl-{key} {after}");
            let part = stored(&bodies(max, &[]), body.as_bytes());
            prop_assert!(!part.text.unwrap_or_default().contains("sk-tl-") || before.contains("sk-tl-"));
        }
    }
}
