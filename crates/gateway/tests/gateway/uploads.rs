//! Request bodies that are passed on while they come, over both versions of HTTP.

use std::{
    convert::Infallible,
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::support::{Gateway, KEY, PROVIDER_KEY, client::Request, upstream::chunk};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::sync::Notify;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

/// A provider with a certificate of its own, in a thread of its own: it says the version of HTTP and how long a body is. Of
/// bodies to `/v1/held` it reads nothing until it is told to.
struct Host {
    url: String,
    certificate: String,
    connections: Arc<AtomicUsize>,
    release: Arc<Notify>,
}

impl Host {
    fn start(protocol: &'static [u8]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (connections, release) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let (count, held) = (Arc::clone(&connections), Arc::clone(&release));
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    count.fetch_add(1, SeqCst);
                    let (acceptor, held) = (acceptor.clone(), Arc::clone(&held));
                    tokio::spawn(async move {
                        let stream = acceptor.accept(stream).await.unwrap();
                        let service = service_fn(move |request| answer(request, Arc::clone(&held)));
                        let stream = TokioIo::new(stream);
                        let _ = if protocol == b"h2" {
                            http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
                        } else {
                            http1::Builder::new().serve_connection(stream, service).await
                        };
                    });
                }
            });
        });
        let url = format!("https://localhost:{}/v1", told.recv().unwrap());
        Self { url, certificate: made.cert.pem(), connections, release }
    }

    /// A gateway in front of it that trusts its certificate.
    fn gateway(&self) -> Gateway {
        let path = std::env::temp_dir().join(format!("trunkline-ca-{}.pem", uuid::Uuid::now_v7().simple()));
        fs::write(&path, &self.certificate).unwrap();
        let provider = json!({"name": "oai", "wire": "openai_chat", "base_url": self.url, "api_key": PROVIDER_KEY});
        let config = json!({"providers": [provider], "ca_file": path, "max_body_bytes": 1 << 16});
        let gateway = Gateway::configured(&config, &json!({"scopes": ["inference", "passthrough"]}));
        fs::remove_file(path).unwrap();
        gateway
    }
}

async fn answer(request: http::Request<Incoming>, held: Arc<Notify>) -> Result<http::Response<Full<Bytes>>, Infallible> {
    if request.uri().path().ends_with("/held") {
        held.notified().await;
    }
    let (version, length) = (request.version(), request.headers().get("content-length").cloned());
    let host = request.headers().get("host").is_some() || request.uri().host().is_some();
    let body = request.into_body().collect().await;
    let (count, whole) = body.map_or((0, false), |body| (body.to_bytes().len(), true));
    let text = json!({"version": format!("{version:?}"), "count": count, "whole": whole, "host": host,
        "announced": length.and_then(|length| length.to_str().unwrap().parse::<usize>().ok())});
    Ok(http::Response::new(Full::new(Bytes::from(text.to_string()))))
}

const VERSIONS: [(&[u8], &str); 2] = [(b"http/1.1", "HTTP/1.1"), (b"h2", "HTTP/2.0")];

#[test]
fn bodies_of_any_size_reach_a_host_with_an_authority_of_its_own() {
    for (protocol, version) in VERSIONS {
        let host = Host::start(protocol);
        let gateway = host.gateway();
        // More than is ever read whole.
        let body = vec![7; 3 << 20];
        for _ in 0..3 {
            let request = Request::post_bytes("/oai/v1/files", &body).header("content-type", "application/octet-stream");
            let answer = request.send(gateway.address).json();
            assert_eq!(
                answer,
                json!({"version": version, "count": body.len(), "whole": true, "host": true, "announced": body.len()})
            );
        }
        // Without a length, in chunks.
        let mut client = TcpStream::connect(gateway.address).unwrap();
        let head = format!(
            "POST /oai/v1/files HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        for _ in 0..10 {
            client.write_all(&chunk(&[7; 1000])).unwrap();
        }
        client.write_all(b"0\r\n\r\n").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.contains(r#""count":10000"#), "{text}");
        // A body that streams goes on a connection that is new, or that is shared.
        let connections = host.connections.load(SeqCst);
        assert_eq!(connections, if version == "HTTP/2.0" { 1 } else { 4 });
    }
}

#[test]
fn a_host_that_does_not_read_stops_the_client_and_not_the_gateways_memory() {
    for (protocol, version) in VERSIONS {
        let host = Host::start(protocol);
        let gateway = host.gateway();
        let mut client = TcpStream::connect(gateway.address).unwrap();
        client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let total: usize = 64 << 20;
        let head = format!(
            "POST /oai/v1/held HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\ncontent-length: {total}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        let piece = vec![7; 1 << 16];
        let mut written = 0;
        let error = loop {
            match client.write(&piece[..piece.len().min(total - written)]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
            assert!(written < total, "{version}: all of it was taken");
        };
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        // The kernel's buffers on four sockets, and a window.
        assert!(written < 32 << 20, "{version}: {written} bytes were taken");
        host.release.notify_one();
        client.set_write_timeout(None).unwrap();
        while written < total {
            let count = piece.len().min(total - written);
            client.write_all(&piece[..count]).unwrap();
            written += count;
        }
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.contains(&format!(r#""count":{total}"#)), "{text}");
    }
}

#[test]
fn a_client_that_goes_away_in_an_upload_ends_it_at_the_host() {
    for (protocol, _) in VERSIONS {
        let host = Host::start(protocol);
        let gateway = host.gateway();
        let mut client = TcpStream::connect(gateway.address).unwrap();
        let head = format!(
            "POST /oai/v1/files HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\ncontent-length: 1000000\r\n\r\nwords"
        );
        client.write_all(head.as_bytes()).unwrap();
        crate::support::eventually(|| host.connections.load(SeqCst) == 1);
        drop(client);
        let record = &gateway.wait_for_records(1)[0];
        assert_eq!(record["model"], "");
        assert_ne!(record["status"], 200);
    }
}
