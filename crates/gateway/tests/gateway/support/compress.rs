//! Bodies in each content coding, flushed after each piece as a server does that compresses an event stream.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use zstd_safe::{CCtx, InBuffer, OutBuffer};

/// The names of the codings.
pub const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// The pieces in a coding, each to be understood once it is there, and what ends them.
pub fn compressed(coding: &str, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    match coding {
        "gzip" => gzip(pieces),
        "br" => brotli(pieces),
        "zstd" => zstd(pieces),
        _ => panic!("no coding {coding}"),
    }
}

/// All at once.
pub fn compress(coding: &str, bytes: &[u8]) -> Vec<u8> {
    compressed(coding, &[bytes]).concat()
}

fn gzip(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut all = Vec::new();
    for piece in pieces {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
        all.push(std::mem::take(encoder.get_mut()));
    }
    all.push(encoder.finish().unwrap());
    all
}

/// Meta-blocks that hold the bytes as they are: each is a header of three bytes and at most 65,536 others (RFC 7932, 9.2).
fn brotli(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut out = Vec::new();
        for (nth, block) in piece.chunks(65536).enumerate() {
            // The stream begins with one bit that says a window of 64 KiB.
            let shift = u32::from(index == 0 && nth == 0);
            let length = u32::try_from(block.len() - 1).unwrap();
            let header = ((length << 3) | (1 << 19)) << shift;
            out.extend_from_slice(&header.to_le_bytes()[..3]);
            out.extend_from_slice(block);
        }
        all.push(out);
    }
    all.push(vec![3]);
    all
}

fn zstd(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut context = CCtx::create();
    let mut all = Vec::new();
    for piece in pieces {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(piece.len()) + 64);
        let mut input = InBuffer::around(piece);
        let mut output = OutBuffer::around(&mut out);
        while input.pos() < piece.len() {
            context.compress_stream(&mut output, &mut input).unwrap();
        }
        while context.flush_stream(&mut output).unwrap() > 0 {}
        all.push(out);
    }
    let mut out = Vec::with_capacity(64);
    while context.end_stream(&mut OutBuffer::around(&mut out)).unwrap() > 0 {}
    all.push(out);
    all
}
