//! A field of a form is found within it, once, and can be given another value.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use trunkline_gateway::passthrough::multipart::field;

fuzz_target!(|bytes: &[u8]| {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=x"))]);
    let body = Bytes::copy_from_slice(bytes);
    let Ok(Some(span)) = field(&headers, &body, "model") else { return };
    assert!(!span.of(&body).windows(5).any(|bytes| bytes == b"\r\n--x"), "a value goes on beyond its part");
    let other = Bytes::from([&bytes[..span.start], b"another", &bytes[span.end..]].concat());
    let again = field(&headers, &other, "model").ok().flatten().expect("the field is gone");
    assert_eq!(again.of(&other), b"another");
});
