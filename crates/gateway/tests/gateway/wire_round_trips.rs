//! Whatever a wire can say survives being written and read again, whole or streamed, however the stream is cut.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use trunkline_gateway::sse::{Frame, Parser};
use trunkline_gateway::wire::{
    Accumulator, Event, Opaque, Part, Reply, Signature, StopReason, StreamReader, StreamWriter, ToolCall, Usage, Wire,
    parse_reply, write_reply,
};

const OPENAI: Wire = Wire::OpenaiChat;
const ANTHROPIC: Wire = Wire::AnthropicMessages;
const RESPONSES: Wire = Wire::OpenaiResponses;
const CLIENTS: [Wire; 4] = [OPENAI, ANTHROPIC, RESPONSES, Wire::Gemini];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~é☃𝄞\r\n\t\"\\\\]{1,40}"].prop_filter("empty text is not sent", |text| !text.is_empty())
}

fn word() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_-]{1,20}"
}

/// A JSON object as text, with whatever spaces.
fn arguments() -> impl Strategy<Value = String> {
    (vec((word(), any::<String>(), any::<i64>()), 0..4), any::<bool>()).prop_map(|(fields, pretty)| {
        let fields = fields.into_iter().map(|(key, text, number)| (key, serde_json::json!([text, number])));
        let object = serde_json::Value::Object(fields.collect());
        if pretty { format!("{object:#}") } else { object.to_string() }
    })
}

fn tool_call() -> impl Strategy<Value = ToolCall> {
    (word(), word(), arguments()).prop_map(|(id, name, arguments)| ToolCall { id, name, arguments })
}

fn usage() -> impl Strategy<Value = Usage> {
    (0..1_000_000u64, 0..1_000_000u64, 0..1_000_000u64, 0..1_000_000u64, 0..1_000_000u64).prop_map(
        |(fresh, shown, cache_read, cache_write, reasoning)| Usage {
            input: fresh + cache_read + cache_write,
            output: shown + reasoning,
            cache_read,
            cache_write,
            reasoning,
        },
    )
}

/// What `OpenAI`'s wire can tell apart: one reasoning, one text, then calls; calls end in `ToolUse` if nothing else stopped them.
fn openai_reply() -> impl Strategy<Value = Reply> {
    let parts = (option::of(text()), option::of(text()), vec(tool_call(), 0..3));
    let stop = prop_oneof![Just(StopReason::EndTurn), Just(StopReason::MaxTokens), Just(StopReason::Refusal)];
    (word(), word(), parts, stop, option::of(usage())).prop_map(|(id, model, (thinking, text, calls), stop, usage)| {
        let stop = if stop == StopReason::EndTurn && !calls.is_empty() { StopReason::ToolUse } else { stop };
        let thinking = thinking.map(|text| Part::Thinking { text, signature: None });
        let parts = thinking.into_iter().chain(text.map(Part::Text)).chain(calls.into_iter().map(Part::ToolCall));
        Reply { id, model, parts: parts.collect(), stop, usage }
    })
}

fn proof_of(of: Wire, text: String) -> Signature {
    Signature { of, text }
}

/// What a response's items can tell apart: texts and reasonings that do not touch, and calls.
fn responses_reply() -> impl Strategy<Value = Reply> {
    let thinking = (text(), option::of((word(), word())), any::<bool>()).prop_map(|(text, proof, foreign)| {
        let signature =
            proof.map(
                |(id, proof)| {
                    if foreign { proof_of(ANTHROPIC, proof) } else { proof_of(RESPONSES, format!("rs_{id}:{proof}")) }
                },
            );
        Part::Thinking { text, signature }
    });
    let turn = (option::of(thinking), option::of(text()), vec(tool_call(), 0..3));
    let stop = prop_oneof![Just(StopReason::EndTurn), Just(StopReason::MaxTokens), Just(StopReason::Refusal)];
    (word(), word(), turn, stop, usage()).prop_map(|(id, model, (thinking, text, calls), stop, usage)| {
        let stop = if stop == StopReason::EndTurn && !calls.is_empty() { StopReason::ToolUse } else { stop };
        let parts = thinking.into_iter().chain(text.map(Part::Text)).chain(calls.into_iter().map(Part::ToolCall));
        Reply { id: format!("resp_{id}"), model, parts: parts.collect(), stop, usage: Some(usage) }
    })
}

