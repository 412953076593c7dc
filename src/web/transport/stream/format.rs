//! [`Format`]: what a transport writes around the results in a long response.

use std::time::Duration;

use crate::{graphql::error::Code, web::connection::Transport};

/// Format of a stream: what a transport writes around results. Everything is appended to the chunk.
pub trait Format: Sync {
    /// Returns the transport, for example `Transport::Sse`.
    fn transport(&self) -> Transport;

    /// Returns the media type of the body, for example `text/event-stream; charset=utf-8`.
    fn content_type(&self) -> &'static str;

    /// Returns the time between two signs of life while nothing else is written, for example 12 s.
    fn keep_alive_period(&self) -> Duration;

    /// Writes the beginning of the body, at once: a client or a proxy may wait for a first byte.
    /// With a cursor, the client can resume from it before it has a result.
    ///
    /// Server-sent events begin with `:` and an empty line, for example.
    fn begin(&self, chunk: &mut Vec<u8>, cursor: Option<&str>);

    /// Writes a result of an operation. `id` is the client's id of the operation, a JSON string,
    /// where several share the body.
    ///
    /// Server-sent events write `event: next`, the cursor as `id:` and the result as `data:`, for
    /// example.
    fn next(&self, chunk: &mut Vec<u8>, id: Option<&str>, cursor: Option<&str>, result: &str);

    /// Writes that the operation is over, for example `event: complete`.
    fn complete(&self, chunk: &mut Vec<u8>, id: Option<&str>);

    /// Writes a sign of life and, if it is given, the cursor of the client. Multipart writes an
    /// empty part, for example.
    fn keep_alive(&self, chunk: &mut Vec<u8>, cursor: Option<&str>);

    /// Writes an event that the client asked for, to see that the stream is alive. Only server-sent
    /// events have one; to others a sign of life is visible anyway.
    fn heartbeat(&self, chunk: &mut Vec<u8>, cursor: Option<&str>) {
        self.keep_alive(chunk, cursor);
    }

    /// Writes that the server ends the body although its operations are not over, and why. Returns
    /// `false` if the transport has no message for it; the body is cut instead. Multipart writes a
    /// part with `errors`, for example.
    fn interrupted(&self, chunk: &mut Vec<u8>, code: Code, text: &str) -> bool;
}
