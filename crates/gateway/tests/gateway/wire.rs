//! Walks `fixtures/<wire>/<noun>/<case>/`: what is read in `<wire>` must come out in each other one as the case's file of that
//! wire's name says (for `round`, in the same, as `out` says). `UPDATE_FIXTURES=1` writes those files anew; read the difference
//! before it is kept.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};
use trunkline_gateway::sse::{Frame, Parser};
use trunkline_gateway::wire::{
    Accumulator, ErrorBody, Event, Opaque, Part, Reply, Signature, StopReason, StreamReader, StreamWriter, Tap, ToolCall,
    ToolResult, Usage, Wire, WireError, append_round, error_body, error_event, parse_reply, rewrite_reply, translate_error,
    translate_request, write_reply,
};

/// The wires that clients speak; providers speak Bedrock's as well.
const CLIENTS: [Wire; 4] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini];
const PROVIDERS: [Wire; 5] =
    [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini, Wire::BedrockConverse];
const CREATED: u64 = 1_790_000_000;

/// Each pair of a wire that is read and another that is written.
fn pairs(from: &'static [Wire], to: &'static [Wire]) -> impl Iterator<Item = (Wire, Wire)> {
    let all = from.iter().flat_map(move |from| to.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| from != to)
}

/// Runs `convert` on the `in.<extension>` of each case and compares with its `<to>.<extension>`; says how many there were.
fn each_case(wire: Wire, to: &str, (noun, extension): (&str, &str), convert: impl Fn(&Path, &[u8]) -> Vec<u8>) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(wire.name()).join(noun);
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in &cases {
        let out = convert(case, &fs::read(case.join(format!("in.{extension}"))).unwrap());
        let expected = case.join(format!("{to}.{extension}"));
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            let pretty = if extension == "json" { format!("{:#}\n", parsed(&out)).into_bytes() } else { out.clone() };
            fs::write(&expected, pretty).unwrap();
        }
        let expected = fs::read(&expected).unwrap();
        if extension == "json" {
            assert_eq!(parsed(&out), parsed(&expected), "{}", case.display());
        } else {
            assert_eq!(String::from_utf8(out), String::from_utf8(expected), "{}", case.display());
        }
    }
    cases.len()
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(body)))
}

fn frames(stream: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut parser = Parser::new();
    parser.push(Bytes::copy_from_slice(stream), &mut frames).unwrap();
    assert_eq!(parser.finish(), None);
    frames
}

fn read(wire: Wire, stream: &[u8]) -> Vec<Event> {
    let mut reader = StreamReader::new(wire);
    let mut events: Vec<Event> = frames(stream).iter().flat_map(|frame| reader.read(frame).unwrap()).collect();
    events.extend(reader.end());
    events
}

fn accumulate(events: Vec<Event>) -> Reply {
    let mut accumulator = Accumulator::default();
    for event in events {
        accumulator.push(event);
    }
    accumulator.into_reply()
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
}

fn proof(text: &str) -> Signature {
    Signature { of: Wire::AnthropicMessages, text: text.to_owned() }
}

#[test]
fn requests() {
    for (wire, to) in pairs(&CLIENTS, &PROVIDERS) {
        let convert = |_: &Path, body: &[u8]| match translate_request(wire, to, body, "upstream-model", streams(body), false) {
            Ok(out) => {
                assert!(out.dropped.is_empty());
                out.body
            }
            Err(WireError { message, param, .. }) => {
                json!({"refused": {"message": message, "param": param}}).to_string().into_bytes()
            }
        };
        let count = each_case(wire, to.name(), ("request", "json"), convert);
        assert!(count >= 8, "{wire}: {count} cases");
    }
}

fn streams(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|body| body["stream"] == true)
}

/// With `drop_params`, what was left out is told.
#[test]
fn dropped() {
    for (wire, to) in pairs(&CLIENTS, &PROVIDERS) {
        let convert = |_: &Path, body: &[u8]| match translate_request(wire, to, body, "upstream-model", streams(body), true) {
            Ok(out) => json!({"dropped": out.dropped, "request": parsed(&out.body)}).to_string().into_bytes(),
            Err(WireError { message, param, .. }) => {
                json!({"refused": {"message": message, "param": param}}).to_string().into_bytes()
            }
        };
        let count = each_case(wire, to.name(), ("dropped", "json"), convert);
        assert!(count >= 1, "{wire}: {count} cases");
    }
}

