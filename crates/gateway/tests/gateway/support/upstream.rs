//! A provider that does as it is told, over real sockets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::eventually;

/// What an upstream does, one after the other, once it has read a request.
pub enum Step {
    /// Sends bytes at once, in a packet of their own.
    Send(Vec<u8>),
    /// Sends bytes one by one.
    Trickle(Vec<u8>),
    /// Lets time pass.
    Pause(Duration),
    /// Waits until the test sends something, or drops its end.
    Wait(Receiver<()>),
    /// Waits until the other side closes the connection, and tells.
    AwaitClose(Sender<()>),
    /// Closes the connection.
    Close,
    /// Breaks the connection off, so that the other side gets an error and no end.
    Reset,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

type Script = dyn Fn(&Received, usize) -> Vec<Step> + Send + Sync;

/// A running upstream. It serves each connection in a thread, until the test's process ends.
pub struct Upstream {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Upstream {
    /// Answers each request as `script` says, which is given the request and how many came before it.
    pub fn start(script: impl Fn(&Received, usize) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&received));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                thread::spawn(move || serve(stream.unwrap(), &script, &log));
            }
        });
        Self { address, received }
    }

    /// Answers each request with these bytes.
    pub fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, _| vec![Step::Send(answer.clone())])
    }

    /// The address of nobody: connections to it are refused.
    pub fn absent() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// The requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits for the next request.
    pub fn wait_for_requests(&self, count: usize) {
        eventually(|| self.received.lock().unwrap().len() >= count);
    }
}

fn serve(stream: TcpStream, script: &Arc<Script>, log: &Mutex<Vec<Received>>) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = read(&mut reader) {
        let before = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        for step in script(&request, before) {
            match step {
                Step::Send(bytes) => {
                    if writer.write_all(&bytes).is_err() {
                        return;
                    }
                }
                Step::Trickle(bytes) => {
                    if bytes.iter().any(|byte| writer.write_all(&[*byte]).is_err()) {
                        return;
                    }
                }
                Step::Pause(time) => thread::sleep(time),
                Step::Wait(gate) => {
                    let _ = gate.recv();
                }
                Step::AwaitClose(tell) => {
                    let mut rest = Vec::new();
                    let _ = reader.read_to_end(&mut rest);
                    let _ = tell.send(());
                    return;
                }
                Step::Close => return,
                Step::Reset => {
                    let _ = socket2::SockRef::from(&writer).set_linger(Some(Duration::ZERO));
                    return;
                }
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Received> {
    let mut next = || {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let line = next()?;
    let mut headers = Vec::new();
    while let Some((name, value)) = next()?.split_once(':') {
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { line, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// A whole response.
pub fn json(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}

/// The head of a stream.
pub fn stream_head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()
}

/// A piece of a stream.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The end of a stream, as HTTP has it.
pub fn end() -> Vec<u8> {
    b"0\r\n\r\n".to_vec()
}

/// A gate, and what opens it.
pub fn gate() -> (Sender<()>, Receiver<()>) {
    channel()
}
