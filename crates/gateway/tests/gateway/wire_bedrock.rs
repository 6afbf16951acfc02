//! What is peculiar to Bedrock's wire: the binary stream, and what is said to Claude only.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::sse::Frame;
use trunkline_gateway::wire::event_stream::{Corrupt, Parser};
use trunkline_gateway::wire::{
    Accumulator, Event, Part, Reply, StopReason, StreamReader, ToolCall, Usage, Wire, translate_request,
};

const CLAUDE: &str = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0";

/// A message as Amazon writes it.
fn message(headers: &[(&str, u8, &[u8])], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, kind, value) in headers {
        head.push(u8::try_from(name.len()).unwrap());
        head.extend_from_slice(name.as_bytes());
        head.push(*kind);
        if matches!(kind, 6 | 7) {
            head.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        }
        head.extend_from_slice(value);
    }
    framed(&head, payload)
}

fn framed(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&u32::try_from(16 + headers.len() + payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&u32::try_from(headers.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out.extend_from_slice(headers);
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

fn event(name: &str, payload: &Value) -> Vec<u8> {
    let headers = [
        (":event-type", 7, name.as_bytes()),
        (":content-type", 7, b"application/json".as_slice()),
        (":message-type", 7, b"event".as_slice()),
    ];
    message(&headers, payload.to_string().as_bytes())
}

fn cut(stream: &[u8], size: usize) -> (Vec<Frame>, Option<Bytes>) {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for chunk in stream.chunks(size) {
        parser.push(Bytes::copy_from_slice(chunk), &mut frames).unwrap();
    }
    (frames, parser.finish())
}

fn broken(stream: &[u8]) -> Corrupt {
    Parser::with_limit(1 << 20).push(Bytes::copy_from_slice(stream), &mut Vec::new()).unwrap_err()
}

fn reply_stream() -> Vec<u8> {
    [
        event("messageStart", &json!({"role": "assistant"})),
        event("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": "Hé"}})),
        event("contentBlockStop", &json!({"contentBlockIndex": 0})),
        event("contentBlockStart", &json!({"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "t1", "name": "f"}}})),
        event("contentBlockDelta", &json!({"contentBlockIndex": 1, "delta": {"toolUse": {"input": "{\"a\":1}"}}})),
        event("contentBlockStop", &json!({"contentBlockIndex": 1})),
        event("messageStop", &json!({"stopReason": "tool_use"})),
        event("metadata", &json!({"usage": {"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 4}, "metrics": {}})),
    ]
    .concat()
}

#[test]
fn any_cut_gives_the_same_reply() {
    let stream = reply_stream();
    let (whole, rest) = cut(&stream, usize::MAX);
    assert_eq!((whole.len(), rest), (8, None));
    let raw: Vec<u8> = whole.iter().flat_map(|frame| frame.raw.to_vec()).collect();
    assert_eq!(raw, stream);
    for size in 1..stream.len() {
        assert_eq!(cut(&stream, size), (whole.clone(), None), "cut into pieces of {size}");
    }
    let mut reader = StreamReader::new(Wire::BedrockConverse);
    let mut heard = Accumulator::default();
    for frame in &whole {
        for event in reader.read(frame).unwrap() {
            heard.push(event);
        }
    }
    assert!(heard.complete());
    assert_eq!(reader.end(), None, "the end is told once");
    let call = ToolCall { id: "t1".to_owned(), name: "f".to_owned(), arguments: "{\"a\":1}".to_owned() };
    let usage = Usage { input: 7, output: 2, cache_read: 4, ..Usage::default() };
    let parts = vec![Part::Text("Hé".to_owned()), Part::ToolCall(call)];
    assert_eq!(heard.into_reply(), Reply { parts, stop: StopReason::ToolUse, usage: Some(usage), ..Reply::default() });
}

/// The example of Amazon's own documentation of the encoding, as all of its clients test it.
#[test]
fn a_message_of_the_documentation() {
    let stream = [
        0x00, 0x00, 0x00, 0x3D, 0x00, 0x00, 0x00, 0x20, 0x07, 0xFD, 0x83, 0x96, 0x0C, b'c', b'o', b'n', b't', b'e', b'n', b't',
        b'-', b't', b'y', b'p', b'e', 0x07, 0x00, 0x10, b'a', b'p', b'p', b'l', b'i', b'c', b'a', b't', b'i', b'o', b'n', b'/',
        b'j', b's', b'o', b'n', b'{', b'\'', b'f', b'o', b'o', b'\'', b':', b'\'', b'b', b'a', b'r', b'\'', b'}', 0x8D, 0x9C,
        0x08, 0xB1,
    ];
    let (frames, rest) = cut(&stream, 5);
    assert_eq!((frames.len(), rest), (1, None));
    assert_eq!(frames[0].data, "{'foo':'bar'}");
    assert_eq!(frames[0].event, None);
}

#[test]
fn headers_of_every_type_are_passed_over() {
    let headers: [(&str, u8, &[u8]); 11] = [
        ("true", 0, b""),
        ("false", 1, b""),
        ("byte", 2, b"1"),
        ("short", 3, b"12"),
        ("integer", 4, b"1234"),
        ("long", 5, b"12345678"),
        ("bytes", 6, b"any"),
        ("string", 7, b"text"),
        ("timestamp", 8, b"12345678"),
        ("uuid", 9, b"1234567890123456"),
        (":event-type", 7, b"metadata"),
    ];
    let (frames, _) = cut(&message(&headers, b"{}"), usize::MAX);
    assert_eq!(frames[0].event_name(), Some("metadata"));
}

#[test]
fn exceptions_and_errors_end_the_stream() {
    let read = |message: &[u8]| {
        let (frames, _) = cut(message, usize::MAX);
        StreamReader::new(Wire::BedrockConverse).read(&frames[0]).unwrap()
    };
    let error = |kind: &str, message: &str| vec![Event::Error { kind: kind.to_owned(), message: message.to_owned() }];
    for (name, kind) in [
        ("throttlingException", "rate_limit_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("validationException", "invalid_request_error"),
        ("modelStreamErrorException", "api_error"),
        ("internalServerException", "api_error"),
    ] {
        let headers = [(":exception-type", 7, name.as_bytes()), (":message-type", 7, b"exception".as_slice())];
        assert_eq!(read(&message(&headers, br#"{"message":"No \"more\"."}"#)), error(kind, "No \"more\"."));
        assert_eq!(read(&message(&headers, b"{}")), error(kind, &format!("Bedrock ended the stream with {name}.")));
    }
    let headers = [
        (":message-type", 7, b"error".as_slice()),
        (":error-code", 7, b"InternalError".as_slice()),
        (":error-message", 7, "Say \"é\".".as_bytes()),
    ];
    assert_eq!(read(&message(&headers, b"")), error("api_error", "Say \"é\"."));
}

#[test]
fn a_corrupt_stream_is_refused() {
    let good = event("messageStart", &json!({}));
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        // The lengths are checked before their bytes are waited for, all else before it is used.
        assert_eq!(broken(&bad), Corrupt::Checksum, "byte {at}");
    }
    let prelude = |length: u32, headers: u32| {
        let mut prelude = [length.to_be_bytes(), headers.to_be_bytes()].concat();
        prelude.extend_from_slice(&crc32fast::hash(&prelude).to_be_bytes());
        prelude
    };
    assert_eq!(broken(&prelude((1 << 20) + 1, 0)), Corrupt::Length, "past the limit");
    assert_eq!(broken(&prelude(u32::MAX, u32::MAX)), Corrupt::Length);
    assert_eq!(broken(&prelude(15, 0)), Corrupt::Length, "too short for itself");
    assert_eq!(broken(&prelude(100, 85)), Corrupt::Length, "headers past the end");
    for headers in [b"\x05ab".as_slice(), b"\x01a", b"\x01a\x0a", b"\x01a\x07\x00", b"\x01a\x07\x00\x09x", b"\x01a\x05\x00"] {
        assert_eq!(broken(&framed(headers, b"{}")), Corrupt::Headers, "{headers:?}");
    }
    let (frames, rest) = cut(&good[..good.len() - 1], usize::MAX);
    assert_eq!((frames.len(), rest.unwrap().len()), (0, good.len() - 1));
}

/// A request of a client's wire as Bedrock gets it.
fn request(from: Wire, body: &Value, model: &str) -> Value {
    let out = translate_request(from, Wire::BedrockConverse, body.to_string().as_bytes(), model, false, false);
    out.map_or_else(|error| error.message.into(), |out| serde_json::from_slice(&out.body).unwrap())
}

#[test]
fn claude_is_told_more_than_others() {
    let body = json!({"model": "m", "max_tokens": 5000, "top_k": 40, "thinking": {"type": "enabled", "budget_tokens": 2048},
        "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "messages": [{"role": "user", "content": "Hi"}]});
    let out = request(Wire::AnthropicMessages, &body, CLAUDE);
    assert_eq!(
        out["additionalModelRequestFields"],
        json!({"top_k": 40, "thinking": {"type": "enabled", "budget_tokens": 2048},
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true}})
    );
    assert_eq!(out["toolConfig"]["toolChoice"], json!({"any": {}}));
    assert!(out.get("outputConfig").is_none(), "{out}");
    let refused = request(Wire::AnthropicMessages, &body, "amazon.nova-pro-v1:0");
    assert!(refused.as_str().unwrap().starts_with("`tool_choice.disable_parallel_tool_use`"), "{refused}");
    let body = json!({"model": "m", "max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2048},
        "messages": [{"role": "user", "content": "Hi"}]});
    let out = request(Wire::AnthropicMessages, &body, "amazon.nova-pro-v1:0");
    assert_eq!(out["outputConfig"], json!({"effort": "low"}));
}

#[test]
fn thinking_leaves_room_for_the_answer() {
    let body = |limit: u64| {
        json!({"generationConfig": {"maxOutputTokens": limit, "thinkingConfig": {"thinkingBudget": 8192}},
            "contents": [{"parts": [{"text": "Hi"}]}]})
    };
    let thinking = |limit| request(Wire::Gemini, &body(limit), CLAUDE)["additionalModelRequestFields"]["thinking"].clone();
    assert_eq!(thinking(20_000)["budget_tokens"], 8192);
    assert_eq!(thinking(4000)["budget_tokens"], 3999);
    assert_eq!(thinking(1000), Value::Null);
}

/// Bedrock has no word for it, and wants the tools said once one was called.
#[test]
fn no_tool_may_be_called() {
    let mut body = json!({"model": "m", "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none",
        "messages": [{"role": "user", "content": "Hi"}]});
    assert!(request(Wire::OpenaiChat, &body, CLAUDE).get("toolConfig").is_none());
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    body["messages"] = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"}]);
    assert!(request(Wire::OpenaiChat, &body, CLAUDE).as_str().unwrap().starts_with("`tool_choice`"));
}

/// Bedrock takes short ids of few letters; call and result must still agree.
#[test]
fn ids_of_calls_fit() {
    let long = "x".repeat(65);
    for (id, expected) in [("call.1:a", "call_1_a"), ("tooluse_1", "tooluse_1"), (long.as_str(), "")] {
        let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": id, "content": "ok"}]});
        let out = request(Wire::OpenaiChat, &body, CLAUDE);
        let called = out["messages"][1]["content"][0]["toolUse"]["toolUseId"].as_str().unwrap();
        assert_eq!(out["messages"][2]["content"][0]["toolResult"]["toolUseId"], called);
        assert!(called.len() <= 64 && (expected.is_empty() || called == expected), "{called}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However the bytes are cut, the payloads come out as they went in.
    #[test]
    fn payloads_survive(payloads in vec(vec(any::<u8>(), 0..300), 0..6), names in vec("[a-zA-Z]{0,20}", 6), size in 1..80usize) {
        let stream: Vec<u8> = payloads.iter().zip(&names).flat_map(|(payload, name)| {
            message(&[(":event-type", 7, name.as_bytes())], payload)
        }).collect();
        let (frames, rest) = cut(&stream, size);
        prop_assert_eq!(rest, None);
        prop_assert_eq!(frames.len(), payloads.len());
        for ((frame, payload), name) in frames.iter().zip(&payloads).zip(&names) {
            prop_assert_eq!(&frame.data[..], &payload[..]);
            prop_assert_eq!(frame.event_name(), Some(name.as_str()));
        }
    }

    /// Bytes that are no stream do no harm, and nothing is kept past the limit.
    #[test]
    fn anything_is_read(stream in vec(any::<u8>(), 0..400), size in 1..50usize) {
        let mut parser = Parser::with_limit(100);
        let mut frames = Vec::new();
        for chunk in stream.chunks(size) {
            if parser.push(Bytes::copy_from_slice(chunk), &mut frames).is_err() {
                break;
            }
        }
        prop_assert!(parser.finish().is_none_or(|rest| rest.len() <= 100 + size));
        let mut reader = StreamReader::new(Wire::BedrockConverse);
        for frame in frames {
            let _either_is_fine = reader.read(&frame);
        }
    }
}
