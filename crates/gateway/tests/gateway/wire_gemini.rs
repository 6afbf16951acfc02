//! What is peculiar to Gemini's wire, and that what it can say survives being written and read again.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::sse::{Frame, Parser};
use trunkline_gateway::wire::{
    Accumulator, ErrorBody, Event, Part, Reply, Signature, StopReason, StreamReader, StreamWriter, ToolCall, Usage, Wire,
    error_body, error_event, parse_reply, parse_usage, rewrite_reply, translate_error, translate_request, write_reply,
};

/// Wires of clients other than Gemini's.
const CLIENTS: [Wire; 3] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses];
const CREATED: u64 = 1_790_000_000;

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(body)))
}

/// A request in another wire.
fn request(from: Wire, to: Wire, body: &Value, model: &str) -> Value {
    parsed(&translate_request(from, to, body.to_string().as_bytes(), model, false, false).unwrap().body)
}

fn accumulated(events: impl IntoIterator<Item = Event>) -> Accumulator {
    let mut accumulator = Accumulator::default();
    for event in events {
        accumulator.push(event);
    }
    accumulator
}

fn whole(events: impl IntoIterator<Item = Event>) -> Reply {
    let accumulator = accumulated(events);
    assert!(accumulator.complete() && accumulator.stopped());
    accumulator.into_reply()
}

fn frames(stream: &[u8], size: usize) -> Vec<Frame> {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for chunk in stream.chunks(size) {
        parser.push(Bytes::copy_from_slice(chunk), &mut frames).unwrap();
    }
    assert_eq!(parser.finish(), None);
    frames
}

fn read(wire: Wire, stream: &[u8], size: usize) -> Vec<Event> {
    let mut reader = StreamReader::new(wire);
    let mut events: Vec<Event> = frames(stream, size).iter().flat_map(|frame| reader.read(frame).unwrap()).collect();
    events.extend(reader.end());
    events
}

fn written(wire: Wire, events: &[Event]) -> Vec<u8> {
    let mut writer = StreamWriter::new(wire, true, CREATED).unwrap();
    let mut out = Vec::new();
    for event in events {
        writer.write(event, &mut out);
    }
    out
}

/// Models before Gemini 3 take budgets instead of levels, and calls without a signature.
#[test]
fn older_models() {
    let body = json!({"model": "m", "reasoning_effort": "medium", "messages": [{"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"}]});
    let out = |model| request(Wire::OpenaiChat, Wire::Gemini, &body, model);
    let old = out("gemini-2.5-flash");
    assert_eq!(old["generationConfig"]["thinkingConfig"], json!({"thinkingBudget": 8192}));
    assert_eq!(old["contents"][1]["parts"], json!([{"functionCall": {"id": "c", "name": "f", "args": {}}}]));
    let new = out("gemini-3-pro");
    assert_eq!(new["generationConfig"]["thinkingConfig"], json!({"thinkingLevel": "medium"}));
    assert_eq!(new["contents"][1]["parts"][0]["thoughtSignature"], "skip_thought_signature_validator");
}

#[test]
fn what_cannot_be_said_is_dropped_by_name() {
    let body = json!({"contents": [{"parts": [{"text": "Hi"}]}], "safety_settings": [{"category": "x"}],
        "tools": [{"googleSearch": {"a": 1}}], "generation_config": {"top_k": 3, "response_logprobs": true}});
    let drop = |to| translate_request(Wire::Gemini, to, body.to_string().as_bytes(), "m", false, true).unwrap();
    let out = drop(Wire::OpenaiChat);
    let mut dropped = out.dropped;
    dropped.sort();
    assert_eq!(
        dropped,
        ["generationConfig.topK", "generation_config.response_logprobs", "safety_settings", "tools[0].googleSearch"]
    );
    assert_eq!(parsed(&out.body), json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}));
}

#[test]
fn a_reply_that_broke_off_is_an_error() {
    for reason in ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"] {
        let body = json!({"candidates": [{"finishReason": reason, "finishMessage": "Why."}], "responseId": "r"});
        let error = parse_reply(Wire::Gemini, body.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.message, format!("The model's answer broke off with {reason}. Why."));
    }
    assert!(parse_reply(Wire::Gemini, b"{}").is_err());
}

