//! [`Format`]: what a transport writes around the results in a long response.

use std::time::Duration;

use crate::web::connection::Transport;

/// What a transport writes around results. Everything is appended to the chunk.
pub trait Format: Sync {
    /// Which transport it is.
    fn transport(&self) -> Transport;

    /// The media type of the body.
    fn content_type(&self) -> &'static str;

    /// Between two signs of life, when there is nothing else to write.
    fn keep_alive_period(&self) -> Duration;

    /// What the body begins with, at once: a client, or a proxy, may wait for a first byte. With a cursor, the client can
    /// resume from there before it has a result.
    fn begin(&self, chunk: &mut Vec<u8>, cursor: Option<&str>);

    /// A result of an operation. `id` is the client's id of it, a JSON string, where several share the body.
    fn next(&self, chunk: &mut Vec<u8>, id: Option<&str>, cursor: Option<&str>, result: &str);

    /// That the operation is over.
    fn complete(&self, chunk: &mut Vec<u8>, id: Option<&str>);

    /// A sign of life, and where the client stands.
    fn keep_alive(&self, chunk: &mut Vec<u8>, cursor: Option<&str>);

    /// That the client's token has expired; `false` if the transport has no words for it, and the body is cut instead.
    fn expired(&self, chunk: &mut Vec<u8>) -> bool;
}
