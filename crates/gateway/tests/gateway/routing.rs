//! Where calls go: which upstream first, how often again, and to which other model.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use crate::support::{
    Gateway, PROVIDER_KEY,
    client::{Request, Response},
    upstream::{Step, Upstream, chunk, gate, json as answer, stream_head},
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const REPLY: &str = r#"{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

fn ok() -> Vec<u8> {
    answer(200, "", REPLY)
}

fn good() -> Upstream {
    Upstream::answering(ok())
}

fn failing(status: u16, headers: &'static str) -> Upstream {
    Upstream::answering(answer(status, headers, r#"{"error":{"message":"no"}}"#))
}

/// A gateway whose providers have these names and addresses, with these models and this routing.
fn gateway(providers: &[(&str, SocketAddr)], models: &Value, routing: &Value) -> Gateway {
    let providers = providers.iter().map(|(name, address)| {
        json!({"name": name, "wire": "openai_chat", "base_url": format!("http://{address}/v1"), "api_key": PROVIDER_KEY})
    });
    let models = models.as_object().unwrap().iter().map(|(name, upstreams)| json!({"name": name, "upstreams": upstreams}));
    let config = json!({
        "providers": providers.collect::<Vec<_>>(), "models": models.collect::<Vec<_>>(), "routing": routing,
    });
    Gateway::configured(&config, &json!({}))
}

fn at(provider: &str) -> Value {
    json!({"provider": provider, "model": "m"})
}

fn body(model: &str, text: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": text}]}).to_string()
}

fn call(gateway: &Gateway, model: &str) -> Response {
    gateway.post(CHAT, &body(model, "hello"))
}

fn counts(upstreams: &[&Upstream]) -> Vec<usize> {
    upstreams.iter().map(|upstream| upstream.received().len()).collect()
}

#[test]
fn conversations_are_spread_by_weight_and_each_stays_where_it_was() {
    let upstreams = [good(), good(), good()];
    let [a, b, c] = &upstreams;
    let models = json!({"m": [
        {"provider": "a", "model": "m", "weight": 3},
        {"provider": "b", "model": "m", "weight": 1},
        {"provider": "c", "model": "m", "weight": 0},
    ]});
    let gateway = gateway(&[("a", a.address), ("b", b.address), ("c", c.address)], &models, &json!({}));
    for round in 0..2 {
        for conversation in 0..40 {
            let first = gateway.post(CHAT, &body("m", &format!("conversation {conversation}")));
            let further = json!({"model": "m", "messages": [
                {"role": "user", "content": format!("conversation {conversation}")},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": format!("more {round}")},
            ]});
            assert_eq!(further["messages"][0], json!({"role": "user", "content": format!("conversation {conversation}")}));
            let again = gateway.post(CHAT, &further.to_string());
            assert_eq!(first.header("x-trunkline-upstream"), again.header("x-trunkline-upstream"));
        }
    }
    let counts = counts(&[a, b, c]);
    assert_eq!(counts.iter().sum::<usize>(), 160);
    assert!(counts[0] > counts[1] && counts[1] > 0, "{counts:?}");
    assert_eq!(counts[2], 0, "{counts:?}");
}

#[test]
fn a_cache_key_of_the_clients_or_a_session_decides_where_its_calls_go() {
    let (a, b) = (good(), good());
    let gateway = gateway(&[("a", a.address), ("b", b.address)], &json!({"m": [at("a"), at("b")]}), &json!({}));
    for same in 0..10 {
        let mut places = std::collections::HashSet::new();
        let mut sessions = std::collections::HashSet::new();
        for differing in 0..5 {
            let text = format!("text {same} {differing}");
            let keyed =
                json!({"model": "m", "prompt_cache_key": format!("k{same}"), "messages": [{"role": "user", "content": text}]});
            let response = gateway.post(CHAT, &keyed.to_string());
            places.insert(response.header("x-trunkline-upstream").unwrap().to_owned());
            let session = format!("sesn_{same:032x}");
            let named = Request::post(CHAT, &body("m", &text)).header("x-trunkline-session", &session).send(gateway.address);
            sessions.insert(named.header("x-trunkline-upstream").unwrap().to_owned());
        }
        assert_eq!((places.len(), sessions.len()), (1, 1));
    }
    assert!(counts(&[&a, &b]).iter().all(|count| *count > 0));
}

#[test]
fn the_least_busy_serves() {
    let (open, wait) = gate();
    let wait = std::sync::Mutex::new(Some(wait));
    let slow = Upstream::start(move |_, _| {
        let waiting = wait.lock().unwrap().take().map(Step::Wait);
        waiting.into_iter().chain([Step::Send(ok())]).collect()
    });
    let idle = good();
    let models = json!({"m": [{"provider": "slow", "model": "m", "weight": 1_000_000}, {"provider": "idle", "model": "m", "weight": 0.000_001}]});
    let gateway = gateway(&[("slow", slow.address), ("idle", idle.address)], &models, &json!({"strategy": "least_busy"}));
    let under_way = Request::post(CHAT, &body("m", "hello")).open(gateway.address);
    slow.wait_for_requests(1);
    for _ in 0..5 {
        assert_eq!(call(&gateway, "m").status, 200);
    }
    assert_eq!(counts(&[&slow, &idle]), [1, 5]);
    open.send(()).unwrap();
    assert_eq!(under_way.response().status, 200);
    // Both are idle again: the weight decides.
    crate::support::eventually(|| {
        call(&gateway, "m");
        slow.received().len() > 1
    });
}

#[test]
fn the_soonest_to_answer_serves() {
    let slow = Upstream::start(|_, _| vec![Step::Pause(Duration::from_millis(100)), Step::Send(ok())]);
    let fast = good();
    let models = json!({"m": [{"provider": "slow", "model": "m", "weight": 1_000_000}, at("fast")]});
    let gateway = gateway(&[("slow", slow.address), ("fast", fast.address)], &models, &json!({"strategy": "lowest_latency"}));
    for _ in 0..10 {
        assert_eq!(call(&gateway, "m").status, 200);
    }
    // Each is tried once to be known.
    assert_eq!(counts(&[&slow, &fast]), [1, 9]);
}

#[test]
fn lower_orders_go_first_and_others_when_they_fail() {
    let (first, second, third) = (failing(500, ""), good(), good());
    let models = json!({"m": [
        at("third"),
        {"provider": "second", "model": "m", "order": 2},
        {"provider": "first", "model": "m", "order": 1},
    ]});
    let providers = [("first", first.address), ("second", second.address), ("third", third.address)];
    let gateway = gateway(&providers, &models, &json!({}));
    for _ in 0..5 {
        assert_eq!(call(&gateway, "m").status, 200);
    }
    assert_eq!(counts(&[&first, &second, &third]), [1, 5, 0]);
}

#[test]
fn an_upstream_rests_after_more_failures_than_allowed_and_at_once_after_429_and_401() {
    for (status, expected) in [(500, 3), (429, 1), (401, 1), (403, 1)] {
        let (bad, good) = (failing(status, ""), good());
        let routing = json!({"strategy": "order", "allowed_fails": 2, "cooldown_ms": 60_000});
        let gateway = gateway(&[("bad", bad.address), ("good", good.address)], &json!({"m": [at("bad"), at("good")]}), &routing);
        for _ in 0..6 {
            assert_eq!(call(&gateway, "m").status, 200);
        }
        assert_eq!(counts(&[&bad, &good]), [expected, 6], "{status}");
    }
}

#[test]
fn an_upstream_serves_again_after_its_rest() {
    let bad = Upstream::start(|_, before| vec![Step::Send(if before == 0 { answer(500, "", "{}") } else { ok() })]);
    let other = good();
    let routing = json!({"strategy": "order", "cooldown_ms": 150});
    let gateway = gateway(&[("bad", bad.address), ("other", other.address)], &json!({"m": [at("bad"), at("other")]}), &routing);
    assert_eq!(call(&gateway, "m").header("x-trunkline-upstream"), Some("other/m"));
    crate::support::eventually(|| call(&gateway, "m").header("x-trunkline-upstream") == Some("bad/m"));
}

#[test]
fn when_all_rest_the_one_that_wakes_first_is_asked() {
    let long = failing(429, "retry-after: 60\r\n");
    let short =
        Upstream::start(|_, before| vec![Step::Send(if before == 0 { answer(429, "retry-after: 1\r\n", "{}") } else { ok() })]);
    let routing = json!({"strategy": "order"});
    let gateway =
        gateway(&[("long", long.address), ("short", short.address)], &json!({"m": [at("long"), at("short")]}), &routing);
    let response = call(&gateway, "m");
    assert_eq!((response.status, response.header("x-trunkline-upstream")), (200, Some("short/m")));
    assert_eq!(counts(&[&long, &short]), [1, 2]);
    assert_eq!(gateway.records()[0]["retries"], json!(2));
}

#[test]
fn when_all_asked_to_be_left_alone_the_client_is_told_until_when_and_none_is_asked() {
    let (first, second) = (failing(429, "retry-after: 60\r\n"), failing(503, "retry-after: 30\r\n"));
    let models = json!({"m": [at("first"), at("second")]});
    let gateway = gateway(&[("first", first.address), ("second", second.address)], &models, &json!({"strategy": "order"}));
    let told = call(&gateway, "m");
    assert_eq!((told.status, told.header("retry-after")), (503, Some("30")), "the provider's own words come first");
    assert_eq!(told.header("x-trunkline-retries"), Some("1"));
    let refused = call(&gateway, "m");
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("upstreams_resting")));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(refused.header("x-trunkline-retries"), None, "nothing was tried");
    assert_eq!(counts(&[&first, &second]), [1, 1]);
    let metrics = Request::get("/metrics").send(gateway.address);
    for line in [
        r#"trunkline_refusals_total{reason="resting"} 1"#,
        r#"trunkline_upstream_retries_total{provider="second",model="m"} 1"#,
        r#"trunkline_upstream_failures_total{provider="first",model="m",failure="rate_limit"} 1"#,
        r#"trunkline_upstream_failures_total{provider="second",model="m",failure="server"} 1"#,
        r#"trunkline_upstream_rests_total{provider="first",model="m"} 1"#,
        r#"trunkline_upstream_resting{provider="second",model="m"} 1"#,
        r#"trunkline_requests_total{route="openai_chat",status="503"} 1"#,
        r#"trunkline_requests_total{route="openai_chat",status="429"} 1"#,
    ] {
        assert!(metrics.text().lines().any(|known| known == line), "{line} is not in\n{}", metrics.text());
    }
}

