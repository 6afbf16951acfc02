//! Amazon Bedrock's Converse. Only spoken to providers.

pub(super) mod reply;
pub(super) mod request;
mod stream_reader;

pub(super) mod usage;

pub use stream_reader::StreamReader;

