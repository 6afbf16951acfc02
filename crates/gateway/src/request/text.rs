//! The inside of JSON strings: where it ends, what it says, how it is written.

use std::borrow::Cow;

use super::json::Fault;

const ONES: u64 = 0x0101_0101_0101_0101;
/// The bit of each byte in a word that ASCII leaves clear.
const HIGHS: u64 = 0x8080_8080_8080_8080;
const WORD: usize = 8;
const BLOCK: usize = 32;
/// Bytes that are looked at between two decisions to go on.
const PIECE: usize = 4 << 10;

/// A string found in JSON text.
pub(super) struct Ended {
    /// Index of its closing quote.
    pub at: usize,
    /// Whether it holds an escape.
    pub escaped: bool,
}

/// Whether `text` is UTF-8 without control characters, as JSON is that no person wrote: then a string's end is all there is to find.
pub(super) fn is_plain(text: &[u8]) -> bool {
    // All of a piece at once and no way out in the middle, so that the compiler makes it vectors.
    let controls = |piece: &[u8]| piece.iter().fold(0, |any, byte| any | u8::from(*byte < 0x20));
    !text.chunks(PIECE).any(|piece| controls(piece) != 0) && utf8(text).is_ok()
}

/// The end of the string whose inside starts at `start`, in a text that [`is_plain`].
pub(super) fn end_of_plain_string(bytes: &[u8], start: usize) -> Result<Ended, Fault> {
    let mut at = start;
    let mut escaped = false;
    loop {
        at = quote_or_backslash(bytes, at).ok_or(Fault { what: ENDLESS, at: bytes.len() })?;
        if bytes[at] == b'"' {
            return Ok(Ended { at, escaped });
        }
        escaped = true;
        at += escape(bytes, at)?;
    }
}

/// Keys, and what stands between the escapes of code, end within two words; for them a search by vectors is the longer way.
#[inline]
fn quote_or_backslash(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    for _ in 0..2 {
        let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<WORD>()) else { break };
        let word = u64::from_le_bytes(*word);
        let found = marks(word, b'"') | marks(word, b'\\');
        if found != 0 {
            return Some(at + first_mark(found));
        }
        at += WORD;
    }
    memchr::memchr2(b'"', b'\\', bytes.get(at..)?).map(|found| at + found)
}

/// Validates the string whose inside starts at `start`.
///
/// Short strings (keys) and those full of escapes (code) go by words of 8 bytes, plain text by blocks of 32.
pub(super) fn end_of_string(bytes: &[u8], start: usize) -> Result<Ended, Fault> {
    let mut at = start;
    let mut seen = 0; // all bytes or-ed: tells of anything not ASCII
    let mut escaped = false;
    let mut plain_words = 0;
    'words: loop {
        let Some(word) = bytes[at..].first_chunk::<WORD>() else {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += escape(bytes, at)?;
                }
                Some(0..0x20) => return Err(Fault { what: CONTROL, at }),
                Some(&byte) => {
                    seen |= u64::from(byte);
                    at += 1;
                }
                None => {
                    return Err(Fault { what: ENDLESS, at });
                }
            }
            continue;
        };
        let word = u64::from_le_bytes(*word);
        seen |= word;
        let mut special = specials(word);
        if special == 0 {
            at += WORD;
            plain_words += 1;
            if plain_words >= 2 {
                at += plain_blocks(&bytes[at..], &mut seen);
                plain_words = -4; // what ended the blocks is in the next four words
            }
            continue;
        }
        plain_words = 0;
        while special != 0 {
            let here = first_mark(special);
            match bytes[at + here] {
                b'"' => {
                    at += here;
                    break 'words;
                }
                b'\\' => {
                    escaped = true;
                    let length = escape(bytes, at + here)?;
                    if here + length >= WORD {
                        at += here + length;
                        continue 'words;
                    }
                    special &= u64::MAX << (8 * (here + length));
                }
                _ => {
                    return Err(Fault { what: CONTROL, at: at + here });
                }
            }
        }
        at += WORD;
    }
    if seen & HIGHS != 0 {
        utf8(&bytes[start..at]).map_err(|valid| Fault { what: "invalid UTF-8", at: start + valid })?;
    }
    Ok(Ended { at, escaped })
}

const ENDLESS: &str = "expected '\"', found the end of the text";
const CONTROL: &str = "control character in a string (write it as an escape)";
const BAD_ESCAPE: &str = "invalid escape in a string (\\u takes four hex digits; surrogates come in pairs)";

