use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn redaction(of: &[&str]) -> Redaction {
    Redaction::parse(&serde_json::to_string(of).unwrap()).unwrap()
}

fn redacted(of: &str, text: &str) -> String {
    redaction(&[of]).text(text).into_owned()
}

#[test]
fn each_detector_finds_what_it_says_and_leaves_what_only_looks_like_it() {
    for (name, found, left) in [
        (
            "email",
            &["ada@example.com", "ada.lovelace+news@mail.example.co.uk", "jörg@müller.example"][..],
            &["ada@home", "@ada", "a @ b.com", "3@4.5"][..],
        ),
        (
            "phone",
            &[
                "+49 30 901820",
                "+1 (415) 555-2671",
                "+14155552671",
                "(415) 555-2671",
                "415-555-2671",
                "0049 30 901820",
                "030 90182077",
                "020 7946 0958",
            ],
            &["2026-11-23", "01-02-2024", "1.000.000", "555 26", "12345678901234567890", "3.14159265358979", "v1.415-555-26710"],
        ),
        (
            "credit_card",
            &["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "6011 0009 9013 9424"],
            &["4111111111111112", "1234567890123452", "1700000000000", "94111111111111111", "a4111111111111111"],
        ),
        (
            "iban",
            &[
                "DE89370400440532013000",
                "DE89 3704 0044 0532 0130 00",
                "GB29 NWBK 6016 1331 9268 19",
                "nl91abna0417164300",
                "NO93 8601 1117 947",
            ],
            &["DE89370400440532013001", "XX89370400440532013000", "DE8937040044"],
        ),
        (
            "ip_address",
            &["192.168.1.17", "2001:db8::8a2e:370:7334", "fe80::1ff:fe23:4567:890a"],
            &["1.2.3", "256.1.1.1", "12:30:45", "std::vec", "a::b", "::1", "1.2.3.4.5", "v1.2.3.4"],
        ),
        (
            "ssn",
            &["123-45-6789", "123 45 6789"],
            &["000-12-3456", "666-12-3456", "912-12-3456", "123-00-4567", "123-45-67890", "123456789"],
        ),
        (
            "secret",
            &[
                "sk-tl-0123456789abcdefghij",
                "ghp_0123456789abcdefghijABCDEFGHIJ012345",
                "AKIAIOSFODNN7EXAMPLE",
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
                "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
            ],
            &["task-force-of-the-year", "the secret of happiness", "password:", "eyJ.x.y"],
        ),
    ] {
        for text in found {
            let said = format!("It is {text}, they say.");
            assert_eq!(redacted(name, &said), format!("It is [{name}], they say."), "{name}");
            assert_eq!(redacted(name, text), format!("[{name}]"), "{name} alone");
        }
        for text in left {
            let said = format!("It is {text}, they say.");
            assert_eq!(redacted(name, &said), said, "{name}");
        }
    }
}

#[test]
fn what_is_given_as_a_password_goes_and_its_name_stays() {
    for (text, left) in [
        ("password: hunter2hunter2", "password: [secret]"),
        (r#"{"api_key": "0123456789"}"#, r#"{"api_key": "[secret]"}"#),
        ("my password is hunter2hunter2.", "my password is [secret]"),
        ("DB_SECRET=abcdefgh", "DB_SECRET=[secret]"),
        ("key: -----BEGIN PRIVATE KEY-----\nMIIB and no end", "key: [secret]"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: [secret]"),
    ] {
        assert_eq!(redacted("secret", text), left);
    }
}

#[test]
fn a_number_is_found_among_others_and_its_surroundings_stay() {
    assert_eq!(redacted("credit_card", "order 12 4111 1111 1111 1111 2"), "order 12 [credit_card] 2");
    assert_eq!(redacted("iban", "to DE89 3704 0044 0532 0130 00 and then"), "to [iban] and then");
    assert_eq!(redacted("ip_address", "at 10.0.0.1:8080, host:10.0.0.2."), "at [ip_address]:8080, host:[ip_address].");
    assert_eq!(redacted("phone", "call +49 30 901820. Or mail."), "call [phone]. Or mail.");
}

#[test]
fn what_overlaps_becomes_one_mark_and_nothing_of_it_is_left() {
    let all = redaction(&NAMES);
    assert_eq!(all.text("pay 4111 1111 1111 1111 now"), "pay [credit_card] now");
    assert_eq!(all.text("password: ada@example.com"), "password: [secret]");
    let own = Redaction::parse(r#"["email", {"name": "ticket", "pattern": "T-[0-9]+ of [a-z]+"}]"#).unwrap();
    assert_eq!(own.text("T-17 of ada@example.com!"), "[email]!");
}

#[test]
fn json_keeps_its_form() {
    let all = redaction(&NAMES);
    let value = json!({"ada@example.com": 4_111_111_111_111_111_u64, "n": 17, "id": "41111111-1111-4111-8111-111111111111",
                       "list": ["+14155552671", true, null, 1.5]});
    let left = json!({"[email]": "[credit_card]", "n": 17, "id": "41111111-1111-4111-8111-111111111111",
                      "list": ["[phone]", true, null, 1.5]});
    assert_eq!(all.value(value), left);
}

#[test]
fn patterns_that_look_for_marks_come_to_an_end() {
    let own = Redaction::parse(r#"[{"name": "t", "pattern": "a|\\[t\\]b|redacted"}]"#).unwrap();
    assert_eq!(own.text("a bb"), "[t] bb");
    assert_eq!(own.text("abbb c"), "[t] c");
    assert_eq!(own.text(&format!("a{}", "b".repeat(100))), "[redacted]");
    assert_eq!(own.text("[redacted]"), "[redacted]");
}

#[test]
fn a_redaction_that_cannot_be_read_is_refused() {
    for bad in [
        "{}",
        r#"["emails"]"#,
        r#"[{"name": "email", "pattern": "x"}]"#,
        r#"[{"name": "A b", "pattern": "x"}]"#,
        r#"[{"name": "a", "pattern": "("}]"#,
        r#"[{"name": "a", "pattern": "x*"}]"#,
        r#"[{"name": "a", "pattern": "x", "more": 1}]"#,
        r#"[{"name": "a", "pattern": "(?:(?:x{1,999}){1,999}){1,999}"}]"#,
    ] {
        assert!(Redaction::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(Redaction::all().text("anything"), "[redacted]");
}

/// Texts made of what the detectors look for, in pieces.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\PC{0,6}",
        "[0-9 .()+:/-]{1,20}",
        "[a-f0-9:.]{1,12}",
        Just("4111 1111 1111 1111".to_owned()),
        Just("ada@example.com".to_owned()),
        Just("DE89370400440532013000".to_owned()),
        Just("password=".to_owned()),
        Just("sk-tl-0123456789abcdefghij".to_owned()),
        Just("[email]".to_owned()),
        Just("[phone".to_owned()),
        Just("123-45-6789".to_owned()),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_went_through_once_stays_as_it_is(text in texts()) {
        static ALL: LazyLock<Redaction> = LazyLock::new(|| redaction(&NAMES));
        let once = ALL.text(&text).into_owned();
        prop_assert_eq!(&ALL.text(&once), &once);
        prop_assert!(!once.contains("ada@example.com"), "{}", once);
        let json = ALL.json(&json!({&text: [&text, 4_111_111_111_111_111_u64], "n": {"m": &text}}).to_string());
        prop_assert_eq!(&ALL.json(&json), &json);
    }

    #[test]
    fn so_does_what_went_through_patterns_of_ones_own(text in "[ab\\[\\]t]{0,24}", pattern in "[ab]{1,2}|\\\\[t\\\\][ab]|[ab]\\\\[|\\\\]b?") {
        let own = Redaction::parse(&json!([{"name": "t", "pattern": pattern}]).to_string()).unwrap();
        let once = own.text(&text).into_owned();
        prop_assert_eq!(&own.text(&once), &once);
    }
}
