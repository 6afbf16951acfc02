//! The scan lets in nothing that is not JSON; what is spliced in is all that changes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use trunkline_gateway::{
    context::{Additions, Placed, placed, splice},
    conversation::conversation,
    request::{Kind, Role, Value, scan},
    wire::Wire,
};

/// Whether `part` is what is left of `whole` when bytes are taken out.
fn is_within(part: &[u8], whole: &[u8]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|byte| whole.any(|other| other == byte))
}

const CLIENTS: [Wire; 4] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini];

fuzz_target!(|bytes: &[u8]| CLIENTS.into_iter().for_each(|wire| check(wire, bytes)));

fn check(wire: Wire, bytes: &[u8]) {
    let Ok(found) = scan(wire, bytes) else { return };
    let text = std::str::from_utf8(bytes).expect("the scan let in what is no UTF-8");
    serde_json::from_str::<&RawValue>(text).expect("the scan let in what is no JSON");
    let body = Bytes::copy_from_slice(bytes);
    let turns = conversation(wire, &body, &found, None);
    for index in 0..turns.messages().len() {
        for event in turns.said(index).1 {
            serde_json::from_str::<&RawValue>(&event.payload).expect("an event of the log is no JSON");
        }
    }
    // Deltas go into users' messages that have text or parts.
    let takes = |content: Value| content.kind == Kind::String || content.kind == Kind::Array && !content.is_empty(bytes);
    let users = found.messages.iter().filter(|message| message.role == Role::User && message.content.is_some_and(takes));
    let deltas: Vec<_> = users.map(|message| Placed { message: *message, text: "<d>\"\n".into() }).collect();
    let additions = Additions {
        model: None,
        instructions: Some("I \"n\"\n"),
        blocks: Some("<b>\\"),
        deltas: &deltas,
        recall: Some("r\n\n"),
        tools: Some(r#"{"name":"t","type":"function"}"#),
        include_usage: false,
    };
    let spliced = splice(wire, &body, &found, &additions);
    // What says nothing (null, Gemini's instruction without parts) is replaced; everything else must be left.
    let stays = |value: Option<Value>| value.is_none_or(|value| matches!(value.kind, Kind::String | Kind::Array));
    assert!(!stays(found.system) || !stays(found.tools) || is_within(bytes, &spliced), "bytes of the client's are gone");
    scan(wire, &spliced).unwrap_or_else(|error| panic!("what was spliced is no request: {error:?}"));
    let marked = placed(wire, "claude-sonnet-4", spliced);
    scan(wire, &marked).unwrap_or_else(|error| panic!("what was marked is no request: {error:?}"));
    let changed = Additions { model: Some("m\""), include_usage: true, ..additions };
    let spliced = splice(wire, &body, &found, &changed);
    let again = scan(wire, &spliced).unwrap_or_else(|error| panic!("what was spliced is no request: {error:?}"));
    if wire != Wire::Gemini {
        assert_eq!(again.model.expect("a model was put in").name, "m\"");
    }
}
