//! The shape of a stream's events. Most of them are alike to the byte but for the text they bring; one that is need not be read
//! as JSON to know what it says.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::untold::{Told, told};
use crate::sse::Frame;

/// What stands before the text in events that may be alike.
const NAMES: [&[u8]; 3] = [b"\"content\":", b"\"text\":", b"\"delta\":"];
/// What `OpenAI` fills its events up with, so that their lengths tell nothing.
const FILLING: &[u8] = b"\"obfuscation\":\"";

/// An event that said nothing but text, and where in it another one of its kind may differ: within strings.
pub struct Shape {
    sample: Bytes,
    text: Range<usize>,
    filling: Option<Range<usize>>,
    /// The usage that a client is not to see which did not ask for it.
    untold: Option<Range<usize>>,
}

/// An event of the same shape at the beginning of some bytes.
pub struct Same<'b> {
    pub length: usize,
    pub text: &'b str,
    pub untold: Option<Range<usize>>,
}

impl Shape {
    /// The shape of a frame that said `text` and nothing else; none where it cannot be told for sure where in it the text stands.
    pub fn of(frame: &Frame, text: &str) -> Option<Self> {
        let raw = &frame.raw;
        // Without escapes each quote begins or ends a string, and the text stands there as it is.
        if !raw.ends_with(b"\n") || memchr::memchr(b'\\', raw).is_some() {
            return None;
        }
        let quoted = [b"\"", text.as_bytes(), b"\""].concat();
        let mut places = memmem::find_iter(raw, &quoted);
        let (Some(place), None) = (places.next(), places.next()) else { return None };
        let before = raw[..place].trim_ascii_end();
        if !NAMES.iter().any(|name| before.ends_with(name)) {
            return None;
        }
        let text = place + 1..place + 1 + text.len();
        let filling = memmem::find(&raw[text.end..], FILLING).and_then(|found| {
            let start = text.end + found + FILLING.len();
            Some(start..start + memchr::memchr(b'"', &raw[start..])?)
        });
        let untold = match told(frame) {
            Told::None => None,
            Told::Within(range) if range.start > text.end && filling.as_ref().is_none_or(|filling| apart(&range, filling)) => {
                Some(range)
            }
            _ => return None,
        };
        Some(Self { sample: raw.clone(), text, filling, untold })
    }

    /// The event of this shape that `bytes` begin with.
    pub fn find<'b>(&self, bytes: &'b [u8]) -> Option<Same<'b>> {
        let sample = &self.sample;
        let mut at = self.text.start;
        if bytes.get(..at)? != &sample[..at] {
            return None;
        }
        let text = string(&bytes[at..])?;
        if text.is_empty() {
            return None;
        }
        at += text.len();
        // How much further each part of the sample stands here.
        let mut literal = self.text.end;
        if let Some(filling) = &self.filling {
            let length = filling.start - literal;
            if bytes.get(at..at + length)? != &sample[literal..filling.start] {
                return None;
            }
            at += length;
            at += string(&bytes[at..])?.len();
            literal = filling.end;
        }
        let length = sample.len() - literal;
        if bytes.get(at..at + length)? != &sample[literal..] {
            return None;
        }
        let end = at + length;
        let untold = self.untold.as_ref().map(|untold| {
            // Before what differs last it stands as far from the text's end as in the sample, after it as far from the event's end.
            if self.filling.as_ref().is_some_and(|filling| untold.start < filling.start) {
                let shift = |place: usize| self.text.start + text.len() + (place - self.text.end);
                shift(untold.start)..shift(untold.end)
            } else {
                let shift = |place: usize| end - (sample.len() - place);
                shift(untold.start)..shift(untold.end)
            }
        });
        Some(Same { length: end, text, untold })
    }
}

fn apart(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.end <= other.start || other.end <= one.start
}

