//! The calls of a conversation, by their places: Gemini's clients may give neither calls nor results an id.

use super::normal::Part;

/// All calls, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    pub made: Vec<Made>,
}

/// A call of one of the client's tools.
#[derive(Debug, Clone)]
pub(super) struct Made {
    /// The client's, or one made of its place.
    id: String,
    name: String,
    answered: bool,
}

impl Calls {
    /// Takes up the calls of a message; gives the place of its first one, or of the call that it answers.
    pub fn read(&mut self, parts: &[Part]) -> Option<usize> {
        if let Some(Part::Result { call_id, name, .. }) = parts.first() {
            return self.answer(call_id, name);
        }
        let before = self.made.len();
        for part in parts {
            if let Part::Call { id, name, .. } = part {
                let id = if id.is_empty() { format!("call_{}", self.made.len()) } else { id.to_string() };
                self.made.push(Made { id, name: name.to_string(), answered: false });
            }
        }
        (self.made.len() > before).then_some(before)
    }

    /// The call that a result names, or the first open one of the function that it names. Some providers use ids again in the
    /// next turn.
    fn answer(&mut self, id: &str, name: &str) -> Option<usize> {
        let by_id = || {
            let open = self.made.iter().rposition(|call| call.id == id && !call.answered);
            open.or_else(|| self.made.iter().rposition(|call| call.id == id))
        };
        let by_name = || self.made.iter().position(|call| !call.answered && !name.is_empty() && call.name == name);
        let place = by_id().or_else(by_name)?;
        self.made[place].answered = true;
        Some(place)
    }

    /// The parts of the message whose calls, or whose answered call, are at `place`, with the ids that they lack; none if they lack none.
    pub fn named<'b>(&self, parts: &[Part<'b>], place: usize) -> Option<Vec<Part<'b>>> {
        let lacks = |part: &Part| match part {
            Part::Call { id, .. } => id.is_empty(),
            Part::Result { call_id, .. } => call_id.is_empty(),
            Part::Text(_) | Part::Other { .. } => false,
        };
        if !parts.iter().any(lacks) {
            return None;
        }
        let mut named = parts.to_vec();
        let mut calls = self.made.get(place..).unwrap_or_default().iter();
        for part in &mut named {
            if let Part::Call { id, .. } | Part::Result { call_id: id, .. } = part
                && let Some(call) = calls.next()
            {
                *id = call.id.clone().into();
            }
        }
        Some(named)
    }
}