#[test]
fn all_that_asked_to_be_left_alone_are_passed_over_for_a_fallback() {
    let (busy, good) = (failing(429, "retry-after: 60\r\n"), good());
    let models = json!({
        "m": [at("busy"), {"provider": "busy", "model": "n"}], "other": [at("busy"), {"provider": "busy", "model": "n"}],
        "good": [at("good")],
    });
    let routing = json!({"fallbacks": {"m": ["other", "good"]}});
    let gateway = gateway(&[("busy", busy.address), ("good", good.address)], &models, &routing);
    for round in 1..=3 {
        assert_eq!(call(&gateway, "m").header("x-trunkline-upstream"), Some("good/m"));
        assert_eq!(counts(&[&busy, &good]), [4, round]);
    }
    let metrics = Request::get("/metrics").send(gateway.address);
    let line = r#"trunkline_upstream_fallbacks_total{provider="good",model="m"} 3"#;
    assert!(metrics.text().lines().any(|known| known == line), "{}", metrics.text());
}

#[test]
fn upstreams_that_failed_without_asking_for_peace_are_asked_again() {
    let (a, b) = (failing(500, ""), failing(500, ""));
    let gateway = gateway(&[("a", a.address), ("b", b.address)], &json!({"m": [at("a"), at("b")]}), &json!({"retries": 1}));
    for round in 1..=2 {
        assert_eq!(call(&gateway, "m").status, 500);
        assert_eq!(counts(&[&a, &b]).iter().sum::<usize>(), 2 * round);
    }
}

