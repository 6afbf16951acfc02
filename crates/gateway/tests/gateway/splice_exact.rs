//! Memory spliced into requests in `OpenAI`'s responses and Gemini's wire, byte for byte: a request is made of the client's own
//! pieces and of the places between them where additions belong, so that the client's bytes can be neither lost nor moved.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::context::{Additions, Placed, splice};
use trunkline_gateway::request::{Kind, Message, Role, scan};
use trunkline_gateway::wire::Wire::{self, Gemini, OpenaiResponses};

/// A piece of a request.
#[derive(Debug, Clone)]
enum Piece {
    /// The client's own.
    Own(String),
    /// Where something may be added, or something of the client's is replaced.
    Place(Place, String),
}
use Piece::{Own, Place as At};

#[derive(Debug, Clone, Copy)]
enum Place {
    /// After the first brace: members that the client did not give.
    Open {
        model: bool,
        system: bool,
        tools: bool,
    },
    /// The model's name.
    Model,
    /// `null`, or nothing, for system text; what it is written between.
    System {
        before: &'static str,
        after: &'static str,
    },
    /// The ends of the client's system text, which may be empty.
    TextStart {
        empty: bool,
    },
    TextEnd {
        empty: bool,
    },
    /// The ends of a list of parts of system text.
    PartsStart {
        empty: bool,
    },
    PartsEnd {
        empty: bool,
    },
    /// Around a single part of system text.
    BeforePart,
    AfterPart,
    /// A user's message, perhaps the newest: within its text, or beside its parts.
    Recall {
        newest: bool,
    },
    RecallFirst {
        newest: bool,
        empty: bool,
    },
    RecallLast {
        newest: bool,
    },
    /// `null` for tools, and the end of a list of tools, or of functions.
    Tools,
    ToolsEnd {
        empty: bool,
    },
    FunctionsEnd {
        empty: bool,
    },
}

/// As the gateway escapes text.
fn escaped(text: &str) -> String {
    let one = |character: char| match character {
        '"' => "\\\"".to_owned(),
        '\\' => r"\\".to_owned(),
        '\n' => r"\n".to_owned(),
        '\r' => r"\r".to_owned(),
        '\t' => r"\t".to_owned(),
        '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(character)),
        other => other.to_string(),
    };
    text.chars().map(one).collect()
}

