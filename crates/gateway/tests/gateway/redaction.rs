//! A conversation whose log is redacted is the same, whether its client sends what was said or it is read back from the log.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::{
    conversation::{Call, Conversation, conversation, reply_message},
    redaction::AgentRedaction,
    request::scan,
    wire::Wire::{self, OpenaiChat, OpenaiResponses},
};

const FOUND: [&str; 3] = ["ada@example.com", "4111 1111 1111 1111", "4111111111111111"];

fn redaction(log: bool) -> Arc<AgentRedaction> {
    static BOTH: LazyLock<[Arc<AgentRedaction>; 2]> = LazyLock::new(|| {
        [false, true].map(|log| Arc::new(AgentRedaction::new(r#"["email","credit_card","phone","secret"]"#, log)))
    });
    Arc::clone(&BOTH[usize::from(log)])
}

fn read(wire: Wire, key: &str, messages: &[Value], redaction: &Arc<AgentRedaction>) -> Conversation {
    let body = Bytes::from(json!({key: messages}).to_string());
    let scan = scan(wire, &body).unwrap();
    conversation(wire, &body, &scan, Some(Arc::clone(redaction)))
}

fn events(conversation: &Conversation) -> Vec<(&'static str, Value)> {
    let all = (0..conversation.messages().len()).flat_map(|index| conversation.said(index).1);
    all.map(|event| (event.kind, serde_json::from_str(&event.payload).unwrap())).collect()
}

fn text_of(payload: &Value) -> String {
    payload["content"].as_array().unwrap().iter().map(|part| part["text"].as_str().unwrap()).collect()
}

/// The log's events as they are put before a request that goes on with them.
fn items(events: &[(&'static str, Value)]) -> Vec<Value> {
    let item = |(kind, payload): &(&'static str, Value)| match *kind {
        "user.message" => json!({"role": "user", "content": text_of(payload)}),
        "agent.message" => json!({"role": "assistant", "content": text_of(payload)}),
        "agent.custom_tool_use" => {
            let arguments = payload["input"].as_str().map_or_else(|| payload["input"].to_string(), str::to_owned);
            json!({"type": "function_call", "call_id": payload["id"], "name": payload["name"], "arguments": arguments})
        }
        _ => json!({"type": "function_call_output", "call_id": payload["custom_tool_use_id"], "output": text_of(payload)}),
    };
    events.iter().map(item).collect()
}

/// What people say, with what is looked for in it; in two parts, too.
fn said() -> impl Strategy<Value = (String, usize)> {
    let piece = prop_oneof![
        "[ a-zé\"\\\\\n]{0,8}",
        "[0-9 .@+-]{0,12}",
        prop::sample::select(FOUND.to_vec()).prop_map(str::to_owned),
        Just("[email]".to_owned()),
        Just("password: hunter2x".to_owned()),
    ];
    (prop::collection::vec(piece, 1..5).prop_map(|pieces| format!("- {}", pieces.join(", "))), any::<usize>())
}

fn parts((text, at): &(String, usize)) -> Value {
    let cut = at % text.chars().count();
    let cut = text.char_indices().nth(cut).map_or(0, |(at, _)| at);
    [&text[..cut], &text[cut..]]
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| json!({"type": "text", "text": part}))
        .collect()
}

type Text = (String, usize);

fn turn() -> impl Strategy<Value = (Text, Text, Text, Text, bool)> {
    (said(), said(), said(), said(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_read_from_the_log_goes_on_with_it(turns in prop::collection::vec(turn(), 1..4), number in any::<bool>()) {
        let redaction = redaction(true);
        let mut messages = Vec::new();
        for (n, (user, reply, argument, result, calls)) in turns.iter().enumerate() {
            messages.push(json!({"role": "user", "content": parts(user)}));
            let mut said = json!({"role": "assistant", "content": reply.0});
            if *calls {
                let value = if number { json!(4_111_111_111_111_111_u64) } else { json!([argument.0]) };
                let arguments = json!({"to": value, &argument.0: {"x": 1}}).to_string();
                said["tool_calls"] = json!([{"id": format!("c{n}"), "type": "function",
                                             "function": {"name": "send", "arguments": arguments}}]);
            }
            messages.push(said);
            if *calls {
                messages.push(json!({"role": "tool", "tool_call_id": format!("c{n}"), "content": parts(result)}));
            }
        }
        let sent = read(OpenaiChat, "messages", &messages, &redaction);
        let log = events(&sent);
        for found in FOUND {
            prop_assert!(!json!(log.iter().map(|event| &event.1).collect::<Vec<_>>()).to_string().contains(found));
        }
        let read_back = read(OpenaiResponses, "input", &items(&log), &redaction);
        prop_assert_eq!(sent.head(), read_back.head());
        prop_assert_eq!(&log, &events(&read_back));

        // The reply is hashed and kept as its echo is.
        let (user, reply, argument, ..) = &turns[0];
        let asked = read(OpenaiChat, "messages", &[json!({"role": "user", "content": user.0})], &redaction);
        let arguments = json!({"a": argument.0}).to_string();
        let call = [Call { id: "c", name: "send", arguments: &arguments }];
        let told = reply_message(asked.head(), &reply.0, &call, Some(&redaction));
        let echo = json!({"role": "assistant", "content": reply.0, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "send", "arguments": arguments}}]});
        let echoed = read(OpenaiChat, "messages", &[json!({"role": "user", "content": user.0}), echo], &redaction);
        prop_assert_eq!(told.chain, echoed.head());
        prop_assert_eq!(told.events, echoed.said(1).1);
    }
}

#[test]
fn a_log_that_is_to_be_kept_as_it_was_said_is_and_what_recall_finds_is_not() {
    let messages =
        [json!({"role": "user", "content": [{"type": "text", "text": "I am ada@"}, {"type": "text", "text": "example.com"}]})];
    let lax = read(OpenaiChat, "messages", &messages, &redaction(false));
    assert_eq!(
        text_of(&lax.said(0).1.iter().map(|event| serde_json::from_str(&event.payload).unwrap()).next_back().unwrap()),
        "I am ada@example.com"
    );
    assert_eq!(lax.said(0).0.unwrap(), "I am [email]");
    assert_eq!(lax.newest_user_text().unwrap(), "I am [email]");
    let strict = read(OpenaiChat, "messages", &messages, &redaction(true));
    assert_ne!(lax.head(), strict.head());
    assert!(strict.said(0).1[0].payload.contains("I am [email]"));
}
