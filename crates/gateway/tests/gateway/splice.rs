//! Memory spliced into requests: each rule by example, and that nothing of the client's own bytes is lost or moved.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::context::{Additions, Placed, splice};
use trunkline_gateway::request::{Kind, Message, Role, Scan, scan};
use trunkline_gateway::wire::Wire::{self, AnthropicMessages, OpenaiChat};

fn spliced(wire: Wire, body: &str, additions: &Additions) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let scan = scan(wire, &body).unwrap();
    String::from_utf8(splice(wire, &body, &scan, additions).to_vec()).unwrap()
}

fn check(wire: Wire, additions: &Additions, cases: &[(&str, &str)]) {
    for (body, expected) in cases {
        let out = spliced(wire, body, additions);
        assert_eq!(&out, expected);
        serde_json::from_str::<Value>(&out).unwrap();
    }
}

#[test]
fn nothing_to_add_gives_back_the_same_bytes() {
    let body = Bytes::from_static(
        br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream_options":{"include_usage":true}}"#,
    );
    let nothing =
        Additions { instructions: Some(""), blocks: Some(""), recall: Some(""), tools: Some(""), ..Additions::default() };
    let same = Additions { model: Some("m"), include_usage: true, ..nothing };
    for wire in [OpenaiChat, AnthropicMessages] {
        for additions in [nothing, same, Additions::default()] {
            let out = splice(wire, &body, &scan(wire, &body).unwrap(), &additions);
            assert_eq!(out.as_ptr(), body.as_ptr());
        }
    }
}

