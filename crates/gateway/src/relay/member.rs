//! The members of a request's object, for what is not looked at in most requests.

use crate::request::{
    Value,
    json::{Cursor, Fault},
};

/// The top-level members of `body`, escapes in names decoded; none where it is no object.
pub fn members(body: &[u8]) -> Vec<(Vec<u8>, Value)> {
    let mut members = Vec::new();
    let mut cursor = Cursor::new(body);
    if cursor.peek() == Some(b'{') {
        // A scan has validated the body before.
        let _ = cursor.object(|cursor, name| {
            members.push((name.to_vec(), cursor.value()?));
            Ok::<_, Fault>(())
        });
    }
    members
}
