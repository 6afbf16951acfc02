//! Requests are told apart the same wherever they are cut, and as another reader of HTTP tells them apart; where that could read
//! one in two ways, it is found to be in doubt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_gateway::heads::Heads;

/// How many heads there are, and which is the first in doubt.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (u64, Option<u64>) {
    let mut heads = Heads::default();
    pieces.into_iter().for_each(|piece| heads.push(piece));
    (heads.count(), heads.doubt().first())
}

/// How a request says that its body ends.
enum Framing {
    Length(usize),
    Chunked,
    Ambiguous,
}

/// The length of the head that `bytes` begin with, and its framing, as httparse and RFC 9112 have it; none where it is no HTTP/1.1,
/// or not all there, or says what the gateway refuses whatever its length.
fn head(bytes: &[u8]) -> Option<(usize, Framing)> {
    let mut space = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut space);
    let Ok(httparse::Status::Complete(end)) = request.parse(bytes) else { return None };
    let all = |name: &str| request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
    let framing = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Framing::Length(0),
        ([], [coding]) => coding.value.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked)?,
        ([length], []) => {
            let digits = std::str::from_utf8(length.value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).map_or(Framing::Ambiguous, Framing::Length)
        }
        _ => Framing::Ambiguous,
    };
    Some((end, framing))
}

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: h\r\n\r\n";

fuzz_target!(|bytes: &[u8]| {
    let found = read([bytes]);
    let cut = bytes.iter().fold(bytes.len(), |sum, byte| sum * 31 % 65_521 + usize::from(*byte)) % (bytes.len() + 1);
    assert_eq!(read([&bytes[..cut], &bytes[cut..]]), found, "cut in two");
    assert_eq!(read(bytes.chunks(1)), found, "byte by byte");

    let Some((end, framing)) = head(bytes) else { return };
    let head = &bytes[..end];
    let (count, doubt) = read([head]);
    assert_eq!(count, 1, "the head ends where it ends");
    if head.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r') || head[0] == b'\n' {
        assert_eq!(doubt, Some(0), "a line that ends in a bare line feed");
        return;
    }
    let body = match framing {
        Framing::Ambiguous => return assert_eq!(doubt, Some(0), "two readings"),
        Framing::Length(length) => vec![b'\n'; length.min(1 << 16)],
        Framing::Chunked => b"1\r\n\n\r\n0\r\n\r\n".to_vec(),
    };
    if doubt.is_some() {
        return; // one that is refused without need is no danger
    }
    let long = matches!(framing, Framing::Length(length) if length > body.len());
    assert_eq!(read([head, &body[..], NEXT]), (if long { 1 } else { 2 }, None), "the body ends where it ends");
});
