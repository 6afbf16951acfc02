//! Where the gateway connects to, and where it never does.

use std::net::TcpListener;

use crate::support::{
    Gateway, PROVIDER_KEY,
    client::{Request, Response},
    upstream::{Upstream, json as answer},
};
use serde_json::{Value, json};

const REPLY: &str = r#"{"id":"c","object":"chat.completion","model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"word"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
const ASK: &str = r#"{"model":"MODEL","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;

/// `PROVIDER/model` for each of these providers; a key that may do everything.
fn gateway(providers: &[(&str, &str, &str)], models: &Value) -> Gateway {
    let providers = providers.iter().map(|(name, base, reach)| {
        json!({"name": name, "wire": "openai_chat", "base_url": base, "api_key": PROVIDER_KEY, "reach": reach})
    });
    let config =
        json!({"providers": providers.collect::<Vec<_>>(), "models": models, "routing": {"strategy": "order", "retries": 0}});
    Gateway::configured(&config, &json!({"scopes": ["inference", "passthrough"]}))
}

/// The answers to a model call, to one of `OpenAI`'s other routes, and to a request under the provider's path with no body, a
/// whole one and a streamed one.
fn every_way(gateway: &Gateway, provider: &str) -> Vec<Response> {
    let model = format!("{provider}/gpt");
    let post = |path: &str, kind: &str, body: &str| Request::post(path, body).header("content-type", kind).send(gateway.address);
    vec![
        gateway.post("/v1/chat/completions", &ASK.replace("MODEL", &model)),
        gateway.post("/v1/messages", &ASK.replace("MODEL", &model)),
        gateway.post("/v1/embeddings", &json!({"model": model, "input": "x"}).to_string()),
        Request::get(&format!("/{provider}/v1/files")).send(gateway.address),
        post(&format!("/{provider}/v1/chat/completions"), "application/json", r#"{"model":"gpt"}"#),
        post(&format!("/{provider}/v1/files"), "application/octet-stream", "words"),
    ]
}

fn code(response: &Response) -> Option<Value> {
    (response.status == 502).then(|| response.json()["error"]["code"].clone())
}

#[test]
fn a_known_providers_name_is_not_followed_into_the_own_network_and_a_configured_one_is() {
    let upstream = Upstream::answering(answer(200, "", REPLY));
    // A name that resolves to an address of this machine, as a company's own may to one of its network.
    let base = format!("http://localhost:{}/v1", upstream.address.port());
    let own = json!([{"name": "mine", "upstreams": [{"provider": "known", "model": "gpt", "base_url": base}]}]);
    let gateway = gateway(&[("known", &base, "public"), ("company", &base, "configured")], &own);
    for response in every_way(&gateway, "known") {
        assert_eq!(response.status, 502, "{}", response.text());
        assert!(response.text().contains("write its base_url in trunkline.yaml"), "{}", response.text());
    }
    assert!(upstream.received().is_empty());
    for response in every_way(&gateway, "company") {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    // A place of its own for one model is the operator's word too.
    assert_eq!(gateway.post("/v1/chat/completions", &ASK.replace("MODEL", "mine")).status, 200);
}

#[test]
fn no_name_leads_to_a_clouds_metadata_service() {
    // A resolver knows these as 169.254.169.254; only a URL that says that itself is taken at its word.
    let gateway =
        gateway(&[("decimal", "http://2852039166/v1", "configured"), ("hex", "http://0xa9fea9fe/v1", "configured")], &json!([]));
    for provider in ["decimal", "hex"] {
        for response in every_way(&gateway, provider) {
            let code = code(&response);
            assert!(matches!(code, Some(code) if code == "upstream_forbidden" || code.is_null()), "{}", response.text());
        }
    }
}

#[test]
fn addresses_of_images_and_files_are_passed_on_and_never_fetched() {
    let media = TcpListener::bind("127.0.0.1:0").unwrap();
    media.set_nonblocking(true).unwrap();
    let url = format!("http://{}/cat.png", media.local_addr().unwrap());
    let upstream = Upstream::answering(answer(200, "", REPLY));
    let wires = ["openai_chat", "anthropic_messages", "openai_responses", "gemini"];
    let providers = wires.map(|wire| json!({"name": wire, "wire": wire, "base_url": format!("http://{}/v1", upstream.address)}));
    let gateway = Gateway::configured(&json!({"providers": providers, "routing": {"retries": 0}}), &json!({}));
    let openai = json!([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]);
    let anthropic = json!([
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "document", "source": {"type": "url", "url": url}},
    ]);
    for wire in wires {
        for (path, content) in [("/v1/chat/completions", &openai), ("/v1/messages", &anthropic)] {
            let ask =
                json!({"model": format!("{wire}/gpt"), "max_tokens": 9, "messages": [{"role": "user", "content": content}]});
            let _ = gateway.post(path, &ask.to_string());
        }
    }
    assert!(!upstream.received().is_empty());
    assert!(upstream.received().iter().any(|received| received.body.contains(&url)));
    assert_eq!(media.accept().map(|_| ()).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
