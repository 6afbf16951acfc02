//! What is long is worked on elsewhere: it holds up nothing that is short.

use std::thread;

use serde_json::json;

use crate::support::{
    Gateway,
    client::Request,
    upstream::{self, Step, Upstream, chunk, end, stream_head},
};

const ANSWER: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
const EVENT: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

fn call(length: usize, stream: bool) -> String {
    let text = "a\"\n\u{e9}".repeat(length / 5);
    json!({"model": "gpt", "stream": stream, "messages": [{"role": "user", "content": text}]}).to_string()
}

#[test]
fn small_calls_and_streams_go_on_while_long_ones_wait_for_a_core() {
    let upstream = Upstream::start(|request, _| {
        if !request.body.contains("\"stream\":true") {
            return vec![Step::Send(upstream::json(200, "", ANSWER))];
        }
        let event = chunk(EVENT.as_bytes());
        [vec![stream_head()], vec![event; 20], vec![chunk(STOP.as_bytes()), end()]].concat().into_iter().map(Step::Send).collect()
    });
    for agent in [false, true] {
        let gateway = if agent { Gateway::with_agent(&upstream, "clerk") } else { Gateway::before(&upstream) };
        let before = upstream.received().len();
        let post = |length, stream| {
            let request = Request::post("/v1/chat/completions", &call(length, stream));
            if agent { request.header("x-trunkline-agent", "clerk") } else { request }
        };
        gateway
            .without_cores(|| {
                let waiting: Vec<_> =
                    [false, true].into_iter().map(|stream| post(400_000, stream).open(gateway.address)).collect();
                // On the one thread that serves: it has taken the long ones, and the small ones go by.
                for stream in [true, false, true] {
                    assert_eq!(post(1_000, stream).send(gateway.address).status, 200);
                }
                assert_eq!(upstream.received().len() - before, 3, "what is long waits");
                waiting
            })
            .into_iter()
            .for_each(|waiting| {
                let answer = thread::spawn(move || waiting.response()).join().unwrap();
                assert_eq!((answer.status, answer.whole), (200, true));
            });
        assert_eq!(upstream.received().len() - before, 5);
    }
}

#[test]
fn what_is_long_arrives_as_it_was_sent_and_translated_as_what_is_short() {
    let upstream = Upstream::answering(upstream::json(200, "", ANSWER));
    let gateway = Gateway::before(&upstream);
    let body = call(300_000, false);
    assert_eq!(gateway.post("/v1/chat/completions", &body).status, 200);
    assert_eq!(upstream.received()[0].body, body);
    let asked =
        json!({"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": "b".repeat(300_000)}]}).to_string();
    assert_eq!(Request::post("/v1/messages", &asked).send(gateway.address).status, 200);
    assert!(upstream.received()[1].body.contains(&"b".repeat(300_000)));
    let broken = format!("{body}x");
    assert_eq!(gateway.post("/v1/chat/completions", &broken).status, 400);
    let unsayable =
        json!({"model": "claude", "n": 2, "messages": [{"role": "user", "content": "c".repeat(300_000)}]}).to_string();
    assert_eq!(gateway.post("/v1/chat/completions", &unsayable).status, 400);
}
