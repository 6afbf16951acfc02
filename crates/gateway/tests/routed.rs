//! `OpenAI`'s routes that name a model but are no chat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed, as it should")]

mod support;

use serde_json::{Value, json};
use support::{
    Gateway, PROVIDER_KEY,
    client::{Request, Response},
    upstream::{Upstream, chunk, end, json as answer, stream_head},
};

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
