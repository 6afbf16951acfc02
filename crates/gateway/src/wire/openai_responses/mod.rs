//! `OpenAI`'s responses.

pub(super) mod error;
pub(super) mod reply;
pub(super) mod request;
mod stream_reader;
mod stream_writer;
pub(super) mod usage;

pub use stream_reader::StreamReader;
pub use stream_writer::StreamWriter;
