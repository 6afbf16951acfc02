//! Settings that change while calls are under way: what is new holds for the next call, what is wrong changes nothing.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use serde_json::json;

use crate::support::{
    Gateway,
    client::Request,
    eventually,
    upstream::{self, Step, Upstream},
};

const CALL: &str = r#"{"model":"gpt","messages":[{"role":"user","content":"hi"}]}"#;
const ANSWER: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000000,"completion_tokens":0,"total_tokens":1000000}}"#;

fn gateway() -> (Upstream, Gateway) {
    let upstream = Upstream::answering(upstream::json(200, "", ANSWER));
    let gateway = Gateway::before(&upstream);
    (upstream, gateway)
}

#[test]
fn limits_prices_and_timeouts_hold_from_the_next_call_on_and_none_is_dropped() {
    let (_upstream, gateway) = gateway();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut statuses = Vec::new();
            while !ended.load(SeqCst) {
                statuses.push(gateway.post("/v1/chat/completions", CALL).status);
            }
            statuses
        });
        for number in 1..=20 {
            let price = json!({"provider": "oai", "model": "gpt", "input": number, "output": 1});
            gateway.reload(&json!({"prices": [price], "max_body_bytes": 1000 + number, "output_tokens": number})).unwrap();
            let answer = gateway.post("/v1/chat/completions", CALL);
            assert_eq!(answer.header("x-trunkline-cost"), Some(&*number.to_string()));
            let long = "x".repeat(1001 + number);
            let refused = gateway.post("/v1/chat/completions", &long);
            assert_eq!(refused.status, 413);
            assert!(refused.text().contains(&format!("{} bytes", 1000 + number)), "{}", refused.text());
        }
        for wrong in [
            json!({"models": [{"name": "m", "upstreams": []}]}),
            json!({"record": {"bodies": "all", "max_bytes": 0, "keep_days": 1, "redact": []}}),
        ] {
            gateway.reload(&wrong).unwrap_err();
            assert_eq!(gateway.post("/v1/chat/completions", CALL).header("x-trunkline-cost"), Some("20"));
        }
        ended.store(true, SeqCst);
        let statuses = load.join().unwrap();
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    });
}

#[test]
fn a_call_under_way_goes_on_with_the_times_it_began_with() {
    let (open, gate) = upstream::gate();
    let gate = std::sync::Mutex::new(Some(gate));
    let upstream = Upstream::start(move |_, _| match gate.lock().unwrap().take() {
        Some(gate) => vec![Step::Wait(gate), Step::Send(upstream::json(200, "", ANSWER))],
        None => vec![Step::AwaitClose(upstream::gate().0)],
    });
    let gateway = Gateway::before(&upstream);
    let first = Request::post("/v1/chat/completions", CALL).open(gateway.address);
    upstream.wait_for_requests(1);
    gateway.reload(&json!({"timeouts": {"connect_ms": 5000, "first_byte_ms": 20, "idle_ms": 20000, "total_ms": 60000}})).unwrap();
    // The second is held to the new time, after which the first, which began long before, is still waited for.
    assert_eq!(gateway.post("/v1/chat/completions", CALL).status, 504);
    open.send(()).unwrap();
    assert_eq!(first.response().status, 200);
}

#[test]
fn a_cache_is_put_on_keeps_what_it_holds_and_is_taken_off() {
    let (upstream, gateway) = gateway();
    let state = || {
        let answer = gateway.post("/v1/chat/completions", CALL);
        answer.header("x-trunkline-cache").map(str::to_owned)
    };
    assert_eq!(state(), None);
    let cache = |ttl: u32, bytes: u32| json!({"cache": {"store": "memory", "ttl_seconds": ttl, "max_bytes": bytes, "namespace": "key", "models": null, "routes": ["openai_chat"]}});
    gateway.reload(&cache(600, 1 << 20)).unwrap();
    assert_eq!([state(), state()], [Some("miss".to_owned()), Some("hit".to_owned())]);
    let hit = gateway.post("/v1/chat/completions", CALL);
    for (name, value) in [("retries", "0"), ("memory", "none"), ("cost", "0"), ("upstream", "oai/gpt")] {
        assert_eq!(hit.header(&format!("x-trunkline-{name}")), Some(value), "as on every answer");
    }
    assert!(hit.header("x-trunkline-call").is_some_and(|call| call.starts_with("call_")));
    assert!(hit.header("x-trunkline-overhead-us").is_some_and(|micros| micros.parse::<u64>().is_ok()));
    gateway.reload(&cache(60, 1 << 20)).unwrap();
    assert_eq!(state(), Some("hit".to_owned()), "the answers stay where only their time changes");
    gateway.reload(&cache(60, 1 << 21)).unwrap();
    assert_eq!(state(), Some("miss".to_owned()), "another size is another cache");
    gateway.reload(&json!({})).unwrap();
    assert_eq!(state(), None);
    assert_eq!(upstream.received().len(), 4);
}

#[test]
fn traces_and_stored_bodies_begin_and_end_with_the_settings() {
    let (_upstream, gateway) = gateway();
    let collector = Upstream::answering(upstream::json(200, "", "{}"));
    let bodies = || {
        gateway.post("/v1/chat/completions", CALL);
        gateway.records().last().unwrap().get("bodies").is_some_and(|bodies| !bodies.is_null())
    };
    assert!(!bodies());
    let traces = json!({"endpoint": format!("http://{}", collector.address), "service_name": "t", "sample": 1.0});
    gateway
        .reload(&json!({"traces": traces, "record": {"bodies": "all", "max_bytes": 100, "keep_days": 1, "redact": []}}))
        .unwrap();
    assert!(bodies());
    // Taken off at once: the span that waits is still sent.
    gateway.reload(&json!({})).unwrap();
    assert!(!bodies());
    eventually(|| collector.received().iter().any(|request| request.line.starts_with("POST /v1/traces")));
}

#[test]
fn what_belongs_to_the_start_is_refused_by_its_name() {
    let (_upstream, gateway) = gateway();
    for (key, value) in [("listen", json!("127.0.0.1:1")), ("database", json!("host=elsewhere")), ("threads", json!(7))] {
        let error = gateway.reload(&json!({key: value})).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}