fn anthropic_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        text().prop_map(Part::Text),
        (any::<String>(), word()).prop_map(|(text, proof)| Part::Thinking { text, signature: Some(proof_of(ANTHROPIC, proof)) }),
        // Reasoning of another wire's provider.
        (any::<String>(), word()).prop_map(|(text, proof)| Part::Thinking { text, signature: Some(proof_of(RESPONSES, proof)) }),
        tool_call().prop_map(Part::ToolCall),
        word().prop_map(|data| {
            let json = format!(r#"{{"type":"redacted_thinking","data":"{data}"}}"#);
            Part::Opaque(Opaque { of: ANTHROPIC, json })
        }),
    ]
}

fn anthropic_stop() -> impl Strategy<Value = StopReason> {
    prop_oneof![
        Just(StopReason::EndTurn),
        Just(StopReason::MaxTokens),
        option::of(word()).prop_map(StopReason::StopSequence),
        Just(StopReason::ToolUse),
        Just(StopReason::Refusal),
        Just(StopReason::PauseTurn),
    ]
}

fn anthropic_reply() -> impl Strategy<Value = Reply> {
    (word(), word(), vec(anthropic_part(), 0..6), anthropic_stop(), usage()).prop_map(|(id, model, parts, stop, usage)| Reply {
        id,
        model,
        parts,
        stop,
        usage: Some(usage),
    })
}

/// The events of `reply`, with its texts and arguments in pieces of at most `piece` characters. Texts that would touch are
/// told apart by nothing on the wire, so the events are, as a reader would give them.
fn events(wire: Wire, reply: &Reply, piece: usize) -> Vec<Event> {
    let pieces = |text: &str| -> Vec<String> {
        let characters: Vec<char> = text.chars().collect();
        characters.chunks(piece).map(|piece| piece.iter().collect()).collect()
    };
    // Anthropic's first word on usage is all we have, so the writer says it at the start and at the end.
    let usage = reply.usage.filter(|_| wire == ANTHROPIC);
    let mut events = vec![Event::Start { id: reply.id.clone(), model: reply.model.clone(), usage }];
    let mut calls = 0;
    for part in &reply.parts {
        match part {
            Part::Text(text) => events.extend(pieces(text).into_iter().map(Event::Text)),
            Part::Thinking { text, signature } => {
                events.extend(pieces(text).into_iter().map(Event::Thinking));
                events.extend(signature.clone().map(Event::Signature));
            }
            Part::ToolCall(call) => {
                events.push(Event::ToolStart { index: calls, id: call.id.clone(), name: call.name.clone() });
                let arguments = pieces(&call.arguments).into_iter();
                events.extend(arguments.map(|json| Event::ToolArguments { index: calls, json }));
                calls += 1;
            }
            Part::Opaque(block) => events.push(Event::Opaque(block.clone())),
        }
    }
    events.push(Event::Stop(reply.stop.clone()));
    events.extend(reply.usage.map(Event::Usage));
    events.push(Event::End);
    events
}

fn written(wire: Wire, events: &[Event]) -> Vec<u8> {
    let mut writer = StreamWriter::new(wire, events.iter().any(|event| matches!(event, Event::Usage(_))), 1).unwrap();
    let mut out = Vec::new();
    for event in events {
        writer.write(event, &mut out);
    }
    out
}

