//! Streams in every wire, written in every other: no panic, and what comes out can be read there.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trunkline_gateway::{
    sse::{Frame, Parser},
    wire::{Accumulator, Event, Reply, StreamReader, StreamWriter, Wire},
};

const CLIENTS: [Wire; 4] = [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini];
const PROVIDERS: [Wire; 5] =
    [Wire::OpenaiChat, Wire::AnthropicMessages, Wire::OpenaiResponses, Wire::Gemini, Wire::BedrockConverse];

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut parser, mut frames) = (Parser::new(), Vec::new());
    parser.push(Bytes::copy_from_slice(bytes), &mut frames).expect("no event is as long as the limit here");
    frames
}

fuzz_target!(|bytes: &[u8]| {
    let frames = frames(bytes);
    for from in PROVIDERS {
        if let Some(events) = events(from, &frames) {
            CLIENTS.into_iter().for_each(|to| pass_on(from, to, &events));
        }
    }
});

/// What the stream says up to its end or failure; none if it has neither, or is not of that wire.
fn events(from: Wire, frames: &[Frame]) -> Option<Vec<Event>> {
    let (mut reader, mut said) = (StreamReader::new(from), Vec::new());
    for frame in frames {
        for event in reader.read(frame).ok()? {
            let ends = matches!(event, Event::End | Event::Error { .. });
            said.push(event);
            if ends {
                return Some(said);
            }
        }
    }
    said.extend(reader.end());
    matches!(said.last(), Some(Event::End)).then_some(said)
}

fn pass_on(from: Wire, to: Wire, events: &[Event]) {
    let mut writer = StreamWriter::new(to, true, 7).expect("it is a client's wire");
    let (mut out, mut heard) = (Vec::new(), Accumulator::default());
    for event in events {
        writer.write(event, &mut out);
        heard.push(event.clone());
    }
    let mut reader = StreamReader::new(to);
    let mut read = Accumulator::default();
    for frame in frames(&out) {
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
        let names = |reply: &Reply| reply.tool_calls().map(|call| call.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(read.reply()), names(heard.reply()), "{from} to {to}");
    }
}
