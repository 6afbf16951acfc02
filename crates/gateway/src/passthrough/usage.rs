//! Usage and text of a provider's answer, whichever of the known wires it is in: what is not told is not there.

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use serde_json::Value;

use crate::wire::Usage;

/// The usage that a JSON answer, or one event of a stream, tells.
pub fn told(value: &Value) -> Option<Usage> {
    let places = [
        "/usage",
        "/message/usage",
        "/response/usage",
        "/usageMetadata",
        "/response/usageMetadata",
        "/metadata/usage",
        "/amazon-bedrock-invocationMetrics",
    ];
    let usage = places.iter().find_map(|place| value.pointer(place).filter(|usage| usage.is_object()))?;
    let count = |names: &[&str]| names.iter().find_map(|name| usage.pointer(name).and_then(Value::as_u64));
    // Anthropic and Bedrock count what they cached apart from the input, the others within.
    let apart = |names: &[&str]| count(names);
    let read = apart(&["/cache_read_input_tokens", "/cacheReadInputTokens", "/cacheReadInputTokenCount"]);
    let written = apart(&["/cache_creation_input_tokens", "/cacheWriteInputTokens", "/cacheWriteInputTokenCount"]);
    let input = count(&["/prompt_tokens", "/input_tokens", "/promptTokenCount", "/inputTokens", "/inputTokenCount"]);
    let within = ["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens", "/cachedContentTokenCount"];
    let thoughts = count(&["/thoughtsTokenCount"]);
    let reasoning =
        count(&["/completion_tokens_details/reasoning_tokens", "/output_tokens_details/reasoning_tokens"]).or(thoughts);
    let output = count(&["/completion_tokens", "/output_tokens", "/candidatesTokenCount", "/outputTokens", "/outputTokenCount"]);
    Some(Usage {
        input: input.unwrap_or_default() + read.unwrap_or_default() + written.unwrap_or_default(),
        // Gemini counts thoughts apart from the answer.
        output: output.unwrap_or_default() + thoughts.unwrap_or_default(),
        cache_read: read.or(count(&within)).unwrap_or_default(),
        cache_write: written.unwrap_or_default(),
        reasoning: reasoning.unwrap_or_default(),
    })
}

/// What a message of Bedrock's stream says: itself, or the model's own event that it holds in base64.
pub fn of_message(payload: &[u8]) -> Value {
    let value: Value = serde_json::from_slice(payload).unwrap_or_default();
    let held = value.get("bytes").and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    held.map_or(value, |bytes| serde_json::from_slice(&bytes).unwrap_or_default())
}

/// What a later event of the same stream tells, over what was told before: a count that is missing there stands.
pub fn over(before: Option<Usage>, now: Usage) -> Usage {
    let before = before.unwrap_or_default();
    let newer = |now: u64, before: u64| if now == 0 { before } else { now };
    Usage {
        input: newer(now.input, before.input),
        output: newer(now.output, before.output),
        cache_read: newer(now.cache_read, before.cache_read),
        cache_write: newer(now.cache_write, before.cache_write),
        reasoning: newer(now.reasoning, before.reasoning),
    }
}

/// The text that one event of a stream brings.
pub fn text(value: &Value) -> Option<&str> {
    let places = [
        "/choices/0/delta/content",
        "/choices/0/text",
        "/delta/text",
        "/delta/partial_json",
        "/delta/thinking",
        "/delta",
        "/candidates/0/content/parts/0/text",
        "/contentBlockDelta/delta/text",
        "/generation",
        "/outputText",
    ];
    places.iter().find_map(|place| value.pointer(place).and_then(Value::as_str))
}

/// Whether an event of `OpenAI`'s tells usage and nothing else.
pub fn alone(value: &Value) -> bool {
    value.get("usage").is_some_and(Value::is_object) && value.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty)
}

/// The usage near the end of an answer too large to be read whole: embeddings tell it after their vectors.
pub fn in_tail(bytes: &[u8]) -> Option<Usage> {
    let at = memchr::memmem::rfind(bytes, b"\"usage\"")?;
    let colon = at + 7 + bytes[at + 7..].iter().position(|byte| *byte == b':')?;
    let mut values = serde_json::Deserializer::from_slice(&bytes[colon + 1..]).into_iter::<Value>();
    let usage = values.next()?.ok().filter(Value::is_object)?;
    told(&serde_json::json!({ "usage": usage }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wires_words_mean_the_same() {
        let cases = [
            r#"{"usage":{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}}"#,
            r#"{"usage":{"input_tokens":10,"output_tokens":5,"input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":2}}}"#,
            r#"{"type":"response.completed","response":{"usage":{"input_tokens":10,"output_tokens":5,"input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":2}}}}"#,
            r#"{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":3,"thoughtsTokenCount":2,"cachedContentTokenCount":4}}"#,
        ];
        for case in cases {
            let usage = told(&serde_json::from_str(case).unwrap()).unwrap();
            assert_eq!((usage.input, usage.output, usage.cache_read, usage.reasoning), (10, 5, 4, 2), "{case}");
        }
        let anthropic = r#"{"message":{"usage":{"input_tokens":3,"cache_read_input_tokens":4,"cache_creation_input_tokens":3,"output_tokens":1}}}"#;
        let usage = told(&serde_json::from_str(anthropic).unwrap());
        let usage = over(usage, told(&serde_json::json!({"usage": {"output_tokens": 5}})).unwrap());
        assert_eq!((usage.input, usage.output, usage.cache_read, usage.cache_write), (10, 5, 4, 3));
        assert_eq!(told(&serde_json::json!({"usage": null, "data": []})), None);
    }

    #[test]
    fn usage_is_found_behind_much_else() {
        let body = format!(r#"{{"data":[{}0],"usage" : {{"prompt_tokens":7,"total_tokens":7}}}}"#, "0.123,".repeat(1000));
        assert_eq!(in_tail(&body.as_bytes()[3000..]).map(|usage| usage.input), Some(7));
        assert_eq!(in_tail(b"\"usage\":"), None);
        assert_eq!(in_tail(b"\"usage\""), None);
    }
}