fn cut(stream: &[u8], size: usize) -> Vec<Frame> {
    let mut parser = Parser::new();
    let mut frames = Vec::new();
    for chunk in stream.chunks(size) {
        parser.push(Bytes::copy_from_slice(chunk), &mut frames).unwrap();
    }
    assert_eq!(parser.finish(), None);
    frames
}

fn read(wire: Wire, stream: &[u8], size: usize) -> Vec<Event> {
    let mut reader = StreamReader::new(wire);
    let mut events: Vec<Event> = cut(stream, size).iter().flat_map(|frame| reader.read(frame).unwrap()).collect();
    events.extend(reader.end());
    events
}

fn accumulated(events: Vec<Event>) -> Reply {
    let mut accumulator = Accumulator::default();
    for event in events {
        accumulator.push(event);
    }
    assert!(accumulator.complete() && accumulator.stopped());
    accumulator.into_reply()
}

/// Block order on Anthropic's wire, which every client relies on: 0, 1, 2, …, each ended before the next begins.
fn assert_blocks_in_order(stream: &[u8]) {
    let mut next = 0;
    let mut open = None;
    for frame in cut(stream, usize::MAX) {
        let event: serde_json::Value = serde_json::from_slice(&frame.data).unwrap();
        let index = event["index"].as_u64();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((index, open), (Some(next), None));
                open = index;
                next += 1;
            }
            "content_block_delta" => assert_eq!(index, open),
            "content_block_stop" => assert_eq!(index, std::mem::take(&mut open)),
            _ => assert_eq!((index, open), (None, None)),
        }
    }
}

/// Events of a response are numbered from 0, and each item and part ends that begins.
fn assert_numbered(stream: &[u8]) {
    let mut open = std::collections::BTreeSet::new();
    for (number, frame) in (0u64..).zip(cut(stream, usize::MAX)) {
        let event: serde_json::Value = serde_json::from_slice(&frame.data).unwrap();
        assert_eq!(event["sequence_number"], number);
        assert_eq!(event["type"].as_str(), frame.event_name());
        match frame.event_name().unwrap() {
            "response.output_item.added" => assert!(open.insert(event["output_index"].as_u64())),
            "response.output_item.done" => assert!(open.remove(&event["output_index"].as_u64())),
            "response.completed" | "response.incomplete" => assert!(open.is_empty()),
            _ => {}
        }
    }
}

