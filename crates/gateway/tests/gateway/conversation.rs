//! The hash chain and the session events of a conversation, the same for all wires.

use std::fmt::Write;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::conversation::{Call, Chain, Conversation, EMPTY, conversation, reply_message};
use trunkline_gateway::request::{Role, scan};
use trunkline_gateway::wire::Wire::{self, AnthropicMessages, Gemini, OpenaiChat, OpenaiResponses};

fn read(wire: Wire, messages: &Value) -> Conversation {
    read_text(wire, &messages.to_string())
}

fn read_text(wire: Wire, messages: &str) -> Conversation {
    let key = match wire {
        OpenaiResponses => "input",
        Gemini => "contents",
        _ => "messages",
    };
    let body = Bytes::from(format!(r#"{{"{key}":{messages}}}"#));
    let scan = scan(wire, &body).unwrap();
    conversation(wire, &body, &scan, None)
}

fn chains(conversation: &Conversation) -> Vec<Chain> {
    conversation.messages().iter().map(|message| message.chain).collect()
}

fn events(conversation: &Conversation) -> Vec<(&'static str, Value)> {
    let all = (0..conversation.messages().len()).flat_map(|index| conversation.said(index).1);
    all.map(|event| (event.kind, serde_json::from_str(&event.payload).unwrap())).collect()
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

#[test]
fn a_conversation_with_tools_is_the_same_in_both_wires() {
    let openai = read(
        OpenaiChat,
        &json!([
            {"role": "system", "content": "S"},
            {"role": "user", "content": "What about 7?"},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{\"n\": 7.0, \"a\": [1]}"}},
                {"id": "c2", "type": "function", "function": {"name": "now", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "no"}, {"type": "text", "text": "on"}]},
            {"role": "user", "content": "And?"},
        ]),
    );
    let anthropic = read(
        AnthropicMessages,
        &json!([
            {"role": "user", "content": [{"type": "text", "text": "What about "}, {"type": "text", "text": "7?"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "find", "input": {"a": [1], "n": 7}},
                {"type": "tool_use", "id": "c2", "name": "now", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "found"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "noon"}]},
                {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}}]},
        ]),
    );
    assert_eq!(chains(&openai), chains(&anthropic));
    assert_eq!(events(&openai), events(&anthropic));
    assert_eq!(
        events(&openai),
        [
            ("user.message", text("What about 7?")),
            ("agent.message", text("Let me see.")),
            ("agent.custom_tool_use", json!({"id": "c1", "name": "find", "input": {"a": [1], "n": 7}})),
            ("agent.custom_tool_use", json!({"id": "c2", "name": "now", "input": {}})),
            ("user.custom_tool_result", json!({"custom_tool_use_id": "c1", "content": [{"type": "text", "text": "found"}]})),
            ("user.custom_tool_result", json!({"custom_tool_use_id": "c2", "content": [{"type": "text", "text": "noon"}]})),
            ("user.message", text("And?")),
        ]
    );
    let roles: Vec<Role> = openai.messages().iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::Tool, Role::User]);
    for conversation in [openai, anthropic] {
        assert_eq!(conversation.tail_start(), 2);
        assert_eq!(conversation.prefix(), conversation.messages()[1].chain);
        assert_eq!(conversation.head(), conversation.messages()[4].chain);
        assert_eq!(conversation.newest_user_text().as_deref(), Some("And?"));
    }
}

#[test]
fn a_first_message_is_all_tail() {
    let empty = read(OpenaiChat, &json!([{"role": "system", "content": "S"}]));
    assert_eq!((empty.head(), empty.prefix(), empty.tail_start()), (EMPTY, EMPTY, 0));
    assert_eq!(empty.newest_user_text(), None);
    assert!(empty.said(0).1.is_empty());
    let first = read(OpenaiChat, &json!([{"role": "user", "content": "a"}]));
    assert_eq!((first.prefix(), first.tail_start()), (EMPTY, 0));
    assert_ne!(first.head(), EMPTY);
}

