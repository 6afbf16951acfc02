//! The process: threads that accept and serve, and one in the background that keeps the snapshot and empties the spool.

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{rt::TokioTimer, server::graceful::GracefulShutdown};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    accepted::Accepted,
    apart::Apart,
    bodies::Bodies,
    body::Body,
    config::Config,
    connections::{Connections, Tls},
    control, count_tokens,
    database::{CacheWriter, Change, DatabaseError, Lender, Readers, Watcher, Writer},
    error::Refusal,
    gateway::{Gateway, Worker},
    gemini_path,
    heads::Client,
    leases::Leases,
    metrics::Metrics,
    models, next_prompt, passthrough, pipeline,
    query_vector::QueryVectors,
    remember::Memories,
    routed,
    settings::Settings,
    snapshot::{Snapshot, Snapshots},
    spool::Spool,
    usage::{PriceList, PriceRow},
    versions::Versions,
    wire::Wire,
};

/// How long calls under way may take to end once the gateway stops.
const DRAIN: Duration = Duration::from_secs(30);
/// The longest head of a request, in bytes; hyper takes a hundred headers.
const MAX_HEAD: usize = 64 * 1024;
/// How often the revision is asked for when nothing was told.
const CHECK: Duration = Duration::from_secs(2);
/// How often a serving thread looks after its connections.
const TEND: Duration = Duration::from_secs(1);
/// How long spans may take to be sent when the gateway ends, or sends them elsewhere.
const FLUSH: Duration = Duration::from_secs(5);
/// Connections for reading memory, a thread.
const READERS: usize = 4;

/// A gateway that is bound to its address and ready to serve.
pub struct Server {
    gateway: Arc<Gateway>,
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

/// Ends a server from another thread.
#[derive(Clone)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// Begins the drain: no new connections, calls under way may end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

fn listeners(address: SocketAddr, count: usize) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
    let first = listen(address)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    while all.len() < count {
        all.push(listen(address)?);
    }
    Ok((all, address))
}

/// A listener that shares its port with the other threads' (`SO_REUSEPORT`): the kernel spreads connections over them.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

impl Server {
    /// Binds the address and opens the spool.
    ///
    /// # Errors
    /// Says what of the configuration cannot be used: the address is taken, the folder cannot be made, a URL is none.
    pub fn bind(config: Config) -> Result<Self, String> {
        // Another process's port is never shared, only our own threads': whoever holds it would get half of the calls.
        if config.listen.port() != 0 {
            drop(TcpListener::bind(config.listen).map_err(|error| format!("cannot listen on {}: {error}", config.listen))?);
        }
        let (listeners, address) =
            listeners(config.listen, config.threads).map_err(|error| format!("cannot listen on {}: {error}", config.listen))?;
        let ca = config.ca_file.as_ref().map(|path| {
            std::fs::read(path).map_err(|error| error.to_string()).map_err(|error| format!("ca_file {}: {error}", path.display()))
        });
        let tls = Tls::new(ca.transpose()?.as_deref()).map_err(|error| format!("ca_file: {error}"))?;
        let spool = Spool::open(&config.spool_dir, config.spool_max_bytes)
            .map_err(|error| format!("cannot open the spool in {}: {error}", config.spool_dir.display()))?;
        let (begun, metrics) = (Instant::now(), Metrics::new()?);
        let settings = Settings::new(config, None, &metrics, &tls)?;
        let config = &settings.config;
        if let Some(embedder) = config.embedder.as_ref().filter(|embedder| settings.routes.group(&embedder.model).is_none()) {
            return Err(format!("the embedder's model '{}' is not configured (memory.embedder.model)", embedder.model));
        }
        let prices = PriceList::default();
        prices.configure(&config.prices);
        let apart = Apart::new(config.threads);
        let gateway = Arc::new(Gateway {
            leases: Leases::new(begun, config.lease()),
            query_vectors: config.embedder.as_ref().map(QueryVectors::new),
            settings: ArcSwap::from_pointee(settings),
            reloaded: watch::Sender::new(()),
            snapshots: Snapshots::default(),
            versions: Versions::default(),
            prices,
            spool,
            metrics,
            apart,
            bodies: Arc::new(Bodies::default()),
            memories: Memories::default(),
            tls,
            begun,
        });
        Ok(Self { gateway, listeners, address, stop: watch::Sender::new(false) })
    }

