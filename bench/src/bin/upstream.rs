//! A model provider that answers at once: the far end of the gateway benchmark.
//!
//! `POST /v1/chat/completions` and `POST /v1/messages` get a fixed completion of about 400 bytes, or a short event
//! stream when the body says `"stream": true`. `GET /_last` returns the body of the newest of these requests, and
//! `GET /_count` how many there have been, so that the harness can see what the gateway sent. One thread, nothing
//! parsed that need not be, one write a reply: it must never be the bottleneck.
//!
//! A stream for the model `paced-N` lasts two seconds: N tokens a second, the first at once, one write each.

use lexopt::ValueExt as _;
use memchr::memmem;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trunkline_bench::http1::{self, Message};

const CHAT: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1764000000,"model":"bench-upstream","choices":[{"index":0,"message":{"role":"assistant","content":"The order left the warehouse this morning and will be with you on Thursday. Is there anything else you would like to know?"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":212,"completion_tokens":26,"total_tokens":238}}"#;

const MESSAGE: &str = r#"{"id":"msg_bench","type":"message","role":"assistant","model":"bench-upstream","content":[{"type":"text","text":"The order left the warehouse this morning and will be with you on Thursday. Is there anything else you would like to know?"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":212,"output_tokens":26,"cache_creation_input_tokens":0,"cache_read_input_tokens":0}}"#;

const CHAT_EVENTS: &[&str] = &[
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1764000000,"model":"bench-upstream","choices":[{"index":0,"delta":{"role":"assistant","content":"The order left"},"finish_reason":null}]}"#,
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1764000000,"model":"bench-upstream","choices":[{"index":0,"delta":{"content":" the warehouse."},"finish_reason":null}]}"#,
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1764000000,"model":"bench-upstream","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1764000000,"model":"bench-upstream","choices":[],"usage":{"prompt_tokens":212,"completion_tokens":6,"total_tokens":218}}"#,
    "data: [DONE]",
];

const MESSAGE_EVENTS: &[&str] = &[
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_bench\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"bench-upstream\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":212,\"output_tokens\":1}}}",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"The order left the warehouse.\"}}",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":6}}",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}",
];

/// The replies, made once, head and all; and what the newest request was.
struct Upstream {
    chat: Vec<u8>,
    chat_stream: Vec<u8>,
    message: Vec<u8>,
    message_stream: Vec<u8>,
    last: RefCell<Vec<u8>>,
    count: Cell<u64>,
}

impl Upstream {
    fn new() -> Self {
        Self {
            chat: reply("200 OK", "application/json", CHAT.as_bytes()),
            chat_stream: stream_reply(CHAT_EVENTS),
            message: reply("200 OK", "application/json", MESSAGE.as_bytes()),
            message_stream: stream_reply(MESSAGE_EVENTS),
            last: RefCell::new(Vec::new()),
            count: Cell::new(0),
        }
    }

    /// Remembers a model request and says whether it asked for a stream, and at which pace.
    fn note(&self, buffer: &[u8], message: &Message) -> (bool, Option<u32>) {
        let mut last = self.last.borrow_mut();
        last.clear();
        for part in &message.body {
            last.extend_from_slice(&buffer[part.clone()]);
        }
        self.count.set(self.count.get() + 1);
        (wants_stream(&last), pace(&last))
    }

    async fn answer(&self, stream: &mut TcpStream, buffer: &[u8], message: &Message) -> std::io::Result<()> {
        let (method, target) = http1::request_line(&buffer[..message.head_len]).unwrap_or_default();
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        match (method, path) {
            (b"POST", b"/v1/chat/completions") => match self.note(buffer, message) {
                (true, Some(tokens_per_s)) => paced(stream, tokens_per_s).await,
                (true, None) => stream.write_all(&self.chat_stream).await,
                (false, _) => stream.write_all(&self.chat).await,
            },
            (b"POST", b"/v1/messages") => {
                let (streaming, _) = self.note(buffer, message);
                stream.write_all(if streaming { &self.message_stream } else { &self.message }).await
            }
            (b"GET", b"/_last") => {
                let bytes = reply("200 OK", "application/json", &self.last.borrow());
                stream.write_all(&bytes).await
            }
            (b"GET", b"/_count") => {
                let text = format!("{{\"requests\":{}}}", self.count.get());
                stream.write_all(&reply("200 OK", "application/json", text.as_bytes())).await
            }
            _ => {
                let text = r#"{"error":{"message":"the benchmark upstream serves no such path","type":"invalid_request_error"}}"#;
                stream.write_all(&reply("404 Not Found", "application/json", text.as_bytes())).await
            }
        }
    }
}