#[test]
fn every_difference_that_matters_changes_the_chain() {
    let call = |id: &str, name: &str, arguments: &str| json!([{"role": "assistant", "tool_calls": [{"id": id, "function": {"name": name, "arguments": arguments}}]}]);
    let result = |id: &str, text: &str| json!([{"role": "tool", "tool_call_id": id, "content": text}]);
    let image = |url: &str| json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]);
    let all = [
        json!([{"role": "user", "content": "ab"}]),
        json!([{"role": "user", "content": "ab "}]),
        json!([{"role": "user", "content": ""}]),
        json!([{"role": "assistant", "content": "ab"}]),
        json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        json!([{"role": "user", "content": "b"}, {"role": "user", "content": "a"}]),
        call("a", "bc", "{}"),
        call("ab", "c", "{}"),
        call("a", "bc", "{\"a\":1}"),
        call("a", "bc", "{\"a\":\"1\"}"),
        call("a", "bc", "{"),
        result("a", "bc"),
        result("ab", "c"),
        image("data:1"),
        image("data:2"),
    ];
    let mut heads: Vec<Chain> = all.iter().map(|messages| read(OpenaiChat, messages).head()).collect();
    heads.sort_unstable();
    heads.dedup();
    assert_eq!(heads.len(), all.len());
}

#[test]
fn spelling_does_not_change_the_chain() {
    let plain = read_text(OpenaiChat, r#"[{"role":"user","content":"é\"\n"}]"#);
    for same in [
        r#"[ {"content" : "\u00e9\u0022\u000a", "role":"us\u0065r", "name":"x"} ]"#,
        r#"[{"role":"user","content":[{"text":"é","type":"text"},{"type":"text","text":""},{"type":"text","text":"\"\n"}]}]"#,
    ] {
        assert_eq!(read_text(OpenaiChat, same).head(), plain.head());
    }
}

#[test]
fn a_cache_mark_moved_on_by_the_client_changes_nothing() {
    let image = |mark: &str| {
        format!(
            r#"[{{"role":"user","content":[{{"type":"image","source":{{"data":"AA"}}{mark}}},{{"type":"text","text":"t"}}]}}]"#
        )
    };
    let without = read_text(AnthropicMessages, &image(""));
    let with = read_text(AnthropicMessages, &image(r#","cache_control":{"type":"ephemeral"}"#));
    assert_eq!(without.head(), with.head());
    assert_eq!(without.newest_user_text().as_deref(), Some("t"));
    let (_, payload) = &events(&with)[0];
    assert_eq!(payload["content"][0]["type"], "image");
    assert_eq!(payload["content"][0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(payload["content"][1], json!({"type": "text", "text": "t"}));
}

#[test]
fn a_failed_tool_is_told_in_the_event() {
    let failed = read(
        AnthropicMessages,
        &json!([{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c", "is_error": true}]}]),
    );
    assert_eq!(
        events(&failed),
        [("user.custom_tool_result", json!({"custom_tool_use_id": "c", "is_error": true, "content": []}))]
    );
    assert_eq!(failed.newest_user_text(), None);
}

#[test]
fn payloads_hold_nothing_that_postgres_refuses() {
    let nul = read_text(
        OpenaiChat,
        r#"[{"role":"user","content":"a\u0000b"},{"role":"assistant","tool_calls":[
        {"id":"c","function":{"name":"n","arguments":"{\"k\\u0000\":\"\\u0000\"}"}},
        {"id":"d","function":{"name":"n","arguments":"{\"a\":1e999}"}}]}]"#,
    );
    assert_eq!(
        events(&nul),
        [
            ("user.message", text("a\u{FFFD}b")),
            ("agent.custom_tool_use", json!({"id": "c", "name": "n", "input": {"k\u{FFFD}": "\u{FFFD}"}})),
            ("agent.custom_tool_use", json!({"id": "d", "name": "n", "input": "{\"a\":1e999}"})),
        ]
    );
}

#[test]
fn an_empty_reply_still_ends_the_turn() {
    let reply = reply_message(EMPTY, "", &[], None);
    assert_eq!((reply.events.len(), reply.events[0].payload.as_str()), (1, r#"{"content":[]}"#));
    for echo in [json!(""), json!(null), json!([])] {
        let echoed = read(OpenaiChat, &json!([{"role": "assistant", "content": echo}, {"role": "user", "content": "so?"}]));
        assert_eq!(echoed.prefix(), reply.chain);
        assert_eq!(echoed.tail_start(), 1);
    }
}

#[test]
fn a_prefill_is_the_start_of_the_reply() {
    let asked = read(AnthropicMessages, &json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "{\"a\":"}]));
    assert_eq!((asked.prefill(), asked.tail_start(), asked.messages().len()), ("{\"a\":", 0, 1));
    let reply = reply_message(asked.head(), &format!("{}1}}", asked.prefill()), &[], None);
    let next = read(
        AnthropicMessages,
        &json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "{\"a\":1}"},
        {"role": "user", "content": "r"}]),
    );
    assert_eq!(next.prefix(), reply.chain);
    assert_eq!(next.prefill(), "");
    let openai = read(OpenaiChat, &json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]));
    assert_eq!((openai.prefill(), openai.tail_start()), ("", 2));
}

