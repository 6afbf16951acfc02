//! A closed-loop load client: each connection sends a request, waits for the whole answer, and sends the next.
//!
//! It prints one JSON line. Latency is from the first byte written to the last byte read, over the requests answered
//! inside the measured window; every failure of the whole run is counted, warm-up included, and none is retried.
//!
//! With `--body-bytes 0` the requests are GET. With `--stream` each request asks for an event stream, and latency is from the first byte written to the first token read.

use hdrhistogram::Histogram;
use lexopt::ValueExt as _;
use memchr::memmem;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use trunkline_bench::http1;

/// How long a request may go on after the window has closed before it counts as timed out.
const GRACE: Duration = Duration::from_secs(15);

const USAGE: &str = "usage: load --url http://HOST:PORT/PATH [--connections N] [--seconds S] [--warmup S] \
    [--body-bytes N] [--model NAME] [--max-tokens N] [--stream yes] [--header 'NAME: VALUE']... [--expect-substring TEXT]";

/// Streams begin one after the other over this time, which is as long as one lasts: they end and begin evenly from then on.
const STREAM: Duration = Duration::from_secs(2);

/// What was asked for on the command line.
struct Options {
    address: SocketAddr,
    request: Vec<u8>,
    connections: usize,
    warmup: Duration,
    window: Duration,
    expect: Option<Vec<u8>>,
    stream: bool,
}

/// One request that did not end as it should, by kind.
enum Failure {
    Connect(std::io::Error),
    Io(std::io::Error),
    Short,
    Malformed(&'static str),
    Status(u16, String),
    Unexpected(String),
}

impl Failure {
    fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Io(_) => "io",
            Self::Short => "short",
            Self::Malformed(_) => "malformed",
            Self::Status(..) => "non_200",
            Self::Unexpected(_) => "unexpected_body",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Connect(error) | Self::Io(error) => error.to_string(),
            Self::Short => "the connection closed before the answer was whole".into(),
            Self::Malformed(why) => (*why).into(),
            Self::Status(status, body) => format!("status {status}: {body}"),
            Self::Unexpected(body) => format!("the answer lacks the expected text: {body}"),
        }
    }
}

/// What all connections together have seen.
struct Tally {
    /// Nanoseconds, of the answers inside the window.
    latencies: Histogram<u64>,
    /// Requests whose bytes were written, over the whole run.
    sent: u64,
    /// Good answers, over the whole run.
    answered: u64,
    /// Tokens of all streams that came to their end.
    tokens: u64,
    /// Connections the server closed in good order (`connection: close`), each opened anew.
    reconnects: u64,
    errors: BTreeMap<&'static str, u64>,
    first_error: Option<String>,
}

impl Tally {
    fn count(&mut self, kind: &'static str, text: impl FnOnce() -> String) {
        *self.errors.entry(kind).or_default() += 1;
        self.first_error.get_or_insert_with(text);
    }
}

/// One keep-alive connection and the bytes read from it that no answer has claimed.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Reads one answer to its end and checks it. Returns whether the server will close the connection.
    async fn answer(&mut self, expect: Option<&[u8]>) -> Result<bool, Failure> {
        let message = loop {
            if let Some(message) = http1::parse(&self.buffer).map_err(|why| Failure::Malformed(why.0))? {
                break message;
            }
            if self.stream.read_buf(&mut self.buffer).await.map_err(Failure::Io)? == 0 {
                return Err(Failure::Short);
            }
        };
        if !message.framed {
            return Err(Failure::Malformed("the answer does not say how long it is"));
        }
        let body = || -> String {
            let parts = message.body.iter().map(|part| String::from_utf8_lossy(&self.buffer[part.clone()]));
            parts.collect::<String>().chars().take(300).collect()
        };
        match http1::status(&self.buffer[..message.head_len]) {
            Some(200) => {}
            Some(status) => return Err(Failure::Status(status, body())),
            None => {
                return Err(Failure::Malformed("the answer does not begin with an HTTP/1 status"));
            }
        }
        if expect.is_some_and(|text| memmem::find(&self.buffer[message.head_len..message.len], text).is_none()) {
            return Err(Failure::Unexpected(body()));
        }
        self.buffer.drain(..message.len);
        Ok(message.close)
    }
}

/// The text that a stream's tokens come after, in every chat wire's events.
const TOKEN: &[u8] = b"\"content\":\"";

