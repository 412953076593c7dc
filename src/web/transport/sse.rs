//! Server-sent events with the names of the graphql-sse protocol: `next` and `complete`.
//!
//! Each result carries its cursor as `id:`, which an `EventSource` sends back by itself when it
//! reconnects. A result must never span lines: it is JSON without line breaks.

pub mod reservation;

use std::time::Duration;

use super::stream::format::Format;
use crate::{graphql::error::Code, web::connection::Transport};

/// Format that writes results as events.
pub(in crate::web) const EVENTS: &dyn Format = &Events;

/// Time between two signs of life. The strictest of common proxies close an idle connection after
/// 15 s.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

struct Events;

impl Format for Events {
    fn transport(&self) -> Transport {
        Transport::Sse
    }

    fn content_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    fn keep_alive_period(&self) -> Duration {
        KEEP_ALIVE
    }

    fn begin(&self, chunk: &mut Vec<u8>, cursor: Option<&str>) {
        self.keep_alive(chunk, cursor);
    }

    fn next(&self, chunk: &mut Vec<u8>, id: Option<&str>, cursor: Option<&str>, result: &str) {
        append(chunk, &["event: next\n"]);
        if let Some(cursor) = cursor {
            append(chunk, &["id: ", cursor, "\n"]);
        }
        match id {
            None => append(chunk, &["data: ", result, "\n\n"]),
            Some(id) => append(chunk, &["data: {\"id\":", id, ",\"payload\":", result, "}\n\n"]),
        }
    }

    fn complete(&self, chunk: &mut Vec<u8>, id: Option<&str>) {
        // An `EventSource` ignores an event without a `data` line.
        match id {
            None => append(chunk, &["event: complete\ndata:\n\n"]),
            Some(id) => append(chunk, &["event: complete\ndata: {\"id\":", id, "}\n\n"]),
        }
    }

    fn keep_alive(&self, chunk: &mut Vec<u8>, cursor: Option<&str>) {
        append(chunk, &[":\n\n"]);
        if let Some(cursor) = cursor {
            // Without data it is no event, and still sets the id that a client sends when it
            // reconnects.
            append(chunk, &["id: ", cursor, "\n\n"]);
        }
    }

    fn interrupted(&self, _: &mut Vec<u8>, _: Code, _: &str) -> bool {
        false
    }
}

fn append(chunk: &mut Vec<u8>, parts: &[&str]) {
    chunk.reserve(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| chunk.extend_from_slice(part.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut chunk = Vec::new();
        write(&mut chunk);
        String::from_utf8(chunk).unwrap()
    }

    #[test]
    fn result_is_one_event_with_its_cursor() {
        let text = written(|chunk| EVENTS.next(chunk, None, Some("c"), r#"{"data":1}"#));
        assert_eq!(text, "event: next\nid: c\ndata: {\"data\":1}\n\n");
        let text = written(|chunk| EVENTS.next(chunk, Some(r#""op""#), None, "{}"));
        assert_eq!(text, "event: next\ndata: {\"id\":\"op\",\"payload\":{}}\n\n");
    }

    #[test]
    fn end_of_operation_is_event_with_data() {
        assert_eq!(written(|chunk| EVENTS.complete(chunk, None)), "event: complete\ndata:\n\n");
        let text = written(|chunk| EVENTS.complete(chunk, Some(r#""op""#)));
        assert_eq!(text, "event: complete\ndata: {\"id\":\"op\"}\n\n");
    }

    #[test]
    fn sign_of_life_is_no_event() {
        assert_eq!(written(|chunk| EVENTS.keep_alive(chunk, None)), ":\n\n");
        assert_eq!(written(|chunk| EVENTS.keep_alive(chunk, Some("c"))), ":\n\nid: c\n\n");
    }
}
