//! Streams through a gateway over real sockets: cut anywhere, broken off anywhere, left by the client anywhere.

use std::{sync::Mutex, sync::mpsc::channel, time::Duration};

use crate::support::{
    Gateway,
    client::Request,
    eventually,
    upstream::{Step, Upstream, chunk, end, gate, stream_head},
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

/// Line ends of all kinds, a comment, data without a space, data in two lines, characters of two, three and four bytes.
const CHAT_STREAM: &str = concat!(
    ": keep-alive\n\n",
    "data: {\"id\":\"c\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"x\":1.0}\n\n",
    "data:{\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"gr\u{f6}\u{df}er \u{2028}\"}}]}\r\n\r\n",
    "event: message\rdata: {\"id\":\"c\",\"choices\":[{\"index\":0,\rdata: \"delta\":{\"content\":\"\u{1f418}\"}}]}\r\r",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
);
const CHAT_USAGE: &str =
    "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n";
const CHAT_END: &str = "data: [DONE]\n\n";

const MESSAGES_STREAM: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",",
    "\"model\":\"claude\",\"content\":[],\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\r\n\r\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event:content_block_delta\ndata:{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"gr\u{f6}\u{df}er \u{2028}\"}}\r\r",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\ndata: \"delta\":{\"type\":\"text_delta\",\"text\":\"\u{1f418}\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":3}}\n\n",
);
const MESSAGES_END: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const TEXT: &str = "gr\u{f6}\u{df}er \u{2028}\u{1f418}";