#[test]
fn no_more_fields_are_dropped_than_can_be_afforded() {
    let drop = |fields: usize| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        (0..fields).for_each(|field| body[format!("x{field}")] = json!(1));
        translate_request(Wire::OpenaiChat, Wire::Gemini, body.to_string().as_bytes(), "m", false, true)
    };
    assert_eq!(drop(64).unwrap().dropped.len(), 64);
    drop(65).unwrap_err();
}

#[test]
fn replies() {
    for (wire, to) in pairs(&PROVIDERS, &CLIENTS) {
        let convert = |_: &Path, body: &[u8]| write_reply(to, &parse_reply(wire, body).unwrap(), CREATED).unwrap();
        let count = each_case(wire, to.name(), ("reply", "json"), convert);
        assert!(count >= 5, "{wire}: {count} cases");
    }
}

#[test]
fn streamed_replies() {
    for (wire, to) in pairs(&PROVIDERS, &CLIENTS) {
        let convert = |_: &Path, stream: &[u8]| {
            let mut writer = StreamWriter::new(to, true, CREATED).unwrap();
            let mut out = Vec::new();
            for event in read(wire, stream) {
                writer.write(&event, &mut out);
            }
            out
        };
        let count = each_case(wire, to.name(), ("stream", "sse"), convert);
        assert!(count >= 4, "{wire}: {count} cases");
    }
}

/// A stream says the same before and after translation, and to a tap.
#[test]
fn translated_streams_add_up_to_the_same_reply() {
    for (wire, to) in pairs(&PROVIDERS, &CLIENTS) {
        each_case(wire, to.name(), ("stream", "sse"), |case, stream| {
            let translated = fs::read(case.join(format!("{to}.sse"))).unwrap();
            let mut tap = Tap::new(wire);
            for frame in frames(stream) {
                tap.read(&frame).unwrap();
            }
            tap.end();
            let direct = accumulate(read(wire, stream));
            assert_eq!(*tap.reply(), direct);
            assert_eq!(tap.complete(), tap.heard().failure().is_none(), "{}", case.display());
            let after = accumulate(read(to, &translated));
            assert_eq!(after.text(), direct.text(), "{to} {}", case.display());
            let calls = |reply: &Reply| -> Vec<(String, Value)> {
                reply.tool_calls().map(|call| (call.name.clone(), parsed(call.arguments.as_bytes()))).collect()
            };
            assert_eq!(calls(&after), calls(&direct), "{to} {}", case.display());
            translated
        });
    }
}

#[test]
fn a_streamed_call_that_names_no_tool_is_refused() {
    let streams = [
        (
            Wire::AnthropicMessages,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","input":{}}}"#,
        ),
        (
            Wire::OpenaiResponses,
            r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"function_call","call_id":"t"}}"#,
        ),
        (Wire::Gemini, r#"{"candidates":[{"content":{"parts":[{"functionCall":{"id":"t","args":{}}}]}}]}"#),
    ];
    for (wire, data) in streams {
        let frame = frames(format!("data: {data}\n\n").as_bytes()).remove(0);
        let error = StreamReader::new(wire).read(&frame).expect_err(wire.name());
        assert!(error.to_string().contains("names no tool"), "{wire}: {error}");
    }
    let start = r#"{"contentBlockIndex":0,"start":{"toolUse":{"toolUseId":"t"}}}"#;
    let frame = frames(format!("event: contentBlockStart\ndata: {start}\n\n").as_bytes()).remove(0);
    let error = StreamReader::new(Wire::BedrockConverse).read(&frame).expect_err("bedrock_converse");
    assert!(error.to_string().contains("names no tool"), "{error}");
}

#[test]
fn rounds() {
    for wire in PROVIDERS {
        let count = each_case(wire, "out", ("round", "json"), |case, body| {
            let reply = parse_reply(wire, &fs::read(case.join("reply.json")).unwrap()).unwrap();
            let results: Vec<ToolResult> = reply
                .tool_calls()
                .enumerate()
                .map(|(at, call)| ToolResult {
                    call_id: call.id.clone(),
                    content: format!("result of {}", call.name),
                    is_error: at == 1,
                })
                .collect();
            append_round(wire, body, &reply, &results).unwrap()
        });
        assert!(count >= 1, "{wire}: {count} cases");
    }
}