fn without_ids(mut reply: Reply) -> Reply {
    for part in &mut reply.parts {
        if let Part::Thinking { signature: Some(signature), .. } = part {
            signature.text = signature.text.rsplit(':').next().unwrap_or_default().to_owned();
        }
    }
    reply
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn openai_replies(reply in openai_reply()) {
        prop_assert_eq!(parse_reply(OPENAI, &write_reply(OPENAI, &reply, 1).unwrap()).unwrap(), reply);
    }

    #[test]
    fn anthropic_replies(reply in anthropic_reply()) {
        prop_assert_eq!(parse_reply(ANTHROPIC, &write_reply(ANTHROPIC, &reply, 1).unwrap()).unwrap(), reply);
    }

    #[test]
    fn responses_replies(reply in responses_reply()) {
        prop_assert_eq!(parse_reply(RESPONSES, &write_reply(RESPONSES, &reply, 1).unwrap()).unwrap(), reply);
    }

    #[test]
    fn responses_streams(reply in responses_reply(), piece in 1..9usize, size in 1..50usize) {
        let events = events(RESPONSES, &reply, piece);
        let stream = written(RESPONSES, &events);
        assert_numbered(&stream);
        let read = accumulated(read(RESPONSES, &stream, size));
        // Items of a stream get their ids before the provider's proof names its own.
        prop_assert_eq!(without_ids(read), without_ids(reply));
    }

    /// Each client's wire says the text and the calls of any reply, whole and streamed, whichever wire it came in.
    #[test]
    fn all_wires_say_any_reply(reply in anthropic_reply(), piece in 1..9usize) {
        for wire in CLIENTS {
            let calls = |reply: &Reply| -> Vec<(String, serde_json::Value)> {
                let calls = reply.tool_calls();
                calls.map(|call| (call.name.clone(), serde_json::from_str(&call.arguments).unwrap())).collect()
            };
            for said in [
                parse_reply(wire, &write_reply(wire, &reply, 1).unwrap()).unwrap(),
                accumulated(read(wire, &written(wire, &events(wire, &reply, piece)), usize::MAX)),
            ] {
                prop_assert_eq!(said.text(), reply.text(), "{}", wire);
                prop_assert_eq!(calls(&said), calls(&reply), "{}", wire);
                prop_assert_eq!(said.usage.map(|usage| (usage.input, usage.output)), reply.usage.map(|usage| (usage.input, usage.output)));
            }
        }
    }

    #[test]
    fn openai_streams(reply in openai_reply(), piece in 1..9usize, size in 1..50usize) {
        let events = events(OPENAI, &reply, piece);
        let stream = written(OPENAI, &events);
        prop_assert_eq!(&read(OPENAI, &stream, size), &events);
        prop_assert_eq!(accumulated(events), reply);
    }

    #[test]
    fn anthropic_streams(reply in anthropic_reply(), piece in 1..9usize, size in 1..50usize) {
        let events = events(ANTHROPIC, &reply, piece);
        let stream = written(ANTHROPIC, &events);
        prop_assert_eq!(&read(ANTHROPIC, &stream, size), &events);
        assert_blocks_in_order(&stream);
    }

    /// Tool calls whose pieces come interleaved, with text amid them, still make whole blocks in order.
    #[test]
    fn interleaved_calls(calls in vec(tool_call(), 1..4), order in vec((0..4usize, 1..6usize), 0..60), amid in option::of(text())) {
        let mut left: Vec<Vec<char>> = calls.iter().map(|call| call.arguments.chars().collect()).collect();
        let mut events = vec![Event::Start { id: "i".to_owned(), model: "m".to_owned(), usage: None }];
        for (index, call) in calls.iter().enumerate() {
            events.push(Event::ToolStart { index, id: call.id.clone(), name: call.name.clone() });
        }
        let all = (0..calls.len()).map(|index| (index, usize::MAX));
        for (at, (index, count)) in order.into_iter().filter(|(index, _)| *index < calls.len()).chain(all).enumerate() {
            let count = count.min(left[index].len());
            let json: String = left[index].drain(..count).collect();
            events.push(Event::ToolArguments { index, json });
            if at == 2 {
                events.extend(amid.clone().map(Event::Text));
            }
        }
        events.push(Event::Stop(StopReason::ToolUse));
        events.push(Event::End);
        let stream = written(ANTHROPIC, &events);
        assert_blocks_in_order(&stream);
        let reply = accumulated(read(ANTHROPIC, &stream, usize::MAX));
        prop_assert_eq!(reply.tool_calls().collect::<Vec<_>>(), calls.iter().collect::<Vec<_>>());
        prop_assert_eq!(reply.text(), accumulated(events).text());
    }

    /// Bytes that are no stream at all do no harm, and none is lost.
    #[test]
    fn frames_of_anything(stream in vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), any::<u8>()], 0..200), size in 1..20usize) {
        let mut parser = Parser::new();
        let mut frames = Vec::new();
        for chunk in stream.chunks(size) {
            parser.push(Bytes::copy_from_slice(chunk), &mut frames).unwrap();
        }
        let mut raw: Vec<u8> = frames.iter().flat_map(|frame| frame.raw.to_vec()).collect();
        raw.extend(parser.finish().unwrap_or_default());
        prop_assert_eq!(raw, stream);
        for wire in CLIENTS {
            let mut reader = StreamReader::new(wire);
            for frame in &frames {
                let _either_is_fine = reader.read(frame);
            }
        }
    }
}
