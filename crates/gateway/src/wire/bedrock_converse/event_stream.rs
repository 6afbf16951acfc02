//! `application/vnd.amazon.eventstream`, taken apart as it arrives: binary messages with headers, each guarded by checksums.
//!
//! A message is, all numbers big-endian: its length (4 bytes), the headers' length (4), a CRC-32 of these 8 bytes (4), the
//! headers, the payload, a CRC-32 of all before (4). A header is its name's length (1), the name, the value's type (1), the
//! value.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use crate::sse::{Frame, MAX_FRAME_BYTES};
use crate::wire::json;

/// Both lengths and their checksum.
const PRELUDE: usize = 12;
/// The checksum at the end.
const TRAILER: usize = 4;
/// AWS's own limit for the headers of one message, in bytes.
const MAX_HEADERS: usize = 128 * 1024;

/// Why a byte stream cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// A message is longer than the limit, or shorter than its own frame.
    Length,
    /// A checksum does not fit what came before it.
    Checksum,
    /// The headers are not as long as they say.
    Headers,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a message of the provider's event stream has an impossible length",
            Self::Checksum => "a message of the provider's event stream does not fit its checksum",
            Self::Headers => "a message of the provider's event stream has broken headers",
        })
    }
}

impl std::error::Error for Corrupt {}

/// Cuts a byte stream into messages. A message becomes a [`Frame`] like a server-sent event's: its name is the event's or
/// exception's type, its data the payload.
#[derive(Debug)]
pub struct Parser {
    pending: BytesMut,
    limit: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self::with_limit(MAX_FRAME_BYTES)
    }
}

impl Parser {
    /// A parser at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with another limit for a message, in bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self { pending: BytesMut::new(), limit }
    }

    /// Add the frames that `chunk` completes to `frames`.
    ///
    /// # Errors
    /// Once the stream cannot be trusted any more; the frames before stand.
    pub fn push(&mut self, mut chunk: Bytes, frames: &mut Vec<Frame>) -> Result<(), Corrupt> {
        if self.pending.is_empty() {
            while let Some(length) = self.whole(&chunk)? {
                frames.push(frame(chunk.split_to(length))?);
            }
        }
        self.pending.extend_from_slice(&chunk);
        while let Some(length) = self.whole(&self.pending)? {
            frames.push(frame(self.pending.split_to(length).freeze())?);
        }
        Ok(())
    }

    /// The bytes after the last whole message, if any: then the stream broke off.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.pending.is_empty()).then(|| self.pending.split().freeze())
    }

    /// The length of the message that `bytes` begin with, if all of it is there. Its own word on its length is checked as soon
    /// as it is there, so that noise does not make us wait for gigabytes.
    fn whole(&self, bytes: &[u8]) -> Result<Option<usize>, Corrupt> {
        if bytes.len() < PRELUDE {
            return Ok(None);
        }
        let mut prelude = &bytes[..PRELUDE];
        let (length, headers) = (prelude.get_u32() as usize, prelude.get_u32() as usize);
        if prelude.get_u32() != crc32fast::hash(&bytes[..8]) {
            return Err(Corrupt::Checksum);
        }
        if length > self.limit || headers > MAX_HEADERS || length < PRELUDE + headers + TRAILER {
            return Err(Corrupt::Length);
        }
        Ok(Some(length).filter(|length| *length <= bytes.len()))
    }
}

/// A whole message, whose lengths have been checked.
fn frame(raw: Bytes) -> Result<Frame, Corrupt> {
    let end = raw.len() - TRAILER;
    if (&raw[end..]).get_u32() != crc32fast::hash(&raw[..end]) {
        return Err(Corrupt::Checksum);
    }
    let payload = PRELUDE + (&raw[4..8]).get_u32() as usize;
    let headers = Headers::parse(raw.slice(PRELUDE..payload))?;
    let data = match headers.error {
        Some(message) => json::bytes(&serde_json::json!({ "message": String::from_utf8_lossy(&message) })).into(),
        None => raw.slice(payload..end),
    };
    Ok(Frame { event: headers.name, data, raw })
}

/// What is needed of a message's headers.
#[derive(Default)]
struct Headers {
    /// The type of the event or exception, or the code of an error.
    name: Option<Bytes>,
    /// The text of an error, which has no payload.
    error: Option<Bytes>,
}

impl Headers {
    fn parse(mut bytes: Bytes) -> Result<Self, Corrupt> {
        let mut headers = Self::default();
        while !bytes.is_empty() {
            let length = usize::from(bytes.get_u8());
            let name = take(&mut bytes, length)?;
            let kind = bytes.try_get_u8().map_err(|_| Corrupt::Headers)?;
            let length = match kind {
                // true, false
                0 | 1 => 0,
                // byte
                2 => 1,
                // short
                3 => 2,
                // integer
                4 => 4,
                // long, timestamp
                5 | 8 => 8,
                // bytes, string
                6 | 7 => usize::from(bytes.try_get_u16().map_err(|_| Corrupt::Headers)?),
                // UUID
                9 => 16,
                _ => return Err(Corrupt::Headers),
            };
            let value = take(&mut bytes, length)?;
            match &name[..] {
                b":event-type" | b":exception-type" | b":error-code" => headers.name = Some(value),
                b":error-message" => headers.error = Some(value),
                _ => {}
            }
        }
        Ok(headers)
    }
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, Corrupt> {
    if length > bytes.len() { Err(Corrupt::Headers) } else { Ok(bytes.split_to(length)) }
}
