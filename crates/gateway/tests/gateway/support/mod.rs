//! A gateway on a port of its own, its Postgres away for ever, and what is needed to talk to it byte by byte.

pub mod client;
pub mod compress;
pub mod upstream;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use trunkline_gateway::{
    config::Config,
    gateway,
    server::{Server, Stop},
    snapshot::Snapshot,
};
use uuid::Uuid;

use self::{
    client::{Request, Response},
    upstream::Upstream,
};

pub const KEY: &str = "sk-tl-a-key-of-ours-for-the-gateway";
pub const TENANT: Uuid = Uuid::from_u128(1);
pub const PROVIDER_KEY: &str = "sk-a-key-of-the-provider";

/// A running gateway. It is told to stop when dropped, and not waited for: it would try to reach Postgres for a while.
pub struct Gateway {
    pub address: SocketAddr,
    pub stop: Stop,
    spool: PathBuf,
    config: Value,
    shared: Weak<gateway::Gateway>,
}

impl Gateway {
    /// Serves `models`: pairs of a name and its upstreams, each `PROVIDER/MODEL`. Providers whose name begins with `ant`
    /// speak Anthropic's wire, others `OpenAI`'s.
    pub fn start(providers: &[(&str, SocketAddr)], models: &[(&str, &[&str])]) -> Self {
        Self::with(providers, models, &json!({}))
    }

    /// One that has read nothing from Postgres.
    pub fn ignorant() -> Self {
        Self::serve(Self::bind(&[], &[], &json!({})))
    }

    /// The same with other limits in time, in milliseconds.
    pub fn with(providers: &[(&str, SocketAddr)], models: &[(&str, &[&str])], timeouts: &Value) -> Self {
        Self::known(Self::bind(providers, models, timeouts), &json!({}), None)
    }

    /// One whose configuration has these keys, and whose key has these.
    pub fn configured(config: &Value, key: &Value) -> Self {
        Self::known(Self::bound(Self::config(&[], &[], &json!({})), config), key, None)
    }

    /// In front of one upstream that serves `gpt`, with an agent without memory.
    pub fn with_agent(upstream: &Upstream, name: &str) -> Self {
        Self::with_agent_and_tools(upstream, name, &json!([]), &json!({}))
    }

    /// The same with memory tools, and these keys in the configuration.
    pub fn with_agent_and_tools(upstream: &Upstream, name: &str, tools: &Value, more: &Value) -> Self {
        let agent = json!({
            "tenant": TENANT, "id": Uuid::now_v7(), "name": name, "version": 1, "model": null, "instructions": null,
            "memory_enabled": false, "memory_refresh": false, "memory_fail": false, "recall_tokens": 0, "memory_tools": tools,
            "has_blocks": false, "has_session_blocks": false,
        });
        let config = Self::config(&[("oai", upstream.address)], &[("gpt", &["oai/gpt"])], &json!({}));
        Self::known(Self::bound(config, more), &json!({}), Some(agent))
    }

    fn known((server, config): (Server, Value), more: &Value, agent: Option<Value>) -> Self {
        let mut key = json!({
            "hash": format!("{:x}", Sha256::digest(KEY)), "tenant": TENANT, "id": Uuid::now_v7(),
            "name": "test", "scopes": ["inference"], "agent": null, "team": null, "user": null, "models": null, "expires_at": null,
            "limits": null, "limits_users": false,
        });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let snapshot =
            json!({"revision": 1, "keys": [key], "teams": [], "agents": agent.into_iter().collect::<Vec<_>>(), "tenants_with_user_limits": []}).to_string();
        server.gateway().snapshots.replace(Snapshot::parse(&snapshot, &Snapshot::default()).unwrap());
        Self::serve((server, config))
    }

    fn bind(providers: &[(&str, SocketAddr)], models: &[(&str, &[&str])], timeouts: &Value) -> (Server, Value) {
        Self::bound(Self::config(providers, models, timeouts), &json!({}))
    }

    fn bound(mut config: Value, more: &Value) -> (Server, Value) {
        let spool = std::env::temp_dir().join(format!("trunkline-gateway-{}", Uuid::now_v7().simple()));
        config["spool_dir"] = json!(spool);
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (Server::bind(Config::parse(&config.to_string()).unwrap()).unwrap(), config)
    }

