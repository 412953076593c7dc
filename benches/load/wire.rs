//! HTTP and WebSocket as bytes: only what the load and a baseline need.
//!
//! It has no socket and no clock. It reads headers only, so that a frame costs the reader almost
//! nothing. It must never be used as a client that validates a server's messages.

use std::{fmt::Write as _, ops::Range};

/// Begin of every template's name. The event's number follows, in [`DIGITS`] digits.
pub(crate) const MARK: &[u8] = b"\"load-";
const DIGITS: usize = 10;

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;

/// Returns the name of the template of event `number`, padded to `chars` characters.
pub(crate) fn name(number: u32, chars: usize) -> String {
    format!("{:x<chars$}", format!("load-{number:0DIGITS$}"))
}

/// Returns the number of the event in this text. It looks first at `hint`, the offset of the last
/// number.
pub(crate) fn number(text: &[u8], hint: &mut usize) -> Option<u32> {
    if !text.get(*hint..).is_some_and(|rest| rest.starts_with(MARK)) {
        *hint = text.windows(MARK.len()).position(|part| part == MARK)?;
    }
    let digits = text.get(*hint + MARK.len()..)?.get(..DIGITS)?;
    let digit = |number: u32, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'));
    digits.iter().try_fold(0, digit)
}

/// Returns the body of a mutation that adds a template of this name.
pub(crate) fn add_template(name: &str, location: &str) -> String {
    format!(
        r#"{{"query":"mutation A($t: AddTemplateInput!) {{ addTemplate(templateInput: $t) {{ success }} }}","variables":{{"t":{{"name":"{name}","shareLocationIds":["{location}"]}}}}}}"#
    )
}

/// Returns the body of a query for a template, which must see the write of this token.
pub(crate) fn template_by_id(id: &str, token: Option<&str>) -> String {
    let after = token.map_or_else(String::new, |token| format!(r#","extensions":{{"readAfter":"{token}"}}"#));
    let query = "query Q($id: ID!) { templateById(id: $id) { id name shareLocationIds } }";
    format!(r#"{{"query":"{query}","variables":{{"id":"{id}"}}{after}}}"#)
}

/// The subscription that every watcher runs.
pub(crate) const WATCH: &str = "subscription W { templateAdded { id name shareLocationIds } }";

pub(crate) fn upgrade(host: &str) -> Vec<u8> {
    format!(
        "GET /graphql HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )
    .into_bytes()
}

pub(crate) fn init(token: &str) -> Vec<u8> {
    frame(TEXT, format!(r#"{{"type":"connection_init","payload":{{"token":"Bearer {token}"}}}}"#).as_bytes())
}

/// Returns a subscribe and a ping. The answer to the ping proves that the subscribe was handled.
pub(crate) fn subscribe() -> Vec<u8> {
    let subscribe = format!(r#"{{"type":"subscribe","id":"1","payload":{{"query":"{WATCH}"}}}}"#);
    let mut frames = frame(TEXT, subscribe.as_bytes());
    frames.extend(frame(TEXT, br#"{"type":"ping"}"#));
    frames
}

/// Returns the request for a subscription's results as server-sent events.
pub(crate) fn event_stream(host: &str, token: &str) -> Vec<u8> {
    let body = format!(r#"{{"query":"{WATCH}"}}"#);
    post(host, token, "text/event-stream", &body)
}

pub(crate) fn post(host: &str, token: &str, accept: &str, body: &str) -> Vec<u8> {
    let mut request = String::new();
    let length = body.len();
    // writing to a String does not fail
    let _ = write!(
        request,
        "POST /graphql HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nAccept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    request.into_bytes()
}

/// Returns a client's frame. Its mask is all zeros, which leaves the payload unchanged.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len(), 0x80);
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Returns a server's frame.
pub(crate) fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(opcode, payload.len(), 0);
    frame.extend(payload);
    frame
}

fn header(opcode: u8, length: usize, mask: u8) -> Vec<u8> {
    let mut header = vec![0x80 | opcode];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ 0..=125), _) => header.push(mask | length),
        (_, Ok(length)) => {
            header.push(mask | 126);
            header.extend(length.to_be_bytes());
        }
        _ => {
            header.push(mask | 127);
            header.extend((length as u64).to_be_bytes());
        }
    }
    header
}

/// Complete frame at the beginning of some bytes.
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Range<usize>,
    /// Offset of the payload's mask, if it has one.
    pub(crate) mask: Option<usize>,
}

/// Returns the frame at the beginning of these bytes, or `None` if it is not complete.
pub(crate) fn parse(bytes: &[u8]) -> Option<Frame> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (length, header): (usize, usize) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, 10),
        length => (usize::from(length), 2),
    };
    let mask = (second & 0x80 != 0).then_some(header);
    let begin = header + if mask.is_some() { 4 } else { 0 };
    let payload = begin..begin.checked_add(length)?;
    (payload.end <= bytes.len()).then_some(Frame { opcode: first & 0x0f, payload, mask })
}

/// Returns the head and the end of the HTTP message at the beginning of these bytes, or `None` if
/// it is not complete.
pub(crate) fn parse_http(bytes: &[u8]) -> Option<(&str, usize)> {
    let head = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = field(text, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    (head + length <= bytes.len()).then_some((text, head + length))
}

/// Returns the value of a header field.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