/// Length of the escape at `at`.
#[inline]
fn escape(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(2),
        Some(b'u') => code_point(&bytes[at..]).map(|(length, _)| length).ok_or(Fault { what: BAD_ESCAPE, at }),
        _ => Err(Fault { what: BAD_ESCAPE, at }),
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

/// The high bit of each byte of `word` that cannot stand for itself in a string.
#[inline]
fn specials(word: u64) -> u64 {
    // Per byte, without a carry into the next: whether its low seven bits reach 0x20, or its high bit is set.
    let control = !(((word & !HIGHS) + ONES * 0x60) | word) & HIGHS;
    control | marks(word, b'"') | marks(word, b'\\')
}

/// The high bit of each byte of `word` that is `byte`.
#[inline]
fn marks(word: u64, byte: u8) -> u64 {
    let difference = word ^ (ONES * u64::from(byte));
    !(((difference & !HIGHS) + !HIGHS) | difference) & HIGHS
}

/// Index of the lowest byte marked.
#[inline]
fn first_mark(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// The text, or the length of its valid part.
fn utf8(bytes: &[u8]) -> Result<&str, usize> {
    simdutf8::compat::from_utf8(bytes).map_err(|error| error.valid_up_to())
}

/// How long the `\uXXXX` (or pair of them) is that `bytes` starts with, and its character.
fn code_point(bytes: &[u8]) -> Option<(usize, char)> {
    let unit = |from: usize| -> Option<u32> {
        let escape = bytes.get(from..from + 6)?;
        if !escape.starts_with(b"\\u") {
            return None;
        }
        let digits = escape[2..].iter();
        digits.copied().try_fold(0, |value, digit| Some((value << 4) | char::from(digit).to_digit(16)?))
    };
    let first = unit(0)?;
    if !(0xD800..0xDC00).contains(&first) {
        return Some((6, char::from_u32(first)?));
    }
    let second = unit(6).filter(|unit| (0xDC00..0xE000).contains(unit))?;
    Some((12, char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?))
}

/// The bytes that the inside of a validated string stands for.
pub(super) fn unescape(inside: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', inside) else {
        return Cow::Borrowed(inside);
    };
    // What an escape stands for is shorter than the escape. Words are stored whole, then counted up to their first backslash.
    let mut out = vec![0; inside.len() + WORD];
    out[..first].copy_from_slice(&inside[..first]);
    let (mut from, mut to) = (first, first);
    while from < inside.len() {
        if let Some(word) = inside[from..].first_chunk::<WORD>() {
            out[to..to + WORD].copy_from_slice(word);
            let backslash = marks(u64::from_le_bytes(*word), b'\\');
            let plain = if backslash == 0 { WORD } else { first_mark(backslash) };
            from += plain;
            to += plain;
            if backslash == 0 {
                continue;
            }
        }
        if inside[from] != b'\\' {
            out[to] = inside[from];
            from += 1;
            to += 1;
            continue;
        }
        let rest = &inside[from..];
        let (length, character) = match rest.get(1) {
            Some(b'b') => (2, '\u{8}'),
            Some(b'f') => (2, '\u{c}'),
            Some(b'n') => (2, '\n'),
            Some(b'r') => (2, '\r'),
            Some(b't') => (2, '\t'),
            Some(b'u') => code_point(rest).unwrap_or((rest.len(), ' ')),
            Some(&byte) => (2, char::from(byte)),
            None => break,
        };
        from += length;
        to += character.encode_utf8(&mut out[to..]).len();
    }
    out.truncate(to);
    Cow::Owned(out)
}

/// The text of a validated JSON string, given with its quotes; of any other value, none.
pub(crate) fn decode(quoted: &[u8]) -> Cow<'_, str> {
    let inside = quoted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    match unescape(inside.unwrap_or_default()) {
        Cow::Borrowed(bytes) => utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed),
        Cow::Owned(bytes) => Cow::Owned(utf8(&bytes).map(str::to_owned).unwrap_or_default()),
    }
}

/// Appends `text` as the inside of a JSON string.
pub(crate) fn escape_into(out: &mut Vec<u8>, text: &str) {
    let text = text.as_bytes();
    out.reserve(text.len() + text.len() / 16);
    // Of the control characters prose has the line's end only, for which there are vectors.
    let next = if has_other_controls(text) { first_special } else { |rest: &[u8]| memchr::memchr3(b'\n', b'"', b'\\', rest) };
    let mut rest = text;
    while let Some(at) = next(rest) {
        out.extend_from_slice(&rest[..at]);
        let (escape, length) = escaped(rest[at]);
        out.extend_from_slice(&escape[..length]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Whether a control character other than the line's end is in a text.
fn has_other_controls(text: &[u8]) -> bool {
    // All of a piece at once, so that the compiler makes it vectors.
    let others = |piece: &[u8]| piece.iter().fold(0, |any, byte| any | u8::from(*byte < 0x20 && *byte != b'\n'));
    text.chunks(PIECE).any(|piece| others(piece) != 0)
}

/// Where the first byte is that cannot stand for itself in a string.
fn first_special(text: &[u8]) -> Option<usize> {
    let (words, rest) = text.as_chunks::<WORD>();
    let marks = words.iter().map(|word| specials(u64::from_le_bytes(*word)));
    if let Some((index, found)) = marks.enumerate().find(|(_, found)| *found != 0) {
        return Some(index * WORD + first_mark(found));
    }
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    rest.iter().position(special).map(|at| words.len() * WORD + at)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_escaped_reads_as_it_was(
            pieces in prop::collection::vec(prop_oneof!["[a-z \\n\"]{0,40}", "[ -~é😀]{0,40}", "[\\x00-\\x1f\\\\\"]{0,3}"], 0..8),
        ) {
            let text = pieces.concat();
            let mut out = b"\"".to_vec();
            escape_into(&mut out, &text);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).ok(), Some(text.clone()));
            prop_assert_eq!(decode(&out), text);
        }
    }
}