    /// What its threads share.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle to end it with.
    pub fn stopper(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Serves until it is stopped, and drains.
    ///
    /// # Errors
    /// Where a runtime cannot be made.
    pub fn serve(self) -> io::Result<()> {
        let background = runtime()?;
        let ended = Arc::new(AtomicBool::new(false));
        let keeper = {
            let (gateway, ended) = (Arc::clone(&self.gateway), Arc::clone(&ended));
            let work = move || background.block_on(keep(&gateway, &ended));
            thread::Builder::new().name("background".to_owned()).spawn(work)?
        };
        let mut threads = Vec::new();
        for listener in self.listeners {
            let (gateway, stop, runtime) = (Arc::clone(&self.gateway), self.stop.subscribe(), runtime()?);
            let work = move || runtime.block_on(accept(gateway, listener, stop));
            threads.push(thread::Builder::new().name("serve".to_owned()).spawn(work)?);
        }
        for thread in threads {
            thread.join().map_err(|_| io::Error::other("a serving thread panicked"))??;
        }
        ended.store(true, SeqCst);
        keeper.join().map_err(|_| io::Error::other("the background thread panicked"))?;
        Ok(())
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn accept(gateway: Arc<Gateway>, listener: TcpListener, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let settings = gateway.settings.load_full();
    let readers = Readers::new(&settings.config.database, READERS);
    let client = Connections::new(&settings.config.timeouts, gateway.tls.clone());
    let worker = Arc::new(Worker { gateway, client, readers });
    tokio::spawn(tend(Arc::clone(&worker)));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).max_header_size(MAX_HEAD);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: connections that end give some back.
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let _ = stream.set_nodelay(true);
        let (stream, doubt) = Client::new(stream);
        let timeouts = worker.gateway.settings().config.timeouts;
        // hyper has one limit for both: how long a connection may be idle, and how long a head may take. Who is slow with a head
        // holds no more than who is idle.
        http.header_read_timeout(timeouts.client_idle());
        let stream = Accepted::new(stream, timeouts.idle());
        let worker = Arc::clone(&worker);
        let served = Cell::new(0);
        let service = service_fn(move |request| {
            let worker = Arc::clone(&worker);
            let doubtful = doubt.is(served.replace(served.get() + 1));
            async move { Ok::<_, std::convert::Infallible>(if doubtful { refuse(&request) } else { route(&worker, request).await }) }
        });
        let connection = graceful.watch(http.serve_connection(stream, service));
        tokio::spawn(async move {
            // A client that goes away in the middle is no fault of ours.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some calls did not end within the drain; they are cut");
    }
    Ok(())
}

/// Closes connections that have been idle for long. That it wakes each second has a use of its own: a timer that is earlier
/// than all others makes tokio write to its own eventfd, and with this one always near, a call's timers are not.
async fn tend(worker: Arc<Worker>) {
    loop {
        sleep(TEND).await;
        worker.client.allow(&worker.gateway.settings().config.timeouts);
        worker.client.prune();
    }
}

/// The wire of a client that is refused, as far as its headers show it.
fn wire_of<Any>(request: &Request<Any>) -> Wire {
    let anthropic = request.headers().contains_key("anthropic-version") || request.headers().contains_key("x-api-key");
    if anthropic { Wire::AnthropicMessages } else { Wire::OpenaiChat }
}

/// The answer to a request that could be read in two ways; the last one on its connection.
fn refuse<Any>(request: &Request<Any>) -> Response<Body> {
    let message = "The request could be read in two ways, and was not read at all: it has more than one Content-Length, one beside a \
        Transfer-Encoding or one that is no number, or a line that ends without a carriage return.";
    let mut response = Refusal::invalid(message, None).code("ambiguous_request").response(wire_of(request), &request_id());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn route(worker: &Arc<Worker>, request: Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/v1/chat/completions") => pipeline::call(worker, Wire::OpenaiChat, request).await,
        (&Method::POST, "/v1/messages") => pipeline::call(worker, Wire::AnthropicMessages, request).await,
        (&Method::POST, "/v1/responses") => pipeline::call(worker, Wire::OpenaiResponses, request).await,
        (&Method::POST, path) if gemini_path::is_call(path) => pipeline::call(worker, Wire::Gemini, request).await,
        (_, path @ ("/v1/chat/completions" | "/v1/messages" | "/v1/responses")) => {
            let wire = if path == "/v1/messages" { Wire::AnthropicMessages } else { Wire::OpenaiChat };
            let refusal =
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", format!("{path} takes POST only."));
            let mut response = refusal.response(wire, &request_id());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            response
        }
        (&Method::POST, "/v1/messages/count_tokens") => count_tokens::call(worker, request).await,
        (&Method::GET, path) if next_prompt::is_asked(path) => {
            let wire = wire_of(&request);
            next_prompt::shown(worker, request).await.unwrap_or_else(|refusal| refusal.response(wire, &request_id()))
        }
        (&Method::GET, path) if path == "/v1/models" || path.starts_with("/v1/models/") => {
            let wire = wire_of(&request);
            models::models(worker, wire, &request).await.unwrap_or_else(|refusal| refusal.response(wire, &request_id()))
        }
        (&Method::GET, path) if path == "/v1beta/models" || path.starts_with("/v1beta/models/") => {
            models::models(worker, Wire::Gemini, &request)
                .await
                .unwrap_or_else(|refusal| refusal.response(Wire::Gemini, &request_id()))
        }
        (&Method::GET | &Method::HEAD, "/healthz") => plain(StatusCode::OK, "ok\n"),
        (&Method::GET | &Method::HEAD, "/readyz") => ready(worker),
        (&Method::GET, "/metrics") => metrics(worker),
        (method, path) => {
            if let Some(route) = routed::find(path).filter(|_| method == Method::POST) {
                return routed::call(worker, route, request).await;
            }
            if let Some(host) = passthrough::host(worker, path) {
                return passthrough::pass_through(worker, host, request).await;
            }
            let wire = wire_of(&request);
            control::relay(worker, request).await.unwrap_or_else(|refusal| refusal.response(wire, &request_id()))
        }
    }
}

/// An id for a refused request that is no model call.
fn request_id() -> String {
    format!("req_{}", Uuid::now_v7().simple())
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into().into_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Ready means: keys are known, so that calls can be let in. Postgres may be away again since.
fn ready(worker: &Worker) -> Response<Body> {
    if worker.gateway.snapshots.load().revision > 0 {
        plain(StatusCode::OK, "ready\n")
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: keys and agents have not been read from Postgres yet\n")
    }
}

fn metrics(worker: &Worker) -> Response<Body> {
    let mut response = plain(StatusCode::OK, worker.gateway.metrics.render(&worker.gateway));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}

/// The background's work: the snapshot, the spool, and the metrics' upkeep.
async fn keep(gateway: &Gateway, ended: &AtomicBool) {
    let until_ended = async {
        while !ended.load(SeqCst) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let upkeep = async {
        loop {
            // A histogram keeps each sample until then: at 20,000 calls a second that is a megabyte or more a second.
            sleep(Duration::from_millis(500)).await;
            gateway.metrics.upkeep();
        }
    };
    let database = gateway.settings().config.database.clone();
    let traces = async {
        let mut reloaded = gateway.reloaded.subscribe();
        loop {
            let traces = gateway.settings().traces.clone();
            while_in_force(&mut reloaded, traces.as_ref().map(|traces| traces.run())).await;
            // What ended meanwhile is sent to the collector that was in force then.
            if let Some(traces) = traces {
                let _ = timeout(FLUSH, traces.flush()).await;
            }
        }
    };
    let cache = async {
        let mut reloaded = gateway.reloaded.subscribe();
        loop {
            let cache = gateway.settings().cache.clone();
            while_in_force(&mut reloaded, cache.as_ref().map(|cache| cache.run(CacheWriter::new(&database)))).await;
        }
    };
    tokio::select! {
        () = traces => {}
        () = cache => {}
        () = watch_store(gateway, &database) => {}
        () = gateway.leases.run(Lender::new(&database)) => {}
        () = gateway.spool.run(Writer::new(&database)) => {}
        () = upkeep => {}
        () = async {
            until_ended.await;
            // What cannot be delivered now stands in the file, and the next start replays it.
            if gateway.spool.settled(Duration::from_secs(5)).await {
                gateway.leases.release(Lender::new(&database)).await;
            }
        } => {}
    }
    let traces = gateway.settings().traces.clone();
    if let Some(traces) = traces {
        let _ = timeout(FLUSH, traces.flush()).await;
    }
}

/// Does what settings ask for until there are others; waits for these where they ask for nothing.
async fn while_in_force(reloaded: &mut watch::Receiver<()>, work: Option<impl Future<Output = ()>>) {
    let work = async {
        if let Some(work) = work {
            work.await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        // Whoever tells of them lives as long as this does.
        _ = reloaded.changed() => {}
    }
}

/// Keeps the snapshot and the copies of memory as new as the store.
async fn watch_store(gateway: &Gateway, database: &str) {
    loop {
        match Watcher::connect(database).await {
            Ok(mut watcher) => {
                let lost = watch_connected(gateway, &mut watcher).await;
                gateway.memories.listening(false);
                if let Err(error) = lost {
                    tracing::warn!(%error, "the gateway goes on with what it knows of keys and agents");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "keys and agents cannot be read; trying again");
            }
        }
        gateway.snapshots.wanted(Duration::from_millis(100)).await;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn watch_connected(gateway: &Gateway, watcher: &mut Watcher) -> Result<(), DatabaseError> {
    let unreadable = |error: serde_json::Error| DatabaseError::Refused(format!("the schema is of another version: {error}"));
    let prices: Vec<PriceRow> = serde_json::from_str(&watcher.prices().await?).map_err(unreadable)?;
    let first = gateway.snapshots.begin();
    let snapshot = Snapshot::parse(&watcher.snapshot().await?, &gateway.snapshots.load()).map_err(unreadable)?;
    gateway.prices.store(&prices);
    gateway.snapshots.replace(snapshot);
    gateway.snapshots.end(first);
    // What changed while nobody listened is read anew: no copy is older than this line.
    gateway.memories.listening(true);
    gateway.leases.users.changed();
    loop {
        let change = tokio::select! {
            change = watcher.change(CHECK) => change,
            () = gateway.snapshots.wanted(CHECK) => Change::Configuration,
        };
        match change {
            Change::Lost => return Ok(()),
            Change::Memory(told) => gateway.memories.changed(&told),
            Change::Limits => gateway.leases.users.changed(),
            Change::Configuration | Change::Quiet => {
                let check = gateway.snapshots.begin();
                if watcher.revision().await? != gateway.snapshots.load().revision {
                    let snapshot = Snapshot::parse(&watcher.snapshot().await?, &gateway.snapshots.load()).map_err(unreadable)?;
                    gateway.snapshots.replace(snapshot);
                    // The limits for all users of a key or team may be among what changed.
                    gateway.leases.users.changed();
                }
                gateway.snapshots.end(check);
                // A flood of unknown keys costs one look-up each so often, not one a request.
                if matches!(change, Change::Configuration) {
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}
