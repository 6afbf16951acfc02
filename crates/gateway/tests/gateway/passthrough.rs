//! A provider's own paths under its name: what goes there, who may, and what comes back.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use crate::support::{
    Gateway, KEY, PROVIDER_KEY,
    client::{Request, Response},
    upstream::{Step, Upstream, chunk, end, json as answer, stream_head},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use proptest::prelude::*;
use serde_json::{Value, json};

const CHAT_REPLY: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

/// In front of an upstream as `oai`, `ant`, `gem` and `azure`; the key has what `key` says.
fn before(upstream: &Upstream, key: &Value) -> Gateway {
    let root = format!("http://{}", upstream.address);
    let provider = |name: &str, wire: &str, family: &str, base: &str| json!({"name": name, "wire": wire, "family": family, "base_url": format!("{root}{base}"), "api_key": PROVIDER_KEY});
    let mut azure = provider("azure", "openai_chat", "azure", "/openai/v1");
    azure["api_version"] = json!("2024-10-21");
    let providers = [
        provider("oai", "openai_chat", "openai", "/v1"),
        provider("ant", "anthropic_messages", "anthropic", "/v1"),
        provider("gem", "openai_chat", "gemini", "/v1beta"),
        azure,
    ];
    Gateway::configured(&json!({"providers": providers}), key)
}

fn everything() -> Value {
    json!({"scopes": ["inference", "passthrough"]})
}

fn message(response: &Response) -> String {
    response.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn only_what_the_request_is_goes_along_and_no_secret_comes_back() {
    let headers = format!(
        "set-cookie: provider=1\r\nx-echo: key {PROVIDER_KEY}\r\nx-named: 1\r\nconnection: x-named\r\nopenai-version: 2020\r\nalt-svc: h3\r\n"
    );
    let upstream = Upstream::answering(answer(200, &headers, "{}"));
    let gateway = before(&upstream, &everything());
    let secrets = [
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-goog-api-key", KEY),
        ("cookie", "session=secret"),
        ("proxy-authorization", "Basic secret"),
        ("connection", "range, keep-alive"),
        ("range", "secret"),
        ("forwarded", "for=secret"),
        ("via", "1.1 secret"),
        ("x-forwarded-for", "secret"),
        ("x-forwarded-host", "secret"),
        ("x-real-ip", "secret"),
        ("x-trunkline-user", "secret"),
        ("openai-organization", "secret"),
        ("user-agent", "secret"),
        ("referer", "secret"),
        ("te", "trailers"),
    ];
    for (path, key) in [("oai", "authorization"), ("ant", "x-api-key"), ("azure", "api-key")] {
        let request = Request::get(&format!("/{path}/v1/files?limit=2&key={KEY}&api_key=secret"));
        let request = request.header("openai-beta", "assistants=v2").header("anthropic-beta", "files").header("if-match", "x");
        let response = secrets.iter().fold(request, |request, (name, value)| request.header(name, value)).send(gateway.address);
        assert_eq!(response.status, 200, "{}", response.text());
        let received = upstream.received().pop().unwrap();
        let mut names: Vec<&str> = received.headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut expected = vec!["host", "if-match", "openai-beta", "user-agent", key];
        if path == "ant" {
            expected.extend(["anthropic-beta", "anthropic-version"]);
        }
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(received.header(key).unwrap().trim_start_matches("Bearer "), PROVIDER_KEY);
        assert_eq!(received.header("host"), Some(upstream.address.to_string().as_str()));
        assert!(!format!("{received:?}").contains("secret") && !format!("{received:?}").contains(KEY), "{received:?}");
        for name in ["set-cookie", "x-echo", "x-named", "alt-svc"] {
            assert_eq!(response.header(name), None, "{name}");
        }
        assert_eq!(response.header("openai-version"), Some("2020"));
        assert!(response.header("x-trunkline-call").unwrap().starts_with("call_"));
    }
    let lines: Vec<_> = upstream.received().into_iter().map(|received| received.line).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/files?limit=2 HTTP/1.1",
            "GET /v1/files?limit=2 HTTP/1.1",
            "GET /v1/files?api-version=2024-10-21&limit=2 HTTP/1.1"
        ]
    );
}

