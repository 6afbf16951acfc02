//! What a call's client was given, word for word: held for whoever is to give it again.

/// An answer, as far as it has been given.
pub struct Given {
    /// The response's status.
    pub status: u16,
    /// The response's content type; empty where it had none.
    pub content_type: String,
    bytes: Vec<u8>,
    limit: usize,
    /// Length of what was given, whether or not it is held.
    length: usize,
}

impl Given {
    /// Nothing yet, of which at most `limit` bytes are held.
    pub fn new(limit: usize, content_type: &str) -> Self {
        Self { status: 200, content_type: content_type.to_owned(), bytes: Vec::new(), limit, length: 0 }
    }

    /// Holds at least so many bytes.
    pub fn widen(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// Notes more of it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        let room = self.limit - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// All of it; none where that is more than `most` bytes, or more than is held.
    pub fn bytes(&self, most: usize) -> Option<&[u8]> {
        (self.length <= self.limit.min(most)).then_some(&self.bytes[..])
    }

    /// As much as is held, and the length of all of it; none where nothing was given.
    pub fn beginning(&self) -> Option<(&[u8], usize)> {
        (self.length > 0).then_some((&self.bytes[..], self.length))
    }
}
