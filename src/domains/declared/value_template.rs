//! Values with placeholders: of `data` and `answer` of `@publish`.
//!
//! A text that is one placeholder is the value itself. A path without a value gives null.

use std::fmt::Write as _;

use async_graphql::Value;
use serde_json::Value as Json;

use super::{
    expansion::Document as _,
    template::{Piece, Placeholder, Root, Template},
};

/// Value whose texts may have placeholders.
#[derive(Clone, Debug)]
pub enum ValueTemplate {
    /// Value without placeholders.
    Fixed(Json),
    /// Text.
    Text(Template),
    /// List.
    List(Vec<Self>),
    /// Object.
    Object(Vec<(Box<str>, Self)>),
}

impl ValueTemplate {
    /// Reads a value. A text that is no template is reported elsewhere, and taken as it is.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        match value {
            Value::String(text) => match Template::parse(text) {
                Ok(template) if template.placeholders().next().is_some() => Self::Text(template),
                _ => Self::Fixed(text.as_str().into()),
            },
            Value::List(items) => Self::List(items.iter().map(Self::read).collect()),
            Value::Object(fields) => Self::Object(
                fields.iter().map(|(name, item)| (name.as_str().into(), Self::read(item))).collect(),
            ),
            value => Self::Fixed(value.clone().into_json().unwrap_or_default()),
        }
    }

    /// Returns whether the value is the data of the event that was published.
    #[must_use]
    pub fn is_data(&self) -> bool {
        let Self::Text(template) = self else { return false };
        template.only_placeholder().is_some_and(|only| only.root == Root::Data && only.steps.is_empty())
    }

    /// Returns the value. `root` returns the document that a path starts at.
    pub fn value(&self, root: &impl Fn(Root) -> Option<Json>) -> Json {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::List(items) => items.iter().map(|item| item.value(root)).collect(),
            Self::Object(fields) => {
                Json::Object(fields.iter().map(|(name, item)| (name.to_string(), item.value(root))).collect())
            }
            Self::Text(template) => match template.only_placeholder() {
                Some(only) => found(only, root).unwrap_or_default(),
                None => text(template, root).into(),
            },
        }
    }
}

/// Returns the value that a path leads to. Behind a list it is the list of its elements' values.
fn found(placeholder: &Placeholder, root: &impl Fn(Root) -> Option<Json>) -> Option<Json> {
    let document = root(placeholder.root)?;
    if let Some(exact) = placeholder.exact.as_ref().and_then(|exact| document.get(&**exact)) {
        return Some(exact.clone());
    }
    Some(behind(&document, &placeholder.steps))
}

fn behind(value: &Json, steps: &[Box<str>]) -> Json {
    match (value, steps) {
        (value, []) => value.clone(),
        (Json::Array(items), steps) => items.iter().map(|item| behind(item, steps)).collect(),
        (value, [step, rest @ ..]) => value.get(&**step).map_or(Json::Null, |value| behind(value, rest)),
    }
}

/// Returns a longer text with its placeholders filled in. One without a value leaves its place
/// empty.
fn text(template: &Template, root: &impl Fn(Root) -> Option<Json>) -> String {
    let mut whole = String::new();
    for piece in template.pieces() {
        // Writing to a text cannot fail.
        let _ = match piece {
            Piece::Text(text) => whole.write_str(text),
            Piece::Placeholder(placeholder) => match found(placeholder, root) {
                Some(value @ Json::Number(_)) => write!(whole, "{value}"),
                Some(value) => whole.write_str(&(&value).text().unwrap_or_default()),
                None => Ok(()),
            },
        };
    }
    whole
}

#[cfg(test)]
mod tests {
    use async_graphql::{Name, indexmap::IndexMap};
    use serde_json::json;

    use super::*;

    fn made(text: &str) -> Json {
        let root = |root| match root {
            Root::Document => {
                Some(json!({"a": {"b": [{"c": 1}, {"c": "x"}]}, "n": 1.5, "t": "é", "on": true}))
            }
            Root::Viewer => Some(json!({"id": "ann"})),
            _ => None,
        };
        ValueTemplate::read(&Value::String(text.into())).value(&root)
    }

    #[test]
    fn one_placeholder_is_value_itself() {
        for (text, expected) in [
            ("{a.b.c}", json!([1, "x"])),
            ("{n}", json!(1.5)),
            ("{missing}", json!(null)),
            ("plain", json!("plain")),
            ("{t} by {$viewer.id}: {n}, {on}, {missing}", json!("é by ann: 1.5, true, ")),
        ] {
            assert_eq!(made(text), expected, "{text}");
        }
    }

    #[test]
    fn lists_and_objects_hold_templates() {
        let text = |text: &str| Value::String(text.into());
        let object = IndexMap::from_iter([(Name::new("x"), Value::List(vec![text("{t}"), Value::Null]))]);
        let template = ValueTemplate::read(&Value::Object(object));
        assert_eq!(template.value(&|_| Some(json!({"t": 1}))), json!({"x": [1, null]}));
        assert!(ValueTemplate::read(&text("{$data}")).is_data());
        assert!(!ValueTemplate::read(&text("{$data.id}")).is_data());
    }
}
