//! Any bytes in any cut give the same frames, and no byte is lost; Amazon's event stream included.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use trunkline_gateway::{
    sse::{Frame, Parser},
    wire::event_stream,
};

fn frames(chunks: &[&[u8]]) -> (Vec<Frame>, Option<Bytes>) {
    let (mut parser, mut frames) = (Parser::new(), Vec::new());
    for chunk in chunks {
        parser.push(Bytes::copy_from_slice(chunk), &mut frames).expect("no event is as long as the limit here");
    }
    (frames, parser.finish())
}

fn messages(chunks: &[&[u8]]) -> (Vec<Frame>, bool) {
    let (mut parser, mut frames) = (event_stream::Parser::new(), Vec::new());
    let broken = chunks.iter().any(|chunk| parser.push(Bytes::copy_from_slice(chunk), &mut frames).is_err());
    (frames, broken)
}

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.iter().fold(bytes.len(), |sum, byte| sum * 31 % 65_521 + usize::from(*byte));
    let (one, two) = bytes.split_at(cut % (bytes.len() + 1));
    let (whole, rest) = frames(&[bytes]);
    let mut all: Vec<u8> = whole.iter().flat_map(|frame| frame.raw.to_vec()).collect();
    all.extend_from_slice(rest.as_deref().unwrap_or_default());
    assert_eq!(all, bytes, "no byte is lost");
    // A line feed that comes late may stand at the start of the next frame; what the frames say is the same.
    let said = |frames: &[Frame]| frames.iter().map(|frame| (frame.event.clone(), frame.data.clone())).collect::<Vec<_>>();
    assert_eq!(said(&frames(&[one, two]).0), said(&whole), "cut in two");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(said(&frames(&single).0), said(&whole), "byte by byte");
    assert_eq!(messages(&[one, two]), messages(&[bytes]), "Amazon's, cut in two");
});
