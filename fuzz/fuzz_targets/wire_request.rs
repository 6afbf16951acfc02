//! Requests in every wire, said in every other: no panic, and what comes out is a request of that wire.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use trunkline_gateway::{
    request::scan,
    wire::{Wire, translate_error, translate_request},
};

const CLIENTS: [Wire; 4] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini];
const PROVIDERS: [Wire; 5] =
    [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini, Wire::BedrockConverse];

fuzz_target!(|input: (u8, u8, bool, bool, &[u8])| {
    let (from, to, stream, drop, body) = input;
    let (from, to) = (CLIENTS[usize::from(from) % CLIENTS.len()], PROVIDERS[usize::from(to) % PROVIDERS.len()]);
    if let Ok(translated) = translate_request(from, to, body, "m", stream, drop) {
        let text = std::str::from_utf8(&translated.body).expect("no UTF-8");
        serde_json::from_str::<&RawValue>(text).expect("no JSON");
        if from != to && matches!(to, Wire::OpenaiChat | Wire::AnthropicMessages) {
            scan(to, &translated.body).unwrap_or_else(|error| panic!("{from} to {to}: {error:?} in {text}"));
        }
    }
    if from != to && to != Wire::BedrockConverse {
        let error = translate_error(from, to, 400, body, "r");
        serde_json::from_slice::<&RawValue>(&error).expect("an error that is no JSON");
    }
});
