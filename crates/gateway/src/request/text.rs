//! The inside of JSON strings: where it ends, what it says, how it is written.

use std::borrow::Cow;

use super::json::Fault;

const ONES: u64 = 0x0101_0101_0101_0101;
/// The bit of each byte in a word that ASCII leaves clear.
const HIGHS: u64 = 0x8080_8080_8080_8080;
const WORD: usize = 8;
const BLOCK: usize = 32;

/// A string found in JSON text.
pub(super) struct Ended {
    /// Index of its closing quote.
    pub at: usize,
    /// Whether it holds an escape.
    pub escaped: bool,
}

/// Validates the string whose inside starts at `start`.
///
/// Short strings (keys) and those full of escapes (code) go by words of 8 bytes, plain text by blocks of 32.
pub(super) fn end_of_string(bytes: &[u8], start: usize) -> Result<Ended, Fault> {
    let mut at = start;
    let mut seen = 0; // all bytes or-ed: tells of anything not ASCII
    let mut escaped = false;
    let mut plain_words = 0;
    loop {
        let special = if let Some(word) = bytes[at..].first_chunk::<WORD>() {
            let word = u64::from_le_bytes(*word);
            seen |= word;
            let special = specials(word);
            if special == 0 {
                at += WORD;
                plain_words += 1;
                if plain_words >= 2 {
                    at += plain_blocks(&bytes[at..], &mut seen);
                    plain_words = -4; // what ended the blocks is in the next four words
                }
                continue;
            }
            at += (special.trailing_zeros() / 8) as usize;
            bytes[at]
        } else {
            match bytes.get(at) {
                Some(&byte) if byte >= 0x20 && byte != b'"' && byte != b'\\' => {
                    seen |= u64::from(byte);
                    at += 1;
                    continue;
                }
                Some(&byte) => byte,
                None => {
                    return Err(Fault {
                        what: "expected '\"', found the end of the text",
                        at,
                    });
                }
            }
        };
        match special {
            b'"' => break,
            b'\\' => {
                at += escape(&bytes[at..]).ok_or(Fault {
                    what: BAD_ESCAPE,
                    at,
                })?
            }
            _ => {
                return Err(Fault {
                    what: "control character in a string (write it as an escape)",
                    at,
                });
            }
        }
        escaped = true;
        plain_words = 0;
    }
    if seen & HIGHS != 0 {
        utf8(&bytes[start..at]).map_err(|valid| Fault {
            what: "invalid UTF-8",
            at: start + valid,
        })?;
    }
    Ok(Ended { at, escaped })
}

const BAD_ESCAPE: &str =
    "invalid escape in a string (\\u takes four hex digits; surrogates come in pairs)";

/// Length of the escape that `bytes` starts with.
#[inline]
fn escape(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => code_point(bytes).map(|(_, length)| length),
        _ => None,
    }
}

/// Length of the whole blocks at the start of `bytes` that hold neither quote, backslash nor control character.
/// Plain loops over the bytes, so that the compiler makes them vectors.
fn plain_blocks(bytes: &[u8], seen: &mut u64) -> usize {
    let mut at = 0;
    while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        let (mut special, mut any) = (0, 0);
        for &byte in block {
            special |= u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\');
            any |= byte;
        }
        if special != 0 {
            break;
        }
        *seen |= u64::from(any);
        at += BLOCK;
    }
    at
}

/// The high bit of each special byte in `word`; exact for the lowest one, which is the one asked for.
#[inline]
fn specials(word: u64) -> u64 {
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & HIGHS
}

/// The text, or the length of its valid part.
fn utf8(bytes: &[u8]) -> Result<&str, usize> {
    simdutf8::compat::from_utf8(bytes).map_err(|error| error.valid_up_to())
}

