//! How calls end that do not end well: a provider that cuts its answer short, a client that leaves at any stage.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{Mutex, mpsc::channel},
    thread,
    time::Duration,
};

use crate::support::{
    Gateway,
    client::Request,
    upstream::{Step, Upstream, chunk, end, gate, json as reply, stream_head},
};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const PAIRS: [(&str, &str); 4] = [(CHAT, "gpt"), (MESSAGES, "claude"), (CHAT, "claude"), (MESSAGES, "gpt")];
const CHAT_REPLY: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"{\"a\":{}}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const MESSAGES_REPLY: &str = r#"{"id":"m","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"{\"a\":{}}"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":7,"output_tokens":3}}"#;
const WORD: &str = "data: {\"id\":\"c\",\"model\":\"gpt\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n";

fn ask(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

/// How a provider may cut a whole answer short.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Fewer bytes than announced.
    Length,
    /// Chunks without the last one.
    Chunks,
    /// Neither a length nor chunks, and the connection's end comes early.
    Close,
    /// The connection breaks.
    Reset,
}

#[test]
fn a_whole_answer_cut_short_anywhere_is_a_502_and_never_half_a_200() {
    for cut in [Cut::Length, Cut::Chunks, Cut::Close, Cut::Reset] {
        let upstream = Upstream::start(move |request, before| {
            let body = if request.line.contains(CHAT) { CHAT_REPLY } else { MESSAGES_REPLY };
            let at = before * 7 % (body.len() - 1) + 1;
            let head = |more: &str| format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}\r\n").into_bytes();
            let part = &body.as_bytes()[..at];
            let length = format!("content-length: {}\r\n", body.len());
            match cut {
                Cut::Length => vec![Step::Send([&head(&length), part].concat()), Step::Close],
                Cut::Chunks => {
                    vec![Step::Send([head("transfer-encoding: chunked\r\n"), chunk(body.as_bytes())].concat()), Step::Close]
                }
                Cut::Close => vec![Step::Send([&head("connection: close\r\n"), part].concat()), Step::Close],
                Cut::Reset => vec![Step::Send([&head(&length), part].concat()), Step::Reset],
            }
        });
        let gateway = Gateway::before(&upstream);
        for (path, model) in PAIRS.repeat(12) {
            let response = gateway.post(path, &ask(model, false));
            assert_eq!(response.status, 502, "{cut:?} {path} {model}: {}", response.text());
            assert!(response.json()["error"]["message"].is_string(), "{cut:?}");
        }
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole_if_its_json_is() {
    let upstream = Upstream::start(|_, _| {
        vec![Step::Send(format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{CHAT_REPLY}").into_bytes()), Step::Close]
    });
    let response = Gateway::before(&upstream).post(CHAT, &ask("gpt", false));
    assert_eq!((response.status, response.text()), (200, CHAT_REPLY));
}

#[test]
fn trailers_after_a_stream_are_no_part_of_it() {
    let upstream = Upstream::start(|_, _| {
        let stop = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        vec![Step::Send(
            [stream_head(), chunk(WORD.as_bytes()), chunk(stop.as_bytes()), b"0\r\nx-sum: 1\r\n\r\n".to_vec()].concat(),
        )]
    });
    let gateway = Gateway::before(&upstream);
    for _ in 0..3 {
        let response = gateway.post(CHAT, &ask("gpt", true));
        assert!(response.whole && response.text().ends_with("[DONE]\n\n"), "{}", response.text());
    }
}

/// A listener whose queue is full: a connection to it stands neither nor fails.
fn unreachable() -> (socket2::Socket, SocketAddr, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200));
    let waiting: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).collect();
    (socket, address, waiting)
}

#[test]
fn a_client_that_goes_away_while_we_connect_ends_the_call() {
    let (_socket, address, _waiting) = unreachable();
    for stream in [true, false] {
        let gateway = Gateway::with(&[("oai", address)], &[("gpt", &["oai/gpt"])], &json!({"connect_ms": 60000}));
        let connection = Request::post(CHAT, &ask("gpt", stream)).open(gateway.address);
        thread::sleep(Duration::from_millis(50));
        drop(connection);
        let record = &gateway.wait_for_records(1)[0];
        assert_eq!((&record["status"], &record["output_tokens"]), (&json!(499), &json!(0)), "{record}");
        assert_eq!(record["input_tokens"], json!(0), "nothing was sent: {record}");
    }
}

#[test]
fn a_client_that_goes_away_while_we_wait_to_try_again_ends_the_call() {
    let error = r#"{"error":{"message":"busy","type":"server_error"}}"#;
    let upstream = Upstream::answering(reply(503, "retry-after: 2\r\n", error));
    for stream in [true, false] {
        let gateway = Gateway::before(&upstream);
        let before = upstream.received().len();
        let connection = Request::post(CHAT, &ask("gpt", stream)).open(gateway.address);
        upstream.wait_for_requests(before + 1);
        drop(connection);
        let record = &gateway.wait_for_records(1)[0];
        assert_eq!(record["status"], json!(499), "{record}");
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(upstream.received().len(), before + 1, "it was not tried again for nobody");
    }
}

#[test]
fn a_turn_that_its_client_left_is_logged_as_broken_off() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::start(move |_, before| {
        let words = WORD.repeat(20);
        let rest = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let begin = Step::Send([stream_head(), chunk(words.as_bytes())].concat());
        if before == 0 {
            vec![begin, Step::AwaitClose(tell.lock().unwrap().clone())]
        } else {
            vec![begin, Step::Send(chunk(rest.as_bytes())), Step::Close]
        }
    });
    let gateway = Gateway::with_agent(&upstream, "helper");
    let request = || Request::post(CHAT, &ask("gpt", true)).header("x-trunkline-agent", "helper");
    let mut connection = request().open(gateway.address);
    assert_eq!(connection.head().status, 200);
    connection.piece().unwrap().expect("words");
    drop(connection);
    told.recv_timeout(Duration::from_secs(20)).expect("the provider's connection was not closed");
    let record = &gateway.wait_for_records(1)[0];
    assert_eq!((&record["status"], &record["estimated"]), (&json!(499), &json!(true)));
    // 20 words of five bytes.
    assert_eq!(record["output_tokens"], json!(25));
    let said = &record["turn"]["messages"][1]["events"][0];
    assert_eq!((&said["type"], &said["payload"]["content"][0]["text"]), (&json!("agent.message"), &json!("word ".repeat(20))));
    let after = record["turn"]["after"].as_array().unwrap();
    let kinds: Vec<&str> = after.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["session.error", "session.status_idle"]);
    assert_eq!(after[0]["payload"]["error"]["retry_status"]["type"], json!("exhausted"));
    assert_eq!(after[1]["payload"]["stop_reason"]["type"], json!("retries_exhausted"));

    request().send(gateway.address);
    let after = &gateway.wait_for_records(2)[1]["turn"]["after"];
    assert_eq!(after.as_array().unwrap().len(), 1);
    assert_eq!(after[0]["payload"]["stop_reason"]["type"], json!("end_turn"));
}

