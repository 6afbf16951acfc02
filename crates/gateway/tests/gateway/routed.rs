//! `OpenAI`'s routes that name a model but are no chat.

use crate::support::{
    Gateway, PROVIDER_KEY,
    client::{Request, Response},
    upstream::{Upstream, chunk, end, json as answer, stream_head},
};
use serde_json::{Value, json};

const VECTORS: &str = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPw=="}],"model":"m","usage":{"prompt_tokens":5,"total_tokens":5}}"#;
const EMBEDDINGS: &str = "/v1/embeddings";

fn post(gateway: &Gateway, path: &str, body: &str) -> Response {
    Request::post(path, body).header("content-type", "application/json").send(gateway.address)
}

#[test]
fn embeddings_go_where_the_model_is_and_only_its_name_changes() {
    let upstream = Upstream::answering(answer(200, "set-cookie: a=b\r\n", VECTORS));
    let gateway =
        Gateway::start(&[("gone", Upstream::absent()), ("oai", upstream.address)], &[("vectors", &["gone/x", "oai/m-1"])]);
    let body = |model: &str| {
        format!(
            r#"{{ "input" : ["caf\u00e9", [1,2.50]],"model" : "{model}" , "encoding_format":"base64","dimensions":1e0,"user":"ada" }}"#
        )
    };
    let response = post(&gateway, EMBEDDINGS, &body("vectors"));
    assert_eq!((response.status, response.text()), (200, VECTORS));
    assert_eq!(response.header("x-trunkline-upstream"), Some("oai/m-1"));
    assert_eq!(response.header("set-cookie"), None);
    let received = &upstream.received()[0];
    assert_eq!((received.line.as_str(), &received.body), ("POST /v1/embeddings HTTP/1.1", &body("m-1")));
    assert_eq!(received.header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
    let record = &gateway.records()[0];
    let told = ["wire", "model", "upstream_model", "user", "input_tokens", "output_tokens", "retries", "estimated"];
    let expected: Value = json!(["embeddings", "vectors", "m-1", "ada", 5, 0, 1, false]);
    assert_eq!(json!(told.map(|name| record[name].clone())), expected);
}

#[test]
fn what_cannot_be_routed_is_said() {
    let upstream = Upstream::answering(answer(200, "", VECTORS));
    let gateway = Gateway::before(&upstream);
    for (body, status, said) in [
        (r#"{"input":"x"}"#, 400, "model is required"),
        (r#"{"input":"x","model":"nobody"}"#, 404, "not configured"),
        (r#"{"input":"x","model":"gpt","model":"gpt"}"#, 400, "twice"),
        (r#"{"input":"x","model":"claude"}"#, 400, "has no embeddings"),
        ("[]", 400, "must be a JSON object"),
        (r#"{"input":"#, 400, "not valid JSON"),
    ] {
        let response = post(&gateway, EMBEDDINGS, body);
        assert_eq!(response.status, status, "{}", response.text());
        assert!(response.text().contains(said), "{}", response.text());
    }
    let response = Request::post(EMBEDDINGS, "x").header("content-type", "text/plain").send(gateway.address);
    assert_eq!(response.status, 415);
    assert!(upstream.received().is_empty());
}

#[test]
fn a_key_with_models_has_them_here_too() {
    let upstream = Upstream::answering(answer(200, "", VECTORS));
    let provider = json!({"name": "oai", "wire": "openai_chat", "base_url": format!("http://{}/v1", upstream.address)});
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({"models": ["oai/small"]}));
    assert_eq!(post(&gateway, EMBEDDINGS, r#"{"model":"oai/large","input":"x"}"#).status, 403);
    assert_eq!(post(&gateway, EMBEDDINGS, r#"{"model":"oai/small","input":"x"}"#).status, 200);
}

#[test]
fn gemini_serves_embeddings_on_its_openai_routes() {
    let upstream = Upstream::answering(answer(200, "", VECTORS));
    let base_url = format!("http://{}/v1beta", upstream.address);
    let provider =
        json!({"name": "gem", "wire": "openai_chat", "family": "gemini", "base_url": base_url, "api_key": PROVIDER_KEY});
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    assert_eq!(post(&gateway, EMBEDDINGS, r#"{"model":"gem/e","input":"x"}"#).status, 200);
    let received = &upstream.received()[0];
    assert_eq!(received.line, "POST /v1beta/openai/embeddings HTTP/1.1");
    assert_eq!(received.header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
    assert_eq!(received.header("x-goog-api-key"), None);
}

#[test]
fn a_streamed_completion_is_counted_and_its_usage_hidden() {
    let text = "data: {\"choices\":[{\"text\":\"hi\",\"index\":0}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n";
    let script = [stream_head(), chunk(text.as_bytes()), chunk(usage.as_bytes()), chunk(b"data: [DONE]\n\n"), end()].concat();
    let upstream = Upstream::answering(script);
    let gateway = Gateway::before(&upstream);
    let response = post(&gateway, "/v1/completions", r#"{"model":"gpt","prompt":"say hi","stream":true}"#);
    assert_eq!((response.whole, response.text()), (true, format!("{text}data: [DONE]\n\n").as_str()));
    let response = post(
        &gateway,
        "/v1/completions",
        r#"{"model":"gpt","prompt":"say hi","stream":true,"stream_options":{"include_usage":true}}"#,
    );
    assert!(response.text().contains("prompt_tokens"));
    for record in gateway.records() {
        assert_eq!((&record["wire"], &record["output_tokens"]), (&json!("completions"), &json!(3)));
    }
    assert_eq!(upstream.received().len(), 2);
}

#[test]
fn usage_that_is_not_told_is_estimated_and_marked() {
    let upstream = Upstream::answering(answer(200, "", r#"{"object":"list","data":[]}"#));
    let gateway = Gateway::before(&upstream);
    post(&gateway, EMBEDDINGS, r#"{"model":"gpt","input":"some text"}"#);
    let record = &gateway.records()[0];
    assert_eq!((&record["estimated"], record["input_tokens"].as_u64().unwrap() > 5), (&json!(true), true));
}

#[test]
fn a_forms_model_is_read_and_renamed() {
    let upstream = Upstream::answering(answer(200, "", r#"{"text":"hello"}"#));
    let gateway = Gateway::start(&[("oai", upstream.address)], &[("speech", &["oai/whisper-1"])]);
    let form = |model: &str| {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--b--\r\n"
        )
    };
    let kind = "multipart/form-data; boundary=b";
    let request = Request::post("/v1/audio/transcriptions", &form("speech")).header("content-type", kind);
    let response = request.send(gateway.address);
    assert_eq!((response.status, response.text()), (200, r#"{"text":"hello"}"#));
    let received = &upstream.received()[0];
    assert_eq!((received.line.as_str(), &received.body), ("POST /v1/audio/transcriptions HTTP/1.1", &form("whisper-1")));
    assert_eq!(received.header("content-type"), Some(kind));
    let record = &gateway.records()[0];
    assert_eq!((&record["wire"], &record["input_tokens"], &record["estimated"]), (&json!("audio"), &json!(0), &json!(false)));
}

#[test]
fn tokens_are_counted_by_the_provider_or_estimated_and_marked() {
    let upstream = Upstream::answering(answer(200, "", r#"{"input_tokens":42}"#));
    let gateway = Gateway::before(&upstream);
    let body = |model: &str| format!(r#"{{"model":"{model}","system":"four","messages":[{{"role":"user","content":"hi"}}]}}"#);
    let path = "/v1/messages/count_tokens";
    let counted = post(&gateway, path, &body("claude"));
    assert_eq!((counted.status, counted.text()), (200, r#"{"input_tokens":42}"#));
    assert_eq!(counted.header("x-trunkline-estimated"), None);
    let received = &upstream.received()[0];
    assert_eq!(received.line, "POST /v1/messages/count_tokens HTTP/1.1");
    assert_eq!((received.header("x-api-key"), received.header("anthropic-version").is_some()), (Some(PROVIDER_KEY), true));

    // "four" and the messages as written, 6 and 32 bytes.
    let estimated = post(&gateway, path, &body("gpt"));
    assert_eq!((estimated.status, estimated.header("x-trunkline-estimated")), (200, Some("true")));
    assert_eq!(estimated.json(), json!({"input_tokens": 10}));
    assert_eq!(post(&gateway, path, r#"{"model":"claude"}"#).status, 400);
    assert_eq!(Request::post(path, &body("claude")).without_key().send(gateway.address).status, 401);
    assert_eq!((upstream.received().len(), gateway.records().len()), (1, 0));
}

#[test]
fn models_are_listed_in_each_clients_form() {
    let gateway = Gateway::start(&[("oai", Upstream::absent())], &[("gpt", &["oai/gpt"]), ("a/b", &["oai/b"])]);
    let get = |path: &str| Request::get(path).send(gateway.address);
    let names = |list: &Value, key: &str| list.as_array().unwrap().iter().map(|model| model[key].clone()).collect::<Vec<_>>();
    assert_eq!(names(&get("/v1/models").json()["data"], "id"), ["gpt", "a/b"]);
    assert_eq!(names(&get("/v1beta/models").json()["models"], "name"), ["models/gpt", "models/a/b"]);
    assert_eq!(get("/v1beta/models/gpt").json()["displayName"], "gpt");
    assert_eq!(get("/v1/models/a%2Fb").json()["id"], "a/b");
    // Served by the provider's name, and not listed.
    assert_eq!(get("/v1/models/oai/other").json()["id"], "oai/other");
    assert_eq!(get("/v1/models/nobody").status, 404);
    let missing = get("/v1beta/models/nobody");
    assert_eq!((missing.status, missing.json()["error"]["status"].clone()), (404, json!("NOT_FOUND")));
}