/// The character of the `\uXXXX` (or pair of them) that `bytes` starts with, and how many bytes it takes.
fn code_point(bytes: &[u8]) -> Option<(char, usize)> {
    let unit = |from: usize| -> Option<u32> {
        let escape = bytes.get(from..from + 6)?;
        if !escape.starts_with(b"\\u") {
            return None;
        }
        escape[2..].iter().try_fold(0, |value, &digit| {
            Some(value << 4 | char::from(digit).to_digit(16)?)
        })
    };
    let first = unit(0)?;
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first)?, 6));
    }
    let second = unit(6).filter(|unit| (0xDC00..0xE000).contains(unit))?;
    Some((
        char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?,
        12,
    ))
}

/// The bytes that the inside of a validated string stands for.
pub(super) fn unescape(inside: &[u8]) -> Cow<'_, [u8]> {
    let Some(mut next) = memchr::memchr(b'\\', inside) else {
        return Cow::Borrowed(inside);
    };
    let mut out = Vec::with_capacity(inside.len());
    let mut rest = inside;
    loop {
        out.extend_from_slice(&rest[..next]);
        rest = &rest[next..];
        let byte = match rest.get(1) {
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let (character, length) =
                    code_point(rest).unwrap_or((char::REPLACEMENT_CHARACTER, rest.len()));
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[length..];
                next = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
                continue;
            }
            Some(&byte) => byte,
            None => return Cow::Owned(out),
        };
        out.push(byte);
        rest = &rest[2..];
        // Escapes come in clusters ("\n\n", "\\\""): look at the next byte before a search is set up.
        next = if rest.first() == Some(&b'\\') {
            0
        } else {
            memchr::memchr(b'\\', rest).unwrap_or(rest.len())
        };
    }
}

/// The text of a validated JSON string, given with its quotes.
pub(crate) fn decode(quoted: &[u8]) -> Cow<'_, str> {
    match unescape(&quoted[1..quoted.len() - 1]) {
        Cow::Borrowed(bytes) => {
            utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
        }
        Cow::Owned(bytes) => Cow::Owned(utf8(&bytes).map(str::to_owned).unwrap_or_default()),
    }
}

/// Appends `text` as the inside of a JSON string.
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    let start = out.len();
    // Room for a whole word more than needed: words are stored whole, then counted up to their first special byte.
    out.resize(start + escaped_bound(text) + WORD, 0);
    let room = &mut out[start..];
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        if let Some(word) = text[from..].first_chunk::<WORD>() {
            room[to..to + WORD].copy_from_slice(word);
            let special = specials(u64::from_le_bytes(*word));
            let plain = if special == 0 {
                WORD
            } else {
                (special.trailing_zeros() / 8) as usize
            };
            from += plain;
            to += plain;
            if special == 0 {
                continue;
            }
        }
        let byte = text[from];
        from += 1;
        let (escape, length) = escaped(byte);
        room[to..to + 6].copy_from_slice(&escape);
        to += length;
    }
    out.truncate(start + to);
}

/// How `byte` is written inside a string: the first so many of six bytes.
#[inline]
fn escaped(byte: u8) -> ([u8; 6], usize) {
    let short = |letter| ([b'\\', letter, 0, 0, 0, 0], 2);
    let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
    match byte {
        b'"' | b'\\' => short(byte),
        b'\n' => short(b'n'),
        b'\r' => short(b'r'),
        b'\t' => short(b't'),
        0..0x20 => ([b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)], 6),
        _ => ([byte, 0, 0, 0, 0, 0], 1),
    }
}

/// An upper bound of what `escape_into` will append, in bytes.
pub(crate) fn escaped_bound(text: &[u8]) -> usize {
    let extra = |chunk: &[u8]| {
        // At most 42 * 6 fits a byte, which lets the compiler count many at once.
        let extra =
            |&byte: &u8| u8::from(byte == b'"' || byte == b'\\') + 5 * u8::from(byte < 0x20);
        usize::from(chunk.iter().map(extra).sum::<u8>())
    };
    text.len() + text.chunks(32).map(extra).sum::<usize>()
}
