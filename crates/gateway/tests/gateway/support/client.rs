//! A client that sees each byte.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use trunkline_gateway::sse::Parser;

use super::KEY;

/// A request to be sent.
pub struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A post with our key.
    pub fn post(path: &str, body: &str) -> Self {
        Self::post_bytes(path, body.as_bytes())
    }

    /// The same with a body that is no text.
    pub fn post_bytes(path: &str, body: &[u8]) -> Self {
        let request = Self { line: format!("POST {path} HTTP/1.1"), headers: Vec::new(), body: body.to_owned() };
        request.header("authorization", &format!("Bearer {KEY}")).header("content-length", &body.len().to_string())
    }

    /// A get with our key.
    pub fn get(path: &str) -> Self {
        let request = Self { line: format!("GET {path} HTTP/1.1"), headers: Vec::new(), body: Vec::new() };
        request.header("authorization", &format!("Bearer {KEY}"))
    }

    /// With another first line.
    pub fn line(mut self, line: &str) -> Self {
        line.clone_into(&mut self.line);
        self
    }

    pub fn without_key(mut self) -> Self {
        self.headers.retain(|(name, _)| name != "authorization");
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn head(&self) -> String {
        let mut text = format!("{}\r\nhost: gateway.example\r\n", self.line);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text + "\r\n"
    }

    /// Sends it and reads the whole response.
    pub fn send(self, address: SocketAddr) -> Response {
        self.open(address).response()
    }

    /// Sends it.
    pub fn open(self, address: SocketAddr) -> Connection {
        let mut connection = Connection::new(address);
        connection.write(&self);
        connection
    }
}

/// A connection with a request on its way.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn write(&mut self, request: &Request) {
        self.send(request.head().as_bytes());
        self.send(&request.body);
    }

    /// Waits longer than usual for an answer.
    pub fn patient(&mut self) {
        self.0.get_mut().set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    }

    /// Sends as much of a request as is taken; whether that was all.
    pub fn offer(&mut self, request: &Request) -> bool {
        let head = request.head();
        self.send(head.as_bytes());
        self.0.get_mut().write_all(&request.body).is_ok()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads the head; the body is still to come.
    pub fn head(&mut self) -> Response {
        let status = self.line().split(' ').nth(1).expect("no response").parse().unwrap();
        let mut headers = Vec::new();
        while let Some((name, value)) = self.line().split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Response { status, headers, body: Vec::new(), whole: false }
    }

    /// Reads so many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads a piece of a chunked body; none at its end. An error where the connection ends before that.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, String> {
        let line = self.line();
        let length = usize::from_str_radix(&line, 16).map_err(|_| format!("no chunk but {line:?}"))?;
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        bytes.truncate(length);
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// Reads the whole response; `whole` tells whether it came to HTTP's proper end.
    pub fn response(mut self) -> Response {
        let mut response = self.head();
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                match self.piece() {
                    Ok(Some(bytes)) => response.body.extend(bytes),
                    Ok(None) => break response.whole = true,
                    Err(_) => break,
                }
            }
        } else {
            let length = response.header("content-length").unwrap().parse().unwrap();
            response.body = vec![0; length];
            self.0.read_exact(&mut response.body).unwrap();
            response.whole = true;
        }
        response
    }

    /// Waits for the other side to close the connection; false if it sends something or stays.
    pub fn closed(&mut self) -> bool {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// A response.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub whole: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The `data` of each event that is JSON.
    pub fn events(&self) -> Vec<Value> {
        let mut frames = Vec::new();
        Parser::new().push(Bytes::copy_from_slice(&self.body), &mut frames).unwrap();
        let datas = frames.iter().map(|frame| &frame.data).filter(|data| !data.is_empty() && *data != "[DONE]");
        datas.map(|data| serde_json::from_slice(data).unwrap()).collect()
    }
}
