//! Fields of a form (`multipart/form-data`, RFC 7578): only as much as is needed to find one and to put another value there.

use bytes::Bytes;
use http::{HeaderMap, header};
use memchr::memmem;

use crate::{error::Refusal, request::Span};

/// Where the value of the field `name` stands; none where the form has no such field.
///
/// # Errors
/// 400 for a form without a boundary, or with the field twice: the provider could read the other one.
pub fn field(headers: &HeaderMap, body: &Bytes, name: &str) -> Result<Option<Span>, Refusal> {
    let boundary = boundary(headers).ok_or_else(|| Refusal::invalid("The form's content-type has no boundary.", None))?;
    let (delimiter, next) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut found = None;
    let mut at = memmem::find(body, delimiter.as_bytes()).map(|at| at + delimiter.len());
    while let Some(start) = at {
        let rest = &body[start..];
        // After a boundary: the line's end, then the part's headers; "--" after the last.
        let Some(head) = memmem::find(rest, b"\r\n\r\n") else { break };
        let content = start + head + 4;
        let Some(length) = memmem::find(&body[content - 2..], next.as_bytes()) else { break };
        let end = (content - 2 + length).max(content);
        if is_named(&rest[..head], name) && found.replace(Span { start: content, end }).is_some() {
            return Err(Refusal::invalid(format!("{name} is given twice."), Some(name.to_owned())));
        }
        at = Some(content - 2 + length + next.len());
    }
    Ok(found)
}

/// What stands between the parts of a form; none where its content type does not say.
pub fn boundary(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let parameters = value.split(';').skip(1).filter_map(|parameter| parameter.trim().split_once('='));
    let text = parameters.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?.1;
    Some(text.trim_matches('"').to_owned()).filter(|text| !text.is_empty())
}

/// Whether a part's headers say that it is the field `name`.
fn is_named(head: &[u8], name: &str) -> bool {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let disposition = lines.find(|(header, _)| header.trim().eq_ignore_ascii_case("content-disposition"));
    disposition.is_some_and(|(_, value)| {
        let parameters = value.split(';').filter_map(|parameter| parameter.trim().split_once('='));
        parameters.into_iter().any(|(key, given)| key.eq_ignore_ascii_case("name") && given.trim_matches('"') == name)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const FORM: &str = "--xx\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\nContent-Type: audio/wav\r\n\r\n\x00\r\n\r\nname=\"model\"\r\n--xx--\r\n";

    fn find(kind: &'static str, body: &str, name: &str) -> Result<Option<String>, String> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let span = field(&headers, &body, name).map_err(|refusal| refusal.message.into_owned())?;
        Ok(span.map(|span| String::from_utf8(span.of(&body).to_vec()).unwrap()))
    }

    #[test]
    fn a_field_is_found_among_others() {
        for kind in ["multipart/form-data; boundary=xx", "multipart/form-data; charset=x; Boundary=\"xx\""] {
            assert_eq!(find(kind, FORM, "model").unwrap().as_deref(), Some("whisper-1"));
            assert_eq!(find(kind, FORM, "file").unwrap().as_deref(), Some("\0\r\n\r\nname=\"model\""));
            assert_eq!(find(kind, FORM, "prompt").unwrap(), None);
        }
    }

    #[test]
    fn a_field_may_come_once_and_a_form_needs_a_boundary() {
        let twice = FORM.replace("name=\"file\"", "name=\"model\"");
        assert!(find("multipart/form-data; boundary=xx", &twice, "model").unwrap_err().contains("twice"));
        assert!(find("multipart/form-data", FORM, "model").unwrap_err().contains("boundary"));
        let empty = "--xx\r\nContent-Disposition: form-data; name=model\r\n\r\n\r\n--xx--";
        assert_eq!(find("multipart/form-data; boundary=xx", empty, "model").unwrap().as_deref(), Some(""));
        for broken in ["", "--xx", "--xx\r\n\r\n", "--xx\r\nx: y\r\n\r\nabc", "nothing"] {
            assert_eq!(find("multipart/form-data; boundary=xx", broken, "model").unwrap(), None, "{broken:?}");
        }
    }
}
