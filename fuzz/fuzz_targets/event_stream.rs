//! Amazon's event stream: messages are told apart wherever they are cut, with the names and payloads that they were made of; one
//! that was changed on its way is found out.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trunkline_gateway::{
    sse::Frame,
    wire::event_stream::{Corrupt, Parser},
};

/// A message of these headers and this payload, with lengths and checksums as they should be.
fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).expect("it is short").to_be_bytes();
    let mut message = [number(headers.len() + payload.len() + 16), number(headers.len())].concat();
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend([headers, payload].concat());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

fn string_header(name: &str, value: &[u8]) -> Vec<u8> {
    let length = |length: usize| u8::try_from(length).expect("it is short");
    [&[length(name.len())], name.as_bytes(), &[7, 0, length(value.len())], value].concat()
}

/// Takes so many bytes as the first one says.
fn part<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, rest)) = bytes.split_first() else { return &[] };
    let (part, rest) = rest.split_at(usize::from(*length).min(rest.len()));
    *bytes = rest;
    part
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Result<(), Corrupt>) {
    let (mut parser, mut frames) = (Parser::new(), Vec::new());
    let ended = pieces.into_iter().try_for_each(|piece| parser.push(Bytes::copy_from_slice(piece), &mut frames));
    (frames, ended)
}

fuzz_target!(|bytes: &[u8]| {
    let (mut left, mut stream, mut expected) = (bytes, Vec::new(), Vec::new());
    while !left.is_empty() && expected.len() < 8 {
        let (name, payload, foreign) = (part(&mut left), part(&mut left), part(&mut left));
        // Headers of any kind before ours, as far as they are headers.
        let alone = read([&message(foreign, b"")[..]]);
        let before = if alone.1.is_ok() && alone.0.iter().all(|frame| frame.event.is_none()) { foreign } else { b"" };
        let told = alone.0.first().filter(|_| !before.is_empty()).map_or(&b""[..], |frame| &frame.data[..]);
        let headers = [before, &string_header(":event-type", name)[..]].concat();
        stream.extend(message(&headers, payload));
        // An error's text stands in a header, and is its payload then.
        expected.push((name.to_vec(), if told.is_empty() { payload.to_vec() } else { told.to_vec() }));
    }
    let said = |frames: &[Frame]| {
        frames.iter().map(|frame| (frame.event.clone().unwrap_or_default().to_vec(), frame.data.to_vec())).collect::<Vec<_>>()
    };
    let cut = bytes.iter().fold(bytes.len(), |sum, byte| sum * 31 % 65_521 + usize::from(*byte)) % (stream.len() + 1);
    for (frames, ended) in [read([&stream[..]]), read([&stream[..cut], &stream[cut..]]), read(stream.chunks(1))] {
        assert_eq!(ended, Ok(()));
        assert_eq!(said(&frames), expected);
    }
    if let Some(byte) = stream.get_mut(cut) {
        *byte ^= 1 << (bytes[0] % 8);
        let (frames, ended) = read([&stream[..]]);
        assert!(ended.is_err() || frames.len() < expected.len(), "a changed message was taken for a whole one");
        let (again, broken) = read(stream.chunks(3));
        assert_eq!((said(&again), broken.is_err()), (said(&frames), ended.is_err()), "changed, and cut");
    }
    // Bytes that nobody made a message of.
    let (whole, ended) = read([bytes]);
    let (cut, broken) = read(bytes.chunks(5));
    assert_eq!((said(&cut), broken.is_err()), (said(&whole), ended.is_err()));
});
