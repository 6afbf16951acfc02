//! Connections to hosts that close them, share them, and send their callers away.

use std::{
    convert::Infallible,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    sync::{Barrier, Notify},
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};
use trunkline_gateway::connections::{Connections, Reach, Tls};

fn connections(ca: Option<&str>) -> Connections {
    let timeouts = json!({"connect_ms": 5000, "first_byte_ms": 5000, "idle_ms": 5000, "total_ms": 5000});
    Connections::new(&serde_json::from_value(timeouts).unwrap(), Tls::new(ca.map(str::as_bytes)).unwrap())
}

fn post(url: &str) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

async fn text(response: Response<impl http_body::Body<Data = Bytes, Error: std::fmt::Debug>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A host that answers one request a connection and closes it once it is told to; it tells when that is done.
fn closing_host() -> (SocketAddr, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ((close, told), (done, closed)) = (mpsc::channel(), mpsc::channel());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n{}") {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).unwrap();
                request.extend_from_slice(&bytes[..count]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
            let _ = told.recv();
            drop(stream);
            let _ = done.send(());
        }
    });
    (address, close, closed)
}

#[tokio::test]
async fn a_kept_connection_that_the_host_has_closed_is_replaced() {
    let (address, close, closed) = closing_host();
    let (pool, url) = (connections(None), format!("http://{address}/"));
    for noticed in [false, true, false] {
        assert_eq!(text(pool.request(Reach::Configured, post(&url)).await.unwrap()).await, "ok");
        // While this thread waits here, nothing can tell the pool: the next request goes out on a connection that is closed.
        close.send(()).unwrap();
        closed.recv().unwrap();
        if noticed {
            sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(text(pool.request(Reach::Configured, post(&url)).await.unwrap()).await, "ok");
}

#[tokio::test]
async fn a_new_connection_that_ends_without_an_answer_is_an_error_and_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, SeqCst);
            let _ = stream.unwrap().read(&mut [0; 1024]);
        }
    });
    let error = connections(None).request(Reach::Configured, post(&url)).await.err().unwrap();
    assert!(!error.is_connect(), "{error}");
    assert_eq!(accepted.load(SeqCst), 1);
}

#[tokio::test]
async fn nobody_at_the_address_is_told_from_a_broken_answer() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connections(None).request(Reach::Configured, post(&format!("http://{address}/"))).await.err().unwrap();
    assert!(error.is_connect(), "{error}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let head = format!("HTTP/1.1 302 Found\r\nlocation: http://{address}/other\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
    });
    let response = connections(None).request(Reach::Configured, post(&format!("http://{address}/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn a_public_name_is_not_connected_to_a_private_address() {
    let (address, ..) = closing_host();
    let url = format!("http://localhost:{}/", address.port());
    let pool = connections(None);
    assert!(pool.request(Reach::Public, post(&url)).await.is_err_and(|error| error.is_connect()));
    assert_eq!(text(pool.request(Reach::Configured, post(&url)).await.unwrap()).await, "ok");
    // What is open for one is not lent to the other.
    assert!(pool.request(Reach::Public, post(&url)).await.is_err());
}

/// A host that speaks HTTP/2 over TLS, with a certificate of its own.
struct Http2Host {
    url: String,
    certificate: String,
    connections: Arc<AtomicUsize>,
    /// Sends GOAWAY on every connection that is open.
    leave: Arc<Notify>,
    /// Lets requests to `/hold` go on.
    release: Arc<Notify>,
}

impl Http2Host {
    /// Each connection takes `streams` at a time; requests to `/together` wait for each other, `together` of them.
    async fn start(streams: u32, together: usize) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let host = Self {
            url: format!("https://localhost:{}", listener.local_addr().unwrap().port()),
            certificate: made.cert.pem(),
            connections: Arc::default(),
            leave: Arc::default(),
            release: Arc::default(),
        };
        let barrier = Arc::new(Barrier::new(together));
        let (count, leave, release) = (Arc::clone(&host.connections), Arc::clone(&host.leave), Arc::clone(&host.release));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let (acceptor, barrier) = (acceptor.clone(), Arc::clone(&barrier));
                let (leave, release) = (Arc::clone(&leave), Arc::clone(&release));
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (barrier, release) = (Arc::clone(&barrier), Arc::clone(&release));
                        async move {
                            assert_eq!(request.version(), Version::HTTP_2);
                            match request.uri().path() {
                                "/together" => {
                                    barrier.wait().await;
                                }
                                "/hold" => release.notified().await,
                                _ => {}
                            }
                            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                        }
                    });
                    let mut server = http2::Builder::new(TokioExecutor::new());
                    server.max_concurrent_streams(streams);
                    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        () = leave.notified() => connection.as_mut().graceful_shutdown(),
                    }
                    let _ = connection.await;
                });
            }
        });
        host
    }
}

#[tokio::test]
async fn more_streams_than_a_connection_takes_open_another() {
    let host = Http2Host::start(60, 150).await;
    let pool = Arc::new(connections(Some(&host.certificate)));
    // One call first, so that the host's limit is known.
    pool.request(Reach::Configured, post(&host.url)).await.unwrap();
    let calls: Vec<_> = (0..150)
        .map(|_| {
            let (pool, url) = (Arc::clone(&pool), format!("{}/together", host.url));
            tokio::spawn(async move { text(pool.request(Reach::Configured, post(&url)).await.unwrap()).await })
        })
        .collect();
    // Each answer waits until all 150 requests are there.
    let answers = async {
        for call in calls {
            assert_eq!(call.await.unwrap(), "ok");
        }
    };
    timeout(Duration::from_secs(30), answers).await.expect("some requests wait for a place on a full connection");
    assert_eq!(host.connections.load(SeqCst), 3);
}

#[tokio::test]
async fn a_connection_that_goes_away_finishes_its_calls_and_gets_no_new_ones() {
    let host = Http2Host::start(100, 1).await;
    let pool = Arc::new(connections(Some(&host.certificate)));
    let held = {
        let (pool, url) = (Arc::clone(&pool), format!("{}/hold", host.url));
        tokio::spawn(async move { text(pool.request(Reach::Configured, post(&url)).await.unwrap()).await })
    };
    while host.connections.load(SeqCst) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(text(pool.request(Reach::Configured, post(&host.url)).await.unwrap()).await, "ok");
    assert_eq!(host.connections.load(SeqCst), 1, "both calls share a connection");
    host.leave.notify_waiters();
    for _ in 0..200 {
        assert_eq!(text(pool.request(Reach::Configured, post(&host.url)).await.unwrap()).await, "ok");
    }
    assert_eq!(host.connections.load(SeqCst), 2);
    host.release.notify_waiters();
    assert_eq!(held.await.unwrap(), "ok");
}

#[tokio::test]
async fn a_certificate_of_nobody_known_is_refused() {
    let host = Http2Host::start(100, 1).await;
    assert!(connections(None).request(Reach::Configured, post(&host.url)).await.is_err_and(|error| error.is_connect()));
}
