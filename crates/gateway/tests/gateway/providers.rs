//! How each family of hosts is addressed, told by what arrives at one: path, query, headers, body.

use crate::support::{
    Gateway, KEY, PROVIDER_KEY,
    upstream::{Received, Step, Upstream, json as answer},
};
use serde_json::{Value, json};
use trunkline_gateway::providers;

const CHAT: &str = "/v1/chat/completions";
const REPLY: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;

fn body(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#)
}

/// What a host configured with `provider` gets of a call to `path` for `model`.
fn sent(provider: &Value, path: &str, model: &str) -> (Received, String) {
    let upstream = Upstream::answering(answer(200, "", REPLY));
    let root = format!("http://{}", upstream.address);
    let mut provider = provider.clone();
    provider["name"] = json!("it");
    provider["base_url"] = json!(format!("{root}{}", provider["base_url"].as_str().unwrap_or_default()));
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    let response = gateway.post(path, &body(&format!("it/{model}")));
    assert_eq!(response.status, 200, "{}", response.text());
    (upstream.received().remove(0), upstream.address.to_string())
}

#[test]
fn azure_has_the_deployment_in_its_path_and_the_version_is_ours() {
    let provider = json!({"wire": "openai_chat", "family": "azure", "api_version": "2024-10-21", "api_key": PROVIDER_KEY});
    let (request, _) = sent(&provider, &format!("{CHAT}?api-version=1999-01-01&key=x&api%2Dversion=2&more=1"), "my gpt/4?");
    assert_eq!(request.line, "POST /openai/deployments/my%20gpt%2F4%3F/chat/completions?api-version=2024-10-21&more=1 HTTP/1.1");
    assert_eq!(request.header("api-key"), Some(PROVIDER_KEY));
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn azure_without_a_version_is_its_v1_api_from_whichever_address_is_given() {
    for base in ["", "/", "/openai", "/openai/v1", "/openai/v1/"] {
        let provider = json!({"wire": "openai_chat", "family": "azure", "base_url": base, "api_key": PROVIDER_KEY});
        let (request, _) = sent(&provider, CHAT, "gpt");
        assert_eq!(request.line, "POST /openai/v1/chat/completions HTTP/1.1");
        assert_eq!(serde_json::from_str::<Value>(&request.body).unwrap()["model"], "gpt");
    }
}

#[test]
fn azure_has_responses_in_its_v1_api_and_in_the_dated_one_since_it_has_them() {
    for (version, line) in [
        (None, "POST /openai/v1/responses HTTP/1.1"),
        (Some("2025-04-01-preview"), "POST /openai/responses?api-version=2025-04-01-preview HTTP/1.1"),
        (Some("2024-10-21"), "POST /openai/deployments/gpt/chat/completions?api-version=2024-10-21 HTTP/1.1"),
    ] {
        let wires = ["openai_chat", "openai_responses"];
        let provider = json!({"wires": wires, "family": "azure", "api_version": version, "api_key": PROVIDER_KEY});
        let upstream = Upstream::answering(answer(200, "", REPLY));
        let own = json!({"provider": "it", "model": "gpt", "base_url": format!("http://{}", upstream.address)});
        let gateway = speaking(&provider, "http://127.0.0.1:9", &own);
        gateway.post("/v1/responses", r#"{"model":"m","input":"hi"}"#);
        assert_eq!(upstream.received()[0].line, line);
    }
}

/// A gateway with one provider `it`, whose model `m` has what is given of its own.
fn speaking(provider: &Value, base_url: &str, own: &Value) -> Gateway {
    let mut provider = provider.clone();
    (provider["name"], provider["base_url"]) = (json!("it"), json!(base_url));
    Gateway::configured(&json!({"providers": [provider], "models": [{"name": "m", "upstreams": [own]}]}), &json!({}))
}

const RESPONSES_REPLY: &str = r#"{ "id":"resp_0123","object":"response","model":"m","odd":[1.0,-0],"status":"completed","output":[{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"a\u0062","annotations":[]}]}],"usage":{"input_tokens":7,"output_tokens":3,"total_tokens":10} }"#;
const MESSAGES_REPLY: &str = r#"{ "id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"a\u0062"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3},"odd":1e400 }"#;

#[test]
fn a_client_of_any_wire_that_the_provider_speaks_is_not_translated() {
    let upstream = Upstream::start(|request, _| {
        let reply = match request.line.as_str() {
            "POST /v1/responses HTTP/1.1" => RESPONSES_REPLY,
            "POST /anthropic/v1/messages HTTP/1.1" => MESSAGES_REPLY,
            "POST /v1/chat/completions HTTP/1.1" => REPLY,
            other => panic!("{other}"),
        };
        vec![Step::Send(answer(200, "", reply))]
    });
    let root = format!("http://{}", upstream.address);
    let provider = json!({
        "wires": ["openai_chat", "openai_responses", "anthropic_messages"], "api_key": PROVIDER_KEY,
        "base_urls": {"anthropic_messages": format!("{root}/anthropic/v1")}, "quirks": ["max_tokens", "no_developer_role"],
    });
    let gateway = speaking(&provider, &format!("{root}/v1"), &json!({"provider": "it", "model": "m"}));
    let responses =
        r#"{ "model" :"m","input":"caf\u00e9","previous_response_id":"resp_theirs","store":true,"seed":1.0,"odd":-0}"#;
    let messages = r#"{ "model" :"m","max_tokens":9,"messages":[{"role":"user","content":"caf\u00e9"}],"odd":1e400}"#;
    for (path, body, reply) in [("/v1/responses", responses, RESPONSES_REPLY), ("/v1/messages", messages, MESSAGES_REPLY)] {
        let response = gateway.post(path, body);
        assert_eq!((response.status, response.text()), (200, reply));
        assert_eq!(upstream.received().pop().unwrap().body, body, "not a byte of it changed");
        assert_eq!(gateway.records().pop().unwrap()["output_tokens"], 3);
    }
    let received = upstream.received();
    assert_eq!(received[0].header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
    assert_eq!((received[1].header("x-api-key"), received[1].header("authorization")), (Some(PROVIDER_KEY), None));
    // By the provider's name as well; and one that it does not speak is translated to the first.
    assert_eq!(gateway.post("/v1/responses", &responses.replace(r#""m""#, r#""it/m""#)).text(), RESPONSES_REPLY);
    let gemini = r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}"#;
    let response = gateway.post("/v1beta/models/m:generateContent", gemini);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.received().pop().unwrap().line, "POST /v1/chat/completions HTTP/1.1");
}

#[test]
fn a_model_may_be_served_in_fewer_wires_than_its_provider_speaks() {
    let upstream = Upstream::answering(answer(200, "", RESPONSES_REPLY));
    let base = format!("http://{}/v1", upstream.address);
    let provider = json!({"wires": ["openai_chat", "openai_responses"]});
    let gateway = speaking(&provider, &base, &json!({"provider": "it", "model": "m", "wires": ["openai_responses"]}));
    let response = gateway.post(CHAT, &body("m"));
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.text().contains(r#""object":"chat.completion""#), "{}", response.text());
    assert_eq!(upstream.received()[0].line, "POST /v1/responses HTTP/1.1");
    // Another host under the provider's name is only known to speak the first.
    let own = json!({"provider": "it", "model": "m", "base_url": base});
    speaking(&provider, "http://127.0.0.1:9", &own).post("/v1/responses", r#"{"model":"m","input":"hi"}"#);
    assert_eq!(upstream.received()[1].line, "POST /v1/chat/completions HTTP/1.1");
}

#[test]
fn bedrock_requests_are_signed_or_show_a_token() {
    let keys = json!({"access_key_id": "AKIDEXAMPLE", "secret_access_key": "very-secret", "session_token": "lent"});
    let provider = json!({"wire": "openai_chat", "family": "bedrock", "region": "eu-west-1", "aws": keys});
    let (request, address) = sent(&provider, CHAT, "amazon.nova:0");
    let authorization = request.header("authorization").unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
    let names = "/eu-west-1/bedrock/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=";
    assert!(authorization.contains(names), "{authorization}");
    assert_eq!(request.header("x-amz-security-token"), Some("lent"));
    // The signature covers the host: it must be the one that arrives.
    assert_eq!(request.header("host"), Some(address.as_str()));
    assert!(!format!("{request:?}").contains("very-secret"));

    let provider = json!({"wire": "openai_chat", "family": "bedrock", "api_key": PROVIDER_KEY});
    let (request, _) = sent(&provider, CHAT, "amazon.nova:0");
    assert_eq!(request.header("authorization"), Some(format!("Bearer {PROVIDER_KEY}").as_str()));
    assert_eq!(request.header("x-amz-date"), None);
}

#[test]
fn a_models_name_cannot_lead_to_another_path() {
    let provider = json!({
        "name": "it", "wire": "openai_chat", "family": "azure", "api_version": "1", "base_url": "http://127.0.0.1:9", "api_key": "k",
    });
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    for name in ["it/", "it/.", "it/.."] {
        let response = gateway.post(CHAT, &body(name));
        assert_eq!(response.status, 400, "{name}: {}", response.text());
        assert!(response.text().contains("is not the name of a model"), "{}", response.text());
    }
}

#[test]
fn hosts_with_quirks_get_what_they_take() {
    let upstream = Upstream::answering(answer(200, "", REPLY));
    let base_url = format!("http://{}/v1", upstream.address);
    let quirks = ["max_tokens", "no_stream_options", "no_developer_role"];
    let provider = json!({"name": "it", "wire": "openai_chat", "base_url": base_url, "quirks": quirks});
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    let asked = |stream: bool| {
        format!(
            r#"{{"model":"it/m","stream":{stream},"max_completion_tokens":9,"messages":[{{"role":"developer","content":"be brief"}},{{"role":"user","content":"hi"}}]}}"#
        )
    };
    gateway.post(CHAT, &asked(true));
    gateway.post(CHAT, &asked(false));
    // The other wire is translated first, and asks for usage by itself.
    let message =
        r#"{"model":"it/m","max_tokens":9,"stream":true,"system":"be brief","messages":[{"role":"user","content":"hi"}]}"#;
    gateway.post("/v1/messages", message);
    for request in upstream.received() {
        let sent: Value = serde_json::from_str(&request.body).unwrap();
        assert_eq!((&sent["max_tokens"], sent.get("max_completion_tokens"), sent.get("stream_options")), (&json!(9), None, None));
        assert_eq!(sent["messages"][0]["role"], "system");
    }
    assert_eq!(upstream.received().len(), 3);
}

#[test]
fn a_table_is_all_that_a_new_host_needs() {
    let upstream = Upstream::answering(answer(200, "", REPLY));
    let table = format!(
        "[[provider]]\nname = \"brand_new\"\nwire = \"openai_chat\"\nbase_url = \"http://{}/api/v7\"\nkey_env = \"NEW_KEY\"\nquirks = [\"max_tokens\"]\n",
        upstream.address
    );
    let mut provider = serde_json::to_value(&providers::parse(&table).unwrap()[0]).unwrap();
    for only_known in ["key_env", "models"] {
        provider.as_object_mut().unwrap().remove(only_known);
    }
    provider["api_key"] = json!(PROVIDER_KEY);
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    let response = gateway.post(CHAT, r#"{"model":"brand_new/m","max_completion_tokens":1,"messages":[]}"#);
    assert_eq!(response.status, 200, "{}", response.text());
    let received = &upstream.received()[0];
    assert_eq!(received.line, "POST /api/v7/chat/completions HTTP/1.1");
    assert_eq!(received.body, r#"{"model":"m","max_tokens":1,"messages":[]}"#);
    assert!(!format!("{received:?}").contains(KEY));
}

#[test]
fn bedrocks_own_wire_has_the_model_encoded_in_its_path() {
    let reply = r#"{"output":{"message":{"role":"assistant","content":[{"text":"hi"}]}},"stopReason":"end_turn","usage":{"inputTokens":7,"outputTokens":3,"totalTokens":10}}"#;
    let upstream = Upstream::answering(answer(200, "", reply));
    let keys = json!({"access_key_id": "AKIDEXAMPLE", "secret_access_key": "s"});
    let base_url = format!("http://{}", upstream.address);
    let provider = json!({"name": "it", "wire": "bedrock_converse", "base_url": base_url, "region": "eu-west-1", "aws": keys});
    let gateway = Gateway::configured(&json!({"providers": [provider]}), &json!({}));
    let response = gateway.post(CHAT, &body("it/arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x-v1:0"));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["choices"][0]["message"]["content"], "hi");
    let line = "POST /model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.x-v1%3A0/converse HTTP/1.1";
    assert_eq!(upstream.received()[0].line, line);
}
