//! Calls through a gateway to upstreams over real sockets: what passes untouched, what never passes, and where it goes.

use std::time::Duration;

use crate::support::{
    Gateway, KEY, PROVIDER_KEY,
    client::Request,
    upstream::{Step, Upstream, chunk, json as answer, stream_head},
};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

const CHAT_REPLY: &str = r#"{ "id":"chatcmpl-1", "object":"chat.completion","created":1.790e9,"model":"gpt", "choices":[{"index":0,"message":{"role":"assistant","content":"a\u0062\/c 🐘","odd":[1.0,-0,1E+2]},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10},"x":123456789012345678901234567890,"x":null }"#;
const MESSAGES_REPLY: &str = r#"{ "id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"a\u0062 🐘","citations":null},{"type":"new_kind","x":1.0}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":3},"x":1e400 }"#;

/// A request in odd but valid JSON: no byte of it may change.
fn odd(model: &str, more: &str) -> String {
    format!(
        r#"{{ "temperature" : 1.0, "top_p":1E-1,"seed":123456789012345678901234567890, "new_field":{{"a":[1,2.50,-0,1e400,null]}},"new_field":"twice",	"model": "{model}","max_tokens":9,
  "messages":[ {{"role":"user","content":"caf\u00e9 \/ \ud83d\udc18 é","more":{{}}}} ]{more} }}"#
    )
}

#[test]
fn the_same_wire_passes_untouched_in_both_directions() {
    for (path, model, reply) in [(CHAT, "gpt", CHAT_REPLY), (MESSAGES, "claude", MESSAGES_REPLY)] {
        let upstream = Upstream::answering(answer(200, "", reply));
        let gateway = Gateway::before(&upstream);
        let body = odd(model, r#", "stream" :false"#);
        let response = gateway.post(path, &body);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.text(), reply);
        let received = upstream.received();
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].body, body);
        assert_eq!(received[0].line, format!("POST {path} HTTP/1.1"));
        let record = &gateway.records()[0];
        assert_eq!((&record["input_tokens"], &record["output_tokens"]), (&json!(7), &json!(3)));
        assert_eq!((&record["status"], &record["estimated"]), (&json!(200), &json!(false)));
    }
}

