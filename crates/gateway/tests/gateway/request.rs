//! The request scan: what it finds, what it refuses, and that it takes for JSON exactly what `serde_json` does.

use proptest::prelude::*;
use trunkline_gateway::request::{Kind, Malformed, Role, Scan, scan};
use trunkline_gateway::wire::Wire::{self, AnthropicMessages, OpenaiChat};

fn refused(wire: Wire, body: impl AsRef<[u8]>) -> Malformed {
    scan(wire, body.as_ref()).unwrap_err()
}

fn found(wire: Wire, body: &str) -> Scan {
    scan(wire, body.as_bytes()).unwrap()
}

#[test]
fn finds_the_parts_of_an_openai_request() {
    let body = r#" {"model": "gpt-5", "messages": [ {"role":"developer","content":"a"}, {"content":[{"type":"text"}],"role":"user"},
        {"role":"assistant","tool_calls":[]}, {"role":"tool","content":null}],
        "stream":true, "stream_options":{"x":[{}],"include_usage":true}, "tools":[ ], "user":"cus_42", "system":3, "metadata":7} "#;
    let scan = found(OpenaiChat, body);
    let model = scan.model.as_ref().unwrap();
    assert_eq!((model.name.as_str(), model.span.of(body.as_bytes())), ("gpt-5", &br#""gpt-5""#[..]));
    assert!(scan.stream && scan.include_usage(body.as_bytes()));
    assert!(scan.tools.unwrap().is_empty(body.as_bytes()));
    assert_eq!(scan.user.as_deref(), Some("cus_42"));
    assert_eq!((scan.system, scan.open), (None, 2));
    let roles: Vec<Role> = scan.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool]);
    let kinds: Vec<Option<Kind>> = scan.messages.iter().map(|message| message.content.map(|content| content.kind)).collect();
    assert_eq!(kinds, [Some(Kind::String), Some(Kind::Array), None, Some(Kind::Null)]);
    assert_eq!(scan.messages[1].span.of(body.as_bytes()), br#"{"content":[{"type":"text"}],"role":"user"}"#);
    let list = scan.messages_span.of(body.as_bytes());
    assert!(list.starts_with(b"[ {") && list.ends_with(b"null}]"));
}

