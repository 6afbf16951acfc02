//! What an upstream's configuration puts into a request where the client left it out.

use bytes::Bytes;

use super::member::members;

/// The body with those `defaults` (names, and values as JSON) that it has no member for, at its beginning.
pub fn filled(body: Bytes, defaults: &[(String, String)]) -> Bytes {
    if defaults.is_empty() {
        return body;
    }
    let given = members(&body);
    let has = |name: &str| given.iter().any(|(known, _)| known == name.as_bytes());
    // Two names for one limit: providers refuse both at once.
    let same = |name: &str| match name {
        "max_tokens" => has("max_completion_tokens"),
        "max_completion_tokens" => has("max_tokens"),
        _ => false,
    };
    let missing: Vec<_> = defaults.iter().filter(|(name, _)| !has(name) && !same(name)).collect();
    let (Some(open), false) = (body.iter().position(|byte| *byte == b'{'), missing.is_empty()) else { return body };
    let mut filled = Vec::with_capacity(body.len() + 64);
    filled.extend_from_slice(&body[..=open]);
    for (place, (name, value)) in missing.into_iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        filled.extend_from_slice(format!("{comma}{}:{value}", serde_json::Value::from(name.as_str())).as_bytes());
    }
    if !given.is_empty() {
        filled.push(b',');
    }
    filled.extend_from_slice(&body[open + 1..]);
    Bytes::from(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_put_in_and_all_else_stays() {
        let defaults = [("max_tokens", "9"), ("temperature", "0.2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (body, expected) in [
            (r#"{ "model":"m" , "top_p":1e0}"#, r#"{"max_tokens":9,"temperature":0.2, "model":"m" , "top_p":1e0}"#),
            (r#"{"temperature":1,"a":{"max_tokens":1}}"#, r#"{"max_tokens":9,"temperature":1,"a":{"max_tokens":1}}"#),
            (r#"{"max_completion_tokens":1,"temperature":null}"#, r#"{"max_completion_tokens":1,"temperature":null}"#),
            ("{}", r#"{"max_tokens":9,"temperature":0.2}"#),
        ] {
            assert_eq!(filled(Bytes::from_static(body.as_bytes()), &defaults), expected);
        }
        assert_eq!(filled(Bytes::from_static(b"{}"), &[]), "{}");
    }
}