#[test]
fn retries_follow_the_policy_for_what_went_wrong() {
    let long = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    let filtered = r#"{"error":{"message":"no","code":"content_filter"}}"#;
    // What is said, the routing, and how many attempts follow.
    for (status, said, routing, attempts) in [
        (500, "{}", json!({}), 2),
        (500, "{}", json!({"retries": 0}), 1),
        (500, "{}", json!({"retries": 3, "min_pause_ms": 1}), 4),
        (500, "{}", json!({"retries": 3, "retry_policy": {"server": 1}}), 2),
        (500, "{}", json!({"retries": 0, "model_retry_policies": {"m": {"server": 1}}}), 2),
        (429, "{}", json!({"retries": 0, "retry_policy": {"rate_limit": 1}}), 2),
        (401, "{}", json!({"retries": 3}), 1),
        (401, "{}", json!({"retry_policy": {"auth": 1}}), 2),
        (400, "{}", json!({"retries": 3}), 1),
        (400, "{}", json!({"retry_policy": {"bad_request": 1}}), 2),
        (400, filtered, json!({"retries": 3}), 1),
        (400, filtered, json!({"retry_policy": {"content_policy": 1}}), 2),
        (400, long, json!({"retries": 3, "retry_policy": {"bad_request": 3}}), 1),
        (408, "{}", json!({"retries": 3}), 1),
        (408, "{}", json!({"retry_policy": {"timeout": 1}}), 2),
    ] {
        let upstream = Upstream::answering(answer(status, "", said));
        let gateway = gateway(&[("a", upstream.address)], &json!({"m": [at("a")]}), &routing);
        let response = call(&gateway, "m");
        assert_eq!((response.status, response.text()), (status, said));
        assert_eq!(upstream.received().len(), attempts, "{status} {said} {routing}");
        assert_eq!(gateway.records()[0]["retries"], json!(attempts - 1));
    }
}