#[test]
fn finds_the_parts_of_an_anthropic_request() {
    let body = r#"{"system":[{"type":"text","text":"x"}],"messages":[],"metadata":{"a":1,"user_id":"u\u00e9"},"user":5,"stream_options":1}"#;
    let scan = found(AnthropicMessages, body);
    let system = scan.system.unwrap();
    assert_eq!((system.kind, system.is_empty(body.as_bytes())), (Kind::Array, false));
    assert_eq!(scan.user.as_deref(), Some("ué"));
    assert_eq!((scan.model, scan.stream, scan.stream_options, scan.tools), (None, false, None, None));
    assert_eq!(found(AnthropicMessages, r#"{"messages":[],"system":""}"#).system.unwrap().kind, Kind::String);
    assert_eq!(found(AnthropicMessages, r#"{"messages":[],"metadata":null}"#).user, None);
}

#[test]
fn reads_keys_and_names_through_their_escapes() {
    let scan = found(OpenaiChat, r#"{"m\u006fdel":"a\/\"\ud83d\ude00\n","messages":[{"r\u006fle":"us\u0065r"}]}"#);
    assert_eq!(scan.model.unwrap().name, "a/\"\u{1F600}\n");
    assert_eq!(scan.messages[0].role, Role::User);
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn says_which_part_is_wrong() {
    let cases = [
        (OpenaiChat, r#"{"model":3,"messages":[]}"#, "model", "model must be a string"),
        (OpenaiChat, r#"{"model":null,"messages":[]}"#, "model", "model must be a string"),
        (OpenaiChat, "{}", "messages", "messages is required"),
        (OpenaiChat, r#"{"messages":{}}"#, "messages", "messages must be an array of objects"),
        (OpenaiChat, r#"{"messages":[{"role":"user"},"hi"]}"#, "messages[1]", "messages[1] must be an object"),
        (OpenaiChat, r#"{"messages":[{"content":""}]}"#, "messages[0].role", "messages[0].role is required"),
        (OpenaiChat, r#"{"messages":[{"role":[]}]}"#, "messages[0].role", "messages[0].role must be a string"),
        (
            OpenaiChat,
            r#"{"messages":[{"role":"usr"}]}"#,
            "messages[0].role",
            "messages[0].role must be system, developer, user, assistant or tool",
        ),
        (
            OpenaiChat,
            r#"{"messages":[{"role":"user","content":{}}]}"#,
            "messages[0].content",
            "messages[0].content must be a string or an array",
        ),
        (OpenaiChat, r#"{"messages":[],"stream":"yes"}"#, "stream", "stream must be true or false"),
        (OpenaiChat, r#"{"messages":[],"tools":{}}"#, "tools", "tools must be an array"),
        (OpenaiChat, r#"{"messages":[],"user":5}"#, "user", "user must be a string"),
        (OpenaiChat, r#"{"messages":[],"stream_options":[]}"#, "stream_options", "stream_options must be an object"),
        (
            OpenaiChat,
            r#"{"messages":[],"stream_options":{"include_usage":1}}"#,
            "stream_options.include_usage",
            "stream_options.include_usage must be true or false",
        ),
        (AnthropicMessages, r#"{"messages":[],"system":{}}"#, "system", "system must be a string or an array of text blocks"),
        (AnthropicMessages, r#"{"messages":[],"metadata":[]}"#, "metadata", "metadata must be an object"),
        (
            AnthropicMessages,
            r#"{"messages":[],"metadata":{"user_id":1}}"#,
            "metadata.user_id",
            "metadata.user_id must be a string",
        ),
    ];
    for (wire, body, param, message) in cases {
        let expected = Malformed { message: message.into(), param: Some(param.into()), offset: None };
        assert_eq!(refused(wire, body), expected, "{body}");
    }
}

#[test]
fn refuses_a_second_value_for_what_it_acts_on_and_only_for_that() {
    for (wire, twice, param) in [
        (OpenaiChat, r#""model":"a","model":"b""#, "model"),
        (OpenaiChat, r#""model":"a","mod\u0065l":"b""#, "model"),
        (OpenaiChat, r#""messages":[]"#, "messages"),
        (OpenaiChat, r#""stream":true,"stream":null"#, "stream"),
        (OpenaiChat, r#""tools":[],"tools":[]"#, "tools"),
        (OpenaiChat, r#""user":null,"user":"b""#, "user"),
        (OpenaiChat, r#""stream_options":{},"stream_options":null"#, "stream_options"),
        (AnthropicMessages, r#""system":"","system":"""#, "system"),
        (AnthropicMessages, r#""metadata":{},"metadata":{}"#, "metadata"),
        (AnthropicMessages, r#""metadata":{"user_id":"a","user_id":"b"}"#, "metadata.user_id"),
    ] {
        let error = refused(wire, format!(r#"{{"messages":[],{twice}}}"#));
        assert_eq!((error.message, error.param), (format!("{param} is given twice"), Some(param.into())));
    }
    for field in ["role", "content"] {
        let error = refused(OpenaiChat, format!(r#"{{"messages":[{{"role":"user","content":"","{field}":"user"}}]}}"#));
        assert_eq!(error.param, Some(format!("messages[0].{field}")));
    }
    found(OpenaiChat, r#"{"messages":[{"role":"user","x":1,"x":2}],"y":1,"y":2,"system":1,"system":2}"#);
}

#[test]
fn says_where_the_text_stops_being_json() {
    let cases: [(&[u8], &str, usize); 14] = [
        (br#"{"messages":[] "a":1}"#, "expected ',' or '}'", 15),
        (br#"{"messages":[}"#, "expected a value", 13),
        (br#"{"a":[1 2]}"#, "expected ',' or ']'", 8),
        (br#"{"a":{"b" 1}}"#, "expected ':'", 10),
        (br"{a:1}", "expected a key in double quotes", 1),
        (br#"{"a":1,}"#, "expected a key in double quotes", 7),
        (br#"{"a":01}"#, "expected ',' or '}'", 6),
        (br#"{"a":1.}"#, "expected a digit", 7),
        (br#"{"a":nul}"#, "expected a value", 5),
        (br#"{"a":"b"#, "expected '\"', found the end of the text", 7),
        (br#"{"a":"#, "expected a value, found the end of the text", 5),
        (b"{\"a\":\"b\n\"}", "control character in a string (write it as an escape)", 7),
        (b"{\"a\":\"bc\xff\"}", "invalid UTF-8", 8),
        (br#"{"messages":[]} x"#, "expected the end of the text", 16),
    ];
    for (body, what, offset) in cases {
        let expected = format!("The request body is not valid JSON: {what} at byte {offset}");
        let error = refused(OpenaiChat, body);
        assert_eq!((error.message, error.offset, error.param), (expected, Some(offset), None));
    }
    for escape in [r"\x", r"\u12g4", r"\ud800", r"\udc00", r"\ud800\u0041", r"\ud8"] {
        let error = refused(OpenaiChat, format!(r#"{{"a":"{escape}"}}"#));
        assert!(error.message.contains("invalid escape") && error.offset == Some(6), "{escape}: {error:?}");
    }
}

#[test]
fn wants_an_object() {
    assert_eq!(refused(OpenaiChat, "").message, "The request body is empty");
    assert_eq!(refused(OpenaiChat, " \n").message, "The request body is empty");
    assert_eq!(refused(OpenaiChat, "[]").message, "The request body must be a JSON object");
    assert!(refused(OpenaiChat, "nope").message.contains("not valid JSON"));
    assert!(refused(OpenaiChat, b"\xef\xbb\xbf{}").message.contains("not valid JSON"));
}

#[test]
fn nests_as_deep_as_serde_json_and_no_deeper() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for depth in 120..135 {
            let body = format!(r#"{{"messages":[],"x":{}0{}}}"#, open.repeat(depth), close.repeat(depth));
            let theirs = serde_json::from_str::<serde_json::Value>(&body).is_ok();
            assert_eq!(scan(OpenaiChat, body.as_bytes()).is_ok(), theirs, "{depth} levels of {open}");
        }
    }
}

#[test]
fn gives_up_on_a_hundred_thousand_levels_at_the_first_too_many() {
    let part = "[".repeat(100_000);
    for (wire, head) in [
        (OpenaiChat, r#"{"messages":"#),
        (OpenaiChat, r#"{"messages":[{"role":"user","content":"#),
        (AnthropicMessages, r#"{"system":"#),
        (OpenaiChat, ""),
    ] {
        let error = refused(wire, format!("{head}{part}"));
        assert!(error.message.contains("nested more than 127 levels deep"), "{error:?}");
        assert!(error.offset.unwrap() < head.len() + 128);
    }
    let objects = format!(r#"{{"x":{}"#, r#"{"a":"#.repeat(100_000));
    assert!(refused(OpenaiChat, objects).message.contains("nested more than 127 levels deep"));
}

/// The inside of a string in many spellings, long enough to cross the blocks the scan works in.
fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z ]{0,40}",
        1 => Just(r"\n".to_owned()),
        1 => Just(r#"\""#.to_owned()),
        1 => Just(r"\\".to_owned()),
        1 => Just(r"\u00e9\/".to_owned()),
        1 => Just(r"\ud83d\ude00".to_owned()),
        1 => Just(r"\uD83D".to_owned()),
        2 => "[é東\u{1F600}\u{7f}]{1,9}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        string(),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let space = "[ \n\t\r]{0,2}";
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..6), space)
                .prop_map(|(elements, space)| format!("[{space}{}{space}]", elements.join(&format!("{space},{space}")))),
            (prop::collection::vec((string(), inner), 0..6), space).prop_map(|(members, space)| {
                let members: Vec<String> =
                    members.into_iter().map(|(key, value)| format!("{key}{space}:{space}{value}")).collect();
                format!("{{{space}{}{space}}}", members.join(&format!(",{space}")))
            }),
        ]
    })
}

/// Some bytes replaced, removed, put in or cut off.
fn mutate(text: &str, edits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (index, operation, byte) in edits {
        let at = index.index(bytes.len() + 1);
        match operation {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 if at < bytes.len() => {
                bytes.remove(at);
            }
            2 => bytes.truncate(at),
            _ => bytes.insert(at, *byte),
        }
    }
    bytes
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"\"\\{}[]:,0-+.eEu \n\x00\xc3"[..])];
    prop::collection::vec((any::<prop::sample::Index>(), 0..6_u8, byte), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn takes_for_json_what_serde_json_does(text in json(), edits in edits()) {
        let body = [br#"{"messages":[],"x":"#, mutate(&text, &edits).as_slice(), b"}"].concat();
        let ours = scan(OpenaiChat, &body);
        match serde_json::from_slice::<serde_json::Value>(&body) {
            Ok(_) => prop_assert!(ours.is_ok(), "{ours:?}"),
            // A grammatical number too large for f64: the client's and the provider's affair.
            Err(error) if error.to_string().contains("out of range") => {}
            Err(error) => prop_assert!(ours.as_ref().is_err_and(|ours| ours.offset.is_some()), "{error}: {ours:?}"),
        }
    }

    #[test]
    fn never_takes_a_broken_request(text in json(), edits in edits()) {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":{text}}},{{"role":"assistant","x":{text}}}],"stream_options":{{"y":{text}}}}}"#
        );
        let body = mutate(&body, &edits);
        let (ours, theirs) = (scan(OpenaiChat, &body), serde_json::from_slice::<serde_json::Value>(&body));
        if let Err(error) = theirs {
            prop_assert!(ours.is_err() || error.to_string().contains("out of range"), "{error}");
        } else if let Err(error) = ours {
            prop_assert!(error.offset.is_none(), "{error:?}");
        }
    }

    #[test]
    fn finds_each_message_where_it_is(texts in prop::collection::vec((json(), "[ \n]{0,2}"), 0..8)) {
        let messages: Vec<String> = texts.iter().map(|(text, space)| {
            format!(r#"{{"name":{text}{space},"role":"user","content":{space}"{}"}}"#, space.len())
        }).collect();
        let body = format!(r#"{{"a":1,"messages":[ {} ],"b":2}}"#, messages.join(" ,\n"));
        if let Ok(scan) = scan(OpenaiChat, body.as_bytes()) {
            prop_assert_eq!(scan.messages.len(), messages.len());
            for ((message, text), (_, space)) in scan.messages.iter().zip(&messages).zip(&texts) {
                prop_assert_eq!(message.span.of(body.as_bytes()), text.as_bytes());
                let content = format!("\"{}\"", space.len());
                prop_assert_eq!(message.content.unwrap().span.of(body.as_bytes()), content.as_bytes());
            }
        } else {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&body).is_err());
        }
    }

    #[test]
    fn decodes_names_as_serde_json_does(name in string()) {
        let body = format!(r#"{{"messages":[],"model":{name}}}"#);
        let theirs = serde_json::from_str::<String>(&name).ok();
        prop_assert_eq!(scan(OpenaiChat, body.as_bytes()).ok().map(|scan| scan.model.unwrap().name), theirs);
    }
}
