//! Heads of responses whose socket was handed over: hyper writes all others.

use std::time::SystemTime;

use axum::http::{HeaderMap, StatusCode};
use httpdate::HttpDate;

/// Names that some clients look up in exactly this spelling. HTTP does not distinguish case.
const SPELLINGS: [&str; 2] = ["Sec-WebSocket-Accept", "Sec-WebSocket-Protocol"];

/// Encodes the head of an HTTP/1.1 response, with its `date`.
pub(in crate::web) fn encode_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let date = HttpDate::from(SystemTime::now());
    let mut head = format!("HTTP/1.1 {status}\r\ndate: {date}\r\n").into_bytes();
    for (name, value) in headers {
        let name = name.as_str();
        let spelling = SPELLINGS.into_iter().find(|spelling| spelling.eq_ignore_ascii_case(name));
        for part in [spelling.unwrap_or(name).as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn websocket_names_have_canonical_spelling() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("graphql-ws"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let head = String::from_utf8(encode_head(StatusCode::SWITCHING_PROTOCOLS, &headers)).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\ndate: "), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Protocol: graphql-ws\r\n"), "{head}");
        assert!(head.contains("\r\nupgrade: websocket\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }
}
