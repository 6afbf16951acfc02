//! One call after the other: the client's side and the provider's, played in lockstep by one thread.

use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use serde_json::json;

use crate::served::{KEY, USER};

/// How long one side waits for the other before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked and how it is answered.
pub struct Case {
    /// Its name on the command line and in the reference.
    pub name: &'static str,
    /// The path and the model.
    to: (&'static str, &'static str),
    /// Bytes of the user's message.
    text: usize,
    /// A header of its own.
    header: Option<(&'static str, &'static str)>,
    /// Events of the answer with text; none: an answer in one piece.
    events: Option<usize>,
}

const CHAT: (&str, &str) = ("/v1/chat/completions", "gpt");

/// All cases.
pub const CASES: [Case; 6] = [
    Case { name: "chat_1k", to: CHAT, text: 700, header: None, events: None },
    Case { name: "chat_16k", to: CHAT, text: 16_000, header: None, events: None },
    Case { name: "memory_cached", to: CHAT, text: 700, header: Some(("x-trunkline-agent", "clerk")), events: None },
    Case { name: "stream_100", to: CHAT, text: 700, header: None, events: Some(100) },
    Case { name: "translated", to: ("/v1/messages", "gpt"), text: 700, header: None, events: None },
    Case { name: "translated_100", to: ("/v1/messages", "gpt"), text: 700, header: None, events: Some(100) },
];

impl Case {
    fn request(&self) -> Vec<u8> {
        let (path, model) = self.to;
        let body = json!({
            "model": model, "max_tokens": 300, "temperature": 0.2, "stream": self.events.is_some(),
            "messages": [
                {"role": "user", "content": "It's number 7, \"the red one\". ".repeat(self.text / 30)},
            ],
        })
        .to_string();
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: gateway.example\r\naccept: application/json\r\naccept-encoding: gzip, deflate\r\n\
             user-agent: OpenAI/Python 1.50.0\r\ncontent-type: application/json\r\nauthorization: Bearer {KEY}\r\n\
             x-stainless-lang: python\r\nx-stainless-runtime: CPython\r\nx-stainless-arch: x64\r\nx-trunkline-user: {USER}\r\n\
             content-length: {}\r\n",
            body.len()
        );
        if let Some((name, value)) = self.header {
            head += &format!("{name}: {value}\r\n");
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    /// The provider's answer, in the pieces in which it is sent.
    fn answer(&self) -> Vec<Vec<u8>> {
        const HEAD: &str = "HTTP/1.1 200 OK\r\ndate: Mon, 02 Nov 2026 10:00:00 GMT\r\nserver: provider\r\n\
            x-request-id: req_0123456789abcdef\r\nopenai-processing-ms: 412\r\nx-ratelimit-limit-requests: 10000\r\n\
            x-ratelimit-remaining-requests: 9999\r\n";
        let usage = json!({"prompt_tokens": 212, "completion_tokens": 106, "total_tokens": 318});
        let Some(events) = self.events else {
            let body = json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1_764_000_000, "model": "gpt-4o-mini",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "It left on Monday. ".repeat(20)},
                    "finish_reason": "stop"}],
                "usage": usage,
            })
            .to_string();
            let length = body.len();
            return vec![format!("{HEAD}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()];
        };
        let chunk = |data: String| format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8);
        let event = |choices: serde_json::Value, usage: Option<&serde_json::Value>| {
            let created = 1_764_000_000;
            let object = "chat.completion.chunk";
            let mut event =
                json!({"id": "chatcmpl-1", "object": object, "created": created, "model": "gpt-4o-mini", "choices": choices});
            if let Some(usage) = usage {
                event["usage"] = usage.clone();
            }
            chunk(event.to_string())
        };
        let text =
            |number| event(json!([{"index": 0, "delta": {"content": format!(" word {number}")}, "finish_reason": null}]), None);
        let mut pieces = vec![format!(
            "{HEAD}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{}",
            event(json!([{"index": 0, "delta": {"role": "assistant", "content": "So"}, "finish_reason": null}]), None)
        )];
        pieces.extend((1..=events).map(text));
        let last = [
            event(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), None),
            event(json!([]), Some(&usage)),
            chunk("[DONE]".to_owned()),
            "0\r\n\r\n".to_owned(),
        ];
        pieces.push(last.concat());
        pieces.into_iter().map(String::into_bytes).collect()
    }
}

/// The connections of a run: the client's, and the provider's end of the gateway's.
pub struct Calls {
    client: TcpStream,
    listener: TcpListener,
    provider: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

fn piece(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<(), Box<dyn Error>> {
    let mut bytes = vec![0; 32 << 10];
    let count = stream.read(&mut bytes)?;
    if count == 0 {
        return Err("a connection ended early".into());
    }
    buffer.extend_from_slice(&bytes[..count]);
    Ok(())
}

impl Calls {
    /// Connects to the gateway.
    pub fn open(gateway: SocketAddr, listener: TcpListener, case: &Case) -> Result<Self, Box<dyn Error>> {
        let client = TcpStream::connect(gateway)?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let (request, answer) = (case.request(), case.answer());
        Ok(Self { client, listener, provider: None, request, answer, buffer: Vec::new() })
    }

    /// Makes one call.
    pub fn one(&mut self) -> Result<(), Box<dyn Error>> {
        self.client.write_all(&self.request)?;
        let provider = match &mut self.provider {
            Some(provider) => provider,
            none => {
                let (stream, _) = self.listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                none.insert(stream)
            }
        };
        self.buffer.clear();
        while !whole(&self.buffer) {
            piece(provider, &mut self.buffer)?;
        }
        self.buffer.clear();
        let last = self.answer.len() - 1;
        for (number, bytes) in self.answer.iter().enumerate() {
            provider.write_all(bytes)?;
            if number < last {
                // Any bytes of it: the gateway has read this piece, and writes what it makes of it at once.
                piece(&mut self.client, &mut self.buffer)?;
            }
        }
        while !whole(&self.buffer) {
            piece(&mut self.client, &mut self.buffer)?;
        }
        if self.buffer.starts_with(b"HTTP/1.1 200 ") {
            return Ok(());
        }
        Err(format!("the gateway answered: {}", String::from_utf8_lossy(&self.buffer)).into())
    }
}

/// Whether a message is here to its end.
fn whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    match head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        Some(length) => length.trim().parse().is_ok_and(|length: usize| bytes.len() >= end + length),
        None => bytes.ends_with(b"\r\n0\r\n\r\n"),
    }
}
