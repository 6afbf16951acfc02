//! The gateway that is measured: a key without limits (what limits lend comes from Postgres), prices, an agent with a memory; no Postgres, so that calls stay in
//! the spool.

use std::{error::Error, io::Read, net::SocketAddr, thread};

use serde_json::json;
use sha2::{Digest, Sha256};
use trunkline_gateway::{config::Config, server::Server, snapshot::Snapshot};
use uuid::Uuid;

/// The text of the key that calls are made with.
pub const KEY: &str = "sk-tl-a-key-of-ours-for-counting-instructions";
/// The end user whose memory is given to the agent.
pub const USER: &str = "user-1";

/// Serves until the input ends; the first line of output is the address.
pub fn serve(upstream: &str) -> Result<(), Box<dyn Error>> {
    let upstream: SocketAddr = upstream.parse()?;
    let folder = std::env::temp_dir().join(format!("trunkline-instructions-{}", Uuid::now_v7().simple()));
    let server = Server::bind(configuration(upstream, &folder.to_string_lossy())?)?;
    let (tenant, agent) = (Uuid::now_v7(), Uuid::now_v7());
    let snapshot = json!({
        "revision": 1,
        "keys": [{
            "hash": format!("{:x}", Sha256::digest(KEY)), "tenant": tenant, "id": Uuid::now_v7(), "name": "count",
            "scopes": ["inference"], "agent": null, "team": null, "user": null, "models": null, "expires_at": null,
            "limits": null, "limits_users": false,
        }],
        "teams": [],
        "tenants_with_user_limits": [],
        "agents": [{
            "tenant": tenant, "id": agent, "name": "clerk", "version": 1, "model": "gpt", "instructions": "You know parcels.",
            "memory_enabled": true, "memory_refresh": false, "memory_fail": false, "recall_tokens": 0, "memory_tools": [],
            "has_blocks": true, "has_session_blocks": false,
            "prompt_cache": {"ttl_seconds": 300, "delta_tokens": 1000, "cache_control": true},
        }],
    });
    let gateway = server.gateway();
    let snapshot = Snapshot::parse(&snapshot.to_string(), &Snapshot::default())?;
    let price = |model| json!({"provider": "oai", "model": model, "input": 0.15, "output": 0.6});
    let prices = [price("gpt-4o"), price("gpt-4o-mini")].map(serde_json::from_value);
    let prices = prices.into_iter().collect::<Result<Vec<_>, _>>()?;
    gateway.prices.store(&prices);
    gateway.snapshots.replace(snapshot);
    gateway.memories.listening(true);
    gateway.memories.keep((tenant, agent, Some(USER)), 1, Some("<block>parcel 7 left on monday</block>\n".repeat(100).into()));
    println!("{}", server.address());
    thread::spawn(move || server.serve());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    std::fs::remove_dir_all(folder)?;
    std::process::exit(0);
}

fn configuration(upstream: SocketAddr, spool: &str) -> Result<Config, String> {
    let provider = |name: &str, wire: &str| json!({"name": name, "wire": wire, "base_url": format!("http://{upstream}/v1"), "api_key": "sk-of-the-provider"});
    let config = json!({
        "listen": "127.0.0.1:0",
        "control_url": "http://127.0.0.1:9",
        "database": "host=127.0.0.1 port=9 user=nobody dbname=nothing",
        "spool_dir": spool,
        "spool_max_bytes": 1u64 << 30,
        "threads": 1,
        "max_body_bytes": 1 << 20,
        "providers": [provider("oai", "openai_chat"), provider("ant", "anthropic_messages")],
        "models": [
            {"name": "gpt", "upstreams": [{"provider": "oai", "model": "gpt-4o-mini"}]},
            {"name": "claude", "upstreams": [{"provider": "ant", "model": "claude"}]},
        ],
        "timeouts": {"connect_ms": 5000, "first_byte_ms": 600_000, "idle_ms": 300_000, "total_ms": 3_600_000},
    });
    Config::parse(&config.to_string())
}
