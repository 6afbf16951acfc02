//! What a gateway's process holds while clients are many, slow, or send much. It is a process of its own, so that only its
//! memory is counted.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use crate::support::{
    Gateway, KEY,
    client::{Connection, Request},
    eventually,
    upstream::json as answer,
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const REPLY: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"word"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
/// Tells this program that it is to be a gateway.
const CONFIG: &str = "TRUNKLINE_TEST_GATEWAY";
const MIB: usize = 1 << 20;

/// Not a test: the gateway that the tests start.
#[test]
#[ignore = "a process that the other tests start"]
fn gateway_process() {
    let config: Value = serde_json::from_str(&env::var(CONFIG).unwrap()).unwrap();
    let gateway = Gateway::configured(&config, &json!({}));
    println!("listening {}", gateway.address);
    let _ = std::io::stdin().read(&mut [0]);
}

/// A gateway in a process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// In front of a provider, which serves `gpt`; `more` is for its configuration.
    fn start(upstream: SocketAddr, more: &Value) -> Self {
        let mut config = json!({
            "max_body_bytes": 32 << 20,
            "providers": [{"name": "oai", "wire": "openai_chat", "base_url": format!("http://{upstream}/v1")}],
            "models": [{"name": "gpt", "upstreams": [{"provider": "oai", "model": "gpt"}]}],
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "memory::gateway_process", "--ignored", "--nocapture"])
            .env(CONFIG, config.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| Some(line.split_once("listening ")?.1.parse().unwrap())).unwrap();
        Self { child, address }
    }

    /// A figure of `/proc/PID/status`, in MiB: `VmRSS` is what it holds now, `VmHWM` the most that it has held.
    fn mib(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A provider that keeps nothing of what it is sent, and answers when it is let.
struct Provider {
    address: SocketAddr,
    /// Requests that were read whole.
    read: Arc<AtomicUsize>,
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Provider {
    fn start(open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (read, open) = (Arc::<AtomicUsize>::default(), Arc::new((Mutex::new(open), Condvar::new())));
        let (count, gate) = (Arc::clone(&read), Arc::clone(&open));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some(length) = length(&mut stream) {
                        std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink()).unwrap();
                        count.fetch_add(1, SeqCst);
                        drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
                        std::io::Write::write_all(stream.get_mut(), &answer(200, "", REPLY)).unwrap();
                    }
                });
            }
        });
        Self { address, read, open }
    }

    fn let_go(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

/// The length of the next request's body.
fn length(stream: &mut impl BufRead) -> Option<u64> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            None if line == "\r\n" => return Some(length),
            _ => {}
        }
    }
}

fn ask(words: usize) -> String {
    json!({"model": "gpt", "messages": [{"role": "user", "content": "word ".repeat(words)}]}).to_string()
}

#[test]
fn bodies_of_all_calls_together_are_bounded_and_who_finds_no_room_is_told_when_to_come_again() {
    const LIMIT: usize = 96;
    let provider = Provider::start(false);
    let gateway = Process::start(provider.address, &json!({"max_bodies_bytes": LIMIT * MIB}));
    let before = gateway.mib("VmRSS");
    let large = ask(6 * MIB);
    assert!(large.len() > 30 * MIB);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::new(gateway.address);
                    connection.patient();
                    let sent = connection.offer(&Request::post(CHAT, &large));
                    let response = connection.head();
                    if response.status == 503 {
                        assert_eq!(response.header("retry-after"), Some("1"));
                        refused.fetch_add(1, SeqCst);
                    } else {
                        assert!(sent);
                    }
                    response.status
                })
            })
            .collect();
        eventually(|| provider.read.load(SeqCst) + refused.load(SeqCst) == calls.len());
        provider.let_go();
        let statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        let served = statuses.iter().filter(|status| **status == 200).count();
        assert!((1..=3).contains(&served), "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    });
    // As much again in buffers on the way at most, where all twelve would be 360.
    let grown = gateway.mib("VmHWM") - before;
    assert!(grown < 2 * LIMIT, "{grown} MiB for {LIMIT}");
    // All is given back.
    for _ in 0..3 {
        assert_eq!(Request::post(CHAT, &large).send(gateway.address).status, 200);
    }
}

#[test]
fn large_and_deep_bodies_leave_little_behind() {
    let provider = Provider::start(true);
    let gateway = Process::start(provider.address, &json!({}));
    let before = gateway.mib("VmRSS");
    let (large, deep) = (ask(6 * MIB), "[".repeat(100_000) + &"]".repeat(100_000));
    for _ in 0..2 {
        assert_eq!(Request::post(CHAT, &large).send(gateway.address).status, 200);
        for body in [deep.clone(), format!(r#"{{"model":"gpt","messages":[{{"role":"user","content":{deep}}}]}}"#)] {
            assert_eq!(Request::post(CHAT, &body).send(gateway.address).status, 400);
        }
    }
    let (peak, now) = (gateway.mib("VmHWM") - before, gateway.mib("VmRSS").saturating_sub(before));
    assert!(peak < 3 * 32, "{peak} MiB for bodies of 30, one at a time");
    assert!(now < 64, "{now} MiB afterwards");
}

#[test]
fn thousands_of_idle_and_slow_connections_cost_little_and_keep_nobody_out() {
    let provider = Provider::start(true);
    let gateway = Process::start(provider.address, &json!({}));
    assert_eq!(Request::post(CHAT, &ask(1)).send(gateway.address).status, 200);
    // As many as a process may have files, and ten thousand at most.
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    let count = (files - 200).min(10_000);
    let before = gateway.mib("VmRSS");
    let body = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\ncontent-length: 20000000\r\n\r\n{{");
    let connections: Vec<Connection> = (0..count)
        .map(|number| {
            let mut connection = Connection::new(gateway.address);
            match number % 4 {
                // Had its answer; has not said a word; is in the middle of a head; is in the middle of a body.
                0 => {
                    connection.write(&Request::get("/healthz"));
                    assert_eq!(connection.head().status, 200);
                }
                1 => {}
                2 => connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nx-slow: "),
                _ => connection.send(body.as_bytes()),
            }
            connection
        })
        .collect();
    assert_eq!(Request::post(CHAT, &ask(1)).send(gateway.address).status, 200);
    let grown = gateway.mib("VmRSS") - before;
    // hyper's buffers of two pages each way, the room of a call, and one half begun for every fourth: 26 KiB here, without optimisation.
    assert!(grown * 1024 < count * 32 + 10 * 1024, "{count} connections took {grown} MiB");
    drop(connections);
}
