//! Bounds of a field: `@constraint`, for event data and mutation input alike.

use async_graphql::{Value, parser::types::ConstDirective};

use super::{arguments, problem::Problems};

/// Bounds of a field. The default has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraint {
    /// Whether space around a text is removed before its length is checked.
    pub trims: bool,
    /// Least and most Unicode scalar values of a text, or of each text of a list.
    pub length: Bounds<u64>,
    /// Least and most value of a number, or of each number of a list.
    pub range: Bounds<f64>,
    /// Least and most elements of a list.
    pub items: Bounds<u64>,
}

/// Least and most value. `None` has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds<T> {
    /// Least value that is allowed.
    pub min: Option<T>,
    /// Most value that is allowed.
    pub max: Option<T>,
}

impl<T: PartialOrd> Bounds<T> {
    /// Returns whether the value is within the bounds.
    pub fn has(&self, value: &T) -> bool {
        self.min.as_ref().is_none_or(|min| min <= value) && self.max.as_ref().is_none_or(|max| value <= max)
    }
}

/// What a field holds, as far as bounds can apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// `ID` or `String`.
    Text,
    /// `Int` or `Float`.
    Number,
    /// Anything else.
    Other,
}

impl Constraint {
    /// Reads the directive of a field that holds `content`, in a list or not.
    pub fn read(
        directive: &ConstDirective,
        content: Content,
        is_list: bool,
        problems: &mut Problems,
    ) -> Self {
        for (name, _) in &directive.arguments {
            let (fits, kinds) = match name.node.as_str() {
                "trim" | "minLength" | "maxLength" => (content == Content::Text, "ID and String"),
                "min" | "max" => (content == Content::Number, "Int and Float"),
                "minItems" | "maxItems" => (is_list, "lists"),
                _ => continue,
            };
            if !fits {
                problems.add(name.pos, format!("`{}` is for {kinds} only; leave it out", name.node));
            }
        }
        let whole = |name| match &directive.get_argument(name)?.node {
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        let number = |name| match &directive.get_argument(name)?.node {
            Value::Number(number) => number.as_f64(),
            _ => None,
        };
        let length = Bounds { min: whole("minLength"), max: whole("maxLength") };
        let range = Bounds { min: number("min"), max: number("max") };
        let items = Bounds { min: whole("minItems"), max: whole("maxItems") };
        let pairs = [
            ("minLength", "maxLength", length.min > length.max && length.max.is_some()),
            ("min", "max", range.min > range.max && range.max.is_some()),
            ("minItems", "maxItems", items.min > items.max && items.max.is_some()),
        ];
        for (min, max, is_empty) in pairs {
            if is_empty {
                let text = format!("`{min}` is above `{max}`, so that nothing fits; swap them");
                problems.add(arguments::place_of(directive, min), text);
            }
        }
        Self { trims: arguments::flag(directive, "trim"), length, range, items }
    }
}