#[test]
fn odd_parts_are_told_apart_and_break_nothing() {
    for content in [
        r#"[1,"x",null,[],{}]"#,
        r#"[{"type":1,"text":2}]"#,
        r#"[{"type":"tool_result","content":7}]"#,
        r#"[{"type":"tool_use","input":"x"}]"#,
    ] {
        for role in ["user", "assistant", "tool"] {
            for wire in [OpenaiChat, AnthropicMessages] {
                let odd = format!(
                    r#"[{{"role":"{role}","content":{content},"tool_calls":[1,{{}},{{"function":2}}],"tool_call_id":3}},
                    {{"role":"user","content":"go on"}}]"#
                );
                let conversation = read_text(wire, &odd);
                assert!(conversation.messages().len() >= 2);
                assert!(events(&conversation).len() >= conversation.messages().len());
            }
        }
    }
}

/// A turn, told apart from how a wire writes it: what the user says, what the assistant says and calls, each with its result.
#[derive(Debug, Clone)]
struct Turn {
    user: String,
    reply: String,
    calls: Vec<(String, Value, String)>,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let said = || "[ a-z\"\\\\\né東\u{1F600}]{1,30}";
    let arguments = prop::collection::btree_map(
        "[a-zé]{1,4}",
        prop_oneof![
            any::<i32>().prop_map(|number| json!(number)),
            (-1000..1000_i32).prop_map(|number| json!(f64::from(number) / 4.0)),
            said().prop_map(|text| json!(text)),
            Just(json!([null, true, {"b": 1, "a": {}}])),
        ],
        0..4,
    );
    let call = (said(), arguments.prop_map(|members| json!(members)), "[ a-z]{0,20}");
    let turn = (said(), "[ a-z\"é\n]{0,30}", prop::collection::vec(call, 0..3));
    prop::collection::vec(turn.prop_map(|(user, reply, calls)| Turn { user, reply, calls }), 1..5)
}

/// Content as a string or as parts, cut at a character.
fn content(text: &str, as_parts: bool) -> Value {
    if !as_parts {
        return json!(text);
    }
    let cut = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    json!([{"type": "text", "text": text[..cut]}, {"type": "text", "text": text[cut..]}])
}

fn openai(turns: &[Turn], as_parts: bool) -> Vec<Value> {
    let mut messages = vec![json!({"role": "system", "content": "S"})];
    for (n, turn) in turns.iter().enumerate() {
        messages.push(json!({"role": "user", "content": content(&turn.user, as_parts)}));
        let mut reply = json!({"role": "assistant", "content": turn.reply, "annotations": []});
        if !turn.calls.is_empty() {
            let calls = turn.calls.iter().enumerate().map(|(m, (name, arguments, _))| {
                json!({"id": format!("c{n}{m}"), "type": "function", "function": {"name": name, "arguments": format!("{arguments:#}")}})
            });
            reply["tool_calls"] = calls.collect();
        }
        messages.push(reply);
        for (m, (_, _, result)) in turn.calls.iter().enumerate() {
            messages.push(json!({"role": "tool", "tool_call_id": format!("c{n}{m}"), "content": content(result, as_parts)}));
        }
    }
    messages
}

