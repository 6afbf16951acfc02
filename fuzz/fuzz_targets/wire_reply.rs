//! Replies in every wire, said in every other: no panic, and what comes out is read as the same there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_gateway::wire::{Wire, append_round, parse_reply, parse_usage, rewrite_reply, write_reply};

const CLIENTS: [Wire; 4] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini];
const PROVIDERS: [Wire; 5] =
    [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini, Wire::BedrockConverse];

fuzz_target!(|body: &[u8]| PROVIDERS.into_iter().for_each(|from| pass_on(from, body)));

fn pass_on(from: Wire, body: &[u8]) {
    let _ = parse_usage(from, body);
    let Ok(reply) = parse_reply(from, body) else { return };
    for to in CLIENTS {
        let written = write_reply(to, &reply, 7).expect("it is a client's wire");
        let again = parse_reply(to, &written)
            .unwrap_or_else(|error| panic!("{from} to {to}: {error} in {}", String::from_utf8_lossy(&written)));
        assert_eq!(again.text(), reply.text(), "{from} to {to}");
        assert!(again.tool_calls().map(|call| &call.name).eq(reply.tool_calls().map(|call| &call.name)), "{from} to {to}");
    }
    if from != Wire::BedrockConverse {
        let mut other = reply.clone();
        "another".clone_into(&mut other.model);
        if let Ok(rewritten) = rewrite_reply(from, body, &other) {
            parse_reply(from, &rewritten).unwrap_or_else(|error| panic!("rewritten {from}: {error}"));
        }
    }
    let _ = append_round(from, body, &reply, &[]);
}
