//! How evenly events come: many slow streams, and the time between two events of each, with large calls beside them.
//!
//! It prints one JSON line: percentiles of the gaps, in µs. Each stream is read as it comes; a gap is the time between two
//! reads that brought tokens. With `--large-every-ms` a call of `--large-bytes` goes out on a connection of its own that often.

use hdrhistogram::Histogram;
use lexopt::ValueExt as _;
use memchr::memmem;
use std::cell::RefCell;
use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const USAGE: &str = "usage: gaps --url http://HOST:PORT/PATH [--streams N] [--seconds S] [--model NAME] \
    [--header 'NAME: VALUE']... [--large-every-ms N] [--large-bytes N] [--large-model NAME] [--large-header 'NAME: VALUE']...";

/// The text that a token comes after, and the end of a stream's last chunk.
const TOKEN: &[u8] = b"\"content\":\"";
const END: &[u8] = b"\r\n0\r\n\r\n";

struct Options {
    address: SocketAddr,
    small: Vec<u8>,
    large: Vec<u8>,
    streams: usize,
    length: Duration,
    every: Option<Duration>,
}

struct Tally {
    gaps: Histogram<u64>,
    large: u64,
    errors: u64,
}

/// Asks for one stream after the other until `end`, and measures the gaps of each.
async fn stream(options: &Options, end: Instant, tally: &RefCell<Tally>) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(options.address).await?;
    connection.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(64 << 10);
    while Instant::now() < end {
        connection.write_all(&options.small).await?;
        bytes.clear();
        let (mut last, mut seen) = (None, 0);
        while !bytes.ends_with(END) {
            if connection.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let now = Instant::now();
            let tokens = memmem::find_iter(&bytes, TOKEN).count();
            if tokens > seen {
                if let Some(last) = last.replace(now) {
                    let gap = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
                    tally.borrow_mut().gaps.saturating_record(gap);
                }
                seen = tokens;
            }
        }
        if !bytes.starts_with(b"HTTP/1.1 200") {
            tally.borrow_mut().errors += 1;
        }
    }
    Ok(())
}

/// Sends a large call each so often, one after the other.
async fn large(options: &Options, every: Duration, end: Instant, tally: &RefCell<Tally>) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(options.address).await?;
    let mut clock = tokio::time::interval(every);
    let mut answer = vec![0; 64 << 10];
    while Instant::now() < end {
        clock.tick().await;
        connection.write_all(&options.large).await?;
        // One answer fits into one read, or two.
        let mut count = connection.read(&mut answer).await?;
        while memmem::find(&answer[..count], b"\"usage\"").is_none() {
            match connection.read(&mut answer[count..]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                more => count += more,
            }
        }
        let mut tally = tally.borrow_mut();
        tally.large += 1;
        tally.errors += u64::from(!answer.starts_with(b"HTTP/1.1 200"));
    }
    Ok(())
}

fn request(host: &str, path: &str, headers: &[String], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().flat_map(|header| [header.as_str(), "\r\n"]).collect();
    let length = body.len();
    format!("POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}

fn options() -> Result<Options, Box<dyn Error>> {
    const WORDS: &str = "the parcel was due on monday but has not come and the tracking page says nothing new ";
    let (mut url, mut headers, mut large_headers) = (None, Vec::new(), Vec::new());
    let (mut model, mut large_model) = ("paced-50".to_owned(), "bench".to_owned());
    let (mut streams, mut seconds, mut every, mut large_bytes) = (20, 10.0, None, 400_000_usize);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        let lexopt::Arg::Long(name) = argument else { return Err(argument.unexpected().into()) };
        let name = name.to_owned();
        let value = arguments.value()?.string()?;
        match name.as_str() {
            "url" => url = Some(value),
            "streams" => streams = value.parse()?,
            "seconds" => seconds = value.parse()?,
            "model" => model = value,
            "header" => headers.push(value),
            "large-every-ms" => every = Some(Duration::from_millis(value.parse()?)),
            "large-bytes" => large_bytes = value.parse()?,
            "large-model" => large_model = value,
            "large-header" => large_headers.push(value),
            _ => return Err(format!("unknown option --{name}").into()),
        }
    }
    let url = url.ok_or("--url is missing")?;
    let rest = url.strip_prefix("http://").ok_or("--url must begin with http://")?;
    let (host, path) = rest.split_once('/').ok_or("--url must have a path")?;
    let text: String = WORDS.chars().cycle().take(large_bytes).collect();
    let ask = |model: &str, text: &str, more: &str| {
        format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{text}"}}]{more}}}"#)
    };
    Ok(Options {
        address: host.to_socket_addrs()?.next().ok_or("the host of --url has no address")?,
        small: request(host, path, &headers, &ask(&model, "where is it?", r#","stream":true"#)),
        large: request(host, path, &large_headers, &ask(&large_model, &text, "")),
        streams,
        length: Duration::try_from_secs_f64(seconds)?,
        every,
    })
}

async fn run(options: Rc<Options>) -> Result<serde_json::Value, Box<dyn Error>> {
    let gaps = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let tally = Rc::new(RefCell::new(Tally { gaps, large: 0, errors: 0 }));
    let end = Instant::now() + options.length;
    let mut tasks = Vec::new();
    for number in 0..options.streams {
        let (options, tally) = (options.clone(), tally.clone());
        tasks.push(tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(7) * u32::try_from(number).unwrap_or_default()).await;
            stream(&options, end, &tally).await
        }));
    }
    if let Some(every) = options.every {
        let (options, tally) = (options.clone(), tally.clone());
        tasks.push(tokio::task::spawn_local(async move { large(&options, every, end, &tally).await }));
    }
    for task in tasks {
        task.await??;
    }
    let tally = tally.borrow();
    #[allow(clippy::cast_precision_loss)] // nanoseconds far below 2^52
    let micros = |nanoseconds: u64| (nanoseconds as f64 / 100.0).round() / 10.0;
    let at = |quantile: f64| micros(tally.gaps.value_at_quantile(quantile));
    Ok(serde_json::json!({
        "gaps": tally.gaps.len(), "large": tally.large, "errors": tally.errors,
        "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": micros(tally.gaps.max()),
    }))
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