#[test]
fn errors() {
    for (wire, to) in pairs(&PROVIDERS, &CLIENTS) {
        let count = each_case(wire, to.name(), ("error", "json"), |case, body| {
            let name = case.file_name().unwrap().to_str().unwrap();
            let status: u16 = name.split('_').next().unwrap().parse().expect("a case begins with its status");
            translate_error(wire, to, status, body, "req_1")
        });
        assert!(count >= 2, "{wire}: {count} cases");
    }
}

#[test]
fn a_round_changes_only_the_end_of_messages() {
    let body = br#" {"a":1.50, "messages" : [ {"role":"user","content":"\u00e9 ]"} ] ,"z":{"messages":[]}, "n":1e2}"#;
    let reply =
        Reply { parts: vec![Part::ToolCall(call("c1", "f", "{ \"big\": 123456789012345678901234567890 }"))], ..Reply::default() };
    let results = [ToolResult { call_id: "c1".to_owned(), content: "ok".to_owned(), is_error: false }];
    let openai = append_round(Wire::OpenaiChat, body, &reply, &results).unwrap();
    let expected = concat!(
        r#" {"a":1.50, "messages" : [ {"role":"user","content":"\u00e9 ]"} ,"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{ \"big\": 123456789012345678901234567890 }"}}]},"#,
        r#"{"role":"tool","tool_call_id":"c1","content":"ok"}] ,"z":{"messages":[]}, "n":1e2}"#
    );
    assert_eq!(String::from_utf8(openai).unwrap(), expected);
    let anthropic = append_round(Wire::AnthropicMessages, br#"{"messages":[ ]}"#, &reply, &results).unwrap();
    let expected = concat!(
        r#"{"messages":[ {"role":"assistant","content":[{"type":"tool_use","id":"c1","name":"f","input":{ "big": 123456789012345678901234567890 }}]},"#,
        r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"ok"}]}]}"#
    );
    assert_eq!(String::from_utf8(anthropic).unwrap(), expected);
    for wrong in ["{}", r#"{"messages":{}}"#, r#"{"messages":[]"#, "[]", r#"{"messages":[],"messages":[]}"#] {
        assert!(append_round(Wire::OpenaiChat, wrong.as_bytes(), &reply, &results).is_err(), "{wrong}");
    }
}