/// What belongs into `place`, which is `own` as the client wrote it.
fn filled(wire: Wire, place: Place, own: &str, additions: &Additions) -> String {
    let instructions = additions.instructions.filter(|text| !text.is_empty()).map(escaped);
    let blocks = additions.blocks.filter(|text| !text.is_empty()).map(escaped);
    let recall = additions.recall.filter(|text| !text.is_empty()).map(escaped);
    let tools = additions.tools.filter(|text| !text.is_empty());
    let part = |text: &String| format!(r#"{{"text":"{text}"}}"#);
    let both: Vec<String> = [&instructions, &blocks].into_iter().flatten().cloned().collect();
    let parts = both.iter().map(part).collect::<Vec<_>>().join(",");
    // The same delta in every user's message that has room for it; what is recalled, in the newest.
    let delta = additions.deltas.first().map(|delta| escaped(&delta.text));
    let said = |newest: bool, room: bool| -> Vec<String> {
        delta.clone().filter(|_| room).into_iter().chain(recall.clone().filter(|_| newest)).collect()
    };
    let said_parts = |newest: bool, room: bool| -> Vec<String> {
        let part = |text| if wire == Gemini { part(&text) } else { format!(r#"{{"type":"input_text","text":"{text}"}}"#) };
        said(newest, room).into_iter().map(part).collect()
    };
    let given = |text: Option<String>| text.unwrap_or_default();
    let comma = |needed: bool| if needed { "," } else { "" };
    match place {
        Place::Open { model, system, tools: no_tools } => {
            let mut out = String::new();
            if let Some(model) = additions.model.filter(|_| model) {
                out += &format!(r#""model":"{}","#, escaped(model));
            }
            if system && !both.is_empty() {
                out += &match wire {
                    Gemini => format!(r#""systemInstruction":{{"parts":[{parts}]}},"#),
                    _ => format!(r#""instructions":"{}","#, both.join(r"\n\n")),
                };
            }
            if let Some(tools) = tools.filter(|_| no_tools) {
                out += &match wire {
                    Gemini => format!(r#""tools":[{{"functionDeclarations":[{tools}]}}],"#),
                    _ => format!(r#""tools":[{tools}],"#),
                };
            }
            out
        }
        Place::Model => match additions.model {
            Some(model) if json!(model) != serde_json::from_str::<Value>(own).unwrap() => format!("\"{}\"", escaped(model)),
            _ => own.to_owned(),
        },
        Place::System { .. } if both.is_empty() => own.to_owned(),
        Place::System { before, after } if wire == Gemini => format!("{before}{parts}{after}"),
        Place::System { before, after } => format!("{before}{}{after}", both.join(r"\n\n")),
        Place::TextStart { empty } => {
            let gap = if empty && blocks.is_none() { "" } else { r"\n\n" };
            given(instructions.map(|text| text + gap))
        }
        Place::TextEnd { empty } => given(blocks.map(|text| if empty { text } else { format!(r"\n\n{text}") })),
        Place::PartsStart { empty } => given(instructions.map(|text| part(&text) + comma(!empty))),
        Place::PartsEnd { empty } => {
            given(blocks.map(|text| format!("{}{}", comma(!empty || instructions.is_some()), part(&text))))
        }
        Place::BeforePart | Place::AfterPart if both.is_empty() => String::new(),
        Place::BeforePart => format!("[{}", given(instructions.map(|text| part(&text) + ","))),
        Place::AfterPart => format!("{}]", given(blocks.map(|text| format!(",{}", part(&text))))),
        Place::Recall { newest } => said(newest, true).concat(),
        Place::RecallFirst { newest, empty } => said_parts(newest, !empty).into_iter().map(|part| part + comma(!empty)).collect(),
        Place::RecallLast { newest } => said_parts(newest, true).into_iter().map(|part| ",".to_owned() + &part).collect(),
        Place::Tools => tools.map_or(own.to_owned(), |tools| match wire {
            Gemini => format!(r#"[{{"functionDeclarations":[{tools}]}}]"#),
            _ => format!("[{tools}]"),
        }),
        Place::ToolsEnd { empty } => given(tools.map(|tools| match wire {
            Gemini => format!(r#"{}{{"functionDeclarations":[{tools}]}}"#, comma(!empty)),
            _ => format!("{}{tools}", comma(!empty)),
        })),
        Place::FunctionsEnd { empty } => given(tools.map(|tools| format!("{}{tools}", comma(!empty)))),
    }
}

/// A JSON string in one of the spellings that clients use.
fn string() -> impl Strategy<Value = String> {
    r#"([ -!#-\[\]-~é東😀]{0,20}(\\n|\\"|\\u00e9|\\ud83d\\ude00|\\\\|\\/)?){1,2}"#.prop_map(|text| format!("\"{text}\""))
}

/// A value that the gateway has no business with.
fn unknown() -> impl Strategy<Value = String> {
    let number = prop::sample::select(vec!["1.0e+5", "-0.0E-1", "2.00", "1e2", "12345678901234567890", "-0", "0.1"]);
    prop_oneof![
        number.prop_map(str::to_owned),
        string(),
        prop::sample::select(vec!["null", "true", "[ ]", "{ }", "[1 ,\t2.50]", "{\"type\":\"tool_result\",\"n\":1E5}"])
            .prop_map(str::to_owned),
    ]
}

/// White space between tokens.
fn space() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "", " ", "\n\t", "\r\n  "]).prop_map(str::to_owned)
}

/// A list of elements with white space about them; its ends are `start` and `end`, which learn whether it is empty.
fn list(
    element: impl Strategy<Value = String> + 'static,
    start: fn(bool) -> Option<Place>,
    end: fn(bool) -> Option<Place>,
) -> BoxedStrategy<Vec<Piece>> {
    (prop::collection::vec(element, 0..4), space())
        .prop_map(move |(elements, space)| {
            let empty = elements.is_empty();
            let place = |place: Option<Place>| place.map(|place| At(place, String::new()));
            let text = format!("{space}{}{space}", elements.join(&format!("{space},{space}")));
            let mut out = vec![Own("[".to_owned())];
            out.extend(place(start(empty)));
            out.push(Own(text));
            out.extend(place(end(empty)));
            out.push(Own("]".to_owned()));
            out
        })
        .boxed()
}

/// The parts of a message; a user's has places for what is said of memory. `newest` is none for the others.
fn parts(wire: Wire, newest: Option<bool>) -> BoxedStrategy<Vec<Piece>> {
    let text = match wire {
        Gemini => (string(), unknown()).prop_map(|(text, more)| format!(r#"{{"text":{text}, "x" :{more}}}"#)).boxed(),
        _ => {
            (string(), unknown()).prop_map(|(text, more)| format!(r#"{{ "x":{more},"type":"input_text","text":{text}}}"#)).boxed()
        }
    };
    let start: fn(bool) -> Option<Place> = match newest {
        Some(true) => |empty| Some(Place::RecallFirst { newest: true, empty }),
        Some(false) => |empty| Some(Place::RecallFirst { newest: false, empty }),
        None => |_| None,
    };
    let plain = list(text, start, |_| None);
    if wire == OpenaiResponses {
        return plain;
    }
    // Google wants the results of functions first.
    let result = r#"{ "functionResponse":{"name":"f","response":{"n":1.0e5}}}"#;
    let results = Just(result.to_owned()).prop_map(move |result| {
        let last = newest.map(|newest| At(Place::RecallLast { newest }, String::new()));
        [Some(Own(format!("[ {result}"))), last, Some(Own("]".to_owned()))].into_iter().flatten().collect::<Vec<_>>()
    });
    prop_oneof![3 => plain, 1 => results].boxed()
}

fn message(wire: Wire, user: bool, newest: bool) -> BoxedStrategy<Vec<Piece>> {
    let (role, key) = match (wire, user) {
        (Gemini, true) => ("user", "parts"),
        (Gemini, false) => ("model", "parts"),
        (_, true) => ("user", "content"),
        (_, false) => ("assistant", "content"),
    };
    let newest = user.then_some(newest);
    let content = if wire == Gemini {
        parts(wire, newest)
    } else {
        let text = string().prop_map(move |text| {
            let place = newest.map(|newest| At(Place::Recall { newest }, String::new()));
            let quote = Some(Own("\"".to_owned()));
            [quote, place, Some(Own(text[1..].to_owned()))].into_iter().flatten().collect::<Vec<_>>()
        });
        prop_oneof![text, parts(wire, newest)].boxed()
    };
    (content, unknown(), space(), any::<bool>())
        .prop_map(move |(content, more, space, role_first)| {
            let (before, after) = if role_first {
                (format!(r#"{{"role"{space}:"{role}","x":{more},{space}"{key}":{space}"#), format!("{space}}}"))
            } else {
                (format!(r#"{{{space}"{key}"{space}:"#), format!(r#","{key}s":{more},"r\u006fle" :"{role}"}}"#))
            };
            [vec![Own(before)], content, vec![Own(after)]].concat()
        })
        .boxed()
}

/// `input` or `contents`.
fn messages(wire: Wire) -> BoxedStrategy<Vec<Piece>> {
    let key = if wire == Gemini { "contents" } else { "input" };
    let array = (prop::collection::vec(any::<bool>(), 0..5), space())
        .prop_flat_map(move |(users, space)| {
            let newest = users.iter().rposition(|user| *user);
            let all: Vec<_> = users.iter().enumerate().map(|(at, user)| message(wire, *user, newest == Some(at))).collect();
            (all, Just(space))
        })
        .prop_map(move |(messages, space)| {
            let mut out = vec![Own(format!("\"{key}\"{space}:[{space}"))];
            for (at, message) in messages.into_iter().enumerate() {
                out.push(Own(if at == 0 { String::new() } else { format!("{space},") }));
                out.extend(message);
            }
            out.push(Own(format!("{space}]")));
            out
        });
    if wire == Gemini {
        return array.boxed();
    }
    let text = string().prop_map(|text| {
        vec![Own("\"input\" : \"".to_owned()), At(Place::Recall { newest: true }, String::new()), Own(text[1..].to_owned())]
    });
    prop_oneof![1 => text, 3 => array].boxed()
}

fn system(wire: Wire) -> BoxedStrategy<Vec<Piece>> {
    let null = |before, after| At(Place::System { before, after }, "null".to_owned());
    let nothing = |before, after| At(Place::System { before, after }, String::new());
    if wire == OpenaiResponses {
        return prop_oneof![
            Just(vec![Own("\"instructions\":\t".to_owned()), null("\"", "\"")]),
            string().prop_map(|text| {
                let empty = text.len() == 2;
                let inner = text[1..text.len() - 1].to_owned();
                let (start, end) = (At(Place::TextStart { empty }, String::new()), At(Place::TextEnd { empty }, String::new()));
                vec![Own("\"instructions\" :\"".to_owned()), start, Own(inner), end, Own("\"".to_owned())]
            }),
        ]
        .boxed();
    }
    let part = || string().prop_map(|text| format!(r#"{{ "text":{text}}}"#));
    let some = list(part(), |empty| Some(Place::PartsStart { empty }), |empty| Some(Place::PartsEnd { empty }));
    let key = prop::sample::select(vec!["systemInstruction", "system_instruction", r"system\u0049nstruction"]);
    let value = prop_oneof![
        2 => some.prop_map(|list| [vec![Own("{ \"role\":\"user\", \"parts\" :".to_owned())], list, vec![Own(",\"x\":1.0E5}".to_owned())]].concat()),
        1 => part().prop_map(|part| {
            let (before, after) = (At(Place::BeforePart, String::new()), At(Place::AfterPart, String::new()));
            vec![Own("{\"parts\": ".to_owned()), before, Own(part), after, Own(" }".to_owned())]
        }),
        1 => Just(vec![null(r#"{"parts":["#, "]}")]),
        1 => Just(vec![Own("{\"parts\":".to_owned()), null("[", "]"), Own("}".to_owned())]),
        1 => Just(vec![Own("{".to_owned()), nothing(r#""parts":["#, "]"), Own(" }".to_owned())]),
        1 => Just(vec![Own("{".to_owned()), nothing(r#""parts":["#, "],"), Own("\"role\": \"user\"}".to_owned())]),
    ];
    (key, value).prop_map(|(key, value)| [vec![Own(format!("\"{key}\" : "))], value].concat()).boxed()
}

fn tools(wire: Wire) -> BoxedStrategy<Vec<Piece>> {
    let tool = || unknown().prop_map(|more| format!(r#"{{"name":"f","x" :{more}}}"#));
    let plain = list(tool(), |_| None, |empty| Some(Place::ToolsEnd { empty }));
    let null = Just(vec![At(Place::Tools, "null".to_owned())]);
    let value = if wire == Gemini {
        let functions = list(tool(), |_| None, |empty| Some(Place::FunctionsEnd { empty }));
        let key = prop::sample::select(vec!["functionDeclarations", "function_declarations"]);
        let declared = (key, functions).prop_map(|(key, functions)| {
            let before = Own(format!(r#"[ {{"googleSearch":{{}}}} ,{{ "{key}" :"#));
            [vec![before], functions, vec![Own("} , { \"urlContext\":{} }]".to_owned())]].concat()
        });
        prop_oneof![null, plain, declared].boxed()
    } else {
        prop_oneof![null, plain].boxed()
    };
    value.prop_map(|value| [vec![Own("\"tools\" :".to_owned())], value].concat()).boxed()
}

/// A request: its members in any order, white space and names of the client's own.
fn request(wire: Wire) -> impl Strategy<Value = Vec<Piece>> {
    let model = prop::sample::select(vec![r#""m""#, r#""\u006d""#, r#""other""#])
        .prop_map(|model| vec![Own(r#""mod\u0065l" : "#.to_owned()), At(Place::Model, model.to_owned())]);
    // Gemini's model stands in the URL, and there a member of that name is none of the gateway's business.
    let model = if wire == Gemini { Just(None).boxed() } else { prop::option::of(model).boxed() };
    let more = prop::collection::vec(unknown(), 0..3);
    (messages(wire), model, prop::option::of(system(wire)), prop::option::of(tools(wire)), more, space()).prop_flat_map(
        move |(messages, model, system, tools, more, space)| {
            let place =
                Place::Open { model: model.is_none() && wire != Gemini, system: system.is_none(), tools: tools.is_none() };
            let more = more.into_iter().map(|value| vec![Own(format!("\"x\"{0}:{0}{value}", ["", " "][value.len() % 2]))]);
            let mut members: Vec<Vec<Piece>> = [Some(messages), model, system, tools].into_iter().flatten().chain(more).collect();
            let start = vec![Own(format!("{space}{{")), At(place, String::new()), Own(space.clone())];
            let end = Own(format!("{space}}}{space}"));
            members.reverse();
            Just(members).prop_shuffle().prop_map(move |members| {
                let comma = [Own(format!("{space},"))];
                [start.clone(), members.join(&comma[..]), vec![end.clone()]].concat()
            })
        },
    )
}

fn wire_and_request() -> impl Strategy<Value = (Wire, Vec<Piece>)> {
    prop_oneof![
        request(OpenaiResponses).prop_map(|pieces| (OpenaiResponses, pieces)),
        request(Gemini).prop_map(|pieces| (Gemini, pieces))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn only_the_places_for_additions_change(
        (wire, pieces) in wire_and_request(),
        texts in prop::collection::vec(prop::option::of("([A-Z\"\\\\\n\t\u{0}-\u{1f}é東]|[A-Z ]{30}){0,6}"), 3),
        model in prop::option::of(prop::sample::select(vec!["m", "gpt \"5\""])),
        tools in prop::option::of(prop::sample::select(vec![r#"{"name":"T"}"#, r#"{"name":"T"},{"name":"U"}"#])),
        delta in prop::option::of("([A-Z\"\\\\\n\u{1f}é東]|[A-Z ]{30}){1,6}"),
        include_usage in any::<bool>(),
    ) {
        let text = |n: usize| texts[n].as_deref();
        let render = |with: &dyn Fn(Place, &str) -> String| -> String {
            pieces.iter().map(|piece| match piece { Own(own) => own.clone(), At(place, own) => with(*place, own) }).collect()
        };
        let body = Bytes::from(render(&|_, own| own.to_owned()));
        let found = scan(wire, &body).unwrap();
        let has_room = |message: &&Message| {
            let content = message.content.filter(|_| message.role == Role::User);
            content.is_some_and(|value| value.kind == Kind::String || (value.kind == Kind::Array && !value.is_empty(&body)))
        };
        let users = found.messages.iter().filter(has_room);
        let deltas: Vec<Placed> = users
            .filter_map(|message| Some(Placed { message: *message, text: delta.as_deref()?.into() }))
            .collect();
        let additions =
            Additions { model, instructions: text(0), blocks: text(1), deltas: &deltas, recall: text(2), tools, include_usage };
        let wanted = render(&|place, own| filled(wire, place, own, &additions));

        let out = splice(wire, &body, &found, &additions);
        prop_assert_eq!(std::str::from_utf8(&out).unwrap(), wanted.as_str());
        let after: Value = serde_json::from_slice(&out).unwrap();
        let system: Vec<String> = ["instructions", "systemInstruction", "system_instruction"]
            .map(|key| after[key].to_string())
            .into_iter()
            .collect();
        for text in [additions.instructions, additions.blocks].into_iter().flatten() {
            let quoted = json!(text).to_string();
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert!(system.iter().any(|system| system.contains(inner)), "system text stands where providers read it");
        }
    }
}