/// Looks for the member `"stream": true`. Inside a JSON string its quotes would be escaped, so text cannot imitate it.
fn wants_stream(body: &[u8]) -> bool {
    let key = b"\"stream\"";
    memmem::find_iter(body, key).any(|at| {
        let rest = body[at + key.len()..].trim_ascii_start();
        rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii_start().starts_with(b"true"))
    })
}

fn reply(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The tokens a second of the model `paced-N`.
fn pace(body: &[u8]) -> Option<u32> {
    let name = b"\"paced-";
    let rest = &body[memmem::find(body, name)? + name.len()..];
    std::str::from_utf8(&rest[..rest.iter().position(|byte| *byte == b'"')?]).ok()?.parse().ok()
}

/// The head of an event stream. The second header keeps nginx from gathering events.
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-accel-buffering: no\r\n\
    transfer-encoding: chunked\r\n\r\n";

/// An event in chunked framing, one chunk an event, as providers send it.
fn chunk(event: &str) -> Vec<u8> {
    format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2).into_bytes()
}

fn stream_reply(events: &[&str]) -> Vec<u8> {
    let mut bytes = STREAM_HEAD.to_vec();
    for event in events {
        bytes.extend_from_slice(&chunk(event));
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Two seconds of tokens.
async fn paced(stream: &mut TcpStream, tokens_per_s: u32) -> std::io::Result<()> {
    let first = [STREAM_HEAD, &chunk(CHAT_EVENTS[0])].concat();
    let next = chunk(CHAT_EVENTS[1]);
    let mut clock = tokio::time::interval(Duration::from_secs(1) / tokens_per_s.max(1));
    for number in 0..2 * tokens_per_s {
        clock.tick().await;
        stream.write_all(if number == 0 { &first } else { &next }).await?;
    }
    let mut last: Vec<u8> = CHAT_EVENTS[2..].iter().flat_map(|event| chunk(event)).collect();
    last.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&last).await
}

/// Serves one connection until its peer closes it.
async fn serve(mut stream: TcpStream, upstream: Rc<Upstream>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        match http1::parse(&buffer) {
            Ok(Some(message)) => {
                upstream.answer(&mut stream, &buffer, &message).await?;
                if message.close {
                    return Ok(());
                }
                buffer.drain(..message.len);
            }
            Ok(None) => {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            Err(http1::Malformed(why)) => {
                return stream.write_all(&reply("400 Bad Request", "text/plain", why.as_bytes())).await;
            }
        }
    }
}

async fn run(port: u16) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?.port())?;
    out.flush()?;
    let upstream = Rc::new(Upstream::new());
    loop {
        let (stream, _) = listener.accept().await?;
        // A peer that goes away in the middle of a message is its own affair.
        let serving = serve(stream, upstream.clone());
        tokio::task::spawn_local(async move { serving.await.ok() });
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut port = 0;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("port") => port = arguments.value()?.string()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(port))
}

#[cfg(test)]
mod tests {
    use super::{pace, wants_stream};

    #[test]
    fn only_the_member_asks_for_a_stream() {
        assert!(wants_stream(br#"{"model":"m","stream":true}"#));
        assert!(wants_stream(br#"{"stream" : true}"#));
        assert!(!wants_stream(br#"{"stream":false}"#));
        assert!(!wants_stream(br#"{"content":"say \"stream\":true"}"#));
    }

    #[test]
    fn a_models_name_sets_the_pace() {
        assert_eq!(pace(br#"{"model":"paced-100","stream":true}"#), Some(100));
        assert_eq!(pace(br#"{"model":"bench"}"#), None);
    }
}
