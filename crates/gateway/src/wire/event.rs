//! The neutral form of a streamed reply, and the readers and writers of each wire behind one face.

use super::{
    Opaque, Signature, StopReason, Usage, Wire, WireError, anthropic_messages, bedrock_converse, gemini, openai_chat,
    openai_responses,
};
use crate::sse::Frame;

/// A step of a streamed reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The reply begins.
    Start {
        /// The provider's id of the reply.
        id: String,
        /// The model that answers.
        model: String,
        /// What is known of the cost so far (Anthropic counts the prompt first).
        usage: Option<Usage>,
    },
    /// More text.
    Text(String),
    /// More shown reasoning.
    Thinking(String),
    /// The proof that ends a piece of reasoning.
    Signature(Signature),
    /// A tool call begins.
    ToolStart {
        /// The call's place among the reply's tool calls, from 0.
        index: usize,
        /// The call's id.
        id: String,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments.
    ToolArguments {
        /// Which call.
        index: usize,
        /// A piece of JSON text.
        json: String,
    },
    /// A whole block only its own wire knows; see [`Part::Opaque`](super::Part::Opaque).
    Opaque(Opaque),
    /// Why the model stopped.
    Stop(StopReason),
    /// The cost so far; replaces what was said before.
    Usage(Usage),
    /// The provider gave up; nothing follows.
    Error {
        /// A neutral kind, as in [`ErrorBody`](super::ErrorBody).
        kind: String,
        /// The provider's message.
        message: String,
    },
    /// A sign of life.
    Ping,
    /// The wire's proper end of a reply.
    End,
}

/// Reads a provider's stream, a frame at a time.
#[derive(Debug)]
pub enum StreamReader {
    /// Reads `chat.completion.chunk`s.
    OpenaiChat(openai_chat::StreamReader),
    /// Reads `message_start` … `message_stop`.
    AnthropicMessages(anthropic_messages::StreamReader),
    /// Reads `response.created` … `response.completed`.
    OpenaiResponses(openai_responses::StreamReader),
    /// Reads pieces of a `GenerateContentResponse`.
    Gemini(gemini::StreamReader),
    /// Reads `messageStart` … `metadata`, taken out of Amazon's event stream encoding.
    BedrockConverse(bedrock_converse::StreamReader),
}

impl StreamReader {
    /// A reader at the beginning of a reply.
    pub fn new(wire: Wire) -> Self {
        match wire {
            Wire::OpenaiChat => Self::OpenaiChat(openai_chat::StreamReader::default()),
            Wire::AnthropicMessages => Self::AnthropicMessages(anthropic_messages::StreamReader::default()),
            Wire::OpenaiResponses => Self::OpenaiResponses(openai_responses::StreamReader::default()),
            Wire::Gemini => Self::Gemini(gemini::StreamReader::default()),
            Wire::BedrockConverse => Self::BedrockConverse(bedrock_converse::StreamReader::default()),
        }
    }

    /// What `frame` says; often one event, sometimes none. The error speaks of what the provider sent.
    pub fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        if frame.data.is_empty() {
            return Ok(vec![Event::Ping]);
        }
        let events = match self {
            Self::OpenaiChat(reader) => reader.read(frame),
            Self::AnthropicMessages(reader) => reader.read(frame),
            Self::OpenaiResponses(reader) => reader.read(frame),
            Self::Gemini(reader) => reader.read(frame),
            Self::BedrockConverse(reader) => reader.read(frame),
        }?;
        // Written on, it would be a call that never begins: some wires tell the start of a call by its name.
        if events.iter().any(|event| matches!(event, Event::ToolStart { name, .. } if name.is_empty())) {
            return Err(WireError::new("The provider's stream has a tool call that names no tool."));
        }
        Ok(events)
    }

    /// What the end of the provider's bytes says, for wires that end in no other way: [`Event::End`] if the reply was whole.
    pub fn end(&mut self) -> Option<Event> {
        match self {
            Self::OpenaiChat(_) | Self::AnthropicMessages(_) | Self::OpenaiResponses(_) => None,
            Self::Gemini(reader) => reader.end(),
            Self::BedrockConverse(reader) => reader.end(),
        }
    }
}

/// Writes a stream for the client, an event at a time.
///
/// One writer can be fed by several upstream replies in a row (memory rounds): a later `Start` says nothing new, `Stop` and
/// `Usage` are held back until `End`. The feeder leaves out the `End`s in between and keeps the tools' indexes apart.
#[derive(Debug)]
pub enum StreamWriter {
    /// Writes `chat.completion.chunk`s.
    OpenaiChat(openai_chat::StreamWriter),
    /// Writes `message_start` … `message_stop`.
    AnthropicMessages(anthropic_messages::StreamWriter),
    /// Writes `response.created` … `response.completed`.
    OpenaiResponses(openai_responses::StreamWriter),
    /// Writes pieces of a `GenerateContentResponse`.
    Gemini(gemini::StreamWriter),
}

impl StreamWriter {
    /// A writer at the beginning of a reply. `include_usage`: the client asked for it, which only `OpenAI`'s wire makes it
    /// do; `created_unix` in seconds. An error for `BedrockConverse`, which is no client's wire.
    pub fn new(wire: Wire, include_usage: bool, created_unix: u64) -> Result<Self, WireError> {
        Ok(match wire {
            Wire::OpenaiChat => Self::OpenaiChat(openai_chat::StreamWriter::new(include_usage, created_unix)),
            Wire::AnthropicMessages => Self::AnthropicMessages(anthropic_messages::StreamWriter::default()),
            Wire::OpenaiResponses => Self::OpenaiResponses(openai_responses::StreamWriter::new(created_unix)),
            Wire::Gemini => Self::Gemini(gemini::StreamWriter::default()),
            Wire::BedrockConverse => return Err(WireError::no_client()),
        })
    }

    /// Add the whole frames that say `event` to `out`; may be none.
    pub fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match self {
            Self::OpenaiChat(writer) => writer.write(event, out),
            Self::AnthropicMessages(writer) => writer.write(event, out),
            Self::OpenaiResponses(writer) => writer.write(event, out),
            Self::Gemini(writer) => writer.write(event, out),
        }
    }
}

/// What tells a client that its stream lives, while there is nothing to tell; clients skip it. Empty for a wire without.
pub fn sign_of_life(wire: Wire) -> &'static [u8] {
    match wire {
        Wire::OpenaiChat | Wire::OpenaiResponses => b": ping\n\n",
        Wire::AnthropicMessages => b"event: ping\ndata: {\"type\": \"ping\"}\n\n",
        // Google's clients take anything but data for a broken stream.
        Wire::Gemini | Wire::BedrockConverse => b"",
    }
}