fn anthropic(turns: &[Turn], as_parts: bool) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    let mut pending: Vec<Value> = Vec::new(); // results go into the next user message
    for (n, turn) in turns.iter().enumerate() {
        if pending.is_empty() {
            messages.push(json!({"role": "user", "content": content(&turn.user, as_parts)}));
        } else {
            pending.push(json!({"type": "text", "text": turn.user}));
            messages.push(json!({"role": "user", "content": std::mem::take(&mut pending)}));
        }
        let mut blocks = Vec::new();
        if !turn.reply.is_empty() {
            blocks.push(json!({"type": "text", "text": turn.reply, "citations": null}));
        }
        for (m, (name, arguments, result)) in turn.calls.iter().enumerate() {
            blocks.push(json!({"type": "tool_use", "id": format!("c{n}{m}"), "name": name, "input": arguments}));
            pending.push(json!({"type": "tool_result", "tool_use_id": format!("c{n}{m}"), "content": content(result, as_parts)}));
        }
        messages.push(json!({"role": "assistant", "content": blocks}));
    }
    messages.push(json!({"role": "user", "content": pending}));
    messages
}

fn responses(turns: &[Turn], as_parts: bool) -> Vec<Value> {
    let part = |kind: &str, text: &str| json!([{"type": kind, "text": text}]);
    let mut items = vec![json!({"role": "developer", "content": "S"})];
    for (n, turn) in turns.iter().enumerate() {
        let user = if as_parts { part("input_text", &turn.user) } else { json!(turn.user) };
        items.push(json!({"type": "message", "role": "user", "content": user}));
        items.push(json!({"type": "reasoning", "id": "rs_1", "summary": []}));
        if !turn.reply.is_empty() {
            items.push(json!({"type": "message", "role": "assistant", "content": part("output_text", &turn.reply)}));
        }
        for (m, (name, arguments, _)) in turn.calls.iter().enumerate() {
            let arguments = format!("{arguments:#}");
            items.push(json!({"type": "function_call", "call_id": format!("c{n}{m}"), "name": name, "arguments": arguments}));
        }
        for (m, (_, _, result)) in turn.calls.iter().enumerate() {
            let output = if as_parts { part("input_text", result) } else { json!(result) };
            items.push(json!({"type": "function_call_output", "call_id": format!("c{n}{m}"), "output": output}));
        }
    }
    items
}

/// As google-genai's chats send it: `in_chunks`, what the model said is a content for each piece that was streamed, the last one
/// without words. Without `ids` calls and results are told by their names and order.
fn gemini(turns: &[Turn], in_chunks: bool, ids: bool) -> Vec<Value> {
    let mut contents: Vec<Value> = Vec::new();
    let mut pending: Vec<Value> = Vec::new(); // results go into the next user content
    let named = |mut function: Value, n: usize, m: usize| {
        if ids {
            function["id"] = json!(format!("c{n}{m}"));
        }
        function
    };
    for (n, turn) in turns.iter().enumerate() {
        pending.push(json!({"text": turn.user}));
        contents.push(json!({"role": "user", "parts": std::mem::take(&mut pending)}));
        let mut parts = vec![json!({"text": "hm", "thought": true})];
        if !turn.reply.is_empty() {
            let cut = turn.reply.char_indices().nth(turn.reply.chars().count() / 2).map_or(0, |(at, _)| at);
            parts.extend([&turn.reply[..cut], &turn.reply[cut..]].map(|piece| json!({"text": piece})));
        }
        for (m, (name, arguments, result)) in turn.calls.iter().enumerate() {
            let call = named(json!({"name": name, "args": arguments}), n, m);
            parts.push(json!({"functionCall": call, "thoughtSignature": "c2ln"}));
            let response = named(json!({"name": name, "response": {"output": result}}), n, m);
            pending.push(json!({"functionResponse": response}));
        }
        if in_chunks {
            parts.push(json!({"text": ""}));
            contents.extend(parts.into_iter().map(|part| json!({"role": "model", "parts": [part]})));
        } else {
            contents.push(json!({"role": "model", "parts": parts}));
        }
    }
    if !pending.is_empty() {
        contents.push(json!({"role": "user", "parts": pending}));
    }
    contents
}

