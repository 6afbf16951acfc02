//! What a session's prompts begin with: whatever is said and written, in whichever wire, each prompt begins with the bytes of the
//! one before it, up to the newest user message, unless it was rendered anew.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use trunkline_gateway::context::{Additions, splice};
use trunkline_gateway::conversation::{Conversation, conversation};
use trunkline_gateway::prompt::{Change, Kept, Prompt, PromptRow};
use trunkline_gateway::request::{Role, scan};
use trunkline_gateway::snapshot::PromptCache;
use trunkline_gateway::wire::Wire::{self, AnthropicMessages, Gemini, OpenaiChat, OpenaiResponses};

const WIRES: [Wire; 4] = [OpenaiChat, AnthropicMessages, OpenaiResponses, Gemini];
const TTL: Duration = Duration::from_secs(300);

/// What happens in a session.
#[derive(Debug, Clone)]
enum Step {
    /// A block is written.
    Write(usize, String),
    /// A block is no longer to be seen.
    Hide(usize),
    /// The user says something, in parts or not, and is answered.
    Say { text: String, parts: bool },
    /// The model calls a tool of the client's, which sends the result.
    Tool,
    /// The client goes back so many messages.
    Back(usize),
    /// Nobody calls for longer than a cache lasts.
    Rest,
    /// The next call comes by another gateway, which has what the store has.
    Move,
    /// The agent has another version.
    Version,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, "[a-z\"\\\\é ]{1,12}").prop_map(|(block, text)| Step::Write(block, text)),
        1 => (0..3_usize).prop_map(Step::Hide),
        8 => ("[A-Z\"\n東 ]{0,12}", any::<bool>()).prop_map(|(text, parts)| Step::Say { text, parts }),
        2 => Just(Step::Tool),
        1 => (1..4_usize).prop_map(Step::Back),
        1 => Just(Step::Rest),
        2 => Just(Step::Move),
        1 => Just(Step::Version),
    ]
}

fn user(wire: Wire, text: &str, parts: bool) -> Value {
    match (wire, parts) {
        (Gemini, _) => json!({"role": "user", "parts": [{"text": text}]}),
        (_, false) => json!({"role": "user", "content": text}),
        (OpenaiResponses, true) => json!({"role": "user", "content": [{"type": "input_text", "text": text}]}),
        (_, true) => json!({"role": "user", "content": [{"type": "text", "text": text}]}),
    }
}

fn answer(wire: Wire, number: usize) -> Vec<Value> {
    let text = format!("answer {number}");
    vec![match wire {
        Gemini => json!({"role": "model", "parts": [{"text": text}]}),
        _ => json!({"role": "assistant", "content": text}),
    }]
}

/// A call of a tool, and its result.
fn tool(wire: Wire, number: usize) -> [Value; 2] {
    let id = format!("call_{number}");
    match wire {
        OpenaiChat => [
            json!({"role": "assistant", "content": null, "tool_calls": [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]}),
            json!({"role": "tool", "tool_call_id": id, "content": "done"}),
        ],
        OpenaiResponses => [
            json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}),
            json!({"type": "function_call_output", "call_id": id, "output": "done"}),
        ],
        Gemini => [
            json!({"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}),
            json!({"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"n": 1}}}]}),
        ],
        _ => [
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "f", "input": {}}]}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "done"}]}),
        ],
    }
}

