//! Clients that mean harm, or are many, or send much.

use std::time::Duration;

use crate::support::{
    Gateway, KEY,
    client::{Connection, Request},
    upstream::{Step, Upstream, chunk, end, gate, json as reply, stream_head},
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const REPLY: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"word"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

fn ask(content: &Value) -> String {
    json!({"model": "gpt", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}).to_string()
}

/// A gateway in front of a provider that answers all; larger bodies than usual are let in.
fn gateway(upstream: &Upstream, timeouts: &Value) -> Gateway {
    let base = format!("http://{}/v1", upstream.address);
    let mut limits = json!({"connect_ms": 5000, "first_byte_ms": 20000, "idle_ms": 20000, "total_ms": 60000});
    limits.as_object_mut().unwrap().extend(timeouts.as_object().unwrap().clone());
    let config = json!({
        "max_body_bytes": 32 << 20,
        "spool_max_bytes": 1 << 30,
        "timeouts": limits,
        "providers": [{"name": "oai", "wire": "openai_chat", "base_url": base}],
        "models": [{"name": "gpt", "upstreams": [{"provider": "oai", "model": "gpt"}]}],
    });
    Gateway::configured(&config, &json!({}))
}

/// The same with so much room for the bodies of all calls together.
fn bounded(upstream: &Upstream, bytes: usize) -> Gateway {
    let config = json!({
        "max_body_bytes": bytes,
        "max_bodies_bytes": bytes,
        "providers": [{"name": "oai", "wire": "openai_chat", "base_url": format!("http://{}/v1", upstream.address)}],
        "models": [{"name": "gpt", "upstreams": [{"provider": "oai", "model": "gpt"}]}],
    });
    Gateway::configured(&config, &json!({}))
}

#[test]
fn json_a_hundred_thousand_levels_deep_is_refused_and_survived_from_both_sides() {
    const DEPTH: usize = 100_000;
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH));
    let arrays = deep("[", "]");
    let objects = deep("{\"a\":", "}");
    let answers = [
        format!(r#"{{"id":"c","x":{arrays},{}"#, &REPLY[1..]),
        format!(r#"{{"id":"c","choices":{objects}}}"#),
        arrays.clone(),
        format!(r#"{{"error":{objects}}}"#),
    ];
    let upstream = Upstream::start(move |_, before| {
        let answer = &answers[before / 4 % answers.len()];
        let status = if before / 4 == 3 { 500 } else { 200 };
        let stream = [stream_head(), chunk(format!("data: {answer}\n\n").as_bytes()), end()].concat();
        vec![Step::Send(if before % 2 == 0 { reply(status, "", answer) } else { stream })]
    });
    let gateway = gateway(&upstream, &json!({}));
    for (path, deep) in [CHAT, MESSAGES].into_iter().flat_map(|path| [(path, &arrays), (path, &objects)]) {
        for body in [
            deep.clone(),
            format!(r#"{{"model":"gpt","max_tokens":9,"messages":[{{"role":"user","content":{deep}}}]}}"#),
            format!(r#"{{"model":"gpt","max_tokens":9,"x":{deep},"messages":[{{"role":"user","content":"hi"}}]}}"#),
            DEPTH.to_string() + &deep[..DEPTH],
        ] {
            assert_eq!(gateway.post(path, &body).status, 400);
        }
    }
    for round in 0..16 {
        let body = ask(&json!("hi")).replacen('{', if round % 2 == 0 { "{" } else { r#"{"stream":true,"# }, 1);
        let response = gateway.post(if round % 4 < 2 { CHAT } else { MESSAGES }, &body);
        assert!(response.status == 200 || response.status >= 500, "{}", response.status);
    }
    assert_eq!(Request::get("/healthz").send(gateway.address).status, 200);
}

#[test]
fn thirty_megabytes_pass_and_more_is_refused_before_it_is_read() {
    let upstream = Upstream::answering(reply(200, "", REPLY));
    let gateway = gateway(&upstream, &json!({}));
    let large = ask(&json!("word ".repeat(6 << 20)));
    assert!(large.len() > 30 << 20);
    assert_eq!(gateway.post(CHAT, &large).text(), REPLY);
    assert_eq!(upstream.received()[0].body.len(), large.len());
    assert_eq!(gateway.post(MESSAGES, &large).json()["content"][0]["text"], json!("word"));

    // What is announced as too large is refused without a byte of it.
    let mut connection = Connection::new(gateway.address);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 33554433\r\n\r\n");
    connection.send(head.as_bytes());
    assert_eq!(connection.head().status, 413);
}

#[test]
fn small_streams_go_on_beside_large_requests() {
    let upstream = Upstream::start(|request, _| {
        if !request.body.contains("\"stream\":true") {
            return vec![Step::Send(reply(200, "", REPLY))];
        }
        let word = "data: {\"id\":\"c\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";
        let stop = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let mut steps = vec![Step::Send(stream_head())];
        for _ in 0..50 {
            steps.push(Step::Send(chunk(word.as_bytes())));
            steps.push(Step::Pause(Duration::from_millis(2)));
        }
        steps.push(Step::Send([chunk(stop.as_bytes()), end()].concat()));
        steps
    });
    let gateway = gateway(&upstream, &json!({}));
    // A hundred thousand tokens.
    let large = ask(&json!("word ".repeat(100_000)));
    let small = ask(&json!("hi")).replacen('{', r#"{"stream":true,"#, 1);
    std::thread::scope(|scope| {
        for path in [CHAT, MESSAGES] {
            let (gateway, large, small) = (&gateway, &large, &small);
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(gateway.post(path, large).status, 200);
                }
            });
            for _ in 0..10 {
                scope.spawn(move || {
                    let response = gateway.post(path, small);
                    assert!(response.whole);
                    assert_eq!(response.text().matches("word ").count(), 50);
                });
            }
        }
    });
}

#[test]
fn who_is_slow_with_a_head_or_a_body_is_let_go() {
    let upstream = Upstream::answering(reply(200, "", REPLY));
    let gateway = gateway(&upstream, &json!({"client_idle_ms": 300}));
    // Nothing at all; a part of a head; one request, and then nothing.
    assert!(Connection::new(gateway.address).closed());
    let mut slow = Connection::new(gateway.address);
    for byte in b"POST " {
        slow.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(slow.closed());
    let mut idle = Request::get("/healthz").open(gateway.address);
    assert_eq!(idle.head().status, 200);
    assert_eq!(idle.bytes(3), b"ok\n");
    assert!(idle.closed());

    let mut slow = Connection::new(gateway.address);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 1000\r\n\r\n{{");
    slow.send(head.as_bytes());
    assert_eq!(slow.response().status, 408);
    assert!(upstream.received().is_empty());
}

#[test]
fn heads_beyond_all_measure_are_refused() {
    let upstream = Upstream::answering(reply(200, "", REPLY));
    let gateway = gateway(&upstream, &json!({}));
    let mut many = Request::get("/healthz");
    for number in 0..200 {
        many = many.header(&format!("x-{number}"), "1");
    }
    assert_eq!(many.open(gateway.address).head().status, 431);
    let long = Request::get("/healthz").header("x-long", &"x".repeat(70_000));
    assert_eq!(long.open(gateway.address).head().status, 431);
}

#[test]
fn a_request_that_could_be_read_in_two_ways_is_refused_and_the_last_on_its_connection() {
    let upstream = Upstream::answering(reply(200, "", REPLY));
    let gateway = gateway(&upstream, &json!({}));
    let body = ask(&json!("hi"));
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n");
    let one = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let length = format!("content-length: {}\r\n", chunked.len() + one.len());
    let chunks = "transfer-encoding: chunked\r\n";
    let same = format!("content-length: {}\r\n", body.len());
    let cases = [
        format!("{head}{length}{chunks}\r\n{chunked}"),
        format!("{head}{chunks}{length}\r\n{chunked}"),
        format!("{head}{same}{same}\r\n{body}"),
        format!("{head}{same}content-length: 5\r\n\r\n{body}"),
        format!("{head}content-length: +5\r\n\r\n{body}"),
        format!("{head}content-length: 5, 6\r\n\r\n{body}"),
        format!("{head}content-length: 0x5\r\n\r\n{body}"),
        format!("{head}content-length:\r\n\r\n{body}"),
        format!("{head}transfer-encoding: chunked, gzip\r\n\r\n{chunked}"),
        format!("{head}transfer-encoding: xchunked\r\n\r\n{chunked}"),
        format!("{head}transfer-encoding : chunked\r\n\r\n{chunked}"),
        format!("{head}content length: 5\r\n{same}\r\n{body}"),
        format!("{head}{same}x-folded: a\r\n b\r\n\r\n{body}"),
        format!("{head}{same} x-folded: a\r\n\r\n{body}"),
        format!("{head}x: y\n{same}\r\n{body}"),
        format!("{head}{same}\n{body}"),
        format!("{head}x: y\rcontent-length: 5\r\n{same}\r\n{body}"),
        format!("POST {CHAT} HTTP/1.1\nhost: x\r\nauthorization: Bearer {KEY}\r\n{same}\r\n{body}"),
        format!("POST {CHAT} HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{chunks}\r\n{chunked}"),
    ];
    for (number, case) in cases.iter().enumerate() {
        for before in ["", one.as_str()] {
            let served = upstream.received().len();
            let mut connection = Connection::new(gateway.address);
            // What follows would be served if the borders were elsewhere.
            connection.send(format!("{before}{case}{one}").as_bytes());
            if !before.is_empty() {
                assert_eq!(connection.head().status, 200);
                assert_eq!(connection.bytes(REPLY.len()), REPLY.as_bytes());
            }
            let head = connection.head();
            assert_eq!((head.status, head.header("connection").unwrap_or("close")), (400, "close"), "{number}: {case}");
            let length = head.header("content-length").unwrap_or("0").parse().unwrap();
            connection.bytes(length);
            assert!(connection.closed(), "{number}: {case}");
            assert_eq!(upstream.received().len(), served + usize::from(!before.is_empty()), "{number}: {case}");
        }
    }
    // Requests one upon the other are served one after the other, in chunks too.
    let mut connection = Connection::new(gateway.address);
    connection.send(format!("{one}{head}{chunks}\r\n{chunked}{one}").as_bytes());
    for _ in 0..3 {
        assert_eq!(connection.head().status, 200);
        assert_eq!(connection.bytes(REPLY.len()), REPLY.as_bytes());
    }
}

#[test]
fn an_answer_with_a_length_and_chunks_is_read_as_chunks_and_its_connection_not_kept() {
    let chunked = [chunk(REPLY.as_bytes()), end()].concat();
    let hidden = reply(200, "", r#"{"hidden":true}"#);
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
    };
    // Whoever believed the length would take what follows for the answer to the next call, or wait for more.
    let answers = [5, chunked.len() + hidden.len()].map(|length| [head(length).as_bytes(), &chunked, &hidden].concat());
    let upstream = Upstream::start(move |_, before| vec![Step::Send(answers[before % answers.len()].clone())]);
    let gateway = gateway(&upstream, &json!({}));
    for _ in 0..4 {
        assert_eq!(gateway.post(CHAT, &ask(&json!("hi"))).text(), REPLY);
    }
}

#[test]
fn bodies_that_find_no_room_wait_for_others_to_be_done() {
    let (go, gate) = gate();
    let gate = std::sync::Mutex::new(Some(gate));
    let upstream = Upstream::start(move |request, _| {
        let mut steps: Vec<Step> = Vec::new();
        if request.body.contains("first") {
            steps.extend(gate.lock().unwrap().take().map(Step::Wait));
        }
        steps.push(Step::Send(reply(200, "", REPLY)));
        steps
    });
    let gateway = bounded(&upstream, 3 << 20);
    let body = |word: &str, length: usize| ask(&json!(format!("{word} {}", "x".repeat(length))));
    let mut first = Request::post(CHAT, &body("first", 2 << 20)).open(gateway.address);
    upstream.wait_for_requests(1);
    // Announced, and in chunks; as a call, and as a request for the control plane.
    let large = body("second", 2 << 20);
    for path in [CHAT, MESSAGES, "/v1/embeddings", "/v1/agents"] {
        let refused = gateway.post(path, &large);
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{path}: {}", refused.text());
        assert!(refused.text().contains("limits.max_bodies_bytes"), "{}", refused.text());
    }
    let mut pieces = Connection::new(gateway.address);
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ntransfer-encoding: chunked\r\n\r\n");
    pieces.send(&[head.as_bytes(), &chunk(large.as_bytes()), &end()].concat());
    assert_eq!(pieces.head().status, 503);
    assert_eq!(gateway.post(CHAT, &body("small", 1000)).status, 200);
    let metrics = Request::get("/metrics").send(gateway.address);
    let waiting =
        metrics.text().lines().find_map(|line| line.strip_prefix("trunkline_request_body_bytes ")).unwrap().parse::<usize>();
    assert!(waiting.unwrap() > 2 << 20);
    go.send(()).unwrap();
    assert_eq!(first.head().status, 200);
    assert_eq!(gateway.post(CHAT, &large).status, 200);
}

#[test]
fn a_stream_under_way_holds_its_request_no_longer() {
    let (go, gate) = gate();
    let gate = std::sync::Mutex::new(Some(gate));
    let upstream = Upstream::start(move |request, _| {
        let wait = gate.lock().unwrap().take().map(Step::Wait);
        match wait {
            Some(wait) if request.body.contains("\"stream\":true") => vec![
                Step::Send(
                    [stream_head(), chunk(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n")].concat(),
                ),
                wait,
                Step::Send(
                    [
                        chunk(b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"),
                        end(),
                    ]
                    .concat(),
                ),
            ],
            _ => vec![Step::Send(reply(200, "", REPLY))],
        }
    });
    let gateway = bounded(&upstream, 3 << 20);
    let large = ask(&json!("x".repeat(2 << 20)));
    let mut stream = Request::post(CHAT, &large.replacen('{', r#"{"stream":true,"#, 1)).open(gateway.address);
    assert_eq!(stream.head().status, 200);
    assert!(stream.piece().unwrap().is_some());
    assert_eq!(gateway.post(CHAT, &large).status, 200);
    go.send(()).unwrap();
    while stream.piece().unwrap().is_some() {}
}