#[test]
fn a_memory_tool_that_has_begun_is_carried_out_and_logged_though_the_client_left() {
    let delta = |delta: &str, stop: &str| {
        let choice = format!("{{\"index\":0,\"delta\":{delta},\"finish_reason\":{stop}}}");
        format!("data: {{\"id\":\"c\",\"choices\":[{choice}]}}\n\n")
    };
    let call = r#"{"tool_calls":[{"index":0,"id":"t","function":{"name":"memory_update","arguments":"{}"}}]}"#;
    let stream = [WORD, &delta(call, "null"), &delta("{}", "\"tool_calls\""), "data: [DONE]\n\n"].concat();
    let upstream = Upstream::start(move |_, _| vec![Step::Send([stream_head(), chunk(stream.as_bytes()), end()].concat())]);
    let (open, wait) = gate();
    let wait = Mutex::new(Some(wait));
    let control = Upstream::start(move |_, _| {
        let outcome = Step::Send(reply(200, "", r#"{"content":"Noted.","is_error":false}"#));
        vec![Step::Wait(wait.lock().unwrap().take().unwrap()), outcome]
    });
    let tools = json!([{"name": "memory_update", "description": "", "input_schema": {}}]);
    let control_url = json!({"control_url": format!("http://{}", control.address)});
    let gateway = Gateway::with_agent_and_tools(&upstream, "helper", &tools, &control_url);
    let mut connection = Request::post(CHAT, &ask("gpt", true)).header("x-trunkline-agent", "helper").open(gateway.address);
    connection.head();
    connection.piece().unwrap().expect("words");
    control.wait_for_requests(1);
    drop(connection);
    thread::sleep(Duration::from_millis(100));
    assert!(gateway.records().is_empty());
    open.send(()).unwrap();
    let record = &gateway.wait_for_records(1)[0];
    assert_eq!(record["status"], json!(499));
    let events = record["turn"]["messages"][1]["events"].as_array().unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["agent.tool_use", "agent.tool_result", "agent.message"]);
    assert_eq!(upstream.received().len(), 1, "there is no further round for nobody");
}