#[test]
fn another_name_of_the_model_is_all_that_changes() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = Gateway::start(&[("oai", upstream.address)], &[("nick\"name", &["oai/the \"real\" one"])]);
    let response = gateway.post(CHAT, &odd(r#"nick\"n\u0061me"#, ""));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.received()[0].body, odd(r#"the \"real\" one"#, ""));
}

#[test]
fn what_is_the_clients_or_ours_never_reaches_a_provider() {
    for (path, model, reply) in [(CHAT, "gpt", CHAT_REPLY), (MESSAGES, "claude", MESSAGES_REPLY)] {
        let upstream = Upstream::answering(answer(
            200,
            "set-cookie: provider=1\r\nserver: nginx\r\nx-ratelimit-limit-requests: 9\r\nrequest-id: r1\r\n",
            reply,
        ));
        let gateway = Gateway::before(&upstream);
        let secrets = [
            ("x-api-key", KEY),
            ("api-key", KEY),
            ("x-goog-api-key", KEY),
            ("cookie", "session=secret"),
            ("proxy-authorization", "Basic secret"),
            ("connection", "x-named, keep-alive"),
            ("x-named", "secret"),
            ("forwarded", "for=secret"),
            ("x-forwarded-for", "secret"),
            ("x-forwarded-host", "secret"),
            ("x-real-ip", "secret"),
            ("x-trunkline-user", "secret"),
            ("x-stainless-os", "secret"),
            ("accept-encoding", "gzip, br"),
            ("user-agent", "secret"),
            ("referer", "secret"),
            ("te", "trailers"),
        ];
        let request = Request::post(&format!("{path}?beta=true"), &odd(model, ""))
            .header("anthropic-version", "2024-01-01")
            .header("anthropic-beta", "one")
            .header("anthropic-beta", "two");
        let request = secrets.iter().fold(request, |request, (name, value)| request.header(name, value));
        let response = request.send(gateway.address);
        assert_eq!(response.status, 200, "{}", response.text());
        let received = &upstream.received()[0];
        assert_eq!(received.line, format!("POST {path}?beta=true HTTP/1.1"));
        let mut names: Vec<&str> = received.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if path == CHAT {
            assert_eq!(names, ["accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent"]);
            assert_eq!(received.header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
        } else {
            let passed = [
                "accept-encoding",
                "anthropic-beta",
                "anthropic-beta",
                "anthropic-version",
                "content-length",
                "content-type",
                "host",
            ];
            assert_eq!(names, [&passed[..], &["user-agent", "x-api-key"]].concat());
            assert_eq!(received.header("x-api-key"), Some(PROVIDER_KEY));
            assert_eq!(received.header("anthropic-version"), Some("2024-01-01"));
        }
        assert_eq!(received.header("host"), Some(upstream.address.to_string().as_str()));
        assert!(!format!("{received:?}").contains("secret") && !format!("{received:?}").contains(KEY));

        assert_eq!(response.header("set-cookie"), None);
        assert_eq!(response.header("server"), None);
        assert_eq!(response.header("x-ratelimit-limit-requests"), Some("9"));
        assert_eq!(response.header("request-id"), Some("r1"));
    }
}

#[test]
fn an_anthropic_provider_is_told_a_version_even_by_openai_clients() {
    let upstream = Upstream::answering(answer(200, "", MESSAGES_REPLY.replace("1e400", "1").as_str()));
    let gateway = Gateway::before(&upstream);
    let body = json!({"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let response = Request::post(CHAT, &body).header("anthropic-beta", "of-another-wire").send(gateway.address);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.received()[0].header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(upstream.received()[0].header("anthropic-beta"), None);
    assert_eq!(response.json()["choices"][0]["message"]["content"], json!("ab 🐘"));
}

fn two(first: std::net::SocketAddr, second: &Upstream) -> Gateway {
    Gateway::start(&[("one", first), ("two", second.address)], &[("gpt", &["one/gpt", "two/gpt-too"])])
}

#[test]
fn the_next_upstream_serves_when_one_fails_or_is_not_there() {
    for status in [429, 500, 502, 503, 504, 529] {
        let failing = Upstream::answering(answer(status, "", r#"{"error":{"message":"no"}}"#));
        let good = Upstream::answering(answer(200, "", CHAT_REPLY));
        let gateway = two(failing.address, &good);
        let response = gateway.post(CHAT, &odd("gpt", ""));
        assert_eq!((response.status, response.text()), (200, CHAT_REPLY), "{status}");
        assert_eq!(response.header("x-trunkline-upstream"), Some("two/gpt-too"));
        assert_eq!((failing.received().len(), good.received().len()), (1, 1));
        assert_eq!(good.received()[0].body, odd("gpt-too", ""), "in the other's name for the model");
        let record = &gateway.records()[0];
        assert_eq!((&record["retries"], &record["provider"]), (&json!(1), &json!("two")));
        // The one that failed rests, and is not asked first again.
        gateway.post(CHAT, &odd("gpt", ""));
        assert_eq!((failing.received().len(), good.received().len()), (1, 2));
    }
    let good = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = two(Upstream::absent(), &good);
    assert_eq!(gateway.post(CHAT, &odd("gpt", "")).status, 200);
    assert_eq!(gateway.post(CHAT, &odd("gpt", r#","stream":true"#)).status, 200);
}

#[test]
fn a_refusal_that_is_the_clients_fault_goes_to_nobody_else() {
    for status in [400, 404, 413, 422] {
        let body = r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"odd_code"}}"#;
        let refusing = Upstream::answering(answer(status, "", body));
        let good = Upstream::answering(answer(200, "", CHAT_REPLY));
        let gateway = two(refusing.address, &good);
        let response = gateway.post(CHAT, &odd("gpt", ""));
        assert_eq!((response.status, response.text()), (status, body));
        assert_eq!((refusing.received().len(), good.received().len()), (1, 0));
        assert_eq!(gateway.records()[0]["status"], json!(status));
    }
}

#[test]
fn an_upstream_that_dies_with_the_request_in_hand_is_an_error_and_no_second_purchase() {
    let dying = Upstream::start(|_, _| vec![Step::Close]);
    let good = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = two(dying.address, &good);
    for more in ["", r#","stream":true"#] {
        let (before, sold) = (dying.received().len(), good.received().len());
        let response = gateway.post(CHAT, &odd("gpt", more));
        if dying.received().len() > before {
            assert_eq!(response.status, 502, "{}", response.text());
            assert!(response.json()["error"]["message"].as_str().unwrap().contains("'one'"));
            assert_eq!(good.received().len(), sold);
        }
    }
    assert_eq!(gateway.records()[0]["error_type"], json!("upstream_unreachable"));
}

#[test]
fn the_last_upstream_is_tried_again_after_the_time_it_asked_for() {
    for retry_after in ["retry-after: 1\r\n", "retry-after: soon\r\n", "retry-after: -5\r\n", ""] {
        let upstream = Upstream::start(move |_, before| {
            vec![Step::Send(if before == 0 { answer(503, retry_after, "{}") } else { answer(200, "", CHAT_REPLY) })]
        });
        let gateway = Gateway::before(&upstream);
        let response = gateway.post(CHAT, &odd("gpt", ""));
        assert_eq!((response.status, upstream.received().len()), (200, 2), "{retry_after}");
    }
}

#[test]
fn a_long_retry_after_is_the_clients_to_wait_for() {
    let body = r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#;
    let upstream = Upstream::answering(answer(429, "retry-after: 60\r\n", body));
    let gateway = Gateway::before(&upstream);
    let response = gateway.post(CHAT, &odd("gpt", ""));
    assert_eq!((response.status, response.header("retry-after"), response.text()), (429, Some("60"), body));
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn nobody_there_is_a_502_that_names_the_provider() {
    let gateway = Gateway::start(&[("oai", Upstream::absent())], &[("gpt", &["oai/gpt"])]);
    let response = gateway.post(CHAT, &odd("gpt", ""));
    assert_eq!(response.status, 502);
    let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("'oai'") && message.contains("base_url"), "{message}");
    assert_eq!(gateway.records()[0]["status"], json!(502));
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Upstream::answering(answer(200, "", CHAT_REPLY));
    let location = format!("location: http://{}/v1/chat/completions\r\n", elsewhere.address);
    let upstream = Upstream::answering(answer(307, &location, "{}"));
    let gateway = Gateway::before(&upstream);
    let response = gateway.post(CHAT, &odd("gpt", ""));
    assert_eq!(response.status, 502, "{}", response.text());
    assert_eq!(response.header("location"), None);
    assert!(response.json()["error"]["message"].as_str().unwrap().contains("307"));
    assert!(elsewhere.received().is_empty());
}

#[test]
fn a_provider_that_does_not_answer_in_time_is_a_504() {
    let upstream = Upstream::start(|_, _| vec![Step::Pause(Duration::from_secs(5)), Step::Close]);
    let providers = [("oai", upstream.address)];
    let gateway = Gateway::with(&providers, &[("gpt", &["oai/gpt"])], &json!({"first_byte_ms": 100}));
    let response = gateway.post(CHAT, &odd("gpt", ""));
    assert_eq!(response.status, 504, "{}", response.text());
    assert_eq!(gateway.records()[0]["error_type"], json!("upstream_timeout"));
}

#[test]
fn a_reply_that_breaks_off_or_stalls_is_a_502() {
    let half = answer(200, "", CHAT_REPLY)[..200].to_vec();
    let breaking = half.clone();
    let breaking = Upstream::start(move |_, _| vec![Step::Send(breaking.clone()), Step::Close]);
    let stalling = Upstream::start(move |_, _| vec![Step::Send(half.clone()), Step::Pause(Duration::from_secs(5)), Step::Close]);
    for upstream in [breaking, stalling] {
        let providers = [("oai", upstream.address)];
        let gateway = Gateway::with(&providers, &[("gpt", &["oai/gpt"])], &json!({"idle_ms": 200}));
        let response = gateway.post(CHAT, &odd("gpt", ""));
        assert_eq!(response.status, 502, "{}", response.text());
        let record = &gateway.records()[0];
        assert_eq!((&record["status"], &record["error_type"]), (&json!(502), &json!("upstream_broke_off")));
    }
}

#[test]
fn a_connection_that_the_provider_closed_meanwhile_costs_no_call() {
    // It answers in a way that keeps the connection, and closes it a moment later.
    let upstream = Upstream::start(|_, _| vec![Step::Send(answer(200, "", CHAT_REPLY)), Step::Close]);
    let gateway = Gateway::before(&upstream);
    for _ in 0..10 {
        let response = gateway.post(CHAT, &odd("gpt", ""));
        assert_eq!(response.status, 200, "{}", response.text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_call_is_on_disk_when_its_answer_arrives() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = Gateway::before(&upstream);
    for count in 1..=20 {
        assert_eq!(gateway.post(CHAT, &odd("gpt", "")).status, 200);
        assert_eq!(gateway.records().len(), count);
    }
}

#[test]
fn a_wrong_key_costs_the_provider_nothing() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = Gateway::before(&upstream);
    let response = Request::post(CHAT, &odd("gpt", "")).without_key().header("x-api-key", PROVIDER_KEY).send(gateway.address);
    assert_eq!(response.status, 401);
    assert!(upstream.received().is_empty());
    assert!(gateway.records().is_empty());
}

#[test]
fn before_keys_are_known_nobody_is_told_that_a_key_is_wrong() {
    let gateway = Gateway::ignorant();
    for path in [CHAT, MESSAGES] {
        let response = gateway.post(path, &odd("gpt", ""));
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{}", response.text());
        assert!(response.json()["error"]["message"].as_str().unwrap().contains("Postgres"));
    }
    assert_eq!(Request::get("/v1/models").send(gateway.address).status, 503);
    assert_eq!(Request::get("/readyz").send(gateway.address).status, 503);
    assert_eq!(Request::get("/healthz").send(gateway.address).status, 200);
}

#[test]
fn a_call_has_an_end_in_time() {
    let head = String::from_utf8(answer(200, "", CHAT_REPLY)).unwrap();
    let upstream = Upstream::start(move |request, _| {
        let slowly = |piece: Vec<u8>| [Step::Send(piece), Step::Pause(Duration::from_millis(50))];
        let streams = request.body.contains("true");
        let head = if streams { stream_head() } else { head.as_bytes()[..100].to_vec() };
        let piece = if streams { chunk(b": still here\n\n") } else { b" ".to_vec() };
        slowly(head).into_iter().chain((0..100).flat_map(|_| slowly(piece.clone()))).collect()
    });
    let gateway = Gateway::with(&[("oai", upstream.address)], &[("gpt", &["oai/gpt"])], &json!({"total_ms": 300}));
    let response = gateway.post(CHAT, &odd("gpt", ""));
    assert_eq!(response.status, 504, "{}", response.text());
    let response = gateway.post(CHAT, &odd("gpt", r#","stream":true"#));
    assert_eq!(response.events().pop().unwrap()["error"]["code"], json!("call_timeout"));
    assert!(gateway.records().iter().all(|record| record["error_type"] == json!("call_timeout")));
}
