//! What tells one conversation from another, so that all of one go where its prompt is cached.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::member::members;
use crate::request::{Role, Scan};

/// How much of the beginning counts, in bytes: providers cache from about a thousand tokens on.
const BEGINNING: usize = 8 << 10;

/// The session where there is one; else `prompt_cache_key`, by which a client says it; else how the conversation begins: the system
/// text and all up to the first message that is the user's.
pub fn conversation(session: Option<Uuid>, body: &[u8], scan: &Scan) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(session) = session {
        session.hash(&mut hasher);
        return hasher.finish();
    }
    if let Some((_, value)) = members(body).into_iter().find(|(name, _)| name == b"prompt_cache_key") {
        value.span.of(body).hash(&mut hasher);
        return hasher.finish();
    }
    let mut feed = |bytes: &[u8]| bytes[..bytes.len().min(BEGINNING)].hash(&mut hasher);
    if let Some(system) = scan.system {
        feed(system.span.of(body));
    }
    for message in &scan.messages {
        feed(message.span.of(body));
        if message.role != Role::System {
            break;
        }
    }
    hasher.finish()
}
