//! Trimmed arguments: texts that are for fields with `trim`.
//!
//! Event data is trimmed when it is read. Arguments are trimmed before any rule sees them, so that
//! filters, keys and `@allow` speak of the same text as the data.

use serde_json::Value as Json;

use super::{
    root_arguments::RootArguments,
    types::{Field, Source, Types},
};

/// Value of the arguments that is for a field.
#[derive(Clone, Debug)]
pub struct Trim {
    /// Names on the way to the value: those of an argument and, perhaps, of input fields.
    pub path: Box<[Box<str>]>,
    /// Field that the value is for.
    pub field: Field,
}

/// Trims these values of the arguments, as the fields that they are for demand.
#[must_use]
pub fn trimmed(mut arguments: RootArguments, trims: &[Trim], types: &Types) -> RootArguments {
    for Trim { path, field } in trims {
        visit(arguments.document_mut(), path, &mut |value| trim(value, field, types));
    }
    arguments
}

/// Visits the values behind these steps, through lists.
fn visit(value: &mut Json, steps: &[Box<str>], each: &mut dyn FnMut(&mut Json)) {
    match (value, steps) {
        (value, []) => each(value),
        (Json::Array(items), steps) => items.iter_mut().for_each(|item| visit(item, steps, each)),
        (value, [step, rest @ ..]) => {
            if let Some(value) = value.get_mut(&**step) {
                visit(value, rest, each);
            }
        }
    }
}

fn trim(value: &mut Json, field: &Field, types: &Types) {
    match value {
        Json::Array(items) => items.iter_mut().for_each(|item| trim(item, field, types)),
        Json::String(text) if field.constraint.trims => *text = text.trim().to_owned(),
        Json::Object(_) if types.is_object(field.of) => {
            for inner in types.fields(field.of) {
                if let Source::Path(path) = &inner.source {
                    visit(value, path, &mut |value| trim(value, inner, types));
                }
            }
        }
        _ => {}
    }
}