impl Connection {
    /// Reads one stream to its end. Returns when its first token came, how many came, and whether the server will close.
    async fn stream(&mut self) -> Result<(Instant, u64, bool), Failure> {
        let mut first = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await.map_err(Failure::Io)? == 0 {
                return Err(Failure::Short);
            }
            if first.is_none() && memmem::find(&self.buffer, TOKEN).is_some() {
                first = Some(Instant::now());
            }
            // Walking the chunks at each read would cost more than reading them.
            if !self.buffer.ends_with(b"\r\n0\r\n\r\n") && first.is_some() {
                continue;
            }
            if let Some(message) = http1::parse(&self.buffer).map_err(|why| Failure::Malformed(why.0))? {
                let text =
                    || String::from_utf8_lossy(&self.buffer[message.head_len..message.len]).chars().take(300).collect();
                match (http1::status(&self.buffer[..message.head_len]), first) {
                    (Some(200), Some(first)) => {
                        let events = &self.buffer[message.head_len..message.len];
                        if memmem::find(events, b"[DONE]").is_none() {
                            return Err(Failure::Unexpected(text()));
                        }
                        let tokens = memmem::find_iter(events, TOKEN).count() as u64;
                        self.buffer.drain(..message.len);
                        return Ok((first, tokens, message.close));
                    }
                    (status, _) => return Err(Failure::Status(status.unwrap_or_default(), text())),
                }
            }
        }
    }
}