/// Without a finish reason the bytes' end is no end of a reply.
#[test]
fn a_stream_that_breaks_off_has_no_end() {
    let stream = b"data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hel\"}]}}]}\n\n";
    assert!(!accumulated(read(Wire::Gemini, stream, usize::MAX)).complete());
}

#[test]
fn rewriting_keeps_what_the_reply_does_not_say() {
    let body = json!({"candidates": [{"content": {"parts": [{"functionCall": {"name": "memory_read", "args": {}}}], "role": "model"},
        "finishReason": "STOP", "safetyRatings": [1]}], "usageMetadata": {"promptTokenCount": 1, "trafficType": "ON_DEMAND"},
        "modelVersion": "m", "responseId": "r", "createTime": "x"});
    let same = parse_reply(Wire::Gemini, body.to_string().as_bytes()).unwrap();
    assert_eq!(rewrite_reply(Wire::Gemini, body.to_string().as_bytes(), &same).unwrap(), body.to_string().as_bytes());
    let usage = Usage { input: 10, output: 20, reasoning: 5, ..Usage::default() };
    let reply = Reply { parts: vec![Part::Text("Done.".to_owned())], stop: StopReason::EndTurn, usage: Some(usage), ..same };
    let out = rewrite_reply(Wire::Gemini, body.to_string().as_bytes(), &reply).unwrap();
    assert_eq!(parse_reply(Wire::Gemini, &out).unwrap(), reply);
    let out = parsed(&out);
    assert_eq!((&out["createTime"], &out["usageMetadata"]["trafficType"]), (&json!("x"), &json!("ON_DEMAND")));
    assert_eq!(out["candidates"][0]["safetyRatings"], json!([1]));
}

#[test]
fn errors_of_our_own() {
    for (status, kind, name) in [
        (400, "invalid_request_error", "INVALID_ARGUMENT"),
        (401, "authentication_error", "UNAUTHENTICATED"),
        (403, "permission_error", "PERMISSION_DENIED"),
        (404, "not_found_error", "NOT_FOUND"),
        (429, "rate_limit_error", "RESOURCE_EXHAUSTED"),
        (503, "overloaded_error", "UNAVAILABLE"),
        (504, "timeout_error", "DEADLINE_EXCEEDED"),
    ] {
        let error = ErrorBody { status, kind, message: "Why.", param: None, code: None, request_id: "r" };
        let body = json!({"error": {"code": status, "message": "Why.", "status": name}});
        assert_eq!(parsed(&error_body(Wire::Gemini, &error)), body);
        let events = read(Wire::Gemini, &error_event(Wire::Gemini, &error).unwrap(), usize::MAX);
        assert_eq!(events, [Event::Error { kind: kind.to_owned(), message: "Why.".to_owned() }]);
        // Within the wire a provider's own error is the client's.
        let sent = body.to_string();
        assert_eq!(translate_error(Wire::Gemini, Wire::Gemini, status, sent.as_bytes(), "r"), sent.as_bytes());
    }
}

#[test]
fn one_wire_changes_nothing() {
    let body = br#"{"contents": [], "model" :"models/x","safetySettings":[1.50]}"#;
    let out = translate_request(Wire::Gemini, Wire::Gemini, body, "other", true, false).unwrap();
    assert_eq!(out.body, body);
}

#[test]
fn deep_or_malformed_requests_are_refused() {
    let deep = format!(r#"{{"contents":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for body in [deep.as_bytes(), b"{", b"[]", b"\xff", br#"{"contents":[3]}"#, br#"{"contents":[{"parts":[{"text":1}]}]}"#] {
        assert!(!translate_request(Wire::Gemini, Wire::OpenaiChat, body, "m", false, false).unwrap_err().message.is_empty());
    }
}

fn word() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_-]{1,20}"
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~é☃𝄞\r\n\t\"\\\\]{1,40}"].prop_filter("empty text is not sent", |text| !text.is_empty())
}