#[test]
fn a_call_that_may_be_under_way_is_sent_again_only_where_the_policy_says_so() {
    for (routing, attempts) in [(json!({"retries": 5}), 1), (json!({"retry_policy": {"timeout": 1}}), 2)] {
        let silent = Upstream::start(|_, _| vec![Step::Pause(Duration::from_secs(2)), Step::Close]);
        let models = json!({"m": [{"provider": "a", "model": "m", "first_byte_ms": 100}]});
        let gateway = gateway(&[("a", silent.address)], &models, &routing);
        let response = call(&gateway, "m");
        assert_eq!(response.status, 504, "{}", response.text());
        assert_eq!(silent.received().len(), attempts, "{routing}");
        assert_eq!(gateway.records()[0]["retries"], json!(attempts - 1));
    }
}

#[test]
fn retry_after_is_obeyed_as_seconds_and_as_a_date_and_garbage_is_not() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
    let past = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(30));
    for (value, attempts) in [(date.as_str(), 1), ("30", 1), (past.as_str(), 2), ("0", 2), ("next tuesday", 2), ("-1", 2)] {
        let header = format!("retry-after: {value}\r\n");
        let upstream =
            Upstream::start(move |_, before| vec![Step::Send(if before == 0 { answer(429, &header, "{}") } else { ok() })]);
        let gateway = gateway(&[("a", upstream.address)], &json!({"m": [at("a")]}), &json!({}));
        let response = call(&gateway, "m");
        assert_eq!(upstream.received().len(), attempts, "{value}");
        // What is too long for us is the client's to wait for: it is told.
        assert_eq!(response.status, if attempts == 1 { 429 } else { 200 });
        assert_eq!(response.header("retry-after"), (attempts == 1).then_some(value));
    }
}

#[test]
fn a_model_that_fails_goes_on_to_its_fallbacks_or_to_everybodys() {
    let (bad, good) = (failing(500, ""), good());
    let models =
        json!({"m": [at("bad")], "n": [at("bad")], "other": [at("bad")], "good": [{"provider": "good", "model": "its-name"}]});
    let routing = json!({"retries": 0, "fallbacks": {"m": ["other", "good"]}, "default_fallbacks": ["good"]});
    let gateway = gateway(&[("bad", bad.address), ("good", good.address)], &models, &routing);
    let response = call(&gateway, "m");
    assert_eq!((response.status, response.header("x-trunkline-upstream")), (200, Some("good/its-name")));
    assert_eq!(serde_json::from_str::<Value>(&good.received()[0].body).unwrap()["model"], json!("its-name"));
    assert_eq!((counts(&[&bad, &good]), &gateway.records()[0]["retries"]), (vec![2, 1], &json!(2)));
    assert_eq!(call(&gateway, "n").header("x-trunkline-upstream"), Some("good/its-name"));
}

#[test]
fn too_long_a_request_and_refused_content_have_fallbacks_of_their_own() {
    let saying =
        |code: &str| Upstream::answering(answer(400, "", &json!({"error": {"message": "no", "code": code}}).to_string()));
    for (code, expected) in
        [("context_length_exceeded", Some("long/m")), ("content_filter", Some("free/m")), ("invalid_value", None)]
    {
        let (bad, long, free, plain) = (saying(code), good(), good(), good());
        let models = json!({"m": [at("bad")], "long": [at("long")], "free": [at("free")], "plain": [at("plain")]});
        let routing = json!({
            "fallbacks": {"m": ["plain"]}, "context_window_fallbacks": {"m": ["long"]}, "content_policy_fallbacks": {"m": ["free"]},
        });
        let providers = [("bad", bad.address), ("long", long.address), ("free", free.address), ("plain", plain.address)];
        let gateway = gateway(&providers, &models, &routing);
        let response = call(&gateway, "m");
        match expected {
            Some(upstream) => assert_eq!((response.status, response.header("x-trunkline-upstream")), (200, Some(upstream))),
            None => assert_eq!((response.status, counts(&[&long, &free, &plain])), (400, vec![0, 0, 0])),
        }
        assert_eq!(bad.received().len(), 1);
    }
}

