//! The frames of both subprotocols as JSON: read with bounds, written without surprises.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value, json};

use super::Dialect;

/// The longest id of an operation, in bytes; UUIDs have 36.
const MAX_ID: usize = 256;

/// The longest reason that fits a close frame, in bytes (RFC 6455, 5.5).
const MAX_REASON: usize = 123;

/// What a client sends in `graphql-transport-ws`. Whatever else it sends is a bad message.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Transport {
    ConnectionInit {
        #[serde(default)]
        payload: Option<Map<String, Value>>,
    },
    Ping {
        #[serde(default)]
        payload: Option<Map<String, Value>>,
    },
    Pong {
        #[serde(default, rename = "payload")]
        _payload: Option<Map<String, Value>>,
    },
    Subscribe {
        id: Id,
        payload: Request,
    },
    Complete {
        id: Id,
    },
}

/// What a client sends in `graphql-ws`, by its type.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Legacy {
    ConnectionInit {
        #[serde(default)]
        payload: Option<Map<String, Value>>,
    },
    ConnectionTerminate,
    Start {
        payload: Request,
    },
    Stop,
}

/// A frame of `graphql-ws`: JSON, with an id if it concerns an operation, and a content that may make no sense.
pub(super) struct ClientFrame {
    pub(super) id: Option<String>,
    pub(super) content: Result<Legacy, String>,
}

impl ClientFrame {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let frame: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let id = match frame.get("id") {
            Some(Value::String(id)) if id.len() > MAX_ID => {
                return Err(format!("an id has at most {MAX_ID} bytes"));
            }
            Some(Value::String(id)) => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        let content = match Legacy::deserialize(Value::Object(frame)) {
            Ok(Legacy::Start { .. } | Legacy::Stop) if id.is_none() => {
                Err("an operation needs an id".to_owned())
            }
            Ok(content) => Ok(content),
            Err(error) => Err(format!("Invalid message type! {error}")),
        };
        Ok(Self { id, content })
    }
}

/// An operation's id: not empty, and bounded.
pub(super) struct Id(pub(super) Arc<str>);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        if id.is_empty() || id.len() > MAX_ID {
            return Err(D::Error::custom(format!("an id has 1 to {MAX_ID} bytes")));
        }
        Ok(Self(id.into()))
    }
}

/// What to run.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The document.
    pub query: String,
    /// Which of its operations.
    #[serde(default)]
    pub operation_name: Option<String>,
    /// Their values.
    #[serde(default)]
    pub variables: Option<Map<String, Value>>,
    /// What else the client says; read, so that a wrong type is noticed, and not used.
    #[serde(default)]
    pub extensions: Option<Map<String, Value>>,
}

/// The frame of an operation's result up to its payload. The id is escaped here, once.
pub(super) fn head(dialect: Dialect, id: &str) -> Arc<str> {
    let kind = match dialect {
        Dialect::Transport => "next",
        Dialect::Legacy => "data",
    };
    format!(r#"{{"id":{},"type":"{kind}","payload":"#, Value::from(id)).into()
}

/// The whole frame of a result: its head, the payload's JSON, and the end. One allocation.
#[must_use]
pub fn frame(head: &str, payload: &str) -> String {
    let mut frame = String::with_capacity(head.len() + payload.len() + 1);
    frame.push_str(head);
    frame.push_str(payload);
    frame.push('}');
    frame
}

pub(super) fn completed(id: &str) -> String {
    json!({"id": id, "type": "complete"}).to_string()
}

/// All errors, or, in the older dialect, the first one.
pub(super) fn error(dialect: Dialect, id: &str, errors: &Value) -> String {
    let payload = match dialect {
        Dialect::Transport => errors,
        Dialect::Legacy => errors.get(0).unwrap_or(errors),
    };
    json!({"id": id, "type": "error", "payload": payload}).to_string()
}

pub(super) fn connection_error(why: &str) -> String {
    json!({"type": "connection_error", "payload": {"message": why}}).to_string()
}

pub(super) fn pong(payload: Option<&Map<String, Value>>) -> String {
    match payload {
        Some(payload) => json!({"type": "pong", "payload": payload}).to_string(),
        None => r#"{"type":"pong"}"#.to_owned(),
    }
}

/// The text, cut to what a close frame can carry.
pub(super) fn fitting(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_REASON)]
}
