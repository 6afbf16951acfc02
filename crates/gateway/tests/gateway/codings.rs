//! Compressed bodies: a provider's, whole, streamed and in errors, though nobody asked for them; and a client's.

use std::sync::{Arc, Mutex, mpsc::Receiver};

use crate::support::{
    Gateway,
    client::Request,
    compress::{CODINGS, compress, compressed},
    upstream::{Step, Upstream, chunk, end, gate},
};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const PATHS: [(&str, &str); 2] = [(CHAT, "gpt"), (MESSAGES, "gpt")];
const REPLY: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"grüßer"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const EVENTS: [&str; 3] = [
    "data: {\"id\":\"c\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"gr\u{fc}\u{df}er\"}}]}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

fn ask(stream: bool) -> String {
    json!({"model": "gpt", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

fn whole(status: u16, coding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn streaming(coding: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: {coding}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn a_whole_answer_is_understood_in_every_coding_and_passed_on_plain() {
    for coding in CODINGS {
        let upstream = Upstream::answering(whole(200, coding, &compress(coding, REPLY.as_bytes())));
        let gateway = Gateway::before(&upstream);
        let response = gateway.post(CHAT, &ask(false));
        assert_eq!((response.status, response.text()), (200, REPLY), "{coding}");
        assert_eq!(response.header("content-encoding"), None);
        let translated = gateway.post(MESSAGES, &ask(false));
        assert_eq!(translated.json()["content"][0]["text"], json!("grüßer"), "{coding}");
        // Nobody asked for it.
        assert_eq!(upstream.received()[0].header("accept-encoding"), Some("identity"));
        assert_eq!(gateway.records()[0]["output_tokens"], json!(3), "{coding}");
    }
}

#[test]
fn an_error_is_understood_in_every_coding() {
    let error = r#"{"error":{"message":"your prompt is odd","type":"invalid_request_error","param":null,"code":null}}"#;
    for coding in CODINGS {
        let upstream = Upstream::answering(whole(400, coding, &compress(coding, error.as_bytes())));
        let gateway = Gateway::before(&upstream);
        for (path, _) in PATHS {
            for stream in [true, false] {
                let response = gateway.post(path, &ask(stream));
                assert_eq!(response.status, 400, "{coding}");
                assert_eq!(response.json()["error"]["message"], json!("your prompt is odd"), "{coding} {path} {stream}");
            }
        }
    }
}

#[test]
fn an_event_passes_while_its_coding_still_goes_on() {
    for coding in CODINGS {
        for byte_by_byte in [false, true] {
            let pieces: Vec<&[u8]> = EVENTS.iter().map(|event| event.as_bytes()).collect();
            let pieces = compressed(coding, &pieces);
            let (open, wait) = gate();
            let wait: Arc<Mutex<Option<Receiver<()>>>> = Arc::new(Mutex::new(Some(wait)));
            let upstream = Upstream::start(move |_, _| {
                let rest = pieces[1..].concat();
                let send = |bytes: &[u8]| {
                    if byte_by_byte {
                        Step::Trickle(bytes.iter().flat_map(|byte| chunk(&[*byte])).collect())
                    } else {
                        Step::Send(chunk(bytes))
                    }
                };
                vec![
                    Step::Send(streaming(coding)),
                    send(&pieces[0]),
                    Step::Wait(wait.lock().unwrap().take().unwrap()),
                    send(&rest),
                    Step::Send(end()),
                ]
            });
            let gateway = Gateway::before(&upstream);
            let mut connection = Request::post(CHAT, &ask(true)).open(gateway.address);
            let head = connection.head();
            assert_eq!((head.status, head.header("content-encoding")), (200, None));
            assert_eq!(connection.piece().unwrap().unwrap(), EVENTS[0].as_bytes(), "{coding}");
            open.send(()).unwrap();
            let mut rest = Vec::new();
            while let Some(piece) = connection.piece().unwrap() {
                rest.extend(piece);
            }
            assert_eq!(String::from_utf8(rest).unwrap(), EVENTS[1..].concat(), "{coding}");
        }
    }
}

#[test]
fn a_coding_announced_in_vain_or_twice_or_upon_another_is_seen_through() {
    let gzip = compress("gzip", REPLY.as_bytes());
    let cases = [
        ("gzip", REPLY.as_bytes().to_vec()),
        ("zstd", REPLY.as_bytes().to_vec()),
        ("identity", REPLY.as_bytes().to_vec()),
        ("gzip, gzip", gzip.clone()),
        ("gzip\r\ncontent-encoding: gzip", gzip.clone()),
        ("gzip, gzip", compress("gzip", &gzip)),
        ("GZIP, br", compress("br", &gzip)),
        ("x-gzip,identity , zstd", compress("zstd", &gzip)),
        ("gzip", [compress("gzip", &REPLY.as_bytes()[..50]), compress("gzip", &REPLY.as_bytes()[50..])].concat()),
    ];
    for (coding, body) in cases {
        let upstream = Upstream::answering(whole(200, coding, &body));
        let gateway = Gateway::before(&upstream);
        let response = gateway.post(CHAT, &ask(false));
        assert_eq!((response.status, response.text()), (200, REPLY), "{coding}");
    }
}

#[test]
fn a_coding_that_breaks_off_or_is_none_or_unknown_is_a_502() {
    for coding in CODINGS {
        let good = compress(coding, REPLY.as_bytes());
        for (body, code) in [
            (good[..good.len() - 1].to_vec(), "upstream_broke_off"),
            (good[..good.len() / 2].to_vec(), "upstream_broke_off"),
            ([&good[..2], b"\xff\xff\xff\xff garbage"].concat(), "upstream_unreadable"),
        ] {
            let upstream = Upstream::answering(whole(200, coding, &body));
            let gateway = Gateway::before(&upstream);
            for (path, _) in PATHS {
                let response = gateway.post(path, &ask(false));
                assert_eq!(response.status, 502, "{coding} {}", body.len());
                assert!(response.json()["error"]["message"].is_string());
            }
            assert_eq!(gateway.records()[0]["error_type"], json!(code), "{coding} {}", body.len());
        }
        // A stream whose coding is cut though HTTP's framing is whole.
        let pieces: Vec<&[u8]> = EVENTS.iter().map(|event| event.as_bytes()).collect();
        let pieces = compressed(coding, &pieces);
        let upstream = Upstream::start(move |_, _| vec![Step::Send([streaming(coding), chunk(&pieces[0]), end()].concat())]);
        let gateway = Gateway::before(&upstream);
        let response = gateway.post(CHAT, &ask(true));
        assert!(response.text().starts_with(EVENTS[0]) && !response.text().contains("[DONE]"), "{}", response.text());
        assert!(response.events().pop().unwrap()["error"]["message"].is_string());
    }
    let upstream = Upstream::answering(whole(200, "compress", REPLY.as_bytes()));
    let gateway = Gateway::before(&upstream);
    assert_eq!(gateway.post(CHAT, &ask(false)).status, 502);
    let events = gateway.post(CHAT, &ask(true)).events();
    assert!(events[0]["error"]["message"].as_str().unwrap().contains("'compress'"), "{events:?}");
}

#[test]
fn a_body_that_swells_without_end_is_refused() {
    // 200 MiB of white space before the reply.
    let blanks = vec![b' '; 1 << 20];
    for coding in ["gzip", "zstd"] {
        let pieces: Vec<&[u8]> = std::iter::repeat_n(&blanks[..], 200).collect();
        let bomb = compressed(coding, &pieces).concat();
        assert!(bomb.len() < 1 << 20, "{coding} {}", bomb.len());
        let upstream = Upstream::start(move |request, _| {
            if request.body.contains("\"stream\":true") {
                vec![Step::Send([streaming(coding), chunk(&bomb), end()].concat())]
            } else {
                vec![Step::Send(whole(200, coding, &bomb))]
            }
        });
        let gateway = Gateway::before(&upstream);
        let response = gateway.post(CHAT, &ask(false));
        assert_eq!((response.status, gateway.records()[0]["error_type"].clone()), (502, json!("upstream_unreadable")));
        let events = gateway.post(CHAT, &ask(true)).events();
        assert!(events[0]["error"]["message"].as_str().unwrap().contains("too large"), "{events:?}");
    }
}

#[test]
fn a_clients_compressed_request_is_read_or_refused_in_its_wire() {
    let upstream = Upstream::answering(whole(200, "identity", REPLY.as_bytes()));
    let gateway = Gateway::before(&upstream);
    for coding in CODINGS {
        let body = compress(coding, ask(false).as_bytes());
        let response = Request::post_bytes(CHAT, &body).header("content-encoding", coding).send(gateway.address);
        assert_eq!((response.status, response.text()), (200, REPLY), "{coding}");
        let received = upstream.received().pop().unwrap();
        assert_eq!((received.body.as_str(), received.header("content-encoding")), (ask(false).as_str(), None));

        let cut = Request::post_bytes(CHAT, &body[..body.len() - 1]).header("content-encoding", coding).send(gateway.address);
        assert_eq!(cut.status, 400, "{coding}");
    }
    // Over the limit only once it is unpacked (the limit is 1 MiB here).
    let blanks = vec![b' '; 1 << 16];
    let pieces: Vec<&[u8]> = std::iter::repeat_n(&blanks[..], 17).collect();
    let bomb = compressed("gzip", &pieces).concat();
    assert_eq!(Request::post_bytes(CHAT, &bomb).header("content-encoding", "gzip").send(gateway.address).status, 413);
    for (path, kind) in [(CHAT, None), (MESSAGES, Some("error"))] {
        let response = Request::post(path, &ask(false)).header("content-encoding", "compress").send(gateway.address);
        assert_eq!((response.status, response.json()["type"].as_str()), (415, kind));
        assert!(response.json()["error"]["message"].as_str().unwrap().contains("gzip, br and zstd"));
    }
}
