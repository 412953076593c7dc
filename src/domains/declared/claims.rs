//! JSON values as documents of templates: claims, rows and arguments.

use std::borrow::Cow;

use serde_json::Value;

use super::expansion::Document;

impl<'a> Document<'a> for &'a Value {
    type Step = Box<str>;

    fn length(self) -> Option<usize> {
        self.as_array().map(Vec::len)
    }

    fn element(self, place: usize) -> Option<Self> {
        self.as_array()?.get(place)
    }

    fn field(self, step: &Box<str>) -> Option<Self> {
        self.as_object()?.get(&**step)
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Value::String(text) if !text.is_empty() => Some(text.into()),
            Value::Number(number) if !number.is_f64() => Some(number.to_string().into()),
            Value::Bool(flag) => Some(if *flag { "true" } else { "false" }.into()),
            _ => None,
        }
    }
}
