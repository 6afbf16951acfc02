//! Clients that mean harm, or are many, or send much.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod support;

use std::{fs, time::Duration};

use serde_json::{Value, json};
use support::{
    Gateway, KEY,
    client::{Connection, Request},
    upstream::{Step, Upstream, chunk, end, json as reply, stream_head},
};

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

fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
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
fn a_request_with_two_lengths_smuggles_nothing_in() {
    let upstream = Upstream::answering(reply(200, "", REPLY));
    let gateway = gateway(&upstream, &json!({}));
    let body = ask(&json!("hi"));
    let hidden = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n");
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let post = |headers: &str, rest: &str| {
        let mut connection = Connection::new(gateway.address);
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{headers}\r\n");
        connection.send(format!("{head}{rest}").as_bytes());
        connection
    };
    // Chunks win, as the standard has it, and nothing after them is taken for a request.
    let length = format!("content-length: {}\r\n", chunked.len() + hidden.len());
    for headers in [format!("{length}transfer-encoding: chunked\r\n"), format!("transfer-encoding: chunked\r\n{length}")] {
        let mut connection = post(&headers, &format!("{chunked}{hidden}"));
        let head = connection.head();
        assert_eq!((head.status, head.header("connection")), (200, Some("close")), "{headers}");
        assert_eq!(connection.bytes(REPLY.len()), REPLY.as_bytes());
        assert!(connection.closed(), "{headers}");
    }
    for headers in [
        format!("content-length: {}\r\ncontent-length: 5\r\n", body.len()),
        "content-length: +5\r\n".to_owned(),
        "content-length: 5, 6\r\n".to_owned(),
        "transfer-encoding: chunked, gzip\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "transfer-encoding : chunked\r\n".to_owned(),
        "content-length: 5\n\n".to_owned(),
    ] {
        let mut connection = post(&headers, &format!("{body}{hidden}"));
        assert_eq!(connection.head().status, 400, "{headers}");
    }
    // Requests one upon the other are served one after the other.
    let one =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut connection = Connection::new(gateway.address);
    connection.send(one.repeat(3).as_bytes());
    for _ in 0..3 {
        assert_eq!(connection.head().status, 200);
        assert_eq!(connection.bytes(REPLY.len()), REPLY.as_bytes());
    }
}

#[test]
fn thousands_of_idle_connections_cost_little_and_keep_nobody_out() {
    let upstream = Upstream::answering(reply(200, "", REPLY));
    let gateway = gateway(&upstream, &json!({}));
    assert_eq!(gateway.post(CHAT, &ask(&json!("hi"))).status, 200);
    // Both ends of each are in this process: as many as its files allow, and ten thousand at most.
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    let count = ((files - 200) / 2).min(10_000);
    let before = resident_mib();
    let connections: Vec<Connection> = (0..count)
        .map(|_| {
            let mut connection = Request::get("/healthz").open(gateway.address);
            assert_eq!(connection.head().status, 200);
            connection
        })
        .collect();
    let grown = resident_mib() - before;
    assert_eq!(gateway.post(CHAT, &ask(&json!("hi"))).text(), REPLY);
    // A page or two for hyper's buffers each, and 8 KiB of this client's own.
    assert!(grown < u64::try_from(count).unwrap() * 40 / 1024 + 10, "{count} connections took {grown} MiB");
    drop(connections);
}
