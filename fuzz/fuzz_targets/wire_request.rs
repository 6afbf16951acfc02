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

fuzz_target!(|body: &[u8]| {
    for from in CLIENTS {
        for to in PROVIDERS {
            pass_on(from, to, body, false);
            pass_on(from, to, body, true);
        }
    }
});

fn pass_on(from: Wire, to: Wire, body: &[u8], drop: bool) {
    if from == to && scan(from, body).is_err() {
        return; // within one wire the bytes stay as they are: it is for the scan before to let in requests alone
    }
    let stream = body.len() % 2 == 0;
    if let Ok(translated) = translate_request(from, to, body, "m", stream, drop) {
        let text = std::str::from_utf8(&translated.body).expect("no UTF-8");
        serde_json::from_str::<&RawValue>(text).expect("no JSON");
        if to != Wire::BedrockConverse {
            scan(to, &translated.body).unwrap_or_else(|error| panic!("{from} to {to}: {error:?} in {text}"));
        }
    }
    if from != to && to != Wire::BedrockConverse {
        let error = translate_error(from, to, 400, body, "r");
        serde_json::from_slice::<&RawValue>(&error).expect("an error that is no JSON");
    }
}