fn tool_call() -> impl Strategy<Value = ToolCall> {
    let arguments = vec((word(), any::<String>(), any::<i64>()), 0..4).prop_map(|fields| {
        let fields = fields.into_iter().map(|(key, text, number)| (key, json!([text, number])));
        Value::Object(fields.collect()).to_string()
    });
    (word(), word(), arguments).prop_map(|(id, name, arguments)| ToolCall { id, name, arguments })
}

fn part() -> impl Strategy<Value = Part> {
    let ours = || word().prop_map(|text| Signature { of: Wire::Gemini, text });
    let other = ("[A-Za-z0-9+/=]{1,30}", Just(Wire::AnthropicMessages)).prop_map(|(text, of)| Signature { of, text });
    prop_oneof![
        text().prop_map(Part::Text),
        (text(), option::of(prop_oneof![ours(), other])).prop_map(|(text, signature)| Part::Thinking { text, signature }),
        ours().prop_map(|signature| Part::Thinking { text: String::new(), signature: Some(signature) }),
        tool_call().prop_map(Part::ToolCall),
    ]
}

/// Replies in the one form that reading gives: texts that touch are one, and a thought goes on until its signature.
fn reply() -> impl Strategy<Value = Reply> {
    let usage = (0..1000u64, 0..1000u64, 0..1000u64, 0..1000u64).prop_map(|(fresh, cache_read, shown, reasoning)| Usage {
        input: fresh + cache_read,
        output: shown + reasoning,
        cache_read,
        cache_write: 0,
        reasoning,
    });
    let stop = prop_oneof![Just(StopReason::EndTurn), Just(StopReason::MaxTokens), Just(StopReason::Refusal)];
    (word(), word(), vec(part(), 0..6), stop, usage).prop_map(|(id, model, parts, stop, usage)| {
        let reply = Reply { id, model, parts, stop, usage: Some(usage) };
        let calls = reply.tool_calls().count() > 0;
        let stop = if calls && reply.stop == StopReason::EndTurn { StopReason::ToolUse } else { reply.stop.clone() };
        let parts = whole(events(&reply, usize::MAX)).parts;
        Reply { parts, stop, ..reply }
    })
}

/// The events of `reply`, with its texts and arguments in pieces of at most `piece` characters.
fn events(reply: &Reply, piece: usize) -> Vec<Event> {
    let pieces = |text: &str| -> Vec<String> {
        text.chars().collect::<Vec<_>>().chunks(piece).map(|piece| piece.iter().collect()).collect()
    };
    let mut events = vec![Event::Start { id: reply.id.clone(), model: reply.model.clone(), usage: None }];
    let mut calls = 0;
    for part in &reply.parts {
        match part {
            Part::Text(text) => events.extend(pieces(text).into_iter().map(Event::Text)),
            Part::Thinking { text, signature } => {
                events.extend(pieces(text).into_iter().map(Event::Thinking));
                events.extend(signature.clone().map(Event::Signature));
            }
            Part::ToolCall(call) => {
                events.push(Event::ToolStart { index: calls, id: call.id.clone(), name: call.name.clone() });
                let arguments = pieces(&call.arguments).into_iter();
                events.extend(arguments.map(|json| Event::ToolArguments { index: calls, json }));
                calls += 1;
            }
            Part::Opaque(block) => events.push(Event::Opaque(block.clone())),
        }
    }
    events.push(Event::Stop(reply.stop.clone()));
    events.extend(reply.usage.map(Event::Usage));
    events.push(Event::End);
    events
}

