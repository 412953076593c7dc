//! Apollo's multipart protocol for subscriptions: each result is a part of one response.
//!
//! Its clients read a part when they see the boundary behind it. So each part is written together
//! with that boundary. The boundary that closes the body must be written only when the operation is
//! over, or behind a part that says why it was interrupted. A missing boundary alone is not seen by
//! every client, nor through a proxy that speaks HTTP/1.0 to the pod.

use std::time::Duration;

use serde_json::json;

use super::stream::format::Format;
use crate::{graphql::error::Code, web::connection::Transport};

/// Format that writes results as parts.
pub(in crate::web) const PARTS: &dyn Format = &Parts;

/// Time between two signs of life, the same as in Apollo's router.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Sign of life: a part with an empty object.
const EMPTY_PART: &str = "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql";

struct Parts;

impl Format for Parts {
    fn transport(&self) -> Transport {
        Transport::Multipart
    }

    fn content_type(&self) -> &'static str {
        "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0"
    }

    fn keep_alive_period(&self) -> Duration {
        KEEP_ALIVE
    }

    fn begin(&self, chunk: &mut Vec<u8>, _: Option<&str>) {
        chunk.extend_from_slice(b"\r\n--graphql");
        chunk.extend_from_slice(EMPTY_PART.as_bytes());
    }

    fn next(&self, chunk: &mut Vec<u8>, _: Option<&str>, _: Option<&str>, result: &str) {
        part(chunk, &["{\"payload\":", result, "}"]);
    }

    fn complete(&self, chunk: &mut Vec<u8>, _: Option<&str>) {
        chunk.extend_from_slice(b"--\r\n");
    }

    fn keep_alive(&self, chunk: &mut Vec<u8>, _: Option<&str>) {
        chunk.extend_from_slice(EMPTY_PART.as_bytes());
    }

    fn interrupted(&self, chunk: &mut Vec<u8>, code: Code, text: &str) -> bool {
        let error = json!({ "message": text, "extensions": { "code": code.as_str() } }).to_string();
        part(chunk, &["{\"payload\":null,\"errors\":[", &error, "]}"]);
        self.complete(chunk, None);
        true
    }
}

fn part(chunk: &mut Vec<u8>, json: &[&str]) {
    let frame = ["\r\ncontent-type: application/json\r\n\r\n", "\r\n--graphql"];
    chunk.reserve(frame.iter().chain(json).map(|text| text.len()).sum());
    chunk.extend_from_slice(frame[0].as_bytes());
    json.iter().for_each(|text| chunk.extend_from_slice(text.as_bytes()));
    chunk.extend_from_slice(frame[1].as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_carries_boundary_behind_it() {
        let mut chunk = Vec::new();
        PARTS.begin(&mut chunk, None);
        PARTS.next(&mut chunk, None, Some("c"), r#"{"data":1}"#);
        PARTS.keep_alive(&mut chunk, Some("c"));
        PARTS.complete(&mut chunk, None);
        let head = "content-type: application/json\r\n\r\n";
        let parts = ["{}", r#"{"payload":{"data":1}}"#, "{}"];
        let parts: String = parts.map(|json| format!("\r\n--graphql\r\n{head}{json}")).concat();
        assert_eq!(String::from_utf8(chunk).unwrap(), format!("{parts}\r\n--graphql--\r\n"));
    }

    #[test]
    fn interruption_is_error_of_transport() {
        let mut chunk = Vec::new();
        assert!(PARTS.interrupted(&mut chunk, Code::LimitReached, "this pod is draining"));
        let text = String::from_utf8(chunk).unwrap();
        assert!(text.contains(r#"{"payload":null,"errors":[{"#), "{text}");
        assert!(text.ends_with("\r\n--graphql--\r\n"), "{text}");
    }
}
