//! Reads the pieces of a streamed `GenerateContentResponse`. Of several candidates only the first is read.

use super::reply::{CandidateIn, ResponseIn, read_part};
use super::stop_of;
use crate::sse::Frame;
use crate::wire::error::{ProviderError, kind_of};
use crate::wire::{Event, Part, StopReason, WireError};

/// Turns pieces of a reply into events.
#[derive(Debug, Default)]
pub struct StreamReader {
    started: bool,
    id: String,
    calls: usize,
    stopped: bool,
}

impl StreamReader {
    pub(in crate::wire) fn read(&mut self, frame: &Frame) -> Result<Vec<Event>, WireError> {
        let response: ResponseIn = serde_json::from_slice(&frame.data).map_err(|error| WireError::reply(&error))?;
        if let Some(error) = response.error {
            let error = ProviderError::details(error);
            let kind = kind_of(0, &error.kind, &error.code).to_owned();
            return Ok(vec![Event::Error { kind, message: error.message }]);
        }
        let mut events = Vec::with_capacity(2);
        if !self.started {
            self.started = true;
            self.id = response.response_id.0.into_owned();
            events.push(Event::Start { id: self.id.clone(), model: response.model_version.0.into_owned(), usage: None });
        }
        for candidate in response.candidates.into_iter().flatten() {
            if candidate.index == 0 {
                self.read_candidate(candidate, &mut events)?;
            }
        }
        if response.prompt_feedback.is_some_and(|feedback| !feedback.block_reason.is_empty()) {
            self.stop(StopReason::Refusal, &mut events);
        }
        events.extend(response.usage_metadata.map(|usage| Event::Usage(usage.into())));
        Ok(events)
    }

    /// What the end of the stream says: this wire has no other proper end.
    pub(in crate::wire) fn end(&mut self) -> Option<Event> {
        std::mem::take(&mut self.stopped).then_some(Event::End)
    }

    fn read_candidate(&mut self, candidate: CandidateIn, events: &mut Vec<Event>) -> Result<(), WireError> {
        for raw in candidate.content.and_then(|content| content.parts).unwrap_or_default() {
            let index = self.calls;
            for part in read_part(raw, &self.id, &mut self.calls)? {
                match part {
                    Part::Text(text) => events.push(Event::Text(text)),
                    Part::Thinking { text, signature } => {
                        events.extend((!text.is_empty()).then_some(Event::Thinking(text)));
                        events.extend(signature.map(Event::Signature));
                    }
                    Part::ToolCall(call) => {
                        events.push(Event::ToolStart { index, id: call.id, name: call.name });
                        events.push(Event::ToolArguments { index, json: call.arguments });
                    }
                    Part::Opaque(block) => events.push(Event::Opaque(block)),
                }
            }
        }
        if candidate.finish_reason.is_empty() {
            return Ok(());
        }
        match stop_of(&candidate.finish_reason, &candidate.finish_message, self.calls > 0) {
            Ok(stop) => self.stop(stop, events),
            Err(error) => events.push(Event::Error { kind: "api_error".to_owned(), message: error.message }),
        }
        Ok(())
    }

    fn stop(&mut self, stop: StopReason, events: &mut Vec<Event>) {
        self.stopped = true;
        events.push(Event::Stop(stop));
    }
}
