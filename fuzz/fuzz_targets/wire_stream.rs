//! Streams in every wire, written in every other: no panic, and what comes out can be read there.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trunkline_gateway::{
    sse::{Frame, Parser},
    wire::{Accumulator, Event, StreamReader, StreamWriter, Wire},
};

const CLIENTS: [Wire; 4] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini];
const PROVIDERS: [Wire; 5] =
    [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini, Wire::BedrockConverse];

fn frames(bytes: Vec<u8>) -> Vec<Frame> {
    let (mut parser, mut frames) = (Parser::new(), Vec::new());
    parser.push(Bytes::from(bytes), &mut frames).expect("no event is as long as the limit here");
    frames
}

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (from, to, bytes) = input;
    let (from, to) = (PROVIDERS[usize::from(from) % PROVIDERS.len()], CLIENTS[usize::from(to) % CLIENTS.len()]);
    let mut reader = StreamReader::new(from);
    let mut writer = StreamWriter::new(to, true, 7);
    let (mut out, mut heard) = (Vec::new(), Accumulator::default());
    for frame in frames(bytes) {
        let Ok(events) = reader.read(&frame) else { return };
        for event in events {
            let ends = matches!(event, Event::End | Event::Error { .. });
            writer.write(&event, &mut out);
            heard.push(event);
            if ends {
                break;
            }
        }
        if heard.complete() || heard.failure().is_some() {
            break;
        }
    }
    if !heard.complete() && heard.failure().is_none() {
        return;
    }
    let mut reader = StreamReader::new(to);
    let mut read = Accumulator::default();
    for frame in frames(out) {
        let events = reader
            .read(&frame)
            .unwrap_or_else(|error| panic!("{from} to {to}: {error} in {}", String::from_utf8_lossy(&frame.raw)));
        events.into_iter().for_each(|event| read.push(event));
    }
    if let Some(end) = reader.end() {
        read.push(end);
    }
    assert_eq!(read.complete(), heard.complete(), "{from} to {to}");
    if heard.complete() {
        assert_eq!(read.reply().text(), heard.reply().text(), "{from} to {to}");
    }
});
