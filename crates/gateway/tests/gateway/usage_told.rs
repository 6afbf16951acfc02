//! Usage: asked for on our own account and hidden from a client that did not ask, however a host tells it.

use crate::support::{
    Gateway,
    upstream::{Step, Upstream, chunk, end, json as reply, stream_head},
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const WORD: &str = r#"{"id":"c","model":"gpt","choices":[{"index":0,"delta":{"content":"word"}}]"#;
const STOP: &str = r#"{"id":"c","model":"gpt","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]"#;
const NONE: &str = r#"{"id":"c","model":"gpt","choices":[]"#;
const NULL: &str = r#","usage":null}"#;
const TOLD: &str = r#","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const PART: &str = r#","usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}}"#;

fn ask(model: &str) -> Value {
    json!({"model": model, "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
}

/// How hosts tell usage, each as the chunks of a stream.
fn ways() -> Vec<(&'static str, Vec<String>)> {
    let chunks = |parts: &[(&str, &str)]| parts.iter().map(|(chunk, usage)| format!("{chunk}{usage}")).collect();
    vec![
        ("in a chunk of its own", chunks(&[(WORD, NULL), (STOP, NULL), (NONE, TOLD)])),
        ("with the last words", chunks(&[(WORD, "}"), (STOP, TOLD)])),
        ("in every chunk", chunks(&[(WORD, PART), (STOP, TOLD), (NONE, TOLD)])),
        ("twice", chunks(&[(WORD, "}"), (STOP, TOLD), (NONE, TOLD)])),
        ("before the end of the words", chunks(&[(WORD, PART), (WORD, TOLD), (STOP, "}")])),
    ]
}

fn events(chunks: &[String]) -> String {
    chunks.iter().flat_map(|chunk| ["data: ", chunk, "\n\n"]).collect()
}

fn streamed(chunks: &[String]) -> Vec<u8> {
    [stream_head(), chunk(events(chunks).as_bytes()), chunk(b"data: [DONE]\n\n"), end()].concat()
}

#[test]
fn who_did_not_ask_for_usage_does_not_see_it_and_we_count_it_once() {
    for (way, chunks) in ways() {
        let stream = streamed(&chunks);
        let upstream = Upstream::start(move |_, _| vec![Step::Send(stream.clone())]);
        let gateway = Gateway::before(&upstream);
        let response = gateway.post(CHAT, &ask("gpt").to_string());
        assert!(!response.text().contains("usage"), "{way}: {}", response.text());
        // What is left is byte for byte what the host said beside it.
        let without = |chunk: &String| format!("data: {}}}\n\n", chunk.split(",\"usage\"").next().unwrap().trim_end_matches('}'));
        let kept: String = chunks.iter().filter(|chunk| !chunk.starts_with(NONE)).map(without).collect();
        assert_eq!(response.text(), format!("{kept}data: [DONE]\n\n"), "{way}");
        assert!(upstream.received()[0].body.contains(r#""stream_options":{"include_usage":true}"#));

        let mut asking = ask("gpt");
        asking["stream_options"] = json!({"include_usage": true});
        let asked = gateway.post(CHAT, &asking.to_string());
        let all = events(&chunks);
        assert_eq!(asked.text(), format!("{all}data: [DONE]\n\n"), "{way}");

        let translated = gateway.post(MESSAGES, &ask("gpt").to_string());
        let told = translated.events().into_iter().find(|event| event["type"] == json!("message_delta")).unwrap();
        assert_eq!(told["usage"]["output_tokens"], json!(3), "{way}");
        for record in gateway.records() {
            let counted = (&record["input_tokens"], &record["output_tokens"], &record["estimated"]);
            assert_eq!(counted, (&json!(7), &json!(3), &json!(false)), "{way}");
        }
    }
}

#[test]
fn usage_that_nobody_tells_is_estimated_and_marked() {
    let chunks = [format!("{WORD}}}"), format!("{STOP}}}")];
    let stream = streamed(&chunks);
    let whole = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"word word word word"},"finish_reason":"stop"}]}"#;
    let upstream = Upstream::start(move |request, _| {
        let streams = request.body.contains("\"stream\":true");
        vec![Step::Send(if streams { stream.clone() } else { reply(200, "", whole) })]
    });
    let gateway = Gateway::before(&upstream);
    for path in [CHAT, MESSAGES] {
        for streams in [true, false] {
            let mut asked = ask("gpt");
            asked["stream"] = json!(streams);
            assert_eq!(gateway.post(path, &asked.to_string()).status, 200);
            let record = gateway.records().pop().unwrap();
            assert_eq!(record["estimated"], json!(true), "{path} {streams}");
            assert!(record["input_tokens"].as_u64().unwrap() > 0 && record["output_tokens"].as_u64().unwrap() > 0, "{record}");
        }
    }
}

#[test]
fn reasoning_and_arguments_of_tools_count_in_an_estimate() {
    let thought = r#"{"id":"c","model":"gpt","choices":[{"index":0,"delta":{"reasoning_content":"THOUGHT"}}]}"#;
    let call = r#"{"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":"ARGUMENTS"}}]}}]}"#;
    for (text, event) in [("THOUGHT", thought), ("ARGUMENTS", call)] {
        let chunks = [event.replace(text, &"many ".repeat(80)), format!("{STOP}}}")];
        let stream = streamed(&chunks);
        let upstream = Upstream::start(move |_, _| vec![Step::Send(stream.clone())]);
        let gateway = Gateway::before(&upstream);
        gateway.post(CHAT, &ask("gpt").to_string());
        let record = gateway.records().pop().unwrap();
        assert!(record["output_tokens"].as_u64().unwrap() >= 100, "{text}: {record}");
    }
}