/// JSON with every character outside ASCII as an escape.
fn escaped(messages: &[Value]) -> String {
    let mut out = String::new();
    for character in json!(messages).to_string().chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").unwrap();
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn both_wires_give_one_chain(turns in turns(), as_parts in any::<bool>()) {
        let one = read_text(OpenaiChat, &json!(openai(&turns, as_parts)).to_string());
        let mut messages = anthropic(&turns, !as_parts);
        if turns.last().unwrap().calls.is_empty() {
            messages.pop();
            messages.push(json!({"role": "user", "content": "end"}));
        }
        let other = read_text(AnthropicMessages, &escaped(&messages));
        let (one_chain, mut other_chain) = (chains(&one), chains(&other));
        other_chain.truncate(one_chain.len());
        prop_assert_eq!(one_chain, other_chain);
        let (one_events, mut other_events) = (events(&one), events(&other));
        other_events.truncate(one_events.len());
        prop_assert_eq!(one_events, other_events);
    }

    #[test]
    fn all_wires_give_one_chain(turns in turns(), as_parts in any::<bool>(), in_chunks in any::<bool>()) {
        let chat = read(OpenaiChat, &json!(openai(&turns, as_parts)));
        let same = [
            read(OpenaiResponses, &json!(responses(&turns, !as_parts))),
            read(Gemini, &json!(gemini(&turns, in_chunks, true))),
        ];
        for other in &same {
            prop_assert_eq!(chains(&chat), chains(other));
            prop_assert_eq!(events(&chat), events(other));
            prop_assert_eq!(chat.tail_start(), other.tail_start());
        }
        let nameless = read(Gemini, &json!(gemini(&turns, in_chunks, false)));
        prop_assert_eq!(chains(&chat), chains(&nameless));
        // Each result is told of the call it answers, in the log too.
        let named = |kind: &str, key: &str| -> Vec<Value> {
            events(&nameless).into_iter().filter(|event| event.0 == kind).map(|event| event.1[key].clone()).collect()
        };
        let (mut calls, mut results) = (named("agent.custom_tool_use", "id"), named("user.custom_tool_result", "custom_tool_use_id"));
        for ids in [&mut calls, &mut results] {
            ids.sort_by_key(ToString::to_string);
        }
        prop_assert_eq!(calls, results);
    }

    #[test]
    fn a_reply_has_the_chain_of_its_echo(turns in turns()) {
        let last = turns.len() - 1;
        let calls: Vec<(String, String, String)> = turns[last].calls.iter().enumerate()
            .map(|(m, (name, arguments, _))| (format!("c{last}{m}"), name.clone(), arguments.to_string())).collect();
        let calls: Vec<Call> = calls.iter().map(|(id, name, arguments)| Call { id, name, arguments }).collect();
        let results = turns[last].calls.len();

        let mut messages = openai(&turns, false);
        messages.truncate(messages.len() - results);
        let echoed = read(OpenaiChat, &json!([&messages[..], &[json!({"role": "user", "content": "next"})]].concat()));
        let asked = read(OpenaiChat, &json!(messages[..messages.len() - 1]));
        let reply = reply_message(asked.head(), &turns[last].reply, &calls, None);
        prop_assert_eq!(reply.chain, echoed.prefix());
        prop_assert_eq!(&reply.events, &echoed.said(echoed.tail_start() - 1).1);
        let newest = asked.newest_user_text().unwrap();
        prop_assert_eq!(newest.as_ref(), turns[last].user.as_str());

        let mut messages = anthropic(&turns, true);
        messages.pop();
        let asked = read(AnthropicMessages, &json!(messages[..messages.len() - 1]));
        messages.push(json!({"role": "user", "content": "next"}));
        let echoed = read(AnthropicMessages, &json!(messages));
        prop_assert_eq!(reply_message(asked.head(), &turns[last].reply, &calls, None).chain, echoed.prefix());
        prop_assert_eq!(reply.chain, echoed.prefix());
    }
}