#[test]
fn a_version_in_the_path_takes_the_place_of_the_base_urls() {
    let upstream = Upstream::answering(answer(200, "", "{}"));
    let gateway = before(&upstream, &everything());
    for (path, expected) in [
        ("/oai/v1/files", "/v1/files"),
        ("/oai/files", "/v1/files"),
        ("/oai/v2/files/f-1/content", "/v2/files/f-1/content"),
        ("/oai/v1a/v1/files", "/v1a/v1/files"),
        ("/oai/v/files", "/v1/v/files"),
        ("/oai/vv1/files", "/v1/vv1/files"),
        ("/gem/v1/models", "/v1/models"),
        ("/gem/v1beta/models", "/v1beta/models"),
        ("/azure/openai/deployments/d/embeddings?api-version=9", "/openai/deployments/d/embeddings?api-version=2024-10-21"),
        ("/oai/", "/v1/"),
        ("/oai/v1/files/@host:80", "/v1/files/@host:80"),
    ] {
        assert_eq!(Request::get(path).send(gateway.address).status, 200, "{path}");
        assert_eq!(upstream.received().pop().unwrap().line, format!("GET {expected} HTTP/1.1"));
    }
    for method in ["DELETE", "PUT", "PATCH", "OPTIONS"] {
        let request = Request::get("/").line(&format!("{method} /oai/v1/files/f HTTP/1.1"));
        assert_eq!(request.send(gateway.address).status, 200);
        assert_eq!(upstream.received().pop().unwrap().line, format!("{method} /v1/files/f HTTP/1.1"));
    }
}

