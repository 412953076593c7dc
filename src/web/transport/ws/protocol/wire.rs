//! Frames as text: parses those of the client and writes those of the server.
//!
//! The rules are elsewhere, so that the order of frames and their spelling can be read separately.
//! Parsing must never panic nor nest without a bound, whatever the client sends. What is written is
//! always one JSON object.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::dialect::Dialect;
use crate::graphql::PERSISTED_QUERY;

/// The longest accepted id, in bytes, since each result repeats it. A longer one is refused. Stock
/// clients count, or send a UUID.
const MAX_ID_BYTES: usize = 256;

/// GraphQL request of a client, in either dialect.
#[derive(Deserialize)]
#[cfg_attr(test, derive(Debug, PartialEq))]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The document; `None` if an extension names it by a hash.
    pub query: Option<String>,
    /// Name of the operation to run, if the document has several.
    pub operation_name: Option<String>,
    /// Values of the document's variables.
    pub variables: Option<Map<String, Value>>,
    /// Extensions of the request, for servers that know them.
    pub extensions: Option<Map<String, Value>>,
}

impl Request {
    /// Returns whether an extension names the document by a hash.
    fn is_persisted(&self) -> bool {
        self.extensions.as_ref().is_some_and(|extensions| extensions.contains_key(PERSISTED_QUERY))
    }
}

/// Frame of a client, in either dialect.
pub(super) enum ClientFrame<'a> {
    /// `connection_init`.
    Init { payload: Option<Map<String, Value>> },
    /// `ping`, with an object or without a payload.
    Ping { payload: Option<&'a RawValue> },
    /// `pong`.
    Pong,
    /// `subscribe`; legacy `start`.
    Start { id: Arc<str>, request: Request },
    /// `complete`; legacy `stop`.
    Stop { id: Arc<str> },
    /// Legacy `connection_terminate`.
    Terminate,
}

/// Reason why a text is no frame of a client. Clients may read it, and its length has no bound.
pub(super) enum Malformed {
    /// The text is no object with the fields of a frame.
    Text(String),
    /// The object has these fields, but there is no such frame.
    Frame { id: Option<String>, reason: String },
    /// The frame starts an operation whose text is legal JSON that cannot be represented: half of a
    /// surrogate pair, a number beyond a double, too many brackets. Only this operation fails.
    Operation { id: Arc<str>, reason: String },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl<'a> ClientFrame<'a> {
    pub(super) fn parse(dialect: Dialect, text: &'a str) -> Result<Self, Malformed> {
        let Envelope { kind, id, payload } =
            object(text).map_err(|unreadable| Malformed::Text(unreadable.reason))?;
        let id = id.filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()));
        let kind = kind.unwrap_or_default();
        let starts = matches!(&*kind, "subscribe" | "start");
        Self::read(dialect, &kind, id.as_deref(), payload).map_err(|unreadable| match (id, unreadable) {
            (Some(id), Unreadable { reason, is_content: true }) if starts => {
                Malformed::Operation { id: id.into(), reason }
            }
            (id, Unreadable { reason, .. }) => Malformed::Frame { id, reason },
        })
    }

    fn read(
        dialect: Dialect,
        kind: &str,
        id: Option<&str>,
        payload: Option<&'a RawValue>,
    ) -> Result<Self, Unreadable> {
        use Dialect::{Legacy, Transport};
        let id =
            || id.map(Arc::from).ok_or_else(|| format!("{kind}: `id` must have 1 to {MAX_ID_BYTES} bytes"));
        let within = |Unreadable { reason, is_content }| Unreadable {
            reason: format!("{kind}: payload: {reason}"),
            is_content,
        };
        Ok(match (dialect, kind) {
            (_, "connection_init") => {
                Self::Init { payload: payload.map(|raw| object(raw.get())).transpose().map_err(within)? }
            }
            (Transport, "subscribe") | (Legacy, "start") => {
                let payload = payload.map_or("", RawValue::get);
                let request: Request = object(payload).map_err(within)?;
                if request.query.is_none() && !request.is_persisted() {
                    return Err(within("missing field `query`".to_owned().into()));
                }
                Self::Start { id: id()?, request }
            }
            (Transport, "complete") | (Legacy, "stop") => Self::Stop { id: id()? },
            (Transport, "ping" | "pong") => {
                if payload.is_some_and(|raw| !raw.get().starts_with('{')) {
                    return Err(within(NOT_AN_OBJECT.to_owned().into()));
                }
                if kind == "ping" { Self::Ping { payload } } else { Self::Pong }
            }
            (Legacy, "connection_terminate") => Self::Terminate,
            (Transport, "") => return Err("`type` is missing".to_owned().into()),
            (Transport, _) => return Err(format!("clients do not send `{kind}`").into()),
            (Legacy, _) => return Err("Invalid message type!".to_owned().into()),
        })
    }
}

const NOT_AN_OBJECT: &str = "not a JSON object";

/// Parses a JSON object. serde alone would accept an array for a struct, field by field.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unreadable> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(NOT_AN_OBJECT.to_owned().into());
    }
    serde_json::from_str(text)
        .map_err(|error| Unreadable { is_content: error.is_syntax(), reason: error.to_string() })
}

/// Reason why a text cannot be read.
struct Unreadable {
    reason: String,
    /// Whether the JSON itself is at fault, rather than the fields that it has. In a payload, whose
    /// JSON was skimmed as legal before, that leaves values that have no representation.
    is_content: bool,
}

impl From<String> for Unreadable {
    fn from(reason: String) -> Self {
        Self { reason, is_content: false }
    }
}

/// End of the frame of a result, behind the head of [`super::Action::Start`] and the JSON of the
/// result. Every delivery comes this way: nothing is parsed or escaped.
pub const TAIL: &str = "}";

/// Returns the beginning of the frames of an operation's results.
pub(super) fn head(dialect: Dialect, id: &str) -> Arc<str> {
    let kind = match dialect {
        Dialect::Transport => "next",
        Dialect::Legacy => "data",
    };
    format!(r#"{{"type":"{kind}","id":{},"payload":"#, quoted(id)).into()
}

pub(super) fn complete(id: &str) -> String {
    format!(r#"{{"type":"complete","id":{}}}"#, quoted(id))
}

/// Returns an `error` frame. `errors` is an array; the legacy dialect sends the first one only.
pub(super) fn error(dialect: Dialect, id: Option<&str>, errors: &Value) -> String {
    let payload = match dialect {
        Dialect::Transport => errors,
        Dialect::Legacy => errors.get(0).unwrap_or(errors),
    };
    match id {
        Some(id) => format!(r#"{{"type":"error","id":{},"payload":{payload}}}"#, quoted(id)),
        None => format!(r#"{{"type":"error","payload":{payload}}}"#),
    }
}

pub(super) fn connection_ack(payload: Option<&Value>) -> String {
    match payload {
        Some(payload) => format!(r#"{{"type":"connection_ack","payload":{payload}}}"#),
        None => r#"{"type":"connection_ack"}"#.to_owned(),
    }
}

pub(super) fn connection_error(message: &str) -> String {
    format!(r#"{{"type":"connection_error","payload":{}}}"#, json!({ "message": message }))
}

pub(super) fn pong(payload: Option<&RawValue>) -> String {
    match payload {
        Some(payload) => format!(r#"{{"type":"pong","payload":{payload}}}"#),
        None => r#"{"type":"pong"}"#.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