fn ask(model: &str) -> String {
    json!({"model": model, "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// A stream of both wires, whichever is asked for, without its end.
fn stream_of(line: &str) -> String {
    if line.contains(CHAT) { format!("{CHAT_STREAM}{CHAT_USAGE}") } else { MESSAGES_STREAM.to_owned() }
}

fn end_of(line: &str) -> &'static str {
    if line.contains(CHAT) { CHAT_END } else { MESSAGES_END }
}

fn said(path: &str, events: &[Value]) -> String {
    let text = |event: &Value| {
        let place = if path == CHAT { "/choices/0/delta/content" } else { "/delta/text" };
        event.pointer(place).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    events.iter().map(text).collect()
}

#[test]
fn cut_at_every_byte_it_is_the_same_stream() {
    let longest = CHAT_STREAM.len() + CHAT_USAGE.len() + CHAT_END.len();
    let longest = longest.max(MESSAGES_STREAM.len() + MESSAGES_END.len());
    // Each stream is cut in two at the byte that the request names as its limit of tokens.
    let upstream = Upstream::start(|request, _| {
        let stream = stream_of(&request.line) + end_of(&request.line);
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let at = body.get("max_tokens").or(body.get("max_completion_tokens")).and_then(Value::as_u64).unwrap();
        let at = usize::try_from(at).unwrap().min(stream.len() - 1);
        let (one, two) = stream.as_bytes().split_at(at);
        vec![
            Step::Send([stream_head(), chunk(one)].concat()),
            Step::Pause(Duration::from_micros(300)),
            Step::Send([chunk(two), end()].concat()),
        ]
    });
    let gateway = Gateway::before(&upstream);
    for at in 1..longest {
        let body = |model: &str| {
            json!({"model": model, "stream": true, "max_tokens": at, "messages": [{"role": "user", "content": "hi"}]}).to_string()
        };
        let response = gateway.post(CHAT, &body("gpt"));
        assert_eq!((response.text(), response.whole), ((CHAT_STREAM.to_owned() + CHAT_END).as_str(), true), "cut at {at}");
        let response = gateway.post(MESSAGES, &body("claude"));
        assert_eq!(
            (response.text(), response.whole),
            ((MESSAGES_STREAM.to_owned() + MESSAGES_END).as_str(), true),
            "cut at {at}"
        );
        if at % 3 == 0 {
            assert_eq!(said(CHAT, &gateway.post(CHAT, &body("claude")).events()), TEXT, "cut at {at}");
            assert_eq!(said(MESSAGES, &gateway.post(MESSAGES, &body("gpt")).events()), TEXT, "cut at {at}");
        }
    }
    for record in gateway.records() {
        assert_eq!(
            (&record["input_tokens"], &record["output_tokens"], &record["estimated"]),
            (&json!(7), &json!(3), &json!(false))
        );
    }
}

#[test]
fn usage_comes_to_a_client_that_asked_for_it() {
    let upstream = Upstream::start(|request, _| {
        let stream = stream_of(&request.line) + end_of(&request.line);
        vec![Step::Send([stream_head(), chunk(stream.as_bytes()), end()].concat())]
    });
    let gateway = Gateway::before(&upstream);
    let asked = ask("gpt").replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    assert_eq!(gateway.post(CHAT, &asked).text(), format!("{CHAT_STREAM}{CHAT_USAGE}{CHAT_END}"));
    assert_eq!(upstream.received()[0].body, asked);
    // To a provider it is said for those who did not ask, and nothing else of the request changes.
    let not_asked = ask("gpt");
    gateway.post(CHAT, &not_asked);
    assert_eq!(upstream.received()[1].body, not_asked.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1));
    let refused = ask("gpt").replacen('{', r#"{"stream_options":{"include_usage":false,"x":1},"#, 1);
    assert_eq!(gateway.post(CHAT, &refused).text(), format!("{CHAT_STREAM}{CHAT_END}"));
    assert_eq!(upstream.received()[2].body, refused.replace("false", "true"));
}

/// How an upstream's stream goes wrong.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// The connection ends in the middle of an event.
    MidEvent,
    /// The connection ends after a whole event.
    BetweenEvents,
    /// The connection ends after the model said why it stopped, before the wire's end.
    BeforeTheEnd,
    /// The body ends as HTTP wants it, before the wire's end.
    Politely,
    /// The provider says that something went wrong.
    WithAnError,
}

#[test]
fn a_stream_that_breaks_is_never_a_clean_end() {
    const KINDS: [Break; 5] = [Break::MidEvent, Break::BetweenEvents, Break::BeforeTheEnd, Break::Politely, Break::WithAnError];
    let upstream = Upstream::start(|request, before| {
        let stream = stream_of(&request.line);
        let first = stream
            .find("data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{}")
            .or(stream.find("event: content_block_stop"));
        let part = &stream.as_bytes()[..first.unwrap()];
        let error = if request.line.contains(CHAT) {
            "data: {\"error\":{\"message\":\"broken inside\",\"type\":\"server_error\"}}\n\n"
        } else {
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"broken inside\"}}\n\n"
        };
        let (bytes, last) = match KINDS[before % KINDS.len()] {
            Break::MidEvent => (chunk(&part[..part.len() - 9]), Step::Close),
            Break::BetweenEvents => (chunk(part), Step::Close),
            Break::BeforeTheEnd => (chunk(stream.as_bytes()), Step::Close),
            Break::Politely => (chunk(stream.as_bytes()), Step::Send(end())),
            Break::WithAnError => ([chunk(part), chunk(error.as_bytes())].concat(), Step::Send(end())),
        };
        vec![Step::Send([stream_head(), bytes].concat()), last]
    });
    let gateway = Gateway::before(&upstream);
    for (path, model) in [(CHAT, "gpt"), (MESSAGES, "claude"), (CHAT, "claude"), (MESSAGES, "gpt")] {
        for kind in KINDS {
            let response = gateway.post(path, &ask(model));
            assert_eq!(response.status, 200);
            assert!(!response.text().contains(end_of(path)), "{kind:?} {path} {model}");
            let error = response.events().pop().unwrap();
            let message = error["error"]["message"].as_str().unwrap_or_else(|| panic!("{kind:?}: {}", response.text()));
            if path == MESSAGES {
                assert_eq!(error["type"], json!("error"), "{kind:?}");
                assert!(response.text().contains("event: error\n"), "{kind:?}");
                assert!(error["request_id"].as_str().unwrap().starts_with("call_"));
            }
            let record = gateway.records().pop().unwrap();
            let broke = if matches!(kind, Break::WithAnError) {
                assert!(message.contains("broken inside"), "{message}");
                "upstream_error"
            } else {
                "upstream_broke_off"
            };
            assert_eq!((&record["status"], &record["error_type"]), (&json!(502), &json!(broke)), "{kind:?} {path} {model}");
            assert!(record["output_tokens"].as_u64().unwrap() > 0, "what was answered is billed: {record}");
        }
    }
}

#[test]
fn a_stream_that_ends_before_its_first_event_is_an_error() {
    let upstream = Upstream::start(|_, before| match before % 3 {
        0 => vec![Step::Close],
        1 => vec![Step::Send(stream_head()), Step::Close],
        _ => vec![Step::Send([stream_head(), end()].concat())],
    });
    let gateway = Gateway::before(&upstream);
    for (path, model) in [(CHAT, "gpt"), (MESSAGES, "claude"), (CHAT, "claude"), (MESSAGES, "gpt")] {
        let response = gateway.post(path, &ask(model));
        assert_eq!(response.status, 502);
        assert!(response.json()["error"]["message"].is_string());
        for _ in 0..2 {
            let response = gateway.post(path, &ask(model));
            let events = response.events();
            assert_eq!(events.len(), 1, "{}", response.text());
            assert!(events[0]["error"]["message"].is_string());
        }
    }
    assert!(gateway.records().iter().all(|record| record["status"] == json!(502)));
}

#[test]
fn nothing_is_sent_elsewhere_once_the_client_has_a_byte() {
    let part = &CHAT_STREAM.as_bytes()[..CHAT_STREAM.len() / 2];
    let breaking = Upstream::start(move |_, _| vec![Step::Send([stream_head(), chunk(part)].concat()), Step::Close]);
    let good = Upstream::start(|_, _| vec![Step::Send([stream_head(), chunk(CHAT_STREAM.as_bytes()), end()].concat())]);
    let providers = [("one", breaking.address), ("two", good.address)];
    let gateway = Gateway::start(&providers, &[("gpt", &["one/gpt", "two/gpt"])]);
    let response = gateway.post(CHAT, &ask("gpt"));
    assert!(response.events().pop().unwrap()["error"]["message"].is_string());
    assert_eq!((breaking.received().len(), good.received().len()), (1, 0));
}

#[test]
fn a_client_that_goes_away_ends_the_upstreams_work() {
    for (path, model) in [(CHAT, "gpt"), (MESSAGES, "claude"), (CHAT, "claude"), (MESSAGES, "gpt")] {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |request, _| {
            let tell = tell.lock().unwrap().clone();
            let stream = stream_of(&request.line);
            vec![Step::Send([stream_head(), chunk(stream.as_bytes())].concat()), Step::AwaitClose(tell)]
        });
        let gateway = Gateway::before(&upstream);
        let mut connection = Request::post(path, &ask(model)).open(gateway.address);
        assert_eq!(connection.head().status, 200);
        connection.piece().unwrap().expect("a first piece");
        drop(connection);
        told.recv_timeout(Duration::from_secs(20)).expect("the provider's connection was not closed");
        let record = &gateway.wait_for_records(1)[0];
        assert_eq!((&record["status"], &record["error_type"]), (&json!(499), &json!("client_closed_request")));
        assert!(record["output_tokens"].as_u64().unwrap() > 0, "what was answered is billed: {record}");
        assert!(record["input_tokens"].as_u64().unwrap() > 0, "{record}");
    }
}

#[test]
fn a_client_that_goes_away_before_the_first_byte_ends_the_upstreams_work_too() {
    for more in ["", "not streamed"] {
        let (tell, told) = channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::start(move |_, _| vec![Step::AwaitClose(tell.lock().unwrap().clone())]);
        let gateway = Gateway::before(&upstream);
        let body = if more.is_empty() { ask("gpt") } else { ask("gpt").replace("true", "false") };
        let connection = Request::post(CHAT, &body).open(gateway.address);
        upstream.wait_for_requests(1);
        drop(connection);
        told.recv_timeout(Duration::from_secs(20)).expect("the provider's connection was not closed");
        let record = &gateway.wait_for_records(1)[0];
        assert_eq!(record["status"], json!(499), "{more}");
    }
}

#[test]
fn events_pass_when_they_come_and_not_later() {
    let gates = Mutex::new(Vec::new());
    let (open, wait) = gate();
    gates.lock().unwrap().push(wait);
    let upstream = Upstream::start(move |_, _| {
        let frames = CHAT_STREAM.split_inclusive("\n\n").next().unwrap();
        let rest = CHAT_STREAM.strip_prefix(frames).unwrap().to_owned() + CHAT_END;
        vec![
            Step::Send([stream_head(), chunk(frames.as_bytes())].concat()),
            Step::Wait(gates.lock().unwrap().pop().unwrap()),
            Step::Send([chunk(rest.as_bytes()), end()].concat()),
        ]
    });
    let gateway = Gateway::before(&upstream);
    let mut connection = Request::post(CHAT, &ask("gpt")).open(gateway.address);
    let head = connection.head();
    assert!(head.header("content-type").unwrap().starts_with("text/event-stream"));
    assert_eq!(head.header("content-length"), None);
    // The first event is here while the provider still waits for us.
    assert_eq!(connection.piece().unwrap().unwrap(), b": keep-alive\n\n");
    assert!(gateway.records().is_empty());
    open.send(()).unwrap();
    let mut rest = Vec::new();
    while let Some(piece) = connection.piece().unwrap() {
        rest.extend(piece);
    }
    assert!(rest.ends_with(CHAT_END.as_bytes()));
    assert_eq!(gateway.records().len(), 1);
}

#[test]
fn a_stream_is_on_disk_before_its_last_event_arrives() {
    let upstream = Upstream::start(|request, _| {
        let stream = stream_of(&request.line) + end_of(&request.line);
        vec![Step::Send([stream_head(), chunk(stream.as_bytes()), end()].concat())]
    });
    let gateway = Gateway::before(&upstream);
    let mut count = 0;
    for (path, model) in [(CHAT, "gpt"), (MESSAGES, "claude"), (CHAT, "claude"), (MESSAGES, "gpt")].repeat(5) {
        let mut connection = Request::post(path, &ask(model)).open(gateway.address);
        connection.head();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(end_of(path)) {
            seen.extend(connection.piece().unwrap().expect("the wire's end"));
        }
        count += 1;
        assert_eq!(gateway.records().len(), count, "{path} {model}");
    }
}

#[test]
fn many_streams_at_once_do_not_mix() {
    let upstream = Upstream::start(|request, _| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let word = body["messages"][0]["content"].as_str().unwrap().to_owned();
        let piece = move |text: &str| {
            let event = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]});
            chunk(format!("data: {event}\n\n").as_bytes())
        };
        let stop = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let mut steps = vec![Step::Send(stream_head())];
        for _ in 0..20 {
            steps.push(Step::Send(piece(&word)));
            steps.push(Step::Pause(Duration::from_millis(1)));
        }
        steps.push(Step::Send([chunk(stop.as_bytes()), end()].concat()));
        steps
    });
    let gateway = Gateway::before(&upstream);
    std::thread::scope(|scope| {
        for number in 0..50 {
            let address = gateway.address;
            scope.spawn(move || {
                let word = format!("<{number}>");
                let body = json!({"model": "gpt", "stream": true, "messages": [{"role": "user", "content": word}]});
                let response = Request::post(CHAT, &body.to_string()).send(address);
                assert_eq!(said(CHAT, &response.events()), word.repeat(20));
                assert!(response.whole);
            });
        }
    });
    eventually(|| gateway.records().len() == 50);
}