/// The inside of the string that begins here, up to its closing quote; none where it has an escape, or what no string may have.
fn string(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'))?;
    if bytes[end] != b'"' {
        return None;
    }
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        sse::Parser,
        wire::{Event, StreamReader, Wire},
    };

    fn frame(raw: &str) -> Frame {
        let mut frames = Vec::new();
        Parser::new().push(Bytes::copy_from_slice(raw.as_bytes()), &mut frames).unwrap();
        frames.remove(0)
    }

    /// An event as `OpenAI` sends it, or as Anthropic does.
    fn event(wire: Wire, text: &str, filling: Option<&str>) -> String {
        let text = json!(text);
        let filling = filling.map(|filling| format!(r#","obfuscation":"{filling}""#)).unwrap_or_default();
        match wire {
            Wire::OpenaiChat => format!(
                "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}}}}],\"usage\":null{filling}}}\n\n"
            ),
            _ => format!(
                "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
                 \"delta\":{{\"type\":\"text_delta\",\"text\":{text}}}}}\r\n\r\n"
            ),
        }
    }

    fn read(wire: Wire, frame: &Frame) -> Vec<Event> {
        let mut reader = StreamReader::new(wire);
        let start = match wire {
            Wire::OpenaiChat => "data: {\"id\":\"c\",\"choices\":[{\"delta\":{}}]}\n\n",
            _ => "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
        };
        reader.read(&self::frame(start)).unwrap();
        reader.read(frame).unwrap()
    }

    proptest! {
        /// Whatever is told by its shape is what reading it would have told.
        #[test]
        fn an_event_of_the_same_shape_says_what_it_says(
            anthropic: bool,
            one in "[a-z \u{e9}\u{2028}\u{1f418}]{1,12}",
            two in prop_oneof![".{0,12}", "[a-z\"\\\\\n ]{0,12}"],
            fillings in prop::option::of(("[a-z]{0,5}", "[a-z]{0,5}")),
            more in ".{0,9}",
        ) {
            let wire = if anthropic { Wire::AnthropicMessages } else { Wire::OpenaiChat };
            let fillings = fillings.as_ref();
            let sample = frame(&event(wire, &one, fillings.map(|(one, _)| one.as_str())));
            let Some(shape) = Shape::of(&sample, &one) else { return Ok(()) };
            let other = event(wire, &two, fillings.map(|(_, two)| two.as_str()));
            let bytes = [&other, more.as_str()].concat();
            let escaped = json!(two).to_string().contains('\\');
            match shape.find(bytes.as_bytes()) {
                None => prop_assert!(escaped || two.is_empty()),
                Some(same) => {
                    prop_assert_eq!((same.length, same.text), (other.len(), two.as_str()));
                    let frame = frame(&other);
                    prop_assert_eq!(read(wire, &frame), vec![Event::Text(two.clone())]);
                    let found = same.untold.map_or(Told::None, Told::Within);
                    prop_assert_eq!(found, told(&frame));
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_told_for_sure_has_no_shape() {
        // The text stands there twice, with an escape, as a number, or where a line feed may follow the event.
        for (raw, text) in [
            ("data: {\"id\":\"a\",\"content\":\"a\"}\n\n", "a"),
            ("data: {\"id\":\"\\u0062\",\"content\":\"a\"}\n\n", "a"),
            ("data: {\"id\":\"5\",\"content\":5}\n\n", "5"),
            ("data: {\"content\":\"a\"}\r\r", "a"),
        ] {
            assert!(Shape::of(&frame(raw), text).is_none(), "{raw}");
        }
        let shape = Shape::of(&frame("data: {\"content\":\"a\"}\n\n"), "a").unwrap();
        for other in ["{\"content\":\"b\"}\n", "{\"content\":\"b\",\"x\":1}\n\n", "{\"content\":\"\"}\n\n", "{\"conte"] {
            assert!(shape.find(format!("data: {other}").as_bytes()).is_none(), "{other}");
        }
    }
}
