//! Server-sent events with the names of the graphql-sse protocol: `next` and `complete`.
//!
//! Each result carries its cursor as `id:`, which an `EventSource` sends back by itself when it
//! reconnects. A result must never span lines: it is JSON without line breaks.

pub mod reservation;

use std::{collections::HashMap, num::NonZeroU8, time::Duration};

use axum::{extract::Query, http::Uri};

use super::stream::format::Format;
use crate::{
    graphql::error::Code,
    web::{connection::Transport, http::refusal::Refusal},
};

/// Format that writes results as events.
pub(in crate::web) const EVENTS: &dyn Format = &Events;

/// Time between two signs of life. The strictest of common proxies close an idle connection after
/// 15 s.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Longest time between two heartbeats, in seconds.
const MAX_HEARTBEAT: u8 = 60;

/// Reads how often a client wants an event `heartbeat`, from the URL: `?heartbeat=15s`. A page sees
/// no comments, so it would not notice a dead connection.
///
/// # Errors
/// 400 if the value is not a number of seconds from 1 to [`MAX_HEARTBEAT`].
pub(in crate::web) fn heartbeat(uri: &Uri) -> Result<Option<NonZeroU8>, Refusal> {
    let Some(text) = parameter(uri, "heartbeat") else { return Ok(None) };
    let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse::<NonZeroU8>().ok());
    let seconds = seconds.filter(|seconds| seconds.get() <= MAX_HEARTBEAT);
    let complaint =
        || Refusal::bad(format!("`heartbeat` must be 1s to {MAX_HEARTBEAT}s, in whole seconds, like 15s"));
    seconds.map(Some).ok_or_else(complaint)
}

/// Returns a parameter of the URL; an empty one counts as none.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    // Each request is asked for it, and a query may have thousands of parameters: one is decoded.
    let is_named = |pair: &&str| pair.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    let pair = uri.query()?.rsplit('&').find(is_named)?;
    let uri = Uri::builder().path_and_query(["/?", pair].concat()).build().ok()?;
    let Query(mut parameters) = Query::<HashMap<String, String>>::try_from_uri(&uri).ok()?;
    parameters.remove(name).filter(|value| !value.is_empty())
}

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

    fn heartbeat(&self, chunk: &mut Vec<u8>, cursor: Option<&str>) {
        append(chunk, &["event: heartbeat\n"]);
        if let Some(cursor) = cursor {
            append(chunk, &["id: ", cursor, "\n"]);
        }
        append(chunk, &["data:\n\n"]);
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
    fn heartbeat_is_event_with_data() {
        assert_eq!(written(|chunk| EVENTS.heartbeat(chunk, None)), "event: heartbeat\ndata:\n\n");
        let text = written(|chunk| EVENTS.heartbeat(chunk, Some("c")));
        assert_eq!(text, "event: heartbeat\nid: c\ndata:\n\n");
    }

    #[test]
    fn heartbeat_has_bounds_and_unit() {
        let read = |value: &str| heartbeat(&format!("/graphql?heartbeat={value}").parse().unwrap());
        assert_eq!(read("15s").unwrap().map(NonZeroU8::get), Some(15));
        assert_eq!(read("").unwrap(), None);
        assert_eq!(heartbeat(&"/graphql".parse().unwrap()).unwrap(), None);
        for value in ["0s", "61s", "999s", "15", "1m", "-1s", "1.5s", "s", "15s%20"] {
            assert!(read(value).is_err(), "{value}");
        }
    }

    #[test]
    fn sign_of_life_is_no_event() {
        assert_eq!(written(|chunk| EVENTS.keep_alive(chunk, None)), ":\n\n");
        assert_eq!(written(|chunk| EVENTS.keep_alive(chunk, Some("c"))), ":\n\nid: c\n\n");
    }
}