#[test]
fn fallbacks_that_refer_to_each_other_are_each_tried_once_and_the_first_failure_is_told() {
    let own = |status: u16, text: &str| Upstream::answering(answer(status, "", &json!({"error": {"message": text}}).to_string()));
    let (a, b, c) = (own(500, "of a"), own(502, "of b"), own(503, "of c"));
    let models = json!({"a": [at("a")], "b": [at("b")], "c": [at("c")]});
    let routing =
        json!({"retries": 0, "fallbacks": {"a": ["b"], "b": ["c", "a"], "c": ["a", "b", "c"]}, "aliases": {"z": {"model": "a"}}});
    let gateway = gateway(&[("a", a.address), ("b", b.address), ("c", c.address)], &models, &routing);
    for (round, model) in [(1, "a"), (2, "z")] {
        let response = call(&gateway, model);
        assert_eq!((response.status, &response.json()["error"]["message"]), (500, &json!("of a")));
        // What rests is spared in favour of the others, and asked at last.
        assert_eq!(counts(&[&a, &b, &c]), [round, round, round]);
    }
}

#[test]
fn nothing_is_sent_again_once_the_client_has_a_byte() {
    let dying = Upstream::start(|_, _| {
        let piece = chunk(b"data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"he\"}}]}\n\n");
        vec![Step::Send(stream_head()), Step::Send(piece), Step::Close]
    });
    let good = good();
    let models = json!({"m": [at("dying"), at("good")], "other": [at("good")]});
    let policy = json!({"timeout": 3, "connect": 3, "server": 3});
    let routing = json!({"strategy": "order", "retries": 3, "retry_policy": policy, "default_fallbacks": ["other"]});
    let gateway = gateway(&[("dying", dying.address), ("good", good.address)], &models, &routing);
    let request = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]}).to_string();
    let events = gateway.post(CHAT, &request).events();
    assert_eq!(events[0]["choices"][0]["delta"]["content"], json!("he"));
    assert!(events.last().unwrap().get("error").is_some(), "{events:?}");
    assert_eq!(counts(&[&dying, &good]), [1, 0]);
}

#[test]
fn a_client_that_leaves_during_a_pause_is_not_sent_for_again() {
    let upstream = failing(429, "retry-after: 2\r\n");
    let gateway = gateway(&[("a", upstream.address)], &json!({"m": [at("a")]}), &json!({"retries": 5}));
    let connection = Request::post(CHAT, &body("m", "hello")).open(gateway.address);
    upstream.wait_for_requests(1);
    drop(connection);
    let record = &gateway.wait_for_records(1)[0];
    assert_eq!(record["status"], json!(499));
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn a_deployment_has_its_own_key_url_headers_and_defaults() {
    let (own, others) = (good(), good());
    let models = json!({
        "m": [{
            "provider": "a", "model": "m", "api_key": "sk-its-own", "base_url": format!("http://{}/elsewhere/", own.address),
            "headers": {"x-team": "desk"}, "body": {"temperature": 0.25, "top_p": 0.5},
        }],
        "wild/*": [{"provider": "a", "model": "x-*"}],
    });
    let routing = json!({"listed_only": true, "aliases": {"nick": {"model": "m"}, "secret": {"model": "m", "hidden": true}}});
    let gateway = gateway(&[("a", others.address)], &models, &routing);
    let given = r#"{"model":"nick","temperature":1.0,"messages":[{"role":"user","content":"x"}]}"#;
    assert_eq!(gateway.post(CHAT, given).status, 200);
    let received = &own.received()[0];
    assert_eq!(received.line, "POST /elsewhere/chat/completions HTTP/1.1");
    assert_eq!((received.header("authorization"), received.header("x-team")), (Some("Bearer sk-its-own"), Some("desk")));
    assert_eq!(received.body, r#"{"top_p":0.5,"model":"m","temperature":1.0,"messages":[{"role":"user","content":"x"}]}"#);

    assert_eq!(call(&gateway, "wild/cat").header("x-trunkline-upstream"), Some("a/x-cat"));
    assert_eq!(call(&gateway, "a/direct").status, 404, "only what is listed is served");
    assert_eq!(call(&gateway, "secret").status, 200);
    let listed = Request::get("/v1/models").send(gateway.address).json();
    let names: Vec<_> = listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["m", "nick"]);
}