/// As the renderer writes blocks.
fn rendered(blocks: &BTreeMap<usize, String>) -> String {
    let block = |(name, text): (&usize, &String)| format!("<memory block=\"b{name}\" scope=\"user\">\nsays: {text:?}\n</memory>");
    blocks.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// A session as its client, its gateways and the store have it.
struct Session {
    wire: Wire,
    settings: PromptCache,
    blocks: BTreeMap<usize, String>,
    version: i32,
    messages: Vec<Value>,
    /// How long `messages` were after each call.
    lengths: Vec<usize>,
    /// What the last call had, and the log's copy of it: the prefix, its version, and the deltas.
    last: Option<Arc<Prompt>>,
    stored: Option<(String, i32, Value)>,
    /// Whether the user's other sessions may begin alike, and what the store was told that they begin with, by its hash.
    shared: bool,
    said: BTreeMap<String, String>,
    idle: Duration,
    /// The last call's bytes up to its newest user message.
    before: Option<Vec<u8>>,
    turns: usize,
}

impl Session {
    fn key(&self) -> &'static str {
        match self.wire {
            OpenaiResponses => "input",
            Gemini => "contents",
            _ => "messages",
        }
    }

    /// One call with the messages as they are.
    fn call(&mut self) -> Result<(), TestCaseError> {
        let body = Bytes::from(format!(r#"{{"model":"m","{}":{}}}"#, self.key(), json!(self.messages)));
        let found = scan(self.wire, &body).unwrap();
        let conversation = conversation(self.wire, &body, &found, None);
        let now = Arc::new(Prompt::of(self.version, rendered(&self.blocks).into(), self.shared));
        let kept = self.last.clone().map(|prompt| Kept { prompt, idle: self.idle });
        let begun = kept.is_some();
        let (prompt, change) = Prompt::next(kept, &now, &self.settings, &conversation);
        let said = self.said.contains_key(&format!("{:032x}", prompt.hash()));
        if let Some(row) = PromptRow::new(uuid::Uuid::nil(), None, &prompt, change, said, false) {
            let row = serde_json::to_value(row).unwrap();
            let text = |name: &str| row.get(name).map(|text| text.as_str().unwrap().to_owned());
            let (hash, mut prefix) = (text("hash"), text("prefix"));
            if let Some(hash) = hash {
                self.said.extend(prefix.take().map(|prefix| (hash.clone(), prefix)));
                prefix = Some(self.said[&hash].clone());
            }
            let prefix = prefix.or_else(|| self.stored.take().map(|stored| stored.0)).unwrap();
            let deltas = row.get("deltas").cloned().unwrap_or_else(|| json!([]));
            self.stored = Some((prefix, self.version, deltas));
        }
        let deltas = prompt.placed(&conversation);
        let additions = Additions {
            instructions: Some("I"),
            blocks: Some(prompt.prefix()),
            deltas: &deltas,
            recall: Some("R\n"),
            ..Additions::default()
        };
        let out = splice(self.wire, &body, &found, &additions);

        if let Some(before) = self.before.take().filter(|_| begun && change != Change::Whole) {
            prop_assert!(out.starts_with(&before), "{}\ndoes not begin with\n{}", text(&out), text(&before));
        }
        self.tells_the_truth(&prompt, &conversation, &deltas.iter().map(|delta| &*delta.text).collect::<String>())?;
        let sent = scan(self.wire, &out).unwrap();
        let newest = sent.messages.iter().rfind(|message| message.role == Role::User).unwrap();
        self.before = Some(out[..newest.span.start].to_vec());
        self.last = Some(prompt);
        self.idle = Duration::ZERO;
        Ok(())
    }

    /// What stands last of each block is how it is, unless that waits for the user's own words; nothing that is hidden is said.
    fn tells_the_truth(&self, prompt: &Prompt, conversation: &Conversation, deltas: &str) -> Result<(), TestCaseError> {
        let all = format!("{}\n{deltas}", prompt.prefix());
        for name in 0..3 {
            let tag = format!("<memory block=\"b{name}\"");
            let said = all.rfind(&tag).map(|at| &all[at..]).and_then(|block| Some(&block[..block.find("</memory>")? + 9]));
            let one = self.blocks.get(&name).map(|text| rendered(&BTreeMap::from([(name, text.clone())])));
            if conversation.newest_place().is_some() || one.is_none() {
                prop_assert_eq!(said, one.as_deref(), "of block {} in {}", name, all);
            }
        }
        let tokens = deltas.len().div_ceil(4);
        prop_assert!(tokens <= self.settings.delta_tokens + 3, "{} tokens of deltas", tokens);
        Ok(())
    }

    fn goes(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write(name, text) => _ = self.blocks.insert(name, text),
            Step::Hide(name) => {
                if self.blocks.len() > 1 {
                    self.blocks.remove(&name);
                }
            }
            Step::Say { text, parts } => {
                self.turns += 1;
                self.lengths.push(self.messages.len());
                self.messages.push(user(self.wire, &text, parts));
                self.call()?;
                self.messages.extend(answer(self.wire, self.turns));
            }
            Step::Tool if !self.lengths.is_empty() => {
                self.messages.pop();
                self.messages.extend(tool(self.wire, self.turns));
                self.call()?;
                self.messages.extend(answer(self.wire, self.turns));
            }
            Step::Back(turns) if turns < self.lengths.len() => {
                self.lengths.truncate(self.lengths.len() - turns);
                self.messages.truncate(self.lengths.pop().unwrap());
                // Its prompts are another conversation's now: what both have in common is looked at by the next call.
                self.before = None;
                self.turns += 1;
            }
            Step::Rest => self.idle = TTL + Duration::from_secs(1),
            Step::Move => {
                let stored = self.stored.clone();
                self.last = stored
                    .map(|(prefix, version, deltas)| Arc::new(Prompt::stored(version, prefix, &deltas.to_string()).unwrap()));
            }
            Step::Version => self.version += 1,
            Step::Tool | Step::Back(_) => {}
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_prompt_begins_as_the_one_before(
        wire in prop::sample::select(WIRES.to_vec()),
        shared: bool,
        delta_tokens in prop::sample::select(vec![60_usize, 200, 5000]),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut session = Session {
            wire,
            settings: PromptCache { ttl: TTL, delta_tokens, breakpoints: true, instructions: 0 },
            blocks: BTreeMap::from([(0, "a".to_owned()), (1, "b".to_owned())]),
            version: 1,
            messages: Vec::new(),
            lengths: Vec::new(),
            last: None,
            shared,
            said: BTreeMap::new(),
            stored: None,
            idle: Duration::ZERO,
            before: None,
            turns: 0,
        };
        for step in steps {
            session.goes(step)?;
        }
    }
}

/// A session of one wire in which the user speaks, memory is written, and the user speaks again.
fn written_between(wire: Wire) -> Session {
    let mut session = Session {
        wire,
        settings: PromptCache { ttl: TTL, delta_tokens: 1000, breakpoints: true, instructions: 0 },
        blocks: BTreeMap::from([(0, "a".to_owned()), (1, "b".to_owned())]),
        version: 1,
        messages: Vec::new(),
        lengths: Vec::new(),
        last: None,
        shared: false,
        said: BTreeMap::new(),
        stored: None,
        idle: Duration::ZERO,
        before: None,
        turns: 0,
    };
    let say = |text: &str| Step::Say { text: text.to_owned(), parts: false };
    for step in [say("one"), Step::Write(1, "new".to_owned()), say("two"), say("three")] {
        session.goes(step).unwrap();
    }
    session
}

#[test]
fn what_changed_is_said_once_and_the_beginning_stays() {
    for wire in WIRES {
        let session = written_between(wire);
        let prompt = session.last.unwrap();
        assert!(prompt.prefix().contains("\"b\"") && !prompt.prefix().contains("new"), "{wire:?}");
        let deltas = session.stored.unwrap().2;
        assert_eq!(deltas.as_array().unwrap().len(), 1);
        let said = deltas[0][1].as_str().unwrap();
        assert!(said.contains("b1") && said.contains("new") && !said.contains("b0"), "only the block that changed: {said}");
    }
}

#[test]
fn it_is_rendered_anew_after_a_rest_in_another_version_and_without_a_block_that_is_gone() {
    for step in [Step::Rest, Step::Version, Step::Hide(0)] {
        let mut session = written_between(OpenaiChat);
        session.goes(step.clone()).unwrap();
        session.goes(Step::Say { text: "four".to_owned(), parts: false }).unwrap();
        let prompt = session.last.unwrap();
        assert_eq!(**prompt.prefix(), rendered(&session.blocks), "{step:?}");
        assert_eq!(session.stored.unwrap().2, json!([]), "{step:?}");
    }
}
