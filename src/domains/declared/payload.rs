//! Typed payload: an event's data, checked against its type once.
//!
//! Scalars are kept as JSON text, objects as their fields in the order of their type. So a result
//! is copied from it, and has no errors.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value as Json;

use super::{
    expansion::Document,
    json,
    types::{TypeId, Types},
};
use crate::{event::Event, rfc3339};

/// Data of an event, with its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Data.
    pub data: Arc<Object>,
    /// Envelope of the event, as far as rules read it.
    pub envelope: Envelope,
}

/// Parts of an event's envelope that types and keys may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `$author`: id of the author.
    pub author: Option<Arc<str>>,
    /// `$id`: id of the event.
    pub id: Arc<str>,
    /// `$time`: time of the event, as RFC 3339 with three fraction digits. Without it, the time has
    /// no such text.
    pub time: Option<Arc<str>>,
}

impl Envelope {
    /// Returns the parts of an event's envelope.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let time = rfc3339::write_millis(event.time).map(Into::into);
        Self { author: event.author.clone(), id: event.id.clone(), time }
    }
}

/// Object with the values of its type's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Type of the object.
    pub of: TypeId,
    /// Values in the order of the type's fields.
    pub fields: Box<[Value]>,
}

/// Bytes of a value besides its text.
const OVERHEAD: usize = 32;

impl Object {
    /// Returns the approximate memory of the object, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(Value::bytes).sum()
    }

    /// Returns the object as JSON under the names of its type.
    #[must_use]
    pub fn to_json(&self, types: &Types) -> Json {
        let fields = types.fields(self.of).iter().zip(&self.fields);
        Json::Object(fields.map(|(field, value)| (field.name.to_string(), value.to_json(types))).collect())
    }
}

impl Value {
    fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Null => 0,
                Self::Leaf(text) => text.len(),
                Self::List(items) => items.iter().map(Self::bytes).sum(),
                Self::Object(object) => object.bytes(),
            }
    }

    fn to_json(&self, types: &Types) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Leaf(text) => serde_json::from_str(text).unwrap_or_default(),
            Self::List(items) => items.iter().map(|item| item.to_json(types)).collect(),
            Self::Object(object) => object.to_json(types),
        }
    }

    /// Returns the text that stands for the value in keys; `None` for null, fractions, lists and
    /// objects.
    #[must_use]
    pub fn key(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Leaf(text) => key_text(text),
            _ => None,
        }
    }
}

/// Typed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Null.
    Null,
    /// Scalar or enum value, as JSON text without space between its parts.
    Leaf(Box<str>),
    /// List.
    List(Box<[Self]>),
    /// Object.
    Object(Object),
}

/// Node of a payload, for templates.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// Object of the data.
    Object(&'a Object),
    /// Value of the data.
    Value(&'a Value),
    /// Text of the envelope.
    Text(&'a str),
}

impl<'a> Document<'a> for Node<'a> {
    type Step = usize;

    fn length(self) -> Option<usize> {
        match self {
            Node::Value(Value::List(items)) => Some(items.len()),
            _ => None,
        }
    }

    fn element(self, place: usize) -> Option<Self> {
        match self {
            Node::Value(Value::List(items)) => items.get(place).map(Node::Value),
            _ => None,
        }
    }

    fn field(self, step: &usize) -> Option<Self> {
        match self {
            Node::Object(object) | Node::Value(Value::Object(object)) => {
                object.fields.get(*step).map(Node::Value)
            }
            _ => None,
        }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        let text = match self {
            Node::Text(text) => Cow::Borrowed(text),
            Node::Value(Value::Leaf(text)) => key_text(text)?,
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

/// Returns the text that a key takes from a leaf: none for fractions, objects and lists.
pub(super) fn key_text(leaf: &str) -> Option<Cow<'_, str>> {
    match leaf.as_bytes().first()? {
        b'"' => json::unquote(leaf),
        b't' | b'f' => Some(leaf.into()),
        _ => {
            let digits = leaf.strip_prefix('-').unwrap_or(leaf);
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| leaf.into())
        }
    }
}
