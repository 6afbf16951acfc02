//! The content codings, each undone step by step in bounded memory.

use std::{fmt, io::Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// How much is given out at a time, in bytes.
const PIECE: usize = 64 * 1024;
/// The largest zstd window, as a power of two: what a `Content-Encoding` may ask for (RFC 9659), 8 MiB.
const WINDOW_LOG: u32 = 23;

/// A content coding that can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// The coding of this name; none for `identity`.
    pub fn named(name: &str) -> Result<Option<Self>, ()> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "br" => Ok(Some(Self::Brotli)),
            "zstd" => Ok(Some(Self::Zstd)),
            "identity" => Ok(None),
            _ => Err(()),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Whether a body of this coding can begin with the first of these bytes. Neither JSON nor an event stream begins with
    /// those of gzip and zstd; brotli has no mark.
    pub fn may_begin_with(self, bytes: &[u8]) -> bool {
        match (self, bytes.first()) {
            (Self::Gzip, Some(first)) => *first == 0x1f,
            // The second is of a frame to be skipped.
            (Self::Zstd, Some(first)) => matches!(first, 0x28 | 0x50..=0x5f),
            _ => true,
        }
    }
}

/// What came of a step.
pub struct Step {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// What they gave.
    pub output: Bytes,
    /// There may be more to give, even without more input.
    pub full: bool,
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// Undoes one coding.
pub enum Decoder {
    /// Passes bytes on.
    None,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Brotli {
        state: Box<Brotli>,
        ended: bool,
    },
    Zstd {
        context: DCtx<'static>,
        ended: bool,
    },
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    pub fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Coding::Brotli => {
                let (bytes, words, codes) = (StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
                Self::Brotli { state: Box::new(BrotliState::new(bytes, words, codes)), ended: false }
            }
            Coding::Zstd => {
                let mut context = DCtx::create();
                // A limit that is not taken is the library's own: 128 MiB.
                let _ = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG));
                Self::Zstd { context, ended: true }
            }
        }
    }

    /// Takes of `input` what gives about a piece.
    pub fn step(&mut self, input: &Bytes) -> Result<Step, ()> {
        match self {
            Self::None => Ok(Step { consumed: input.len(), output: input.clone(), full: false }),
            Self::Gzip(decoder) => gunzip(decoder, input),
            Self::Brotli { state, ended } => unbrotli(state, ended, input),
            Self::Zstd { context, ended } => unzstd(context, ended, input),
        }
    }

    /// Whether what came so far is whole.
    pub fn ended(&mut self) -> bool {
        match self {
            Self::None => true,
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
            Self::Brotli { ended, .. } | Self::Zstd { ended, .. } => *ended,
        }
    }
}

fn gunzip(decoder: &mut MultiGzDecoder<Vec<u8>>, input: &[u8]) -> Result<Step, ()> {
    let mut consumed = 0;
    while consumed < input.len() && decoder.get_mut().len() < PIECE {
        match decoder.write(&input[consumed..]).map_err(|_| ())? {
            0 => break,
            taken => consumed += taken,
        }
    }
    // Gives out what the bytes taken have given: at most the format's window of 32 KiB.
    decoder.flush().map_err(|_| ())?;
    Ok(Step { consumed, output: std::mem::take(decoder.get_mut()).into(), full: false })
}

fn unbrotli(state: &mut Brotli, ended: &mut bool, input: &[u8]) -> Result<Step, ()> {
    if *ended {
        // Nothing may follow.
        return if input.is_empty() { Ok(Step { consumed: 0, output: Bytes::new(), full: false }) } else { Err(()) };
    }
    let mut output = vec![0; PIECE];
    let (mut left, mut consumed, mut room, mut given, mut total) = (input.len(), 0, PIECE, 0, 0);
    let result = BrotliDecompressStream(&mut left, &mut consumed, input, &mut room, &mut given, &mut output, &mut total, state);
    let full = match result {
        BrotliResult::ResultSuccess => {
            *ended = true;
            false
        }
        BrotliResult::NeedsMoreInput => false,
        BrotliResult::NeedsMoreOutput => true,
        BrotliResult::ResultFailure => return Err(()),
    };
    output.truncate(given);
    Ok(Step { consumed, output: output.into(), full })
}

fn unzstd(context: &mut DCtx<'static>, ended: &mut bool, input: &[u8]) -> Result<Step, ()> {
    let mut output = Vec::with_capacity(PIECE);
    let mut from = InBuffer::around(input);
    let full = {
        let mut to = OutBuffer::around(&mut output);
        // Zero says that a frame ended and all of it was given out.
        let hint = context.decompress_stream(&mut to, &mut from).map_err(|_| ())?;
        *ended = hint == 0;
        !*ended && to.pos() == to.capacity()
    };
    Ok(Step { consumed: from.pos(), output: output.into(), full })
}
