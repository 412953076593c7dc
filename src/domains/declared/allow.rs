//! `@allow`: keys that a viewer must listen to before an operation starts.

use serde_json::Value;

use super::{
    expansion::{Document as _, Keys},
    key_rule::KeyRule,
    root_arguments::RootArguments,
    template::Root,
    viewer_paths,
};
use crate::{
    audience::{Audience, Viewer},
    graphql::{Error, error::Code},
};

/// Most keys of one template. A viewer cannot listen to more.
const MAX_KEYS: usize = 1_000;

/// Checks that the viewer listens to every key of each template.
///
/// # Errors
/// `FORBIDDEN`: a key is missing, or a template gives none, because an argument has no value.
pub fn check(allows: &[KeyRule], arguments: &RootArguments, viewer: &Viewer) -> Result<(), Error> {
    if allows.is_empty() {
        return Ok(());
    }
    let known = viewer_paths::document(viewer);
    if allows.iter().all(|rule| is_allowed(rule, arguments, viewer, &known)) {
        return Ok(());
    }
    Err(Error::new(Code::Forbidden, "this is not allowed to you"))
}

fn is_allowed(rule: &KeyRule, arguments: &RootArguments, viewer: &Viewer, known: &Value) -> bool {
    let mut keys = Keys::new(MAX_KEYS);
    if !expand(rule, arguments, known, &mut keys) {
        return false;
    }
    let mut keys = keys.into_keys().peekable();
    keys.peek().is_some() && keys.all(|key| Audience::new([key], None).includes(viewer))
}

/// Adds the keys of these arguments to `keys`. `known` is the viewer as a document. Returns `false`
/// if an argument has no value for a key, or if the keys exceed their bound.
#[must_use]
pub fn expand(rule: &KeyRule, arguments: &RootArguments, known: &Value, keys: &mut Keys) -> bool {
    let root = |root| match root {
        Root::Document => Some(arguments.document()),
        Root::Viewer => Some(known),
        _ => None,
    };
    let mut arguments_of =
        rule.template.placeholders().filter(|placeholder| placeholder.root == Root::Document);
    arguments_of.all(|placeholder| has_texts(arguments.document(), &placeholder.steps))
        && rule.template.expand(root, keys).is_ok()
}

/// Returns whether every value behind these steps has a text for a key, so that none escapes the
/// check.
fn has_texts(value: &Value, steps: &[Box<str>]) -> bool {
    match (value, steps) {
        (Value::Array(items), steps) => items.iter().all(|item| has_texts(item, steps)),
        (value, []) => value.text().is_some(),
        (value, [step, rest @ ..]) => value.get(&**step).is_some_and(|value| has_texts(value, rest)),
    }
}
