//! Readers of directives and their arguments.
//!
//! An argument of another kind counts as absent: [`crate::domains::declared::directives`] reports
//! it.

use async_graphql::{Pos, Positioned, Value, parser::types::ConstDirective};

/// Returns the first directive of this name.
#[must_use]
pub fn find<'a>(directives: &'a [Positioned<ConstDirective>], name: &str) -> Option<&'a ConstDirective> {
    all(directives, name).next()
}

/// Returns every directive of this name.
pub fn all<'a>(
    directives: &'a [Positioned<ConstDirective>],
    name: &str,
) -> impl Iterator<Item = &'a ConstDirective> {
    directives.iter().map(|directive| &directive.node).filter(move |directive| directive.name.node == name)
}

/// Returns the text of an argument; `None` if it is absent or no text.
#[must_use]
pub fn text<'a>(directive: &'a ConstDirective, name: &str) -> Option<&'a str> {
    match &directive.get_argument(name)?.node {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Returns the texts of an argument that may be one text or a list; none if it is absent.
#[must_use]
pub fn texts<'a>(directive: &'a ConstDirective, name: &str) -> Vec<&'a str> {
    let text = |value: &'a Value| match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    };
    match directive.get_argument(name).map(|value| &value.node) {
        Some(Value::List(items)) => items.iter().filter_map(text).collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// Returns whether an argument is `true`.
#[must_use]
pub fn flag(directive: &ConstDirective, name: &str) -> bool {
    directive.get_argument(name).is_some_and(|value| value.node == Value::Boolean(true))
}

/// Returns the place of an argument's value, or of the directive's name if the argument is absent.
#[must_use]
pub fn place_of(directive: &ConstDirective, name: &str) -> Pos {
    directive.get_argument(name).map_or(directive.name.pos, |value| value.pos)
}