#[test]
fn replaces_the_model_or_names_one() {
    let additions = Additions { model: Some("gpt \"5\""), ..Additions::default() };
    check(
        OpenaiChat,
        &additions,
        &[
            (r#"{"model" : "agent/\u0061" ,"messages":[]}"#, r#"{"model" : "gpt \"5\"" ,"messages":[]}"#),
            (r#"{ "messages":[]}"#, r#"{"model":"gpt \"5\"", "messages":[]}"#),
        ],
    );
}

#[test]
fn openai_system_text_stands_around_the_clients_own() {
    let instructions = Additions { instructions: Some("I\n"), ..Additions::default() };
    let blocks = Additions { blocks: Some("<B a=\"1\">\u{1}"), ..Additions::default() };
    let both = Additions { blocks: Some("B"), ..instructions };
    check(
        OpenaiChat,
        &instructions,
        &[
            (r#"{"messages":[]}"#, r#"{"messages":[{"role":"system","content":"I\n"}]}"#),
            (r#"{"messages":[ {"role":"user"}]}"#, r#"{"messages":[{"role":"system","content":"I\n"}, {"role":"user"}]}"#),
        ],
    );
    check(
        OpenaiChat,
        &blocks,
        &[(
            r#"{"messages":[{"role":"system"}, {"role":"developer"} ,{"role":"user"},{"role":"system"}]}"#,
            r#"{"messages":[{"role":"system"}, {"role":"developer"},{"role":"system","content":"<B a=\"1\">\u0001"} ,{"role":"user"},{"role":"system"}]}"#,
        )],
    );
    check(
        OpenaiChat,
        &both,
        &[
            (r#"{"messages":[ ]}"#, r#"{"messages":[{"role":"system","content":"I\n"},{"role":"system","content":"B"} ]}"#),
            (
                r#"{"messages":[{"role":"user"}]}"#,
                r#"{"messages":[{"role":"system","content":"I\n"},{"role":"system","content":"B"},{"role":"user"}]}"#,
            ),
            (
                r#"{"messages":[{"role":"system"}]}"#,
                r#"{"messages":[{"role":"system","content":"I\n"},{"role":"system"},{"role":"system","content":"B"}]}"#,
            ),
        ],
    );
}

#[test]
fn anthropic_system_text_goes_inside_the_clients_own() {
    let instructions = Additions { instructions: Some("I\""), ..Additions::default() };
    let blocks = Additions { blocks: Some("B"), ..Additions::default() };
    let both = Additions { blocks: Some("B"), ..instructions };
    check(
        AnthropicMessages,
        &instructions,
        &[
            (r#"{"system":"c","messages":[]}"#, r#"{"system":"I\"\n\nc","messages":[]}"#),
            (r#"{"system":"","messages":[]}"#, r#"{"system":"I\"","messages":[]}"#),
            (r#"{"system":[],"messages":[]}"#, r#"{"system":[{"type":"text","text":"I\""}],"messages":[]}"#),
        ],
    );
    check(
        AnthropicMessages,
        &blocks,
        &[
            (r#"{"system":"c","messages":[]}"#, r#"{"system":"c\n\nB","messages":[]}"#),
            (r#"{"system":"","messages":[]}"#, r#"{"system":"B","messages":[]}"#),
            (r#"{"system":[{"a":1} ],"messages":[]}"#, r#"{"system":[{"a":1} ,{"type":"text","text":"B"}],"messages":[]}"#),
            (r#"{ "messages":[]}"#, r#"{"system":"B", "messages":[]}"#),
        ],
    );
    check(
        AnthropicMessages,
        &both,
        &[
            (r#"{"system":"c","messages":[]}"#, r#"{"system":"I\"\n\nc\n\nB","messages":[]}"#),
            (r#"{"system":"","messages":[]}"#, r#"{"system":"I\"\n\nB","messages":[]}"#),
            (r#"{"system":null,"messages":[]}"#, r#"{"system":"I\"\n\nB","messages":[]}"#),
            (r#"{"messages":[]}"#, r#"{"system":"I\"\n\nB","messages":[]}"#),
            (
                r#"{"system":[ ],"messages":[]}"#,
                r#"{"system":[{"type":"text","text":"I\""} ,{"type":"text","text":"B"}],"messages":[]}"#,
            ),
            (
                r#"{"system":[{"a":1}],"messages":[]}"#,
                r#"{"system":[{"type":"text","text":"I\""},{"a":1},{"type":"text","text":"B"}],"messages":[]}"#,
            ),
        ],
    );
}

#[test]
fn recall_goes_before_the_newest_users_text() {
    let recall = Additions { recall: Some("R\n\n"), ..Additions::default() };
    let untouched = [
        r#"{"messages":[]}"#,
        r#"{"messages":[{"role":"assistant","content":"a"},{"role":"system","content":"s"}]}"#,
        r#"{"messages":[{"role":"user","content":null},{"role":"user"}]}"#,
    ];
    for body in untouched {
        check(OpenaiChat, &recall, &[(body, body)]);
        check(AnthropicMessages, &recall, &[(body, body)]);
    }
    let string = [(
        r#"{"messages":[{"role":"user","content":"old"},{"role":"user","content":"new"},{"role":"assistant","content":"a"}]}"#,
        r#"{"messages":[{"role":"user","content":"old"},{"role":"user","content":"R\n\nnew"},{"role":"assistant","content":"a"}]}"#,
    )];
    check(OpenaiChat, &recall, &string);
    check(AnthropicMessages, &recall, &string);
    check(
        OpenaiChat,
        &recall,
        &[
            (
                r#"{"messages":[{"role":"user","content":[]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"R\n\n"}]}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[ {"type":"image_url"}]},{"role":"tool","content":"t"}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"R\n\n"}, {"type":"image_url"}]},{"role":"tool","content":"t"}]}"#,
            ),
        ],
    );
    check(
        AnthropicMessages,
        &recall,
        &[
            (
                r#"{"messages":[{"role":"user","content":[{"type":"tool\u005fresult","content":"t"}]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"tool\u005fresult","content":"t"},{"type":"text","text":"R\n\n"}]}]}"#,
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"{\"type\":\"tool_result\"}"}]}]}"#,
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"R\n\n"},{"type":"text","text":"{\"type\":\"tool_result\"}"}]}]}"#,
            ),
        ],
    );
}

#[test]
fn tools_follow_the_clients_own() {
    let tools = Additions { tools: Some(r#"{"name":"a"},{"name":"b"}"#), ..Additions::default() };
    check(
        OpenaiChat,
        &tools,
        &[
            (r#"{ "messages":[]}"#, r#"{"tools":[{"name":"a"},{"name":"b"}], "messages":[]}"#),
            (r#"{"tools":null,"messages":[]}"#, r#"{"tools":[{"name":"a"},{"name":"b"}],"messages":[]}"#),
            (r#"{"tools":[ ],"messages":[]}"#, r#"{"tools":[ {"name":"a"},{"name":"b"}],"messages":[]}"#),
            (r#"{"tools":[{} ],"messages":[]}"#, r#"{"tools":[{} ,{"name":"a"},{"name":"b"}],"messages":[]}"#),
        ],
    );
}

#[test]
fn usage_is_asked_for_in_openais_streams() {
    let usage = Additions { include_usage: true, ..Additions::default() };
    check(
        OpenaiChat,
        &usage,
        &[
            (r#"{"messages":[]}"#, r#"{"stream_options":{"include_usage":true},"messages":[]}"#),
            (r#"{"messages":[],"stream_options":null}"#, r#"{"messages":[],"stream_options":{"include_usage":true}}"#),
            (r#"{"messages":[],"stream_options":{ }}"#, r#"{"messages":[],"stream_options":{"include_usage":true }}"#),
            (r#"{"messages":[],"stream_options":{"x":1}}"#, r#"{"messages":[],"stream_options":{"include_usage":true,"x":1}}"#),
            (
                r#"{"messages":[],"stream_options":{"include_usage": false }}"#,
                r#"{"messages":[],"stream_options":{"include_usage": true }}"#,
            ),
            (
                r#"{"messages":[],"stream_options":{"include_usage":null}}"#,
                r#"{"messages":[],"stream_options":{"include_usage":true}}"#,
            ),
        ],
    );
    check(AnthropicMessages, &usage, &[(r#"{"messages":[]}"#, r#"{"messages":[]}"#)]);
}

/// The same edit made on a tree.
fn expected(wire: Wire, mut tree: Value, scan: &Scan, additions: &Additions) -> Value {
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let (instructions, blocks) = (given(additions.instructions), given(additions.blocks));
    if let Some(model) = additions.model {
        tree["model"] = json!(model);
    }
    if let Some(tools) = given(additions.tools) {
        let added: Vec<Value> = serde_json::from_str(&format!("[{tools}]")).unwrap();
        let mut all = tree["tools"].as_array().cloned().unwrap_or_default();
        all.extend(added);
        tree["tools"] = json!(all);
    }
    let messages = tree["messages"].as_array_mut().unwrap();
    let newest = messages.iter().rposition(|message| message["role"] == "user");
    for (at, message) in messages.iter_mut().enumerate() {
        // As the caller has it: a delta in each user message.
        let delta = additions.deltas.iter().find(|delta| delta.message == scan.messages[at]).map(|delta| delta.text.to_string());
        let recall = given(additions.recall).filter(|_| newest == Some(at));
        let texts: Vec<String> = delta.into_iter().chain(recall).collect();
        if let Value::String(text) = &message["content"] {
            message["content"] = json!(format!("{}{text}", texts.concat()));
        } else if let Some(parts) = message["content"].as_array_mut() {
            let last = wire == AnthropicMessages && parts.iter().any(|part| part["type"] == "tool_result");
            let at = if last { parts.len() } else { 0 };
            parts.splice(at..at, texts.into_iter().map(|text| json!({"type": "text", "text": text})));
        }
    }
    if wire == OpenaiChat {
        let leading = messages.iter().take_while(|m| m["role"] == "system" || m["role"] == "developer").count();
        if let Some(blocks) = blocks {
            messages.insert(leading, json!({"role": "system", "content": blocks}));
        }
        if let Some(instructions) = instructions {
            messages.insert(0, json!({"role": "system", "content": instructions}));
        }
        if additions.include_usage {
            if !tree["stream_options"].is_object() {
                tree["stream_options"] = json!({});
            }
            tree["stream_options"]["include_usage"] = json!(true);
        }
    } else if instructions.is_some() || blocks.is_some() {
        if let Some(list) = tree["system"].as_array_mut() {
            let part = |text: String| json!({"type": "text", "text": text});
            list.splice(0..0, instructions.map(part));
            list.extend(blocks.map(part));
        } else {
            let client = given(tree["system"].as_str());
            let texts: Vec<String> = [instructions, client, blocks].into_iter().flatten().collect();
            tree["system"] = json!(texts.join("\n\n"));
        }
    }
    tree
}

/// A delta in each of the user's messages that has room for one.
fn deltas(body: &[u8], scan: &Scan, delta: Option<&str>) -> Vec<Placed> {
    let room = |message: &&Message| {
        let content = message.content.filter(|_| message.role == Role::User);
        content.is_some_and(|value| value.kind == Kind::String || (value.kind == Kind::Array && !value.is_empty(body)))
    };
    let Some(delta) = delta else { return Vec::new() };
    scan.messages.iter().filter(room).map(|message| Placed { message: *message, text: delta.into() }).collect()
}

fn content() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        Just("[ ]".to_owned()),
        r#"[a-z]{0,40}(\\n|\\"|\\u00e9|é)?[a-z]{0,9}"#.prop_map(|text| format!("\"{text}\"")),
        Just(r#"[{"type":"text","text":"x"} , {"type":"image","n":1.0e5}]"#.to_owned()),
        Just(r#"[{"type":"tool_result","content":[{"type":"text","text":"x"}]}]"#.to_owned()),
    ]
}

/// A request in the client's own spelling: members in any order, odd white space and numbers, unknown keys, some of them twice.
fn request() -> impl Strategy<Value = String> {
    let role = prop::sample::select(vec!["system", "developer", "user", "user", "assistant", "tool"]);
    let message = (role, content(), any::<bool>()).prop_map(|(role, content, role_first)| {
        if role_first {
            format!(r#"{{"role":"{role}", "content" :{content},"n":-0.0E+1,"n":1e2}}"#)
        } else {
            format!(r#"{{ "content":{content} , "role": "{role}"}}"#)
        }
    });
    let messages = (prop::collection::vec(message, 0..6), "[ \n]{0,2}")
        .prop_map(|(messages, space)| format!("\"messages\":{space}[{space}{}{space}]", messages.join(&format!("{space},"))));
    let option = |values: Vec<&'static str>| prop::option::of(prop::sample::select(values).prop_map(str::to_owned));
    let others = (
        option(vec![r#""model":"m""#, r#""mod\u0065l" : "\u006d""#]),
        option(vec![r#""tools":[]"#, r#""tools":[ {"a":1.50} ]"#, r#""tools":null"#]),
        option(vec![r#""system":"""#, r#""system":"s\n""#, r#""system":[]"#, r#""system":[{"t":0}]"#, r#""system":null"#]),
        option(vec![
            r#""stream_options":null"#,
            r#""stream_options":{}"#,
            r#""stream_options":{"include_usage":false,"y":1}"#,
            r#""stream_options":{"y":1.0e5}"#,
        ]),
        option(vec![r#""x":1.0e5,"x":1.0E5"#, "\"x\" :\t[1 ,2.00]"]),
    );
    (messages, others).prop_flat_map(|(messages, others)| {
        let mut members = vec![messages];
        members.extend([others.0, others.1, others.2, others.3, others.4].into_iter().flatten());
        Just(members).prop_shuffle().prop_map(|members| format!("{{ {}}}", members.join(" ,")))
    })
}

fn subsequence(part: &[u8], whole: &[u8]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|byte| rest.any(|other| other == byte))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn is_the_tree_edit_with_all_of_the_clients_bytes_in_place(
        body in request(),
        anthropic in any::<bool>(),
        texts in prop::collection::vec(prop::option::of("([A-Z\"\\\\\n\t\u{0}-\u{1f}é東]|[A-Z ]{30}){0,12}"), 4),
        tools in prop::option::of(prop::sample::select(vec![r#"{"name":"T"}"#, r#"{"name":"T"},{"name":"U"}"#])),
        delta in prop::option::of("([A-Z\"\\\\\n\u{1f}é東]|[A-Z ]{30}){1,9}"),
        include_usage in any::<bool>(),
    ) {
        let wire = if anthropic { AnthropicMessages } else { OpenaiChat };
        let text = |n: usize| texts[n].as_deref();
        let body = Bytes::from(body);
        let scan = scan(wire, &body).unwrap();
        let additions = Additions {
            deltas: &deltas(&body, &scan, delta.as_deref()),
            model: text(0), instructions: text(1), blocks: text(2), recall: text(3), tools, include_usage,
        };
        let out = splice(wire, &body, &scan, &additions);

        let before: Value = serde_json::from_slice(&body).unwrap();
        let mut wanted = expected(wire, before.clone(), &scan, &additions);
        for (key, value) in wanted.as_object().unwrap().clone() {
            if value.is_null() && before.get(&key).is_none() {
                wanted.as_object_mut().unwrap().remove(&key); // made by looking it up for writing
            }
        }
        let after: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(after, wanted);

        let replaced = [
            scan.model.as_ref().filter(|asked| additions.model.is_some_and(|model| model != asked.name)).map(|asked| asked.span),
            scan.system.filter(|_| before["system"].is_null()).map(|value| value.span),
            scan.tools.filter(|_| before["tools"].is_null()).map(|value| value.span),
            scan.stream_options.filter(|_| before["stream_options"].is_null()).map(|options| options.value.span),
            scan.stream_options.and_then(|options| options.include_usage).map(|value| value.span),
        ];
        let kept: Vec<u8> = (0..body.len())
            .filter(|at| !replaced.iter().flatten().any(|span| (span.start..span.end).contains(at)))
            .map(|at| body[at])
            .collect();
        prop_assert!(subsequence(&kept, &out));
        for own in ["1.0e5,\"x\":1.0E5", "\"x\" :\t[1 ,2.00]", "-0.0E+1,\"n\":1e2", "1.50", "\"y\":1.0e5"] {
            let count = |bytes: &[u8]| bytes.windows(own.len()).filter(|window| *window == own.as_bytes()).count();
            prop_assert_eq!(count(&out), count(&body));
        }
    }
}