/// What no client could tell apart: where a signature stands among the parts beside it.
fn without_signatures(mut reply: Reply) -> Reply {
    let mut joined: Vec<Part> = Vec::new();
    for mut part in std::mem::take(&mut reply.parts) {
        if let Part::Thinking { signature, .. } = &mut part {
            *signature = None;
        }
        match (joined.last_mut(), part) {
            (_, Part::Thinking { text, .. }) if text.is_empty() => {}
            (Some(Part::Text(so_far)), Part::Text(more)) => so_far.push_str(&more),
            (Some(Part::Thinking { text, .. }), Part::Thinking { text: more, .. }) => text.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    reply.parts = joined;
    reply
}

/// The signatures, in order.
fn signatures(reply: &Reply) -> Vec<Signature> {
    let signatures = reply.parts.iter().filter_map(|part| match part {
        Part::Thinking { signature, .. } => signature.clone(),
        _ => None,
    });
    signatures.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replies_survive(reply in reply()) {
        let body = write_reply(Wire::Gemini, &reply, 1).unwrap();
        let read = parse_reply(Wire::Gemini, &body).unwrap();
        prop_assert_eq!(parse_usage(Wire::Gemini, &body), reply.usage);
        prop_assert_eq!(signatures(&read).len(), signatures(&reply).len());
        prop_assert_eq!(without_signatures(read), without_signatures(reply));
    }

    #[test]
    fn streams_survive(reply in reply(), piece in 1..9usize, size in 1..50usize) {
        let stream = written(Wire::Gemini, &events(&reply, piece));
        let read = whole(read(Wire::Gemini, &stream, size));
        prop_assert_eq!(signatures(&read).len(), signatures(&reply).len());
        prop_assert_eq!(without_signatures(read), without_signatures(reply));
    }

    /// A client of any wire is told the same by a Gemini reply, whole or streamed.
    #[test]
    fn replies_survive_other_wires(reply in reply(), piece in 1..9usize) {
        for wire in CLIENTS {
            let there = parse_reply(wire, &write_reply(wire, &reply, 1).unwrap()).unwrap();
            let back = parse_reply(Wire::Gemini, &write_reply(Wire::Gemini, &there, 1).unwrap()).unwrap();
            prop_assert_eq!(back.text(), reply.text());
            prop_assert_eq!(back.tool_calls().collect::<Vec<_>>(), reply.tool_calls().collect::<Vec<_>>());
            prop_assert_eq!(back.usage, reply.usage);
            prop_assert_eq!(&back.stop, &reply.stop);
            let stream = written(wire, &events(&reply, piece));
            let streamed = whole(read(wire, &stream, usize::MAX));
            prop_assert_eq!(streamed.text(), reply.text());
            prop_assert_eq!(streamed.tool_calls().collect::<Vec<_>>(), reply.tool_calls().collect::<Vec<_>>());
        }
    }

    /// A signature comes back to Gemini through a client that keeps it, and another provider's never does.
    #[test]
    fn signatures_come_back(signature in "[A-Za-z0-9+/]{4,40}", wire in prop_oneof![Just(Wire::AnthropicMessages), Just(Wire::OpenaiResponses)]) {
        let call = ToolCall { id: "c1".to_owned(), name: "f".to_owned(), arguments: "{}".to_owned() };
        for of in [Wire::Gemini, Wire::AnthropicMessages] {
            let thinking = Part::Thinking { text: "Hm.".to_owned(), signature: Some(Signature { of, text: signature.clone() }) };
            let reply = Reply { parts: vec![thinking, Part::ToolCall(call.clone())], stop: StopReason::ToolUse, ..Reply::default() };
            let shown = parsed(&write_reply(wire, &reply, 1).unwrap());
            let body = if wire == Wire::AnthropicMessages {
                json!({"model": "m", "max_tokens": 9, "messages": [
                    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": shown["content"]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "ok"}]}]})
            } else {
                    let mut input = vec![json!({"role": "user", "content": "Hi"})];
                    input.extend(shown["output"].as_array().unwrap().iter().cloned());
                    input.push(json!({"type": "function_call_output", "call_id": "c1", "output": "ok"}));
                    json!({"model": "m", "input": input})
            };
            let out = request(wire, Wire::Gemini, &body, "gemini-3-pro");
            let expected = if of == Wire::Gemini { signature.as_str() } else { "skip_thought_signature_validator" };
            prop_assert_eq!(&out["contents"][1]["parts"][0]["thoughtSignature"], expected, "{}", out);
        }
    }

    /// Bytes that are no reply at all do no harm.
    #[test]
    fn anything_is_read(body in vec(any::<u8>(), 0..200)) {
        let _either_is_fine = parse_reply(Wire::Gemini, &body);
        let _either_is_fine = translate_request(Wire::Gemini, Wire::OpenaiChat, &body, "m", false, true);
    }
}