    fn config(providers: &[(&str, SocketAddr)], models: &[(&str, &[&str])], timeouts: &Value) -> Value {
        let providers = providers.iter().map(|(name, address)| {
            let wire = if name.starts_with("ant") { "anthropic_messages" } else { "openai_chat" };
            json!({"name": name, "wire": wire, "base_url": format!("http://{address}/v1"), "api_key": PROVIDER_KEY})
        });
        let models = models.iter().map(|(name, upstreams)| {
            let upstreams = upstreams.iter().map(|upstream| {
                let (provider, model) = upstream.split_once('/').unwrap();
                json!({"provider": provider, "model": model})
            });
            json!({"name": name, "upstreams": upstreams.collect::<Vec<_>>()})
        });
        let mut limits = json!({"connect_ms": 5000, "first_byte_ms": 20000, "idle_ms": 20000, "total_ms": 60000});
        limits.as_object_mut().unwrap().extend(timeouts.as_object().unwrap().clone());
        json!({
            "listen": "127.0.0.1:0",
            "control_url": "http://127.0.0.1:9",
            "database": "host=127.0.0.1 port=9 user=nobody dbname=nothing",
            "spool_max_bytes": 1 << 24,
            // Connections are kept by thread: so many are opened on each machine.
            "threads": 1,
            "max_body_bytes": 1 << 20,
            "providers": providers.collect::<Vec<_>>(),
            "models": models.collect::<Vec<_>>(),
            "routing": {"strategy": "order"},
            "timeouts": limits,
        })
    }

    fn serve((server, config): (Server, Value)) -> Self {
        let (address, stop, shared) = (server.address(), server.stopper(), Arc::downgrade(server.gateway()));
        thread::spawn(move || server.serve().unwrap());
        Self { address, stop, spool: config["spool_dir"].as_str().unwrap().into(), config, shared }
    }

    /// What `then` comes to while there is no core for work on long bodies.
    pub fn without_cores<T>(&self, then: impl FnOnce() -> T) -> T {
        let shared = self.shared.upgrade().unwrap();
        let cores = &shared.apart.cores;
        let _held = cores.try_acquire_many(u32::try_from(cores.available_permits()).unwrap()).unwrap();
        then()
    }

    /// Has it take on its configuration with these keys.
    pub fn reload(&self, more: &Value) -> Result<(), String> {
        let mut config = self.config.clone();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.shared.upgrade().unwrap().reload(Config::parse(&config.to_string())?)
    }

    /// In front of one upstream, which serves `gpt` over `OpenAI`'s wire and `claude` over Anthropic's.
    pub fn before(upstream: &Upstream) -> Self {
        let providers = [("oai", upstream.address), ("ant", upstream.address)];
        Self::start(&providers, &[("gpt", &["oai/gpt"]), ("claude", &["ant/claude"])])
    }

    /// Posts a body to a path with our key, and reads the whole response.
    pub fn post(&self, path: &str, body: &str) -> Response {
        Request::post(path, body).send(self.address)
    }

    /// The records of calls so far, oldest first.
    pub fn records(&self) -> Vec<Value> {
        let files = fs::read_dir(&self.spool).unwrap().map(|entry| entry.unwrap().path());
        let text: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
        text.lines().map(|line| whole(serde_json::from_str(line).unwrap())).collect()
    }

    /// Waits until so many calls are recorded.
    pub fn wait_for_records(&self, count: usize) -> Vec<Value> {
        eventually(|| self.records().len() >= count);
        self.records()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.stop();
        let _ = fs::remove_dir_all(&self.spool);
    }
}

/// A record with what it leaves out.
fn whole(mut record: Value) -> Value {
    for (name, left_out) in
        [("stream", json!(false)), ("estimated", json!(false)), ("retries", json!(0)), ("source", json!("provider"))]
    {
        record.as_object_mut().unwrap().entry(name).or_insert(left_out);
    }
    for name in ["cached_tokens", "cache_write_tokens", "reasoning_tokens"] {
        record.as_object_mut().unwrap().entry(name).or_insert(json!(0));
    }
    record
}

/// Waits until a condition holds; panics if it does not within a time that no machine needs.
pub fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("it did not come to hold");
}
