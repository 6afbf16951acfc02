//! Why a provider refused a request, told by its words: each says it in its own, with the same status for all.

use super::error::ProviderError;

/// What a provider's refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The request is longer than the model's context.
    ContextWindow,
    /// A filter refused the content.
    ContentPolicy,
    /// Anything else.
    Other,
}

/// Words of messages, in lower case, about requests that are too long.
const TOO_LONG: [&str; 16] = [
    "maximum context length",             // OpenAI, DeepSeek, vLLM, OpenRouter
    "context_length",                     // Groq, Fireworks, in code or message
    "context length",                     // LM Studio, Together
    "context window",                     // OpenAI Responses, Perplexity
    "context limit",                      // Anthropic: input length and `max_tokens` exceed context limit
    "context size",                       // llama.cpp
    "prompt is too long",                 // Anthropic
    "input is too long",                  // Bedrock
    "too many total text bytes",          // Bedrock
    "input token count",                  // Gemini
    "input tokens exceed",                // OpenAI
    "maximum prompt length",              // xAI
    "too many tokens",                    // Cohere
    "tokens too large for model",         // Mistral: too large for model with N maximum context length
    "reduce the length of",               // OpenAI and those that copied it
    "`inputs` tokens + `max_new_tokens`", // Together, text-generation-inference
];

/// Words of messages, in lower case, about content that a filter refused.
const FILTERED: [&str; 11] = [
    "content management policy", // Azure
    "content_filter",            // Azure
    "content filtering policy",  // Anthropic: Output blocked by content filtering policy
    "content policy",            // OpenAI
    "safety system",             // OpenAI
    "usage policy",              // OpenAI: flagged as potentially violating our usage policy
    "usage guidelines",          // xAI
    "input was flagged",         // OpenRouter
    "guardrail",                 // Bedrock
    "prohibited_content",        // Gemini
    "data_inspection_failed",    // Alibaba
];

/// Why a provider refused a request.
pub fn cause(body: &[u8]) -> Cause {
    let error = ProviderError::parse(body);
    match (error.code.as_str(), error.kind.as_str()) {
        ("context_length_exceeded" | "model_max_prompt_tokens_exceeded", _) | (_, "exceed_context_size_error") => {
            return Cause::ContextWindow;
        }
        ("content_filter" | "content_policy_violation" | "data_inspection_failed", _) => return Cause::ContentPolicy,
        _ => {}
    }
    let message = error.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&TOO_LONG) {
        Cause::ContextWindow
    } else if says(&FILTERED) {
        Cause::ContentPolicy
    } else {
        Cause::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_say_in_many_ways_that_a_request_is_too_long() {
        for body in [
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
            r#"{"error":{"message":"Your input exceeds the context window of this model.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens` and try again"}}"#,
            r#"{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}"#,
            r#"{"message":"Input is too long for requested model."}"#,
            r#"{"message":"Prompt contains 40000 tokens too large for model with 32768 maximum context length","type":"invalid_request_error","code":"3051"}"#,
            r#"{"error":"This model's maximum prompt length is 131072 but the request contains 537812 tokens.","code":"x"}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#,
            r#"{"detail":"Please reduce the length of the messages or completion."}"#,
        ] {
            assert_eq!(cause(body.as_bytes()), Cause::ContextWindow, "{body}");
        }
    }

    #[test]
    fn providers_say_in_many_ways_that_a_filter_refused() {
        for body in [
            r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","type":null,"param":"prompt","code":"content_filter","status":400}}"#,
            r#"{"error":{"message":"Your request was rejected as a result of our safety system.","type":"invalid_request_error","param":null,"code":"content_policy_violation"}}"#,
            r#"{"error":{"message":"Invalid prompt: your prompt was flagged as potentially violating our usage policy.","type":"invalid_request_error","param":null,"code":"invalid_prompt"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}"#,
            r#"{"error":{"code":403,"message":"Your chosen model requires moderation and your input was flagged for \"violence\"."}}"#,
            r#"{"error":{"code":400,"message":"The prompt was blocked: PROHIBITED_CONTENT","status":"INVALID_ARGUMENT"}}"#,
            r#"{"message":"The guardrail intervened."}"#,
        ] {
            assert_eq!(cause(body.as_bytes()), Cause::ContentPolicy, "{body}");
        }
    }

    #[test]
    fn what_is_neither_is_neither() {
        for body in [
            r#"{"error":{"message":"Unknown parameter: 'x'.","type":"invalid_request_error","param":"x","code":"unknown_parameter"}}"#,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens"}}"#,
            r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#,
            "",
            "<html>Bad Gateway</html>",
            "{",
        ] {
            assert_eq!(cause(body.as_bytes()), Cause::Other, "{body}");
        }
    }
}