/// One connection's loop until `end`; a failure drops the connection, and the next request opens a new one.
async fn ask(options: &Options, window_start: Instant, end: Instant, tally: &RefCell<Tally>) {
    let mut open: Option<Connection> = None;
    while Instant::now() < end {
        match exchange(options, &mut open, tally).await {
            Ok((sent, done)) => {
                let mut tally = tally.borrow_mut();
                tally.answered += 1;
                if done >= window_start && done <= end {
                    let nanoseconds = u64::try_from((done - sent).as_nanos()).unwrap_or(u64::MAX);
                    tally.latencies.saturating_record(nanoseconds);
                }
            }
            Err(failure) => {
                open = None;
                tally.borrow_mut().count(failure.kind(), || failure.text());
                if matches!(failure, Failure::Connect(_)) {
                    // Nothing listens: asking without pause would only count how fast that is.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

/// One request and its answer: when the first byte went out, and when the last came in, or a stream's first token.
async fn exchange(
    options: &Options,
    open: &mut Option<Connection>,
    tally: &RefCell<Tally>,
) -> Result<(Instant, Instant), Failure> {
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(Connection::open(options.address).await?),
    };
    let sent = Instant::now();
    connection.stream.write_all(&options.request).await.map_err(Failure::Io)?;
    tally.borrow_mut().sent += 1;
    let (done, close) = if options.stream {
        let (first, tokens, close) = connection.stream().await?;
        tally.borrow_mut().tokens += tokens;
        (first, close)
    } else {
        let close = connection.answer(options.expect.as_deref()).await?;
        (Instant::now(), close)
    };
    if close {
        *open = None;
        tally.borrow_mut().reconnects += 1;
    }
    Ok((sent, done))
}

async fn run(options: Rc<Options>) -> Result<serde_json::Value, Box<dyn Error>> {
    let tally = Rc::new(RefCell::new(Tally {
        // Up to a minute, at three significant digits.
        latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
        sent: 0,
        answered: 0,
        tokens: 0,
        reconnects: 0,
        errors: BTreeMap::new(),
        first_error: None,
    }));
    let window_start = Instant::now() + options.warmup;
    let end = window_start + options.window;
    let connections: Vec<_> = (0..options.connections)
        .map(|number| {
            let (options, tally) = (options.clone(), tally.clone());
            #[allow(clippy::cast_precision_loss)]
            let share = if options.stream { number as f64 / options.connections as f64 } else { 0.0 };
            tokio::task::spawn_local(async move {
                tokio::time::sleep(STREAM.mul_f64(share)).await;
                ask(&options, window_start, end, &tally).await;
            })
        })
        .collect();
    for connection in connections {
        if tokio::time::timeout_at((end + GRACE).into(), connection).await.is_err() {
            let text = || format!("no whole answer {} s after the window closed", GRACE.as_secs());
            tally.borrow_mut().count("timeout", text);
        }
    }
    let tally = tally.borrow();
    Ok(report(&tally, options.window))
}

#[allow(clippy::cast_precision_loss)] // counts and nanoseconds far below 2^52
fn report(tally: &Tally, window: Duration) -> serde_json::Value {
    let microseconds = |nanoseconds: u64| (nanoseconds as f64 / 100.0).round() / 10.0;
    let percentile = |quantile: f64| microseconds(tally.latencies.value_at_quantile(quantile));
    serde_json::json!({
        "requests": tally.latencies.len(),
        "sent": tally.sent,
        "answered": tally.answered,
        "tokens": tally.tokens,
        "reconnects": tally.reconnects,
        "errors": tally.errors.values().sum::<u64>(),
        "errors_by_kind": tally.errors,
        "first_error": tally.first_error,
        "p50_us": percentile(0.50),
        "p90_us": percentile(0.90),
        "p99_us": percentile(0.99),
        "max_us": microseconds(tally.latencies.max()),
        "requests_per_s": (tally.latencies.len() as f64 / window.as_secs_f64() * 10.0).round() / 10.0,
    })
}

/// A chat request of exactly `bytes` bytes, filled up with plain words, as a user's message is.
fn chat_body(model: &str, bytes: usize, stream: bool, max_tokens: Option<u32>) -> Result<String, String> {
    const WORDS: &str = "the parcel was due on monday but has not come and the tracking page says nothing new ";
    let model = serde_json::Value::from(model);
    let limit = max_tokens.map(|count| format!(r#""max_tokens":{count},"#)).unwrap_or_default();
    let head = format!(r#"{{"model":{model},{limit}"messages":[{{"role":"user","content":""#);
    let tail = if stream { r#""}],"stream":true}"# } else { r#""}]}"# };
    let padding = bytes.checked_sub(head.len() + tail.len()).ok_or_else(|| {
        format!("--body-bytes {bytes} is too small: the frame alone takes {}", head.len() + tail.len())
    })?;
    let text: String = WORDS.chars().cycle().take(padding).collect();
    Ok(head + &text + tail)
}

fn options() -> Result<Options, Box<dyn Error>> {
    let (mut url, mut model, mut headers) = (None, "bench".to_owned(), Vec::new());
    let (mut connections, mut body_bytes, mut seconds, mut warmup) = (1_usize, 1024_usize, 3.0_f64, 0.5_f64);
    let (mut expect, mut stream, mut max_tokens) = (None, false, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        let lexopt::Arg::Long(name) = argument else {
            return Err(argument.unexpected().into());
        };
        let name = name.to_owned();
        let value = arguments.value()?.string()?;
        match name.as_str() {
            "url" => url = Some(value),
            "connections" => connections = value.parse()?,
            "seconds" => seconds = value.parse()?,
            "warmup" => warmup = value.parse()?,
            "body-bytes" => body_bytes = value.parse()?,
            "model" => model = value,
            "header" => headers.push(value),
            "stream" => stream = value == "yes",
            "max-tokens" => max_tokens = Some(value.parse()?),
            "expect-substring" => expect = Some(value.into_bytes()),
            _ => return Err(format!("unknown option --{name}").into()),
        }
    }
    let url = url.ok_or("--url is missing")?;
    let rest = url.strip_prefix("http://").ok_or("--url must begin with http://")?;
    let (host, path) = rest.split_once('/').ok_or("--url must have a path")?;
    let address = host.to_socket_addrs()?.next().ok_or("the host of --url has no address")?;
    let (mut request, body) = if body_bytes == 0 {
        (format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\n"), String::new())
    } else {
        let body = chat_body(&model, body_bytes, stream, max_tokens)?;
        let length = body.len();
        let head = format!("POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n");
        (format!("{head}content-length: {length}\r\n"), body)
    };
    for header in headers {
        request.extend([header.as_str(), "\r\n"]);
    }
    request += "\r\n";
    request += &body;
    Ok(Options {
        address,
        request: request.into_bytes(),
        connections,
        warmup: Duration::try_from_secs_f64(warmup)?,
        window: Duration::try_from_secs_f64(seconds)?,
        expect,
        stream,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options().map_err(|error| format!("{error}\n{USAGE}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = tokio::task::LocalSet::new().block_on(&runtime, run(Rc::new(options)))?;
    #[allow(clippy::print_stdout)] // the result is what this program is for
    {
        println!("{result}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::chat_body;

    #[test]
    fn bodies_are_valid_and_of_exact_size() {
        for bytes in [128, 1024, 16384] {
            for (stream, max_tokens) in [(false, None), (true, None), (false, Some(64))] {
                let body = chat_body("bench", bytes, stream, max_tokens).unwrap_or_default();
                assert_eq!(body.len(), bytes);
                let parsed: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                assert_eq!(parsed["model"], "bench");
                assert_eq!(parsed["messages"][0]["role"], "user");
                assert_eq!(parsed["stream"] == true, stream);
                assert_eq!(parsed["max_tokens"].as_u64(), max_tokens.map(u64::from));
            }
        }
        assert!(chat_body("bench", 10, false, None).is_err());
    }
}
