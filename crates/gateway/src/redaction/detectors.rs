//! What is found without a pattern of one's own: by form, and where there is one, by checksum.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use regex::Regex;

/// Every detector. Where findings overlap, the first one's mark stands.
pub const NAMES: [&str; 7] = ["secret", "credit_card", "iban", "ssn", "email", "ip_address", "phone"];

/// Finds one kind of thing.
pub struct Detector {
    candidates: Regex,
    /// Of a candidate, what is really one: ranges of the text.
    check: Check,
}

impl Detector {
    /// Gives `found` each range of the text.
    pub fn find(&self, text: &str, found: &mut dyn FnMut(Range<usize>)) {
        for candidate in self.candidates.captures_iter(text) {
            // What stands after `password=` is what counts.
            let range = candidate.name("value").or_else(|| candidate.get(0)).map(|one| one.range());
            if let Some(range) = range {
                (self.check)(text, range, found);
            }
        }
    }
}

type Check = fn(&str, Range<usize>, &mut dyn FnMut(Range<usize>));

/// The detector of this name, if there is one.
pub fn detector(name: &str) -> Option<Result<Detector, String>> {
    let (pattern, check): (&str, Check) = match name {
        "secret" => (SECRET, |_, range, found| found(range)),
        "credit_card" => (r"[0-9](?:[ \u{a0}\u{202f}.\-\u{2010}-\u{2013}]?[0-9]){12,}", cards),
        "iban" => (r"(?i)\b[a-z]{2}[0-9]{2}(?:[ \u{a0}\-]?[a-z0-9]){11,}", ibans),
        "ssn" => (r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", social_security),
        "email" => (r"(?i)[\p{L}\p{N}._%+'\-]+@(?:[\p{L}\p{N}\-]+\.)+\p{L}{2,63}", |_, range, found| found(range)),
        "ip_address" => (r"(?i)[0-9a-f:]+(?:\.[0-9]+)*|\.[0-9]+", addresses),
        "phone" => (PHONE, phones),
        _ => return None,
    };
    Some(Regex::new(pattern).map(|candidates| Detector { candidates, check }).map_err(|error| error.to_string()))
}

/// Keys by what their issuers have them begin with, JSON web tokens, private keys, and what is given as a password or key.
const SECRET: &str = concat!(
    r"\bsk-[A-Za-z0-9_-]{16,}|\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"|\bglpat-[A-Za-z0-9_-]{20,}|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[A-Za-z0-9_-]{35}",
    r"|\bhf_[A-Za-z0-9]{30,}|\bnpm_[A-Za-z0-9]{36}|\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    r"|(?i:\bbearer\s+)(?P<bearer>[A-Za-z0-9._~+/-]{16,}=*)",
    r#"|(?i:pass(?:word|wd|phrase)|pwd|secret|api[ _-]?key|access[ _-]?key|(?:access|auth|refresh)[ _-]?token)["']?(?:\s*[:=]|\s+is)\s*["']?(?P<value>[^\s"',;\[\]{}<>]{6,})"#,
);

/// `+` and a country, or `00`; an area that begins with 0, parted from the rest; three, three and four digits as in North America.
const PHONE: &str = concat!(
    r"(?:\+|00)[ ]?[1-9](?:[ \u{a0}()./\-\u{2010}-\u{2013}]{0,2}[0-9]){6,14}",
    r"|\(?0[1-9][0-9]{0,4}\)?[ \u{a0}/.\-]{1,2}[0-9]{2,}(?:[ \u{a0}.\-]?[0-9]{2,})*",
    r"|(?:1[ .\-]?)?(?:\([2-9][0-9]{2}\)[ .\-]?|[2-9][0-9]{2}[ .\-])[2-9][0-9]{2}[ .\-][0-9]{4}",
);

/// Whether nothing of a word, or of a number, goes on at either end.
fn apart(text: &str, range: &Range<usize>) -> bool {
    let word = |letter: char| letter.is_alphanumeric() || letter == '_';
    !text[..range.start].chars().next_back().is_some_and(word) && !text[range.end..].chars().next().is_some_and(word)
}

/// Of a run of digits those parts that are card numbers: of an issuer's range, of its length, and with Luhn's check digit. A part
/// begins and ends where digits are parted, or where the run does.
fn cards(text: &str, run: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let before = text[..run.start].chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let after = text[run.end..].chars().next().is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let digits: Vec<(usize, u8)> = text[run.clone()]
        .bytes()
        .enumerate()
        .filter(|(_, byte)| byte.is_ascii_digit())
        .map(|(at, byte)| (run.start + at, byte - b'0'))
        .collect();
    let begins = |index: usize| if index == 0 { !before } else { digits[index].0 != digits[index - 1].0 + 1 };
    let ends = |index: usize| if index + 1 == digits.len() { !after } else { digits[index + 1].0 != digits[index].0 + 1 };
    let mut start = 0;
    while start + 13 <= digits.len() {
        let longest = digits.len().min(start + 19);
        let number = (start + 13..=longest).rev().find(|end| begins(start) && ends(end - 1) && is_card(&digits[start..*end]));
        match number {
            Some(end) => {
                found(digits[start].0..digits[end - 1].0 + 1);
                start = end;
            }
            None => start += 1,
        }
    }
}

/// Issuers' ranges and lengths as ISO/IEC 7812 and the card schemes publish them.
fn is_card(digits: &[(usize, u8)]) -> bool {
    let first = digits.iter().take(4).fold(0, |number, (_, digit)| number * 10 + u32::from(*digit));
    let lengths = match first {
        4000..=4999 | 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763 => 13..=19,
        5100..=5599 | 2221..=2720 => 16..=16,
        3400..=3499 | 3700..=3799 => 15..=15,
        3000..=3059 | 3600..=3699 | 3800..=3999 => 14..=19,
        2200..=2204 | 3528..=3589 | 6011 | 6200..=6299 | 6440..=6599 => 16..=19,
        _ => return false,
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, (_, digit))| {
            let value = u32::from(*digit) << (place % 2);
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    lengths.contains(&digits.len()) && sum.is_multiple_of(10)
}

/// A number as long as its country has them, whose remainder by 97 is 1 (ISO 13616).
fn ibans(text: &str, run: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let signs: Vec<(usize, u8)> = text[run.clone()]
        .bytes()
        .enumerate()
        .filter(|(_, byte)| byte.is_ascii_alphanumeric())
        .map(|(at, byte)| (run.start + at, byte.to_ascii_uppercase()))
        .collect();
    let country = [signs[0].1, signs[1].1];
    let Some(length) = LENGTHS.iter().find(|(name, _)| name.as_bytes() == country).map(|(_, length)| *length) else { return };
    let Some(number) = signs.get(..length) else { return };
    let remainder = number[4..].iter().chain(&number[..4]).fold(0_u32, |rest, (_, sign)| {
        if sign.is_ascii_digit() {
            (rest * 10 + u32::from(sign - b'0')) % 97
        } else {
            (rest * 100 + u32::from(sign - b'A') + 10) % 97
        }
    });
    let range = run.start..number[length - 1].0 + 1;
    if remainder == 1 && apart(text, &range) {
        found(range);
    }
}

/// The lengths of account numbers by country, from the IBAN registry.
const LENGTHS: [(&str, usize); 88] = [
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
];

/// A number that the Social Security Administration may have given out: no part is all zeros, no area 666 or from 900 on.
fn social_security(text: &str, range: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let number = &text[range.clone()];
    let (area, group, serial) = (&number[..3], &number[4..6], &number[7..]);
    if area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000" && apart(text, &range) {
        found(range);
    }
}

/// Four numbers up to 255, or a version 6 address that names a network: no time of day, no path of a programming language.
fn addresses(text: &str, range: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let candidate = text[range.clone()].trim_end_matches(':');
    let range = range.start..range.start + candidate.len();
    let version4 = candidate.parse::<Ipv4Addr>().is_ok();
    let version6 = !version4
        && candidate.parse::<Ipv6Addr>().is_ok_and(|address| {
            address.segments().iter().filter(|part| **part != 0).count() > 2 || address.segments()[0] > 0xfff
        });
    if (version4 || version6) && apart(text, &range) && !text[..range.start].ends_with('.') {
        found(range);
    } else if let Some((before, last)) = candidate.rsplit_once(':')
        && before.is_empty()
        && last.parse::<Ipv4Addr>().is_ok()
    {
        found(range.start + 1..range.end);
    } else if let Some((_, port)) = candidate.rsplit_once(':') {
        // `10.0.0.1:80` and `host:10.0.0.1` are candidates as a whole.
        let first = &candidate[..candidate.len() - port.len() - 1];
        if first.parse::<Ipv4Addr>().is_ok() {
            found(range.start..range.start + first.len());
        } else if port.parse::<Ipv4Addr>().is_ok() {
            found(range.end - port.len()..range.end);
        }
    }
}

fn phones(text: &str, range: Range<usize>, found: &mut dyn FnMut(Range<usize>)) {
    let candidate = &text[range.clone()];
    let digits = candidate.bytes().filter(u8::is_ascii_digit).count();
    // With fewer digits a national number may be a date.
    let least = if candidate.starts_with('0') && !candidate.starts_with("00") || candidate.starts_with("(0") { 9 } else { 8 };
    let goes_on = text[range.end..].chars().next().is_some_and(char::is_alphanumeric);
    let before = text[..range.start].chars().next_back();
    let in_number = before.is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '.' | '-' | '_' | '/' | '+'));
    if (least..=16).contains(&digits) && !goes_on && (!in_number || candidate.starts_with(['+', '('])) {
        found(range);
    }
}
