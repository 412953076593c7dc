//! Cells: equality and membership arguments as parts of index keys.
//!
//! A field with such arguments has keys of the form `|=o-7|user:u-7`: a cell for each argument, and
//! the key of the audience. The cell of an absent argument is empty, so `||user:u-7` is without. An
//! event stands for both: for its value, and for the absent argument. A cell only narrows: each key
//! still ends with a key of the audience.

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::Value as Json;

use super::{
    expansion::{Excess, MAX_KEY_BYTES, escape},
    filter::{Filter, Op},
    json,
    key_rule::EVERYONE,
    payload::{Object, Value},
    root_arguments::RootArguments,
    subscription_rule::SubscriptionRule,
};
use crate::{
    audience::{Interests, Key, Viewer},
    graphql::Error,
};

/// Most values of a list argument.
pub const MAX_VALUES: usize = 100;

/// Most index keys of a watcher.
pub const MAX_INDEX_KEYS: usize = 1_000;

/// Most keys that one event is looked up under, on one field.
pub const MAX_LOOKUPS: usize = 10_000;

/// Returns the filters that are part of index keys.
pub fn indexed(filters: &[Filter]) -> impl Iterator<Item = &Filter> {
    filters.iter().filter(|filter| filter.op == Op::Equals)
}

/// Returns the index keys of a watcher; `None` if the field has no indexed argument, so that they
/// are the viewer's interests.
///
/// # Errors
/// An argument has too many values or too long ones, or the keys are too many.
pub fn interests(
    rule: &SubscriptionRule,
    arguments: &RootArguments,
    viewer: &Viewer,
) -> Result<Option<Interests>, Error> {
    if indexed(&rule.filters).next().is_none() {
        return Ok(None);
    }
    let keys = viewer.interests.keys().iter();
    let keys: Vec<_> = keys.filter(|key| (***key == *EVERYONE) == rule.audience.is_everyone).collect();
    let mut prefixes = vec![String::new()];
    for filter in indexed(&rule.filters) {
        let Some(texts) = texts(filter, arguments)? else {
            prefixes.iter_mut().for_each(|prefix| prefix.push('|'));
            continue;
        };
        if prefixes.len() * texts.len() * keys.len() > MAX_INDEX_KEYS {
            let text = format!(
                "the arguments combine to more than {MAX_INDEX_KEYS} keys with those of the viewer; \
                 leave out values"
            );
            return Err(Error::bad_input(text));
        }
        prefixes = combined(&prefixes, &texts);
    }
    Ok(Some(Interests::new(joined(&prefixes, &keys))))
}

/// Returns the index keys of a watcher without arguments, whose viewer listens to these keys.
pub fn without_arguments(filters: &[Filter], keys: &[Key]) -> Vec<Key> {
    let prefix = "|".repeat(indexed(filters).count());
    if prefix.is_empty() {
        return keys.to_vec();
    }
    joined(&[prefix], &keys.iter().collect::<Vec<_>>())
}

/// Returns the texts of an argument's values; `None` if it is absent or null, so that it does not
/// narrow.
///
/// # Errors
/// The argument has too many values or too long ones.
pub fn texts<'a>(
    filter: &Filter,
    arguments: &'a RootArguments,
) -> Result<Option<BTreeSet<Cow<'a, str>>>, Error> {
    let Some(values) = arguments.values(&filter.argument) else { return Ok(None) };
    if values.len() > MAX_VALUES {
        let text = format!("`{}` has more than {MAX_VALUES} values", filter.argument);
        return Err(Error::bad_input(text));
    }
    let texts: BTreeSet<Cow<'_, str>> = values.into_iter().map(argument_text).collect();
    if texts.iter().any(|text| text.len() > MAX_KEY_BYTES) {
        let text = format!("`{}` has a value of more than {MAX_KEY_BYTES} bytes", filter.argument);
        return Err(Error::bad_input(text));
    }
    Ok(Some(texts))
}

/// Returns the keys that an event is looked up under, from the keys of its audience.
///
/// # Errors
/// The combinations exceed [`MAX_LOOKUPS`].
pub fn lookups(filters: &[Filter], data: &Object, keys: Vec<Key>) -> Result<Vec<Key>, Excess> {
    if indexed(filters).next().is_none() || keys.is_empty() {
        return Ok(keys);
    }
    let mut prefixes = vec![String::new()];
    for filter in indexed(filters) {
        let mut texts = BTreeSet::new();
        if let Some(steps) = filter.steps.get(&data.of) {
            object_texts(data, steps, &mut texts);
        }
        if prefixes.len() * (texts.len() + 1) * keys.len() > MAX_LOOKUPS {
            return Err(Excess::Keys);
        }
        let absent: Vec<_> = prefixes.iter().map(|prefix| format!("{prefix}|")).collect();
        prefixes = combined(&prefixes, &texts);
        prefixes.extend(absent);
    }
    Ok(joined(&prefixes, &keys.iter().collect::<Vec<_>>()))
}

/// Returns the key of the audience at the end of an index key.
#[must_use]
pub fn audience_key<'k>(rule: &SubscriptionRule, key: &'k str) -> &'k str {
    match indexed(&rule.filters).count() {
        0 => key,
        // Values are escaped, so each cell has one separator, and one more stands before the key.
        cells => key.splitn(cells + 2, '|').last().unwrap_or(key),
    }
}

/// Returns each prefix with the cell of each text.
fn combined(prefixes: &[String], texts: &BTreeSet<Cow<'_, str>>) -> Vec<String> {
    let with = |prefix: &String, text: &str| {
        let mut cell = format!("{prefix}|=");
        escape(text, &mut cell);
        cell
    };
    prefixes.iter().flat_map(|prefix| texts.iter().map(move |text| with(prefix, text))).collect()
}

/// Returns each key behind each prefix.
fn joined(prefixes: &[String], keys: &[&Key]) -> Vec<Key> {
    let with = |prefix: &String, key: &Key| -> Key { format!("{prefix}|{key}").into() };
    prefixes.iter().flat_map(|prefix| keys.iter().map(move |key| with(prefix, key))).collect()
}

/// Returns the text of an argument's value, as [`object_texts`] returns that of an equal field.
#[must_use]
pub fn argument_text(value: &Json) -> Cow<'_, str> {
    match value {
        Json::String(text) => text.into(),
        value => value.to_string().into(),
    }
}

/// Adds the texts of the values at the end of the steps, through lists. Texts that are too long for
/// a key have no equal argument.
pub fn object_texts<'a>(object: &'a Object, steps: &[usize], into: &mut BTreeSet<Cow<'a, str>>) {
    let [step, rest @ ..] = steps else { return };
    if let Some(value) = object.fields.get(*step) {
        value_texts(value, rest, into);
    }
}

fn value_texts<'a>(value: &'a Value, steps: &[usize], into: &mut BTreeSet<Cow<'a, str>>) {
    match value {
        Value::Null => {}
        Value::List(items) => items.iter().for_each(|item| value_texts(item, steps, into)),
        Value::Object(object) => object_texts(object, steps, into),
        Value::Leaf(leaf) => {
            let text = json::unquote(leaf).unwrap_or_else(|| leaf.as_ref().into());
            if text.len() <= MAX_KEY_BYTES {
                into.insert(text);
            }
        }
    }
}