#[test]
fn the_account_needs_a_scope_and_models_are_the_keys() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let chat = "/oai/v1/chat/completions";
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nlarge\r\n--b--\r\n";
    let post = |path: &str, kind: &str, body: &str| Request::post(path, body).header("content-type", kind);
    let json = "application/json";
    let audio = "/oai/v1/audio/transcriptions";

    let gateway = before(&upstream, &json!({"scopes": ["inference"], "models": ["small", "oai/full"]}));
    for (request, expected) in [
        (post(chat, json, r#"{"model":"small"}"#), 200),
        (post(chat, json, r#"{"model":"full"}"#), 200),
        (post(chat, json, r#"{"model":"large"}"#), 403),
        (post(chat, json, r#"{"model":"small","m\u006fdel":"large"}"#), 400),
        (post(chat, json, r#"{"model":["small"]}"#), 403),
        (post(chat, "text/plain", r#"{"model":"small"}"#), 403),
        (post(chat, json, ""), 403),
        (post(chat, json, "{"), 400),
        (post(audio, "multipart/form-data; boundary=b", form), 403),
        (post(audio, "multipart/form-data; boundary=b", &form.replace("large", "small")), 200),
        (post("/gem/v1beta/models/small:generateContent", json, "{}"), 200),
        (post("/gem/v1beta/models/large:generateContent", json, r#"{"model":"small"}"#), 403),
        (post("/azure/openai/deployments/large/chat/completions", json, r#"{"model":"small"}"#), 403),
        (post("/oai/v1/threads/t/messages", json, r#"{"model":"small"}"#), 403),
        (post("/oai/v1/fine_tuning/jobs", json, r#"{"model":"small"}"#), 403),
        (Request::get("/oai/v1/files"), 403),
        (Request::get(chat), 403),
    ] {
        let response = request.send(gateway.address);
        assert_eq!(response.status, expected, "{}", response.text());
    }
    assert_eq!(upstream.received().len(), 4);

    let gateway = before(&upstream, &json!({"scopes": ["inference"]}));
    assert_eq!(post(audio, "multipart/form-data; boundary=b", form).send(gateway.address).status, 200);
    let refused = Request::get("/oai/v1/files").send(gateway.address);
    assert_eq!((refused.status, message(&refused).contains("scope 'passthrough'")), (403, true));
    let gateway = before(&upstream, &json!({"scopes": ["inference", "passthrough"], "models": ["small"]}));
    assert_eq!(Request::get("/oai/v1/files").send(gateway.address).status, 200);
    assert_eq!(post(chat, json, r#"{"model":"large"}"#).send(gateway.address).status, 403);
    assert_eq!(Request::get("/oai/v1/files").without_key().send(gateway.address).status, 401);
}

#[test]
fn limits_hold_here_too() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let body = r#"{"model":"m"}"#;
    let limits = |own: Value| {
        let none = json!({"models": null, "expires_at": null, "budget_usd": null, "budget_period": "total", "rpm": null,
            "tpm": null, "parallel": null});
        let mut limits = none.as_object().unwrap().clone();
        limits.extend(own.as_object().unwrap().clone());
        json!({"limits": limits})
    };
    // Nobody can be asked for money here; a rate is kept without.
    let poor = before(&upstream, &limits(json!({"budget_usd": 1.0})));
    for (path, body) in [("/oai/v1/chat/completions", body), ("/v1/embeddings", r#"{"model":"oai/m"}"#)] {
        let response = Request::post(path, body).header("content-type", "application/json").send(poor.address);
        assert_eq!((response.status, response.text().contains("limits_unavailable")), (503, true));
    }
    let often = before(&upstream, &limits(json!({"rpm": 1})));
    let status = || {
        let request = Request::post("/oai/v1/chat/completions", body).header("content-type", "application/json");
        request.send(often.address).status
    };
    // A minute may end between two of them.
    let statuses = [status(), status(), status()];
    assert!(statuses[0] == 200 && statuses.contains(&429), "{statuses:?}");
}

#[test]
fn usage_is_recorded_where_it_is_told() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = before(&upstream, &everything());
    let chat = Request::post("/oai/v1/chat/completions", r#"{"model":"m","messages":[]}"#);
    let response = chat.header("content-type", "application/json").header("x-trunkline-user", "ada").send(gateway.address);
    assert_eq!((response.status, response.text()), (200, CHAT_REPLY));
    assert_eq!(response.header("content-length"), Some(CHAT_REPLY.len().to_string().as_str()));
    Request::get("/oai/v1/files").send(gateway.address);
    let records = gateway.records();
    let told = |record: &Value| {
        ["wire", "model", "provider", "user", "input_tokens", "output_tokens", "estimated", "status"]
            .map(|name| record[name].clone())
    };
    let expected = [json!("pass_through"), json!("m"), json!("oai"), json!("ada"), json!(7), json!(3), json!(false), json!(200)];
    assert_eq!(told(&records[0]), expected);
    assert_eq!((&records[1]["input_tokens"], &records[1]["model"]), (&json!(7), &json!("")));

    let upstream = Upstream::answering(answer(404, "", r#"{"error":{"message":"no such file"}}"#));
    let gateway = before(&upstream, &everything());
    let response = Request::get("/oai/v1/files/f").send(gateway.address);
    assert_eq!((response.status, message(&response).as_str()), (404, "no such file"));
    let record = &gateway.records()[0];
    assert_eq!((&record["status"], &record["input_tokens"], &record["estimated"]), (&json!(404), &json!(0), &json!(false)));
}

#[test]
fn a_streams_usage_is_asked_for_and_hidden_from_a_client_that_did_not_ask() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\r\n\r\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n";
    let script = [stream_head(), chunk(text.as_bytes()), chunk(usage.as_bytes()), chunk(b"data: [DONE]\n\n"), end()].concat();
    let upstream = Upstream::answering(script);
    let gateway = before(&upstream, &everything());
    let asked = |more: &str| {
        let request = Request::post("/oai/v1/chat/completions", &format!(r#"{{"model":"m","stream":true{more},"messages":[]}}"#));
        request.header("content-type", "application/json").send(gateway.address)
    };
    let response = asked("");
    assert_eq!((response.whole, response.text()), (true, format!("{text}data: [DONE]\n\n").as_str()));
    let response = asked(r#","stream_options":{"include_usage":true}"#);
    assert_eq!(response.text(), format!("{text}{usage}data: [DONE]\n\n"));
    for (received, record) in upstream.received().iter().zip(gateway.records()) {
        assert!(received.body.contains(r#""include_usage":true"#), "{}", received.body);
        assert_eq!((&record["input_tokens"], &record["output_tokens"], &record["stream"]), (&json!(7), &json!(3), &json!(true)));
    }
}

/// A message of Amazon's event stream.
fn amazon(event: &str, payload: &Value) -> Vec<u8> {
    let (mut head, payload) = (Vec::new(), payload.to_string());
    for (name, value) in [(":event-type", event), (":content-type", "application/json"), (":message-type", "event")] {
        head.push(u8::try_from(name.len()).unwrap());
        head.extend_from_slice(name.as_bytes());
        head.push(7);
        head.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let mut out = Vec::new();
    out.extend_from_slice(&u32::try_from(16 + head.len() + payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&u32::try_from(head.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload.as_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

#[test]
fn bedrocks_messages_are_counted_as_they_go_by() {
    let wrapped = |event: &Value| amazon("chunk", &json!({"bytes": BASE64_STANDARD.encode(event.to_string())}));
    let converse = [
        amazon("messageStart", &json!({"role": "assistant"})),
        amazon("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": "word"}})),
        amazon("messageStop", &json!({"stopReason": "end_turn"})),
        amazon(
            "metadata",
            &json!({"usage": {"inputTokens": 7, "outputTokens": 3, "cacheReadInputTokens": 2}, "metrics": {"latencyMs": 1}}),
        ),
    ];
    let claude = [
        wrapped(
            &json!({"type": "message_start", "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 1}}}),
        ),
        wrapped(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word"}})),
        wrapped(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}})),
    ];
    let llama = [
        wrapped(&json!({"generation": "word", "prompt_token_count": null})),
        wrapped(&json!({"generation": "", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 9, "outputTokenCount": 3}})),
    ];
    let mut broken = converse.concat();
    broken[60] ^= 1;
    let model = "eu.anthropic.claude-3:0";
    let streams = [
        ("converse-stream", converse.concat(), Some((9, 3))),
        ("invoke-with-response-stream", claude.concat(), Some((9, 3))),
        ("invoke-with-response-stream", llama.concat(), Some((9, 3))),
        // The client has it all the same; what it cost is estimated.
        ("converse-stream", broken, None),
    ];
    for (route, stream, expected) in streams {
        let head =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        // Cut where no message ends.
        let pieces: Vec<Step> =
            [vec![head], stream.chunks(50).map(chunk).collect(), vec![end()]].concat().into_iter().map(Step::Send).collect();
        let pieces = std::sync::Mutex::new(Some(pieces));
        let upstream = Upstream::start(move |_, _| pieces.lock().unwrap().take().unwrap());
        let provider = json!({
            "name": "bedrock", "wire": "bedrock_converse", "base_url": format!("http://{}", upstream.address), "api_key": PROVIDER_KEY,
        });
        let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
        let path = format!("/bedrock/model/{}/{route}", model.replace(':', "%3A"));
        let request = Request::post(&path, r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#);
        let response = request.header("content-type", "application/json").send(gateway.address);
        assert_eq!((response.status, response.whole, &response.body), (200, true, &stream), "{route}");
        let record = &gateway.records()[0];
        assert_eq!((&record["model"], &record["stream"]), (&json!(model), &json!(true)), "{route}");
        assert_eq!(record["estimated"], json!(expected.is_none()), "{route}");
        if let Some((input, output)) = expected {
            assert_eq!((&record["input_tokens"], &record["output_tokens"]), (&json!(input), &json!(output)), "{route}");
        }
    }
}

#[test]
fn amazons_clients_are_refused_in_amazons_words() {
    let upstream = Upstream::answering(answer(200, "", "{}"));
    let provider = json!({
        "name": "bedrock", "wire": "bedrock_converse", "base_url": format!("http://{}", upstream.address), "api_key": PROVIDER_KEY,
    });
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    let refused = Request::post("/bedrock/model/m/converse", "{}").without_key().send(gateway.address);
    assert_eq!(refused.status, 401);
    assert!(refused.json()["message"].as_str().is_some_and(|message| message.contains("key")), "{}", refused.text());
}

#[test]
fn a_form_that_streams_is_recorded_with_the_model_that_it_begins_with() {
    let upstream = Upstream::answering(answer(200, "", CHAT_REPLY));
    let gateway = before(&upstream, &everything());
    let form = |first: &str, second: &str| {
        let part = |text: &str| format!("--b\r\nContent-Disposition: form-data; {text}\r\n");
        format!("{}{}--b--\r\n", part(first), part(second))
    };
    let (model, file) =
        ("name=\"model\"\r\n\r\nwhisper", format!("name=\"file\"; filename=\"f\"\r\n\r\n{}", "x".repeat(100_000)));
    for (body, expected) in [(form(model, &file), "whisper"), (form(&file, model), "")] {
        let request =
            Request::post("/oai/v1/audio/transcriptions", &body).header("content-type", "multipart/form-data; boundary=b");
        assert_eq!(request.send(gateway.address).status, 200);
        assert_eq!(upstream.received().pop().unwrap().body, body);
        assert_eq!(gateway.records().pop().unwrap()["model"], expected);
    }
}

#[test]
fn an_answer_that_breaks_off_is_no_whole_one() {
    let upstream = Upstream::start(|_, _| vec![Step::Send(stream_head()), Step::Send(chunk(b"data: {}\n\n")), Step::Close]);
    let gateway = before(&upstream, &everything());
    let response = Request::get("/oai/v1/files/f/content").send(gateway.address);
    assert_eq!((response.status, response.whole), (200, false));
    assert_eq!(gateway.wait_for_records(1)[0]["error_type"], "upstream_broke_off");
}

/// What a client and a provider have on one line each, while both bodies are under way.
#[test]
fn bodies_stream_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let provider = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        // The upload's first piece is here while its end is not written yet: so is the answer's.
        assert_eq!(read_chunk(&mut stream), b"\x00\xffone");
        stream
            .get_mut()
            .write_all(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(), chunk(b"\xfeone")].concat())
            .unwrap();
        assert_eq!(read_chunk(&mut stream), b"two");
        assert_eq!(read_chunk(&mut stream), b"");
        stream.get_mut().write_all(&[chunk(b"two"), end()].concat()).unwrap();
    });
    let providers = json!([{"name": "oai", "wire": "openai_chat", "base_url": format!("http://{address}/v1"), "api_key": "k"}]);
    let gateway = Gateway::configured(&json!({"providers": providers}), &everything());
    let mut client = TcpStream::connect(gateway.address).unwrap();
    let head = format!(
        "POST /oai/v1/files HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\ncontent-type: multipart/form-data; boundary=b\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    client.write_all(&[head.into_bytes(), chunk(b"\x00\xffone")].concat()).unwrap();
    let mut answers = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        answers.read_line(&mut line).unwrap();
    }
    assert_eq!(read_chunk(&mut answers), b"\xfeone");
    client.write_all(&[chunk(b"two"), end()].concat()).unwrap();
    assert_eq!((read_chunk(&mut answers), read_chunk(&mut answers)), (b"two".to_vec(), Vec::new()));
    provider.join().unwrap();
}

fn read_chunk(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let mut bytes = vec![0; usize::from_str_radix(line.trim_end(), 16).unwrap() + 2];
    stream.read_exact(&mut bytes).unwrap();
    bytes.truncate(bytes.len() - 2);
    bytes
}

#[test]
fn upgrades_redirects_and_unknown_names_are_refused() {
    let upstream = Upstream::answering(answer(302, "location: http://elsewhere.example/\r\n", "{}"));
    let gateway = before(&upstream, &everything());
    let upgrade = Request::get("/oai/v1/realtime?model=m").header("connection", "Upgrade").header("upgrade", "websocket");
    let response = upgrade.send(gateway.address);
    assert_eq!((response.status, message(&response).contains("WebSocket")), (501, true));
    let response = Request::get("/oai/v1/files").send(gateway.address);
    assert_eq!((response.status, response.header("location")), (502, None));
    assert_eq!(Request::get("/oai").send(gateway.address).status, 404);
    assert_eq!(upstream.received().len(), 1);
    // Nobody's name: the control plane's, which is not there in this test.
    assert_eq!(Request::get("/openai/v1/files").send(gateway.address).status, 502);
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn a_path_that_could_lead_elsewhere_is_refused() {
    let upstream = Upstream::answering(answer(200, "", "{}"));
    let gateway = before(&upstream, &everything());
    for path in [
        "/oai//elsewhere.example/x",
        "/oai/v1//files",
        "/oai/../v1/files",
        "/oai/v1/../../admin",
        "/oai/v1/./files",
        "/oai/v1/%2e%2e/admin",
        "/oai/v1/.%2E/admin",
        "/oai/v1/files%2f..%2fadmin",
        "/oai/v1/files%5cadmin",
        "/oai/v1/files\\admin",
        "/oai/v1/%252e%252e/admin",
        "/oai/v1/files%0d%0ahost:%20elsewhere",
        "/oai/v1/files%00",
    ] {
        let response = Request::get(path).send(gateway.address);
        assert_eq!(response.status, 400, "{path}: {}", response.text());
    }
    assert!(upstream.received().is_empty());
    // Another host in the request's target is no place to go to.
    for target in ["http://elsewhere.example:1/oai/v1/files", "http://oai@elsewhere.example/oai/v1/files"] {
        let request = Request::get("/").line(&format!("GET {target} HTTP/1.1"));
        assert_eq!(request.send(gateway.address).status, 200, "{target}");
        let received = upstream.received().pop().unwrap();
        assert_eq!(received.line, "GET /v1/files HTTP/1.1");
        assert_eq!(received.header("host"), Some(upstream.address.to_string().as_str()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a client writes after the provider's name: it is refused, or arrives at the provider's host as it was written.
    #[test]
    fn no_path_leads_anywhere_else(path in "(/|[a-z.%@:;\\\\?#&=~+-]|%2[eEfF]|%5c|\\.\\.|//|v1|key=|api-version=){0,12}") {
        thread_local! {
            static STAND: (Upstream, Gateway) = {
                let upstream = Upstream::answering(answer(200, "", "{}"));
                let gateway = before(&upstream, &everything());
                (upstream, gateway)
            };
        }
        STAND.with(|(upstream, gateway)| {
            let before = upstream.received().len();
            let response = Request::get(&format!("/oai/{path}")).send(gateway.address);
            let received = upstream.received();
            if response.status == 200 {
                let received = received.last().unwrap();
                let (given, query) = path.split_once('?').unwrap_or((path.as_str(), ""));
                let given = given.split('#').next().unwrap();
                // A version of the client's own takes the place of the base URL's: `v1`, and also `v1a`, as in `v1beta`.
                let first = given.split('/').next().unwrap();
                let versioned = first.starts_with("v1") && first.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'1' || byte == b'v');
                let base = if versioned { "/" } else { "/v1/" };
                let target = received.line.split(' ').nth(1).unwrap();
                let (arrived, passed) = target.split_once('?').unwrap_or((target, ""));
                assert_eq!(arrived, format!("{base}{given}"));
                assert!(!arrived.contains("..") || !arrived.split('/').any(|segment| segment == ".."));
                assert!(!passed.split('&').any(|part| part.starts_with("key=")), "{query} {passed}");
                assert_eq!(received.header("host"), Some(upstream.address.to_string().as_str()));
            } else {
                assert_eq!((response.status, received.len()), (400, before));
            }
        });
    }
}
