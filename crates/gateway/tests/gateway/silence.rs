//! Silence: a model that thinks for long, one that stalls, and what the client hears meanwhile.

use std::{
    sync::{Mutex, mpsc::channel},
    time::Duration,
};

use crate::support::{
    Gateway,
    client::Request,
    upstream::{Step, Upstream, chunk, end, stream_head},
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const PAIRS: [(&str, &str); 4] = [(CHAT, "gpt"), (MESSAGES, "claude"), (CHAT, "claude"), (MESSAGES, "gpt")];

fn ask(model: &str) -> String {
    json!({"model": model, "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

fn gateway(upstream: &Upstream, timeouts: &Value) -> Gateway {
    let providers = [("oai", upstream.address), ("ant", upstream.address)];
    Gateway::with(&providers, &[("gpt", &["oai/gpt"]), ("claude", &["ant/claude"])], timeouts)
}

/// What a provider says before the first token, with the first token, and after it.
fn parts(line: &str) -> [&'static str; 3] {
    if line.contains(CHAT) {
        [
            "data: {\"id\":\"c\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"}}]}\n\n",
            "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        ]
    } else {
        [
            concat!(
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",",
                "\"model\":\"claude\",\"content\":[],\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n",
                "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
            ),
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word\"}}\n\n",
            concat!(
                "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\n",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
        ]
    }
}

#[test]
fn silence_before_the_first_token_may_be_longer_than_after_it() {
    let upstream = Upstream::start(|request, _| {
        let [start, token, rest] = parts(&request.line);
        vec![
            Step::Send([stream_head(), chunk(start.as_bytes())].concat()),
            Step::Pause(Duration::from_millis(1500)),
            Step::Send([chunk(token.as_bytes()), chunk(rest.as_bytes()), end()].concat()),
        ]
    });
    let gateway = gateway(&upstream, &json!({"idle_ms": 500, "first_token_ms": 20000}));
    for (path, model) in PAIRS {
        let response = gateway.post(path, &ask(model));
        assert!(response.text().contains("word"), "{path} {model}: {}", response.text());
        assert_eq!(gateway.records().pop().unwrap()["status"], json!(200), "{path} {model}");
    }
}

#[test]
fn silence_that_lasts_too_long_is_an_error_and_ends_the_providers_work() {
    for (spoken, timeouts) in
        [(1, json!({"idle_ms": 20000, "first_token_ms": 200})), (2, json!({"idle_ms": 200, "first_token_ms": 20000}))]
    {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |request, _| {
            let said = parts(&request.line)[..spoken].concat();
            vec![Step::Send([stream_head(), chunk(said.as_bytes())].concat()), Step::AwaitClose(tell.lock().unwrap().clone())]
        });
        let gateway = gateway(&upstream, &timeouts);
        for (path, model) in PAIRS {
            let response = gateway.post(path, &ask(model));
            let error = response.events().pop().unwrap();
            assert!(error["error"]["message"].as_str().unwrap().contains("sent nothing"), "{path} {model}: {error}");
            assert_eq!(gateway.records().pop().unwrap()["error_type"], json!("upstream_stalled"));
            told.recv_timeout(Duration::from_secs(20)).expect("the provider's connection was not closed");
        }
    }
}

#[test]
fn signs_of_life_come_between_events_and_change_nothing_of_them() {
    let upstream = Upstream::start(|request, _| {
        let [start, token, rest] = parts(&request.line);
        // Each pause is in the middle of an event.
        let all = [start, token, rest].concat();
        let mut steps = vec![Step::Send(stream_head())];
        for piece in all.as_bytes().chunks(all.len().div_ceil(4)) {
            steps.push(Step::Send(chunk(piece)));
            steps.push(Step::Pause(Duration::from_millis(200)));
        }
        steps.push(Step::Send(end()));
        steps
    });
    let silent = gateway(&upstream, &json!({"ping_ms": 0}));
    let gateway = gateway(&upstream, &json!({"ping_ms": 20}));
    for (path, model) in PAIRS {
        let response = gateway.post(path, &ask(model));
        let sign = if path == CHAT { ": ping\n\n" } else { "event: ping\ndata: {\"type\": \"ping\"}\n\n" };
        assert!(response.text().matches(sign).count() > 3, "{path} {model}: {}", response.text());
        assert!(response.whole);
        let without = response.text().replace(sign, "");
        let plain = silent.post(path, &ask(model));
        assert!(!plain.text().contains("ping"), "{}", plain.text());
        let made = |text: &str| {
            text.split("\"created\":").map(|part| part.trim_start_matches(char::is_numeric).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(made(&without), made(plain.text()), "{path} {model}");
    }
}

#[test]
fn a_client_that_takes_nothing_any_more_counts_as_gone() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::start(move |request, _| {
        let [start, token, _] = parts(&request.line);
        let mut steps = vec![Step::Send([stream_head(), chunk(start.as_bytes())].concat())];
        // More than all buffers between the two can hold.
        let words = token.repeat(1000);
        for _ in 0..300 {
            steps.push(Step::Send(chunk(words.as_bytes())));
        }
        steps.push(Step::AwaitClose(tell.lock().unwrap().clone()));
        steps
    });
    let gateway = gateway(&upstream, &json!({"idle_ms": 300}));
    let mut connection = Request::post(CHAT, &ask("gpt")).open(gateway.address);
    assert_eq!(connection.head().status, 200);
    let record = &gateway.wait_for_records(1)[0];
    assert_eq!((&record["status"], &record["estimated"]), (&json!(499), &json!(true)), "{record}");
    drop(told);
}
