//! Percent-encoding (RFC 3986): all but the unreserved characters.

/// `text` as one segment of a path: its slashes are encoded too.
pub(super) fn segment(text: &str) -> String {
    bytes(text.as_bytes())
}

/// `path` encoded between its slashes.
pub(super) fn path(path: &str) -> String {
    encode(path.as_bytes(), |byte| byte == b'/')
}

/// All of it encoded.
pub(super) fn bytes(bytes: &[u8]) -> String {
    encode(bytes, |_| false)
}

fn encode(text: &[u8], kept: impl Fn(u8) -> bool) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len() + 8);
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept(byte) {
            out.push(char::from(byte));
        } else {
            out.extend(['%', char::from(DIGITS[usize::from(byte >> 4)]), char::from(DIGITS[usize::from(byte & 15)])]);
        }
    }
    out
}

/// The bytes that `text` stands for; an escape that is none stands for itself.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            out.push(high << 4 | low);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    out
}
