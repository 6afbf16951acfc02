//! The end of a gateway: what is under way ends well, what is new is not taken.

use std::{net::TcpStream, sync::Mutex, thread, time::Duration};

use crate::support::{
    Gateway,
    client::{Connection, Request},
    eventually,
    upstream::{Step, Upstream, chunk, end, gate, json as answer, stream_head},
};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
const REPLY: &str = r#"{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"whole"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;

fn ask(streams: bool) -> String {
    json!({"model": "gpt", "stream": streams, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

#[test]
fn calls_under_way_end_well_and_new_ones_are_not_taken() {
    let (open, wait) = gate();
    let (open_too, wait_too) = gate();
    let gates = Mutex::new(vec![wait_too, wait]);
    let upstream = Upstream::start(move |request, _| {
        let wait = gates.lock().unwrap().pop().unwrap();
        if request.body.contains("true") {
            let first = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
            let last =
                "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
            vec![
                Step::Send([stream_head(), chunk(first.as_bytes())].concat()),
                Step::Wait(wait),
                Step::Send([chunk(last.as_bytes()), end()].concat()),
            ]
        } else {
            vec![Step::Wait(wait), Step::Send(answer(200, "", REPLY))]
        }
    });
    let gateway = Gateway::before(&upstream);
    let mut stream = Request::post(CHAT, &ask(true)).open(gateway.address);
    assert_eq!(stream.head().status, 200);
    assert!(stream.piece().unwrap().is_some());
    let whole = Request::post(CHAT, &ask(false)).open(gateway.address);
    upstream.wait_for_requests(2);
    let mut idle = Connection::new(gateway.address);

    gateway.stop.stop();
    eventually(|| TcpStream::connect(gateway.address).is_err());
    assert!(idle.closed(), "an idle connection is of no use any more");
    // Both still wait for the provider, and are still there when it goes on.
    thread::sleep(Duration::from_millis(50));
    open.send(()).unwrap();
    open_too.send(()).unwrap();
    let mut rest = Vec::new();
    while let Some(piece) = stream.piece().expect("the stream must not be cut") {
        rest.extend(piece);
    }
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    let response = whole.response();
    assert_eq!((response.status, response.text()), (200, REPLY));
    assert_eq!(gateway.records().len(), 2);
}

#[test]
fn a_gateway_without_work_ends_at_once() {
    let upstream = Upstream::answering(answer(200, "", REPLY));
    let gateway = Gateway::before(&upstream);
    let mut idle = Connection::new(gateway.address);
    gateway.stop.stop();
    assert!(idle.closed());
    eventually(|| TcpStream::connect(gateway.address).is_err());
}

#[test]
fn a_stop_before_the_first_connection_is_heard() {
    let gateway = Gateway::start(&[("oai", Upstream::absent())], &[("gpt", &["oai/gpt"])]);
    gateway.stop.stop();
    gateway.stop.stop();
    eventually(|| TcpStream::connect(gateway.address).is_err());
}