#[test]
fn one_wire_changes_only_the_model() {
    let body = br#"{"messages": [], "model" :"agent/x","logprobs":true}"#;
    let out = translate_request(Wire::OpenaiChat, Wire::OpenaiChat, body, "gpt-\"x", false, false).unwrap();
    assert_eq!(String::from_utf8(out.body).unwrap(), r#"{"messages": [], "model" :"gpt-\"x","logprobs":true}"#);
}

#[test]
fn deep_or_malformed_requests_are_refused() {
    let deep = format!(r#"{{"model":"m","max_tokens":1,"messages":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for (wire, to) in pairs(&CLIENTS, &PROVIDERS) {
        for body in [deep.as_bytes(), b"{", b"[]", b"\xff", b"{\"model\": 1}", br#"{"model":"m","messages":[3]}"#] {
            for drop in [false, true] {
                let error = translate_request(wire, to, body, "m", false, drop).unwrap_err();
                assert!(!error.message.is_empty());
            }
        }
    }
}

#[test]
fn rewriting_keeps_what_the_reply_does_not_say() {
    let body = br#"{"id":"chatcmpl-2","object":"chat.completion","created":5,"model":"m","system_fingerprint":"fp","choices":[{"index":0,
        "message":{"role":"assistant","content":null,"annotations":[],"tool_calls":[{"id":"c","type":"function","function":{"name":"memory_read","arguments":""}}]},
        "finish_reason":"tool_calls","logprobs":null}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"prompt_tokens_details":{"audio_tokens":0}}}"#;
    let same = parse_reply(Wire::OpenaiChat, body).unwrap();
    assert_eq!(rewrite_reply(Wire::OpenaiChat, body, &same).unwrap(), body);
    let reply = Reply {
        parts: vec![Part::Text("Done.".to_owned())],
        stop: StopReason::EndTurn,
        usage: Some(Usage { input: 10, output: 20, cache_read: 4, ..Usage::default() }),
        ..same
    };
    let out = rewrite_reply(Wire::OpenaiChat, body, &reply).unwrap();
    assert_eq!(parse_reply(Wire::OpenaiChat, &out).unwrap(), reply);
    let out = parsed(&out);
    assert_eq!(out["system_fingerprint"], "fp");
    assert_eq!(out["created"], 5);
    assert_eq!(out["choices"][0]["message"], json!({"role": "assistant", "content": "Done.", "annotations": []}));
    assert_eq!(out["usage"]["prompt_tokens_details"], json!({"audio_tokens": 0, "cached_tokens": 4}));

    let body = br#"{"id":"msg_2","type":"message","role":"assistant","model":"c","container":{"id":"x"},
        "content":[{"type":"tool_use","id":"t","name":"memory_read","input":{}}],"stop_reason":"tool_use","stop_sequence":null,
        "usage":{"input_tokens":1,"output_tokens":2,"service_tier":"standard"}}"#;
    let reply = Reply {
        id: "msg_2".to_owned(),
        model: "c".to_owned(),
        parts: vec![
            Part::Thinking { text: "hm".to_owned(), signature: Some(proof("s")) },
            Part::Opaque(Opaque { of: Wire::AnthropicMessages, json: r#"{"type":"redacted_thinking","data":"x"}"#.to_owned() }),
            Part::Text("Done.".to_owned()),
        ],
        stop: StopReason::StopSequence(Some("END".to_owned())),
        usage: Some(Usage { input: 10, output: 20, cache_read: 4, cache_write: 1, reasoning: 3 }),
    };
    let out = rewrite_reply(Wire::AnthropicMessages, body, &reply).unwrap();
    assert_eq!(parse_reply(Wire::AnthropicMessages, &out).unwrap(), reply);
    let out = parsed(&out);
    assert_eq!(out["container"]["id"], "x");
    assert_eq!(out["usage"]["service_tier"], "standard");
    assert_eq!(out["usage"]["input_tokens"], 5);
}

#[test]
fn errors_of_our_own() {
    let error = ErrorBody {
        status: 404,
        kind: "not_found_error",
        message: "No model `x`.",
        param: Some("model"),
        code: Some("model_not_found"),
        request_id: "req_1",
    };
    assert_eq!(
        parsed(&error_body(Wire::OpenaiChat, &error)),
        json!({"error": {"message": "No model `x`.", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}})
    );
    assert_eq!(
        parsed(&error_body(Wire::AnthropicMessages, &error)),
        json!({"type": "error", "error": {"type": "not_found_error", "message": "No model `x`."}, "request_id": "req_1"})
    );
    for wire in CLIENTS {
        let event = read(wire, &error_event(wire, &error).unwrap());
        let Some([Event::Error { kind, message }]) = event.first_chunk() else { panic!("{event:?}") };
        assert_eq!((kind.as_str(), message.as_str()), ("not_found_error", "No model `x`."));
    }
}

/// Within one wire a provider's well-formed error is the client's; anything else becomes one.
#[test]
fn provider_errors_within_one_wire() {
    let body = br#"{"error":{"message":"no","type":"tokens","param":null,"code":"rate_limit_exceeded","extra":1}}"#;
    assert_eq!(translate_error(Wire::OpenaiChat, Wire::OpenaiChat, 429, body, "r"), body);
    let html = translate_error(Wire::OpenaiChat, Wire::OpenaiChat, 502, b"<html>Bad Gateway</html>", "r");
    assert_eq!(parsed(&html)["error"]["message"], "<html>Bad Gateway</html>");
    assert_eq!(parsed(&html)["error"]["type"], "server_error");
    let empty = translate_error(Wire::AnthropicMessages, Wire::AnthropicMessages, 529, b"", "r");
    assert_eq!(parsed(&empty)["error"]["type"], "overloaded_error");
}

/// Memory rounds: several upstream replies are one to the client.
#[test]
fn a_writer_joins_rounds() {
    let start = |id: &str| Event::Start { id: id.to_owned(), model: "m".to_owned(), usage: None };
    let total = Usage { input: 30, output: 5, ..Usage::default() };
    let events = [
        start("first"),
        Event::Text("One ".to_owned()),
        Event::Stop(StopReason::ToolUse),
        start("second"),
        Event::Text("two".to_owned()),
        Event::Usage(total),
        Event::Stop(StopReason::EndTurn),
        Event::End,
    ];
    for wire in CLIENTS {
        let mut writer = StreamWriter::new(wire, true, CREATED).unwrap();
        let mut out = Vec::new();
        for event in &events {
            writer.write(event, &mut out);
        }
        let reply = accumulate(read(wire, &out));
        assert!(reply.id.ends_with("first"), "{}", reply.id);
        assert_eq!(reply.text(), "One two");
        assert_eq!((reply.stop, reply.usage), (StopReason::EndTurn, Some(total)));
    }
}
