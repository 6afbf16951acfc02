//! AWS Signature Version 4: a request's own words, hashed under a key that is good for one day, region and service.
//! (AWS, "Create a signed AWS API request", IAM User Guide.)

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use sha2::{Digest, Sha256};

use super::percent;
use crate::config::AwsCredentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Headers that intermediaries may change, or that come after the signature.
const UNSIGNED: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::USER_AGENT,
    header::ACCEPT_ENCODING,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::CONNECTION,
];

/// Signs requests for one region and service.
#[derive(Clone)]
pub struct Signer {
    credentials: AwsCredentials,
    token: Option<HeaderValue>,
    region: String,
    service: &'static str,
}

/// The parts of a request that are signed.
pub struct Signable<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it is sent; encoded once more for the signature, as all services but S3 ask for.
    pub path: &'a str,
    /// The query as it is sent.
    pub query: &'a str,
    /// All headers that are sent, `host` among them.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

impl Signer {
    /// # Errors
    /// Where the session token cannot stand in a header.
    pub fn new(credentials: AwsCredentials, region: &str, service: &'static str) -> Result<Self, String> {
        let token = credentials.session_token.as_deref().map(HeaderValue::from_str).transpose();
        let mut token = token.map_err(|_| "session_token holds characters that no header can".to_owned())?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self { credentials, token, region: region.to_owned(), service })
    }

    /// Adds the headers that make a request for `uri` a signed one.
    pub fn sign(&self, method: &Method, uri: &Uri, headers: &mut HeaderMap, body: &[u8], at: SystemTime) {
        if let Some(host) = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
            headers.insert(header::HOST, host);
        }
        let time = timestamp(at);
        if let Ok(time) = HeaderValue::from_str(&time) {
            headers.insert("x-amz-date", time);
        }
        if let Some(token) = &self.token {
            headers.insert("x-amz-security-token", token.clone());
        }
        let signable = Signable { method, path: uri.path(), query: uri.query().unwrap_or_default(), headers, body };
        if let Ok(mut value) = HeaderValue::from_str(&self.authorization(&signable, &time)) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
    }

    /// The value of `authorization` for a request at a time such as `20150830T123600Z`.
    pub fn authorization(&self, request: &Signable, time: &str) -> String {
        let date = time.get(..8).unwrap_or_default();
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let (canonical, names) = canonical(request);
        let text = format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let secret = format!("AWS4{}", self.credentials.secret_access_key);
        let key = [date, &self.region, self.service, "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, text.as_bytes()));
        let id = &self.credentials.access_key_id;
        format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
    }
}

/// The request in its canonical form, and the names of the headers in it.
fn canonical(request: &Signable) -> (String, String) {
    let mut headers: Vec<(&str, String)> = Vec::new();
    for name in request.headers.keys().filter(|name| !UNSIGNED.contains(name)) {
        let values = request.headers.get_all(name).iter();
        let values: Vec<String> = values.map(|value| squeezed(&String::from_utf8_lossy(value.as_bytes()))).collect();
        headers.push((name.as_str(), values.join(",")));
    }
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let mut text = format!("{}\n{}\n{}\n", request.method, percent::path(request.path), canonical_query(request.query));
    for (name, value) in &headers {
        let _ = writeln!(text, "{name}:{value}");
    }
    let _ = write!(text, "\n{names}\n{}", hex(&Sha256::digest(request.body)));
    (text, names)
}

/// A header's value without white space at its ends, runs of it within as one.
fn squeezed(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Parameters in the order of their encoded names, then values; each encoded exactly once.
fn canonical_query(query: &str) -> String {
    let encoded = |text: &str| percent::bytes(&percent::decode(text));
    let mut parts: Vec<(String, String)> = query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    parts.sort_unstable();
    parts.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC takes keys of every length, so that there is no error to report.
    Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(text).finalize().into_bytes().to_vec()).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `20150830T123600Z`: the calendar from days since 1970 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn timestamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EMPTY: &[u8] = b"";

    fn signer(token: Option<&str>) -> Signer {
        let credentials = AwsCredentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: token.map(str::to_owned),
        };
        Signer::new(credentials, "us-east-1", "service").unwrap()
    }

    fn signed(case: &Case) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("example.amazonaws.com"));
        headers.insert("x-amz-date", HeaderValue::from_static("20150830T123600Z"));
        for (name, value) in case.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let method = case.method.parse().unwrap();
        let request = Signable { method: &method, path: case.path, query: case.query, headers: &headers, body: EMPTY };
        signer(None).authorization(&request, "20150830T123600Z")
    }

    struct Case {
        method: &'static str,
        path: &'static str,
        query: &'static str,
        headers: &'static [(&'static str, &'static str)],
        signature: &'static str,
    }

    const fn get(path: &'static str, query: &'static str, signature: &'static str) -> Case {
        Case { method: "GET", path, query, headers: &[], signature }
    }

    /// AWS's own test suite for signature version 4, as its SDKs keep it: get-vanilla, post-vanilla,
    /// get-vanilla-query-order-key-case, get-vanilla-utf8-query (raw, and as it is sent), get-space-normalized,
    /// get-header-value-trim.
    const VANILLA: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    const UTF8: &str = "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04";
    const SUITE: [Case; 8] = [
        get("/", "", VANILLA),
        Case { method: "POST", ..get("/", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b") },
        get("/", "Param2=value2&Param1=value1", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        get("/", "ሴ=bar", UTF8),
        get("/", "%E1%88%B4=bar", UTF8),
        get("/example space/", "", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
        Case {
            headers: &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
            ..get("/", "", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736")
        },
        // What others may change on the way is not signed.
        Case { headers: &[("content-length", "0"), ("user-agent", "x")], ..get("/", "", VANILLA) },
    ];

    #[test]
    fn signatures_are_those_of_the_published_suite() {
        for (at, case) in SUITE.iter().enumerate() {
            let signed = signed(case);
            assert!(signed.ends_with(&format!(", Signature={}", case.signature)), "{at}: {signed}");
            assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "));
        }
        assert!(signed(&SUITE[6]).contains(", SignedHeaders=host;my-header1;my-header2;x-amz-date, "));
    }

    #[test]
    fn a_session_token_is_sent_and_signed() {
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        let mut headers = HeaderMap::new();
        let uri = Uri::from_static("https://example.amazonaws.com/");
        let at = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        signer(Some(token)).sign(&Method::GET, &uri, &mut headers, EMPTY, at);
        assert_eq!(headers["x-amz-security-token"], token);
        let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
            SignedHeaders=host;x-amz-date;x-amz-security-token, \
            Signature=07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8";
        assert_eq!(headers["authorization"], expected);
    }

    #[test]
    fn an_encoded_path_is_encoded_once_more() {
        let request =
            Signable { method: &Method::POST, path: "/model/a%3A0/converse", query: "", headers: &HeaderMap::new(), body: EMPTY };
        assert!(canonical(&request).0.starts_with("POST\n/model/a%253A0/converse\n"));
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (4_102_444_799, "20991231T235959Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
